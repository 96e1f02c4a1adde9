"""Complexity and cost: how concentrated a map is, and what it took to make it."""

from __future__ import annotations

import math

import torch

from bench.engine.case import Case
from bench.metrics.base import Scores, Value, register_metric


@register_metric(
    "complexity",
    family="complexity",
    values={
        "entropy": Value("Entropy / ln N", lower=0, upper=1, peaked=True),
        "gini": Value("Gini index", lower=0, upper=1, peaked=True),
        "effective_share": Value("Effective share of pixels", lower=0, upper=1, peaked=True),
    },
)
def complexity(case: Case) -> Scores:
    """Of q = max(L,0)/sum: entropy H / ln N (Bhatt et al., IJCAI 2020), Gini index (Chalasani et
    al., ICML 2020) and the effective share e^H / N. Each [B] in [0,1]; shown, not ranked: sparse is
    not right. NaN without a positive part.
    """
    positive = case.positive.flatten(1).double()
    total, pixels = positive.sum(1), positive.shape[1]
    usable = total > 0
    q = positive / torch.where(usable, total, 1.0)[:, None]
    entropy = -torch.xlogy(q, q).sum(1)
    places = torch.arange(1, pixels + 1, dtype=torch.float64)
    gini = ((2 * places - pixels - 1) * q.sort(1).values).sum(1) / pixels
    scores = {
        "entropy": entropy / math.log(pixels),
        "gini": gini,
        "effective_share": entropy.exp() / pixels,
    }
    return {name: torch.where(usable, value, torch.nan) for name, value in scores.items()}


@register_metric(
    "cost",
    family="cost",
    values={
        "forwards": Value("Forwards per image", better="lower", lower=0),
        "backwards": Value("Backwards per image", better="lower", lower=0),
        "head_forwards": Value("Head replays per image", better="lower", lower=0),
        "head_backwards": Value("Head backwards per image", better="lower", lower=0),
        "seconds": Value("Seconds per image", better="lower", lower=0),
        "peak_memory": Value("Peak memory (MiB)", better="lower", lower=0),
    },
)
def cost(case: Case) -> Scores:
    """What the method would cost alone, per image: network use (counted), wall seconds, and peak
    memory. Each [B].

    The shared pass and shared gradients count in full for every method that reads them. Seconds and
    memory are measured and so differ between runs; on the CPU the memory is the whole process's
    peak so far.
    """
    size = len(case)
    if case.spent is None:  # maps that were given, not made
        return dict.fromkeys(
            ("forwards", "backwards", "head_forwards", "head_backwards", "seconds", "peak_memory"),
            torch.full((size,), torch.nan, dtype=torch.float64),
        )
    counts = case.spent.counts
    values = {
        "forwards": counts.forwards / size,
        "backwards": counts.backwards / size,
        "head_forwards": counts.head_forwards / size,
        "head_backwards": counts.head_backwards / size,
        "seconds": case.spent.seconds / size,
        "peak_memory": case.spent.peak_memory,
    }
    return {name: torch.full((size,), value, dtype=torch.float64) for name, value in values.items()}

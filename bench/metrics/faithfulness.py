"""Faithfulness: what happens to the target's probability when the map's pixels are taken away, added or shown alone."""

from __future__ import annotations

import torch

from bench.engine.case import Case
from bench.engine.prober import probability
from bench.metrics.base import Scores, Value, register_metric


def cuts(pixels: int, steps: int) -> list[int]:
    """Return n_i = round(i * pixels / steps) for i = 0..steps (halves up)."""
    return [(2 * i * pixels + steps) // (2 * steps) for i in range(steps + 1)]


def area_under(curve: torch.Tensor, pixels: int) -> torch.Tensor:
    """Return the trapezoid area [B] of curves [B,S+1] over n_i/pixels in [0,1].

    >>> round(float(area_under(torch.tensor([[1.0, 0.3, 0.0]]), 100)), 6)
    0.4
    """
    fractions = torch.tensor(cuts(pixels, curve.shape[1] - 1), dtype=torch.float64) / pixels
    return torch.trapezoid(curve.double(), fractions, dim=1)


@register_metric(
    "deletion",
    family="faithfulness",
    reads=("score", "baseline", "tie_rule", "steps"),
    forwards=lambda p: p.steps - 1,
    values={
        "deletion": Value("Deletion", better="lower", ranked=True, lower=0, upper=1),
        "deletion_curve": Value("Deletion curve", reduce="curve", lower=0, upper=1),
    },
)
def deletion(case: Case) -> Scores:
    """Area under p_c while whole pixels, most relevant first, become the baseline colour. [B] in [0,1], lower better.

    S steps, n_i = round(i*N/S), both ends; trapezoid over n_i/N (protocol.md; after RISE, Petsiuk et al., BMVC 2018).
    The clean end is the trace's own pass and the empty end one image per model: neither is run again.
    """
    case_cuts = cuts(case.maps[0].numel(), case.protocol.steps)
    colour = case.trace.model.colour(case.protocol.baseline)[None]
    middle = case.curve(colour, case.trace.images, case_cuts[1:-1])
    empty = case.logits_to_log_odds(case.prober.colour_logits(case.protocol.baseline, case.trace.size))
    return _curve_scores("deletion", case, case.trace.log_odds, middle, empty)


@register_metric(
    "insertion",
    family="faithfulness",
    reads=("score", "baseline", "tie_rule", "steps", "insertion_start", "blur_sigma_224", "blur_radius_sigmas"),
    forwards=lambda p: p.steps - 1,
    values={
        "insertion": Value("Insertion", better="higher", ranked=True, lower=0, upper=1),
        "insertion_curve": Value("Insertion curve", reduce="curve", lower=0, upper=1),
        "insertion_start": Value("Insertion start", lower=0, upper=1),
    },
)
def insertion(case: Case) -> Scores:
    """Area under p_c while the blurred image gets its pixels back, most relevant first. [B] in [0,1], higher better.

    The start of the curve is recorded: a blur that still shows the class (over .05 on average) is flagged by boards.
    """
    case_cuts = cuts(case.maps[0].numel(), case.protocol.steps)
    if case.protocol.insertion_start == "blur":
        background, logits = case.background.blurred(case.protocol.blur_sigma_224, case.protocol.blur_radius_sigmas)
    else:
        background = case.trace.model.colour(case.protocol.baseline)[None]
        logits = case.prober.colour_logits(case.protocol.baseline, case.trace.size)
    middle = case.curve(case.trace.images, background, case_cuts[1:-1])
    start = case.logits_to_log_odds(logits)
    scores = _curve_scores("insertion", case, start, middle, case.trace.log_odds)
    return {**scores, "insertion_start": probability(start)}


def _curve_scores(name: str, case: Case, start: torch.Tensor, middle: torch.Tensor, end: torch.Tensor) -> Scores:
    curve = probability(torch.cat([start[:, None], middle, end[:, None]], dim=1))
    return {name: area_under(curve, case.maps[0].numel()), f"{name}_curve": curve}


@register_metric(
    "average_drop",
    family="faithfulness",
    reads=("score", "baseline", "thresholds"),
    forwards=1,
    values={
        "average_drop": Value("Average drop", better="lower", lower=0, upper=1),
        "average_increase": Value("Average increase", better="higher", lower=0, upper=1),
        "average_gain": Value("Average gain", better="higher", lower=0, upper=1),
    },
)
def average_drop(case: Case) -> Scores:
    """AD = max(0,Y-O)/Y, AI = 1[O>Y], AG = max(0,O-Y)/(1-Y); Y = p_c(x), O = p_c(unit(L) masking x). Each [B].

    Reported, never ranked: a map of ones wins all three (Fake-CAM, Poppi et al., CVPRW 2021). AD and AI after
    Grad-CAM++ (WACV 2018), AG after Opti-CAM (arXiv:2301.07002). NaN where the map has no positive part.
    """
    shown = case.masked_log_odds(case.protocol.baseline, [0], case.protocol.thresholds)[:, 0]
    scores = masking_scores(case.trace.log_odds, shown)
    values = {
        "average_drop": scores["drop"],
        "average_increase": scores["increase"],
        "average_gain": (scores["with"] - scores["without"]).clamp(min=0) / torch.sigmoid(-case.trace.log_odds),
    }
    return {name: torch.where(case.has_positive, value, torch.nan) for name, value in values.items()}


def masking_scores(clean: torch.Tensor, masked: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return drop and rise in probability, relative to p_c(x), and their signs, from log-odds [B] float64."""
    before, after = probability(clean), probability(masked)
    return {
        "without": before,
        "with": after,
        "drop": (before - after).clamp(min=0) / before,
        "rise": (after - before).clamp(min=0) / before,
        "increase": (masked > clean).double(),
        "decrease": (masked < clean).double(),
    }

"""Deletion and insertion in domain: a sister network, trained on masked images, runs the probes."""

from __future__ import annotations

import dataclasses
import math

import torch

from bench.engine.case import Case
from bench.engine.counts import Counts
from bench.engine.patches import choose_side, cut_squares
from bench.engine.shared_parts import SharedPart
from bench.metrics.base import Scores, Value, register_metric
from bench.metrics.faithfulness import area_under
from bench.metrics.patch_ranking import (
    SISTER_FIELDS,
    pass_sister,
    patches_of,
    probe_patches,
    rank_patches,
)
from bench.protocol import Protocol

MASKED_SHARE = 0.5
"""The largest share of an image that is masked, as in the training of sisters."""
MASKED_STEPS = 10
"""Images per curve beside the clean one."""

SISTER_PASS = SharedPart("sister pass", Counts(forwards=1))


def lift_bounds(p: Protocol, value: Value) -> Value:
    """Return the facts of a value under a protocol: logits have no bounds."""
    return dataclasses.replace(value, lower=None, upper=None) if p.score == "logit" else value


def cut_patches(count: int, steps: int = MASKED_STEPS) -> list[int]:
    """Return how many of `count` patches are masked at each step, from none to half.

    >>> cut_patches(144, 4)
    [0, 18, 36, 54, 72]
    """
    most = int(MASKED_SHARE * count)
    return [(2 * i * most + steps) // (2 * steps) for i in range(steps + 1)]


def count_probes(protocol: Protocol, pixels: int) -> int:
    """Return the forwards per image and map: steps of a curve that mask different patches. A frame
    that is no square counts as the square with as many pixels.

    >>> count_probes(Protocol(), 32 * 32), count_probes(Protocol(), 224 * 224)
    (8, 10)
    """
    side = math.isqrt(pixels)
    return len(set(cut_patches(cut_squares((side, side), choose_side((side, side))).count))) - 1


def _describe(name: str, title: str, better: str, clean_end: int) -> dict[str, Value]:
    curve = f"{name}_curve"
    return {
        name: Value(
            title, better=better, ranked=True, lower=0, upper=1, curve=curve, clean_end=clean_end
        ),
        curve: Value(f"{title} curve", reduce="curve", lower=0, upper=1),
    }


@register_metric(
    "masked_deletion",
    family="faithfulness",
    needs=("sister",),
    reads=(*SISTER_FIELDS, "tie_rule"),
    forwards=count_probes,
    shared=lambda _: (SISTER_PASS,),
    lengths=lambda *_: {"masked_deletion_curve": MASKED_STEPS + 1},
    under=lift_bounds,
    paints="removed",
    standard=False,
    values=_describe("masked_deletion", "Deletion in domain", "lower", 0),
)
def masked_deletion(case: Case) -> Scores:
    """Area under the sister's p_c while the most relevant patches are masked, shares 0 to .5.

    Patches are those of the sister's training. Their order is that of the mean ranks of their
    pixels. The curve has 11 points; the area is over the share, divided by .5. The map is of the
    network itself, and so is the class. [B] in [0,1], lower better.
    """
    return _score_curve("masked_deletion", case, most=True)


@register_metric(
    "masked_insertion",
    family="faithfulness",
    needs=("sister",),
    reads=(*SISTER_FIELDS, "tie_rule"),
    forwards=count_probes,
    shared=lambda _: (SISTER_PASS,),
    lengths=lambda *_: {"masked_insertion_curve": MASKED_STEPS + 1},
    under=lift_bounds,
    paints="removed",
    standard=False,
    values=_describe("masked_insertion", "Insertion in domain", "higher", -1),
)
def masked_insertion(case: Case) -> Scores:
    """Area under the sister's p_c while patches are shown, most relevant first, from half to all.

    The least relevant patches are masked, shares .5 to 0: a share above .5 is outside of what a
    sister has seen. Otherwise as `masked_deletion`. [B] in [0,1], higher better.
    """
    return _score_curve("masked_insertion", case, most=False)


def _score_curve(name: str, case: Case, most: bool) -> Scores:
    """Return the area and the curve as patches are masked, the most or the least relevant first."""
    grid = patches_of(case)
    places = rank_patches(case, grid)
    taken = cut_patches(grid.count)

    def choose(rows: torch.Tensor, steps: list[int]) -> torch.Tensor:
        counts = torch.tensor(steps)[:, None]
        return places[rows] < counts if most else places[rows] >= grid.count - counts

    distinct = sorted(set(taken) - {0})  # a small frame has fewer patches than steps
    recipe = ("most" if most else "least",)
    middle = probe_patches(case, grid, recipe, distinct, choose, places)
    clean = case.evidence(pass_sister(case))[:, None]
    points = torch.tensor([[0, *distinct].index(count) for count in taken])
    curve = case.score_evidence(torch.cat([clean, middle], dim=1)[:, points])
    area = area_under(curve, taken)
    return {name: area, f"{name}_curve": curve if most else curve.flip(1)}

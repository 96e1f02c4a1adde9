"""Localisation by the order of the pixels alone: what sharpening a map cannot move."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.engine.case import Case
from bench.metrics.base import Scores, Value, register_metric

Array = np.ndarray[Any, np.dtype[Any]]

POWER = 3
"""Of the rank, in a pixel's weight: the highest tenth of the ranks holds a third of all weight."""


@register_metric(
    "energy_ranked",
    family="localization",
    needs=("truth",),
    values={
        "energy_ranked": Value(
            "Energy of the ranks", better="higher", ranked=True, lower=-3, upper=1
        ),
        "energy_ranked_signed": Value(
            "Energy of the ranks, negative values ordered", better="higher", lower=-3, upper=1
        ),
    },
)
def energy_ranked(case: Case) -> Scores:
    """Share on the truth of weights that follow the order of max(L,0): 0 a constant map, 1 the
    oracle. [B] in [-3,1].

    r = (ascending rank + 1/2)/N; a pixel's weight is the mean of r^3 over all pixels of its value,
    so that no random order plays a part. E is the share of the weights on the truth, a the truth's
    share of the frame, C the E of the truth itself as a map: (E - a)/(C - a). Only the order
    counts, so no power of the map moves it, unlike `energy`. `energy_ranked_signed` orders
    negative values, too. NaN without truth, and where the truth fills the frame.
    """
    assert case.truth_pixels is not None
    truth = case.truth_pixels.flatten(1).numpy()
    order = case.order.numpy()
    rows = {"energy_ranked": case.positive, "energy_ranked_signed": case.maps}
    return {
        name: torch.tensor(
            [score_order(*one) for one in zip(maps.flatten(1).numpy(), order, truth, strict=True)],
            dtype=torch.float64,
        )
        for name, maps in rows.items()
    }


def score_order(values: Array, order: Array, truth: Array) -> float:
    """Return (E - a)/(C - a) of one map.

    Args:
        values: The map's values [N].
        order: The pixels, highest value first [N].
        truth: Which pixels are true [N] bool.

    Example:
        >>> values, order = np.array([4.0, 3.0, 2.0, 1.0]), np.arange(4)
        >>> score_order(values, order, np.array([True, False, False, False]))
        1.0
        >>> round(score_order(values, order, np.array([False, True, False, False])), 4)
        0.0046
    """
    pixels, true = len(values), int(truth.sum())
    if true in (0, pixels):
        return float("nan")
    weights = ((np.arange(pixels, 0, -1) - 0.5) / pixels) ** POWER  # highest first
    best = weights[:true].sum() / weights.sum()
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    sizes = np.diff(np.append(starts, pixels))
    means = np.add.reduceat(weights, starts) / sizes
    hits = np.add.reduceat(truth[order].astype(np.float64), starts)
    share, area = (means * hits).sum() / weights.sum(), true / pixels
    return float((share - area) / (best - area))


@register_metric(
    "discriminability_ranked",
    family="localization",
    needs=("masks", "others"),
    values={
        "discriminability_ranked": Value(
            "Class discriminability by rank", better="higher", ranked=True, lower=0, upper=1
        )
    },
)
def discriminability_ranked(case: Case) -> Scores:
    """Probability that a pixel of the explained class's objects has a higher value than one of the
    other class's. [B] in [0,1].

    Equal values count half, so a constant map has 1/2, and so has on average a map that does not
    know the class. Pixels of both objects are the explained class's; the background plays no part.
    Only the order of the map's values counts, so no power of the map moves it, unlike
    `discriminability`. NaN where an object is missing.
    """
    own, other = case.truth.masks, case.truth.others
    assert own is not None
    assert other is not None
    rows = zip(case.maps.numpy(), own.numpy(), (other & ~own).numpy(), strict=True)
    chances = [find_chance_above(values[mine], values[theirs]) for values, mine, theirs in rows]
    return {"discriminability_ranked": torch.tensor(chances, dtype=torch.float64)}


def find_chance_above(first: Array, second: Array) -> float:
    """Return the probability that one of `first` [n] is above one of `second` [m], equal ones half;
    NaN where one is empty.

    Example:
        >>> find_chance_above(np.array([3.0, 1.0]), np.array([1.0, 0.0]))
        0.875
    """
    if not len(first) or not len(second):
        return float("nan")
    rising = np.sort(second)
    below = np.searchsorted(rising, first, side="left").sum()
    not_above = np.searchsorted(rising, first, side="right").sum()
    return float((below + not_above) / (2 * len(first) * len(second)))

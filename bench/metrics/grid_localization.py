"""Localisation on grids: does the map of a cell's class rank the cell above the others?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.engine.case import Case
from bench.metrics.base import Scores, Value, register_metric

Array = np.ndarray[Any, np.dtype[Any]]


@register_metric(
    "grid_localization",
    family="localization",
    needs=("masks",),
    standard=False,
    values={
        "grid_auc": Value(
            "Probability that the cell ranks above its surroundings",
            better="higher",
            ranked=True,
            lower=0,
            upper=1,
        ),
        "grid_share": Value(
            "Positive attribution inside the cell", better="higher", lower=0, upper=1, peaked=True
        ),
        "grid_ap": Value("Average precision of the cell", better="higher", lower=0, upper=1),
    },
)
def grid_localization(case: Case) -> Scores:
    """How well a map finds the cell of a grid whose class it explains. Three values, each [B].

    Made for `grid(SUBSET,n)` and `di_full(SUBSET,n)`, where the truth is the cell and has no
    favoured place. It reads masks, so it runs on any subset that has them; the floors below hold
    on grids only. Ignored pixels are left out.

    Returns:
        grid_auc: the probability that a pixel of the cell ranks above one outside, equal values
            counting half. Averaged over the cells of a grid a class-agnostic map has exactly .5.
            A constant map has .5, the oracle 1.
        grid_share: positive attribution inside the cell over all positive attribution; 0 without a
            positive part. Averaged over the cells a class-agnostic map has 1/n^2. Sharpening a map
            moves it, so it is never ranked. The authors' code also gives 0 where the sum is at
            most 1e-7, which depends on the scale of the map; this cut is not copied.
        grid_ap: the average precision of the map's values, equal values one group.
        All are NaN where the truth is empty or covers the whole frame.

    Reference:
        Rao, Böhle, Schiele, "Towards Better Understanding Attribution Methods", CVPR 2022.
    """
    truth, ignore = case.truth.masks, case.truth.ignore
    assert truth is not None
    rows = []
    for i in range(len(case)):
        keep = np.ones(truth[i].numel(), bool) if ignore is None else ~ignore[i].numpy().ravel()
        rows.append(
            _score_cell(
                case.maps[i].numpy().ravel()[keep],
                case.positive[i].numpy().ravel()[keep],
                truth[i].numpy().ravel()[keep],
            )
        )
    names = ("grid_auc", "grid_share", "grid_ap")
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).unbind(1), strict=True))


def _score_cell(values: Array, positive: Array, truth: Array) -> tuple[float, float, float]:
    """Return (auc, share, average precision) of a map [N] whose positive part is `positive` [N]."""
    if truth.all() or not truth.any():
        return np.nan, np.nan, np.nan
    auc, precision = rank_pixels(values, truth)
    mass = positive.astype(np.float64)
    total = mass.sum()
    return auc, float(mass[truth].sum() / total) if total > 0 else 0.0, precision


def rank_pixels(values: Array, truth: Array) -> tuple[float, float]:
    """Return how a ranking [N] finds the truth [N] bool: (area under ROC, average precision).

    Equal values are one group: they count half in the first, and have one precision.

    >>> rank_pixels(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, False, True, False]))
    (0.875, 0.8333333333333333)
    """
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    inside = np.diff(hits[last], prepend=0)  # of each group of equal values
    outside = np.diff(last + 1, prepend=0) - inside
    below = outside.sum() - np.cumsum(outside)
    auc = (inside * (below + 0.5 * outside)).sum() / (inside.sum() * outside.sum())
    precision = (inside / hits[-1] * hits[last] / (last + 1)).sum()
    return float(auc), float(precision)

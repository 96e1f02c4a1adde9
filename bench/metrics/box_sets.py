"""Boxes of a map's upper sets: what boards choose one cut value for all images from.

The sets are own quantiles of a map, and the board compares cut values by order alone. So a
function that raises every value of every map in the same way moves no box and no choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.engine.case import Case
from bench.metrics.base import Derived, Scores, Value, register_metric
from bench.metrics.localization import best_iou_by_level
from bench.protocol import Fields

Array = np.ndarray[Any, np.dtype[Any]]
Floats = npt.NDArray[np.float64]

SETS = 100
"""Upper sets of a map: the top 100 %, 99 %, ... 1 % of its positive pixels."""

SHIFTS = (42, 21, 0)
"""Where the three parts of a cut value's 63 bits start. float32 holds 21 bits exactly."""

PART_BITS = 21

VECTOR = SETS * (1 + len(SHIFTS))
"""Length of a vector: IoUs, then each part of the cut values."""


@register_metric(
    "box_sets",
    family="localization",
    needs=("boxes",),
    reads=("box_ious", "box_min_visible", "box_shapes", "box_choice", "box_edges", "box_tau_from"),
    calibrates=True,
    scale_free=False,  # a factor of its own for each image changes the order of cut values
    lengths=lambda *_: {"box_set_iou": VECTOR},
    values={
        "box_set_iou": Value(
            "Best box IoU by upper set, and cut values",
            better="higher",
            reduce="box_sets",
            lower=0,
            derived=Derived("box_accuracy_ranked", "box accuracy of upper sets"),
        )
    },
)
def box_sets(case: Case) -> Scores:
    """Best IoU of a box of the map with a box of the truth, for 100 upper sets of max(L,0), and
    the sets' cut values. [B,400].

    Set i holds the pixels at or above the cut value c_i. c_i is the value at place
    floor(i * n / 100) of the n positive values in rising order: an own quantile, so sets and boxes
    depend on the order of pixels alone. Boxes are those of `box_localization`. The board chooses
    one tau among the cut values of the calibration images, as they are: no map is scaled. It takes
    the smallest set of each image that holds all pixels at or above tau.

    A vector holds 100 IoUs and the 100 cut values in three parts each (`split_cuts`). Sets in a row
    that hit the same IoUs of the protocol are written as the first of them (`merge_sets`). A map
    without a positive part has no box: IoU 0 and cut value 0. NaN without a box of the truth.
    """
    assert case.truth.boxes is not None
    p = case.protocol
    rows = []
    for values, boxes in zip(case.positive.double().numpy(), case.truth.boxes, strict=True):
        if len(boxes):
            iou, cuts = merge_sets(*find_set_iou(values, boxes.numpy(), p), p.box_ious)
            rows.append(np.concatenate([iou, *split_cuts(cuts)]))
        else:
            rows.append(np.full(VECTOR, np.nan))
    return {"box_set_iou": torch.from_numpy(np.stack(rows))}


def find_set_iou(values: Array, boxes: Array, p: Fields) -> tuple[Floats, Floats]:
    """Return the best IoU [100] of each upper set of values [H,W] >= 0, and its cut value [100].

    p: a protocol's fields about boxes.
    """
    positive = np.sort(values[values > 0])
    if not len(positive):
        return np.zeros(SETS), np.zeros(SETS)
    cuts = positive[np.arange(SETS) * len(positive) // SETS]
    level = np.searchsorted(cuts, values, side="right")  # so {values >= c_i} = {level > i}
    return best_iou_by_level(level, boxes, SETS, p), cuts


def merge_sets(iou: Floats, cuts: Floats, ious: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Return the same hits at every tau, with the sets in a row that hit the same IoUs as one.

    Records pack repeated numbers to almost nothing. Hits change only where a run of such sets
    starts, so the board finds the same best tau and the same hits.

    Args:
        iou: best IoU by set, [100].
        cuts: cut values, rising, [100].
        ious: the IoUs of the protocol.

    Example:
        >>> iou, cuts = np.array([0.1, 0.2, 0.6]), np.array([1.0, 2.0, 3.0])
        >>> [kept.tolist() for kept in merge_sets(iou, cuts, (0.5,))]
        [[0.1, 0.1, 0.6], [1.0, 1.0, 3.0]]
    """
    # In float32, as records hold them.
    hits = (iou.astype(np.float32)[:, None] >= np.array(ious, dtype=np.float32)).sum(1)
    starts = np.diff(hits, prepend=-1) != 0
    first = np.maximum.accumulate(np.where(starts, np.arange(len(hits)), 0))
    return iou[first], cuts[first]


def split_cuts(cuts: Floats) -> Floats:
    """Return cut values >= 0 in parts that float32 holds exactly, the highest bits first: [3,...].

    Records hold float32, and rounded cut values of two images could change their order. A value
    that is a float32 has zeros in its last part, which pack to nothing.

    Example:
        >>> cuts = np.array([0.1, 1e-300])
        >>> bool((join_cuts(split_cuts(cuts).astype(np.float32)) == cuts).all())
        True
    """
    bits = np.ascontiguousarray(cuts, dtype=np.float64).view(np.int64)
    mask = (1 << PART_BITS) - 1
    return np.stack([(bits >> shift) & mask for shift in SHIFTS]).astype(np.float64)


def join_cuts(parts: Array) -> Floats:
    """Return the cut values that `split_cuts` has split, parts [3,...]."""
    whole = [part.astype(np.int64) << shift for part, shift in zip(parts, SHIFTS, strict=True)]
    joined: Floats = np.bitwise_or.reduce(whole).view(np.float64)
    return joined


def read_sets(vectors: Array) -> tuple[Array, Floats]:
    """Return IoUs [n,100] and cut values [n,100] of vectors [n,400]; both NaN where a vector is."""
    missing = ~np.isfinite(vectors).all(axis=1, keepdims=True)
    iou, *parts = np.split(np.where(missing, 0, vectors), 1 + len(SHIFTS), axis=1)
    cuts = join_cuts(np.stack(parts))
    return np.where(missing, np.nan, iou), np.where(missing, np.nan, cuts)

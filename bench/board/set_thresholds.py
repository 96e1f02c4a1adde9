"""Cut values for all images: chosen among those of the calibration images' upper sets.

Cut values are those of maps as they are, and only their order is read. So one rising function of
all maps changes neither the choice nor a hit. Vectors are those of `bench.metrics.box_sets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.board.statistics import Floats
from bench.metrics.box_sets import VECTOR, read_sets


def choose_cuts(vectors: Floats, ious: tuple[float, ...]) -> list[float]:
    """Return, per IoU, the lowest cut value of these images that gives most of them a hit.

    Each cut value is tried. An image's hit can change only at its own cut values, so the number of
    hits at all of them comes from one sorted list of changes.

    Args:
        vectors: of the calibration images, [n,400] without NaN.
        ious: The IoUs of the protocol.
    """
    iou, cuts = read_sets(vectors)
    at = cuts.ravel()
    order = at.argsort(kind="stable")
    last = np.append(np.diff(at[order]) > 0, True)  # of those equal cut values
    tried = at[order][last]
    chosen = []
    for bound in ious:
        hit = (iou.astype(np.float32) >= np.float32(bound)).astype(np.int64)
        # Below its lowest cut value an image has its first set, as it has there.
        changes = np.diff(hit, axis=1, prepend=hit[:, :1])
        hits = hit[:, 0].sum() + changes.ravel()[order].cumsum()[last]
        hits = np.where((tried > 0) | (tried.max() == 0), hits, -1)  # 0 is no value of a set
        chosen.append(float(tried[hits.argmax()]))
    return chosen


def apply_cuts(vectors: Floats, taus: Sequence[float], ious: tuple[float, ...]) -> Floats:
    """Return whether vectors [n,400] hit each IoU at its tau, [n,ious] of 0, 1 and NaN.

    tau selects the smallest set of an image that holds all pixels at or above tau: the last whose
    cut value is at most tau, or the first set where all are above. Nothing is interpolated.
    """
    iou, cuts = read_sets(vectors)
    columns = []
    for bound, tau in zip(ious, taus, strict=True):
        place = np.maximum((cuts <= tau).sum(1) - 1, 0)
        found = np.take_along_axis(iou, place[:, None], axis=1)[:, 0]
        hit = (found.astype(np.float32) >= np.float32(bound)).astype(np.float64)
        columns.append(np.where(np.isnan(found), np.nan, hit))
    return np.stack(columns, axis=1)


def holds_sets(vectors: Floats, taus: Sequence[Any]) -> bool:
    """Tell whether cut values can be applied to these vectors: they hold sets."""
    return vectors.shape[1] == VECTOR and all(tau >= 0 for tau in taus)

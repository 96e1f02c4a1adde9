"""Slow float64 replicas of the boxes of upper sets and of the one cut value that a board chooses.

Written from the definition, with Python's numbers, and without the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.support.reference import Array, box_overlap, components

SETS = 100
Image = list[tuple[float, float]]
"""The (cut value, best IoU) of each upper set of one image, the largest set first."""


def find_sets(L: Array, boxes: Array) -> Image:
    """Return the sets of one map [H,W] with boxes [n,4]; a map without positive part has none."""
    positive = sorted(float(v) for v in L.reshape(-1) if v > 0)
    if not positive:
        return [(0.0, 0.0)] * SETS
    found = []
    for i in range(SETS):
        cut = positive[i * len(positive) // SETS]
        pairs = [box_overlap(a, tuple(b)) for a in components(cut <= L) for b in boxes]
        found.append((cut, max(pairs)))
    return found


def read_iou(image: Image, tau: float) -> float:
    """Return the IoU of the last set whose cut value is at most tau, else that of the first."""
    below = [iou for cut, iou in image if cut <= tau]
    return below[-1] if below else image[0][1]


def count_hits(images: Sequence[Image], tau: float, bound: float) -> int:
    """Return how many images hit an IoU at tau, compared in float32 as records hold them."""
    return sum(np.float32(read_iou(image, tau)) >= np.float32(bound) for image in images)


def choose_tau(images: Sequence[Image], bound: float) -> float:
    """Return the lowest cut value that gives most images a hit."""
    tried = sorted({cut for image in images for cut, _ in image if cut > 0}) or [0.0]
    hits = [count_hits(images, tau, bound) for tau in tried]
    return tried[hits.index(max(hits))]


def box_accuracy_ranked(
    scored: Sequence[Image], calibration: Sequence[Image], ious: Sequence[float]
) -> list[float]:
    """Return each scored image's share of the IoUs that it hits."""
    taus = [choose_tau(calibration, bound) for bound in ious]
    return [
        sum(count_hits([image], tau, bound) for tau, bound in zip(taus, ious, strict=True))
        / len(ious)
        for image in scored
    ]

"""Usable items: how many images of a plan can choose box thresholds or be pointed at.

An image without a box in the frame chooses no threshold, and one whose object fills the frame is
outside the pointing game. Both are known before any network runs, so a run says them first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.data import Subset
from bench.errors import BenchError
from bench.records.store import MIN_CALIBRATION
from bench.run.plan import Plan
from bench.types import Truth

LOOKED_AT = 300
"""Items that are read for a count; of a larger part the first ones, which are a fair sample."""

POINTING = "pointing_game"


@dataclass(frozen=True)
class UsableCount:
    """How many of the items that were read are usable; total: of the whole part."""

    usable: int
    read: int
    total: int

    def __str__(self) -> str:
        whole = "" if self.read == self.total else f" that were looked at, of {self.total:,}"
        return f"{self.usable} of {self.read} images{whole}"


def describe_usable(plan: Plan) -> Iterator[str]:
    """Yield a sentence per part of a plan whose images are not all usable for a metric."""
    if plan.calibration is not None and any(metric.calibrates for metric in plan.metrics):
        found = count_with_boxes(plan.calibration, plan)
        enough = found.usable >= MIN_CALIBRATION or found.read < found.total
        outcome = "" if enough else ", so box accuracy will be n/a"
        yield (
            f"Calibration: {found} have a box in the frame; box thresholds need at least "
            f"{MIN_CALIBRATION}{outcome}."
        )
    if any(metric.name == POINTING for metric in plan.metrics):
        found = count_small(plan)
        share = plan.protocol.pointing_max_area
        yield f"Pointing: the truth of {found} covers at most {share:.0%} of the frame."


def count_with_boxes(part: Subset, plan: Plan) -> UsableCount:
    """Return how many items of a part have a box in the frame."""
    truths = list(_read_truths(part, plan))
    usable = sum(truth.boxes is not None and len(truth.boxes[0]) > 0 for truth in truths)
    return UsableCount(usable, len(truths), len(part))


def count_small(plan: Plan) -> UsableCount:
    """Return how many scored items have a truth that the pointing game's primary set takes."""
    usable, read = 0, 0
    for truth in _read_truths(plan.subset, plan):
        pixels = truth.pixels(*plan.geometry.shape)
        area = 0.0 if pixels is None else float(pixels.double().mean())
        usable += 0 < area <= plan.protocol.pointing_max_area
        read += 1
    return UsableCount(usable, read, len(plan.subset))


def _read_truths(part: Subset, plan: Plan) -> Iterator[Truth]:
    """Yield the truth of the first items; one that cannot be read is the run's to report."""
    for i in range(min(len(part), LOOKED_AT)):
        try:
            yield part.batch([i], plan.geometry, plan.protocol.box_min_visible).truth
        except BenchError:
            continue

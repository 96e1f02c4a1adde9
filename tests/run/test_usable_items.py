"""How many images choose thresholds and are pointed at is known before the run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import bench
from bench.board import leaderboard
from bench.board.usable_counts import describe_usable_counts
from bench.models.architectures import build_seeded, resnet_scenes
from bench.protocol import Protocol
from bench.records.store import DEFAULT_CALIBRATION, MIN_CALIBRATION
from bench.run import usable_items
from bench.run.evaluate import run_plan
from bench.run.plan import make_plan
from bench.run.usable_items import describe_usable
from bench.types import Batch


class Blind(bench.Subset):
    """A subset whose first items have no box, as after a crop."""

    without = 0

    def batch(self, indices, geometry, min_visible=0.25, **asked) -> Batch:
        found = super().batch(indices, geometry, min_visible, **asked)
        boxes = tuple(
            torch.zeros(0, 4) if self.ids.index(item) < self.without else boxes
            for item, boxes in zip(found.ids, found.truth.boxes, strict=True)
        )
        return dataclasses.replace(found, truth=dataclasses.replace(found.truth, boxes=boxes))


def blind(part: bench.Subset, without: int) -> bench.Subset:
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    made = Blind(**fields)
    object.__setattr__(made, "without", without)
    return made


@pytest.fixture(scope="module")
def plan():
    model = bench.Explainee(build_seeded(resnet_scenes, 3), size=96, name="small")
    subset = bench.load_subset("scenes-val", limit=8)
    metrics = ["box_localization", "pointing_game"]
    return make_plan(subset, [model], ["center_gaussian"], metrics, Protocol())


def test_the_default_leaves_room_for_images_without_a_box(plan):
    assert len(plan.calibration) == DEFAULT_CALIBRATION > MIN_CALIBRATION
    large = make_plan(
        bench.load_subset("scenes-val", limit=200),
        plan.models,
        "random",
        "energy,box_accuracy",
        Protocol(),
    )
    assert len(large.calibration) == 100


def test_what_is_usable_is_said_before_the_run(plan):
    calibration, pointing = describe_usable(plan)
    assert calibration == (
        "Calibration: 60 of 60 images have a box in the frame; box thresholds need at least 50."
    )
    areas = plan.subset.batch(range(8), plan.geometry).truth.pixels(96, 96).double().mean((1, 2))
    small = int((areas <= 0.25).sum())
    assert 0 < small < 8
    assert (
        pointing == f"Pointing: the truth of {small} of 8 images covers at most 25% of the frame."
    )


def test_too_few_usable_images_are_said(plan):
    few = dataclasses.replace(plan, calibration=blind(plan.calibration, 11))
    assert next(describe_usable(few)).endswith(
        "49 of 60 images have a box in the frame; box thresholds need at least 50, so box accuracy "
        "will be n/a."
    )
    enough = dataclasses.replace(plan, calibration=blind(plan.calibration, 10))
    assert next(describe_usable(enough)).endswith("need at least 50.")


def test_a_large_part_is_counted_by_its_first_images(plan, monkeypatch):
    monkeypatch.setattr(usable_items, "LOOKED_AT", 5)
    assert "of 5 images that were looked at, of 60 have a box" in next(describe_usable(plan))


def test_one_image_without_a_box_leaves_box_accuracy(plan):
    """And the board says how many there were."""
    run = run_plan(dataclasses.replace(plan, calibration=blind(plan.calibration, 1)), None)
    board = leaderboard(run, resamples=20)
    table = board.table("box_accuracy")
    assert table["n"].tolist() == [8]
    said = describe_usable_counts(run, "scenes-val")
    assert said.startswith("59 of 60 calibration images are usable; pointing is scored on ")
    assert said.endswith(" of 8 images")

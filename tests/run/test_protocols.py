"""Runs under named protocols: frame, targets, calibration, and forwards that the plan knows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.data.geometry import Geometry
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.planning.estimate import count_cost
from bench.protocol import PROTOCOLS, get_protocol
from bench.run.evaluate import FinishedTask
from bench.run.plan import common_geometry, make_plan

SHORT = [name if name != "quantus" else "quantus[step_features=1536]" for name in PROTOCOLS]


@pytest.mark.parametrize("protocol", SHORT)
def test_the_plan_counts_what_is_run(subset, model, protocol):
    methods, metrics = (
        ["grad_cam", "random"],
        ["deletion", "insertion", "average_drop", "threshold_quality"],
    )
    rules = get_protocol(protocol)
    plan = make_plan(subset, [model], methods, metrics, rules, calibration=0)
    seen: list[FinishedTask] = []
    records = bench.evaluate(
        subset, model, methods, metrics, protocol=protocol, calibration=0, finished=seen.append
    )
    planned, run = count_cost(plan).run.forwards, seen[-1].counts.forwards
    # A label's map where the label is not predicted costs more; equal images (thresholds among
    # zeros) cost less.
    cut = len(subset) * len(methods) * rules.thresholds
    assert planned - cut <= run <= planned + len(subset) * 2
    assert set(records.frame["protocol_id"]) == {rules.id}


def test_one_feature_at_a_time_is_in_the_plan():
    pixels = 224 * 224
    deletion = METRICS.get("deletion")
    assert deletion.forwards(get_protocol("quantus"), pixels) == 3 * pixels - 1
    assert deletion.forwards(get_protocol("quantus[step_features=1536]"), pixels) == 97
    assert deletion.forwards(get_protocol("rise"), pixels) == 223
    assert deletion.forwards(get_protocol("rise[step_features=1792]"), pixels) == 27
    assert deletion.forwards(get_protocol("torchcam"), pixels) == 19
    assert deletion.forwards(get_protocol("cambench-1"), pixels) == 27


def test_quantus_explains_the_label(subset, model):
    records = bench.evaluate(
        subset,
        model,
        ["grad_cam"],
        ["deletion"],
        protocol="quantus[step_features=2304]",
        calibration=0,
    ).frame
    assert (records["target"] == records["label"]).all()
    assert not records[
        "correct"
    ].all()  # a net of random weights: the prediction would be another class


def test_wsol_needs_no_calibration(model):
    subset = bench.load_subset("scenes-val", limit=4)
    plan = make_plan(subset, [model], ["grad_cam"], ["box_localization"], get_protocol("wsol"))
    assert plan.calibration is None
    assert (
        make_plan(subset, [model], ["grad_cam"], ["box_localization"], bench.Protocol()).calibration
        is not None
    )
    records = bench.evaluate(
        subset, model, ["grad_cam", "random", "oracle"], ["box_localization"], protocol="wsol"
    )
    board = bench.leaderboard(records, resamples=50)
    means = board.table("box_accuracy").set_index("method")["mean"]
    assert (
        means["oracle"] > 0.9
    )  # not 1: its boxes are a pixel too large, which a small object's IoU of .7 feels
    assert means["oracle"] > means["random"]
    at_half = board.table("box_accuracy_50").set_index("method")["mean"]
    assert at_half["oracle"] == 1
    assert "box_accuracy_oracle" not in set(board.frame["metric"])


def test_squash_is_for_subsets_that_leave_the_frame_open(model, tmp_path):
    from PIL import Image

    fixed = bench.load_subset("scenes-val", limit=2)
    assert common_geometry(fixed, [model], "squash") == fixed.geometry
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (80, 200, 3), dtype=np.uint8)).save(
            tmp_path / "images" / f"{i}.png"
        )
        rows.append(
            {"file": f"images/{i}.png", "label": i % 2, "x0": 0, "y0": 0, "x1": 50, "y1": 40}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "annotations.csv", index=False)
    (tmp_path / "manifest.toml").write_text(
        'name = "wide"\nkind = "folder"\ntitle = "Wide"\nlicence = "own"\ncalibration = "none"\n'
    )
    wide = bench.load_subset(tmp_path)
    squashed = common_geometry(wide, [model], "squash")
    assert squashed == Geometry(96, "squash", 96, "bilinear")
    assert common_geometry(wide, [model]) == model.geometry != squashed
    # A quarter of the width is a quarter of the frame; a crop of the centre would lose the box.
    (boxes,) = wide.batch([0], squashed).truth.boxes
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 24.0, 48.0]]))


def test_a_kernel_larger_than_the_image_is_one_sentence(model, subset):
    images = model.normalise(subset.batch([0], subset.geometry).pixels)
    with pytest.raises(BenchError, match="make kernel_side smaller") as caught:
        bench.score(
            model,
            images,
            None,
            torch.rand(1, 96, 96),
            "insertion",
            protocol="rise[kernel_side=201,kernel_padding=reflect]",
        )
    assert "\n" not in str(caught.value)


def test_a_curve_of_nothing_is_one_sentence(model, subset):
    images = model.normalise(subset.batch([0], subset.geometry).pixels)
    with pytest.raises(BenchError, match="give the protocol more steps"):
        bench.score(
            model,
            images,
            None,
            torch.rand(1, 96, 96),
            "deletion",
            protocol="cambench-1[steps=1,curve_ends=none]",
        )

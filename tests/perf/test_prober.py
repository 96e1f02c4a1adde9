"""A run against the bare network: deletion and insertion of eight methods over the same number of bare forwards.

Run on an idle machine: `pytest tests/perf -m perf`. What is timed is a whole run in memory (`run_plan`): images read,
maps made, ranked, scored, and put into records. The bare side runs as many images, channels last, in the same batches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nets import randomise
from PIL import Image
from ratios import SLOWER, Row, bare_forwards, interleaved, pairs_wanted, report

import bench
from bench.engine.prober import Prober
from bench.pipeline.evaluate import Progress, run_plan
from bench.pipeline.plan import Plan, make_plan
from bench.protocol import Protocol

METHODS = [
    *("grad_cam", "layer_cam", "eigen_cam", "ablation_cam"),
    *("random", "random_pixel", "center_gaussian", "sobel"),
]
METRICS = ["deletion", "insertion"]
STEPS = 14
"""Half of the protocol's, for the time of fifteen pairs: what is done per map and not per forward weighs twice."""

pytestmark = pytest.mark.perf


def one_photograph(folder: Path) -> bench.Subset:
    """Return a subset of one image of 224 pixels, in class 0 of a thousand."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 9, 9)))
    smooth = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic")[0].clamp(0, 1)
    pixels = (smooth.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / "one.png")
    (folder / "annotations.csv").write_text("file,label\none.png,0\n")
    return bench.load_subset(folder)


def forwards_of(plan: Plan) -> tuple[int, int]:
    """Run a plan once and return the forwards that were run, and those that equal rankings or maps saved."""
    told: list[Progress] = []
    records = run_plan(plan, None, gallery=0, progress=told.append)
    assert len(records.frame.method.unique()) == len(METHODS)
    assert set(records.frame.metric) >= set(METRICS)
    assert not records.frame.value.isna().any()
    asked = told[-1].asked
    return told[-1].counts.forwards, asked.equal_maps + asked.equal_probes


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18"])
def test_run_over_bare_forwards(benchmark, tmp_path, name):
    """Fifteen pairs, since what is aimed at is a difference of a few per cent."""
    model = bench.load_model(name)
    randomise(model.net, 0)
    protocol = Protocol().with_fields({"steps": STEPS})
    plan = make_plan(one_photograph(tmp_path / "one"), [model], METHODS, METRICS, protocol, calibration=0)
    forwards, saved = forwards_of(plan)
    assert saved == 0  # no two methods rank alike, so nothing is shared that a bare forward would have to pay for
    assert forwards >= len(METHODS) * len(METRICS) * (STEPS - 1)

    ratios = interleaved(
        lambda: run_plan(plan, None, gallery=0),
        bare_forwards(Prober(model, plan.batch_size), forwards),
        pairs_wanted(15),
    )
    row = Row(
        f"deletion and insertion of {len(METHODS)} methods, {STEPS} steps, a whole run, {name}",
        "as many bare forwards",
        aim=1.05,
        better="lower",
        unit=SLOWER,
        forwards=(forwards, forwards),
    )
    report(benchmark, row, ratios)

"""Scoring against the bare network: deletion and insertion of eight methods over the same number of
bare forwards.

Run on an idle machine: `pytest tests/perf -m perf`. What is timed is a task of a run whose maps are
there already (`run_task`): the image is read, its class predicted, maps ranked, perturbed images
made, run and scored, and put into records. The bare side runs as many images, channels last, in the
same batches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bench
from bench.engine.prober import Prober
from bench.protocol import Protocol
from bench.run.cells import Kept, Outcome, find_missing_cells
from bench.run.plan import make_plan
from bench.run.task import run_task
from tests.perf.ratios import SLOWER, Row, bare_forwards, interleaved, pairs_wanted, report
from tests.support.nets import randomise

METHODS = [
    *("grad_cam", "layer_cam", "eigen_cam", "ablation_cam"),
    *("random", "random_pixel", "center_gaussian", "sobel"),
]
METRICS = ["deletion", "insertion"]
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


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18"])
def test_scoring_over_bare_forwards(benchmark, tmp_path, name):
    """Fifteen pairs, since what is aimed at is a difference of a few per cent."""
    model = bench.load_model(name)
    randomise(model.net, 0)
    plan = make_plan(
        one_photograph(tmp_path / "one"), [model], METHODS, METRICS, Protocol(), calibration=0
    )
    (task,) = plan.tasks()
    groups = find_missing_cells(plan, task, {})
    prober, kept = Prober(model, plan.batch_size), Kept(frozenset(["predicted"]))

    def scoring() -> Outcome:
        return run_task(plan, task, groups, prober, kept=kept)

    scoring()  # makes the maps
    before = prober.counts.copy()
    outcome = scoring()
    ran = prober.counts - before
    assert (ran.backwards, ran.head_forwards) == (0, 0)  # no map is made again
    assert len(outcome.rows) >= len(METHODS) * len(METRICS)
    # No two methods rank alike, so nothing is shared that a bare forward would have to pay for.
    assert outcome.asked.equal_maps + outcome.asked.equal_probes == 0
    assert ran.forwards >= len(METHODS) * len(METRICS) * (plan.protocol.steps - 1)

    bare = bare_forwards(Prober(model, plan.batch_size), ran.forwards)
    ratios = interleaved(scoring, bare, pairs_wanted(15))
    row = Row(
        f"deletion and insertion of {len(METHODS)} methods, {name}",
        "as many bare forwards",
        aim=1.05,
        better="lower",
        unit=SLOWER,
        forwards=(ran.forwards, ran.forwards),
    )
    report(benchmark, row, ratios)

"""Planned against actual time of three small runs of different kinds: run on an idle machine.

`pytest tests/perf/test_planned_time.py -m perf -s`. Each ratio is of one plan and the run that
follows it, in one process; the aim is 25 %. Nothing is asserted of a time, only that what was
planned to be run is what was run.
"""

from __future__ import annotations

import os

import pytest

import bench
from bench.engine.counts import Counts
from bench.planning.estimate import estimate
from bench.run.evaluate import FinishedTask, run_plan
from bench.run.plan import make_plan
from tests.perf.ratios import Row, pairs_wanted, report, seconds

IMAGES = int(os.environ.get("CAMBENCH_PERF_IMAGES", "25"))
CAMS = ["cam/*", "-score_cam", "-abs_cam*", "-group_cam", "-smooth_grad_cam_pp"]

RUNS = {
    "CAMs, standard metrics": (CAMS, "standard", IMAGES),
    "one CAM, deletion": (["grad_cam"], ["deletion"], 8 * IMAGES),
    "perturbation": (["occlusion", "rise[masks=300]"], ["deletion", "insertion"], IMAGES),
}

pytestmark = pytest.mark.perf


@pytest.mark.parametrize("kind", RUNS)
def test_planned_over_actual_seconds(benchmark, kind):
    methods, metrics, images = RUNS[kind]
    model = bench.load_model("resnet-scenes")
    plan = make_plan(
        bench.load_subset("scenes-val", limit=images),
        [model],
        methods,
        metrics,
        bench.Protocol(),
        calibration=0,
    )
    ratios, told = [], []
    for _ in range(pairs_wanted(6)):
        cost = estimate(plan, "sample")
        seen: list[FinishedTask] = []
        actual = seconds(lambda seen=seen: run_plan(plan, None, finished=seen.append))
        assert (
            seen[-1].counts.forwards
            <= (cost.run + Counts(int(cost.models[0].extra.forwards) + images)).forwards
        )
        assert seen[-1].done == len(cost.tasks)
        ratios.append(cost.seconds / actual)
        told.append((cost.seconds, actual, cost.measured_seconds))
    benchmark.extra_info.update(planned_actual_planning=told)
    report(
        benchmark,
        Row(f"time that a plan says: {kind}, {images} images", "the run's", unit="of it"),
        ratios,
    )

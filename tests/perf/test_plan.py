"""Planned against actual time of three small runs of different kinds: run on an idle machine.

`pytest tests/perf/test_plan.py -m perf -s`. Each ratio is of one plan and the run that follows it, in one process; the
aim is 25 %. Nothing is asserted of a time, only that what was planned to be run is what was run.
"""

from __future__ import annotations

import os
import time

import pytest

import bench
from bench.engine.prober import Counts
from bench.pipeline.cost import estimate
from bench.pipeline.evaluate import Progress, run_plan
from bench.pipeline.plan import make_plan

IMAGES = int(os.environ.get("CAMBENCH_PERF_IMAGES", "25"))
CAMS = ["cam/*", "-score_cam", "-abs_cam*", "-group_cam", "-smooth_grad_cam_pp"]

RUNS = {
    "CAMs, standard metrics": (CAMS, "standard", IMAGES),
    "one CAM, deletion": (["grad_cam"], ["deletion"], 8 * IMAGES),
    "perturbation": (["occlusion", "rise[masks=300]"], ["deletion", "insertion"], IMAGES),
}

pytestmark = pytest.mark.perf


@pytest.mark.parametrize("measure", ["sample", "rates"])
@pytest.mark.parametrize("kind", RUNS)
def test_planned_over_actual_seconds(benchmark, kind, measure):
    methods, metrics, images = RUNS[kind]
    model = bench.load_model("resnet-scenes")
    plan = make_plan(
        bench.load_subset("scenes-val", limit=images), [model], methods, metrics, bench.Protocol(), calibration=0
    )
    cost = estimate(plan, measure)
    seen: list[Progress] = []
    start = time.perf_counter()
    benchmark.pedantic(run_plan, (plan, None), {"progress": seen.append}, rounds=1)
    actual = time.perf_counter() - start
    ratio = cost.seconds / actual
    benchmark.extra_info.update(
        ratio=ratio, planned=cost.seconds, actual=actual, planning=cost.measured_seconds, tasks=len(cost.tasks)
    )
    print(
        f"\n{kind}, by {measure}: planned / actual = {ratio:.2f} ({cost.seconds:.1f} s / {actual:.1f} s; planning took "
        f"{cost.measured_seconds:.1f} s)"
    )
    assert seen[-1].counts.forwards <= (cost.run + Counts(int(cost.models[0].extra.forwards) + images)).forwards
    assert seen[-1].done == len(cost.tasks)

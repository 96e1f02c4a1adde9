"""Two single-threaded workers of a Ray cluster against one: tasks per second of the same run, its
start not counted.

Run on an idle machine with two cores or more: `pytest tests/perf/test_scale.py -m perf`. Ratios are
of pairs that are run one after the other.
"""

from __future__ import annotations

import importlib.util
import os
import time

import pytest

import bench
from bench.run.evaluate import FinishedTask
from bench.run.ray_executor import RayExecutor
from tests.perf.ratios import Row, pairs_wanted, report

TASKS = int(os.environ.get("CAMBENCH_PERF_TASKS", "24"))

pytestmark = [
    pytest.mark.perf,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed (cambench[ray])"
    ),
]


def throughput(workers: int, address: str) -> float:
    """Return tasks per second between the first and the last task that is finished: start-up is
    paid once per run.
    """
    times: list[float] = []

    def note(_: FinishedTask) -> None:
        times.append(time.perf_counter())

    bench.evaluate(
        bench.load_subset("scenes-val", limit=4 * TASKS),
        "resnet-scenes",
        ["grad_cam", "layer_cam", "random"],
        ["deletion", "insertion"],
        calibration=0,
        shard_size=4,
        executor=RayExecutor(address, workers=workers, threads=1),
        finished=note,
    )
    assert len(times) == TASKS
    # The first `workers` tasks end together, and the last: what lies between is steady.
    return (len(times) - workers) / (times[-1] - times[workers - 1])


def test_two_workers_over_one(benchmark):
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    from ray.cluster_utils import Cluster

    few = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False}
    cluster = Cluster(
        initialize_head=True, head_node_args={**few, "include_dashboard": False, "no_monitor": True}
    )
    try:
        cluster.add_node(**few)
        pairs = [
            (throughput(2, cluster.address), throughput(1, cluster.address))
            for _ in range(pairs_wanted(6))
        ]
    finally:
        cluster.shutdown()
    ratios = [two / one for two, one in pairs]
    row = Row(
        f"{TASKS} tasks on two Ray workers of one thread",
        "one such worker",
        aim=1.5,
        unit="times the tasks per second",
    )
    report(benchmark, row, ratios)

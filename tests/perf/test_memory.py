"""Memory and time per image of a run of 5,000 scenes, after 500 and at its end.

Run on an idle machine: `pytest tests/perf/test_memory.py -m perf`. CAMBENCH_PERF_SCENES changes the
5,000 (8,000 at most). Memory is that of a process of its own.
"""

from __future__ import annotations

import itertools
import os
import sys

import pytest

from tests.perf.ratios import SLOWER, Row, report
from tests.support.growth import Point, grown

SCENES = int(os.environ.get("CAMBENCH_PERF_SCENES", "5000"))
MIB = 2**20

pytestmark = [
    pytest.mark.perf,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="resident memory is read from /proc"
    ),
]


def seconds_per_image(points: list[Point]) -> list[float]:
    """Return the seconds per image from each of these points to the next."""
    return [(b[2] - a[2]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]


def test_memory_and_time_of_many_scenes(benchmark, tmp_path):
    *points, end = benchmark.pedantic(grown, (SCENES, tmp_path), rounds=1)
    tenth = [point for point in points if point[0] <= SCENES // 10]
    last = [point for point in points if point[0] > SCENES - SCENES // 10]
    early, late = tenth[-1], last[-1]
    growth = late[1] - early[1]
    figures = {
        "scenes": SCENES,
        "early_mib": early[1] / MIB,
        "late_mib": late[1] / MIB,
        "growth_bytes_per_image": growth / (late[0] - early[0]),
        "end_bytes_per_image": (end[1] - late[1]) / SCENES,
    }
    benchmark.extra_info.update(figures)
    print(
        f"\n{early[0]} scenes: {early[1] / MIB:.0f} MiB; {late[0]}: {late[1] / MIB:.0f} MiB, "
        f"{figures['growth_bytes_per_image']:.0f} bytes per image; its records read at the end: "
        f"{figures['end_bytes_per_image']:.0f} more"
    )
    assert growth < 0.05 * early[1]
    what = f"{SCENES:,} scenes, grad_cam and deletion"
    sizes = Row(f"memory at the end of {what}", f"after {early[0]}", 1.05, "lower", "times as much")
    report(benchmark, sizes, [point[1] / early[1] for point in last])
    first = seconds_per_image(tenth)
    times = [late / early for early, late in zip(first, seconds_per_image(last), strict=False)]
    report(
        benchmark,
        Row(f"an image in the last tenth of {what}", "one in the first", None, "lower", SLOWER),
        times,
    )

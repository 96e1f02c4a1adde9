"""Memory and time per image of a run of 5,000 scenes, after 500 and at its end.

Run on an idle machine: `pytest tests/perf/test_memory.py -m perf`. CAMBENCH_PERF_SCENES changes the
5,000 (8,000 at most). A wide run has 300 images and 40 methods (CAMBENCH_PERF_IMAGES changes the
300), on SqueezeNet at 224 pixels where the real images are. Memory is that of a process of its own.
"""

from __future__ import annotations

import itertools
import os
import sys

import pytest

from tests.perf.ratios import SLOWER, Row, report
from tests.support.growth import Point, fit_slope, grown

SCENES = int(os.environ.get("CAMBENCH_PERF_SCENES", "5000"))
IMAGES = int(os.environ.get("CAMBENCH_PERF_IMAGES", "300"))
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


WIDE = (
    *("cam", "grad_cam", "grad_cam_pp", "smooth_grad_cam_pp", "xgrad_cam", "shapley_cam"),
    *("finer_cam", "hires_cam", "layer_cam", "eigen_cam", "eigen_grad_cam", "random"),
    *("random_pixel", "constant", "center_gaussian", "sobel", "fake_cam", "random_cam", "oracle"),
    *("inverted_oracle", "deep_lift", "deep_lift_shap", "saliency", "input_x_gradient"),
    *("integrated_gradients[steps=4]", "idgi[steps=4]", "smooth_grad[samples=4]"),
    *("var_grad[samples=4]", "gradient_shap[samples=4]", "guided_backprop", "deconvnet"),
    *("guided_grad_cam", "layer_cam_fused", "fused(grad_cam)", "full_grad", "group_cam"),
    *("recipro_cam", "lrp", "sa_cam", "tft(grad_cam)"),
)
assert len(WIDE) == 40


def test_memory_of_a_wide_run(benchmark, tmp_path, monkeypatch, data_root):
    monkeypatch.setenv("CAMBENCH_DATA", str(data_root))
    given = (IMAGES, tmp_path, ",".join(WIDE))
    *points, _ = benchmark.pedantic(grown, given, rounds=1)
    slope = fit_slope(points)
    benchmark.extra_info.update(images=IMAGES, methods=len(WIDE), slope_bytes_per_image=slope)
    print(
        f"\n{IMAGES} images x {len(WIDE)} methods: {points[-1][1] / MIB:.0f} MiB at the end, "
        f"{slope / 1e6:.3f} GB per 1,000 images"
    )
    assert slope < 100_000

"""What a run holds in memory does not grow with the images it has done."""

from __future__ import annotations

import functools
import gc
import sys

import pytest
import torch

import bench
from bench.engine import memory
from bench.engine.memory import GarbageSweep
from bench.methods import METHODS
from bench.metrics import METRICS
from tests.support.growth import count_in_circles, fit_slope, grown, open_narrow
from tests.support.nets import token_net

WIDE = "cam,grad_cam,layer_cam,eigen_cam,random,sobel,saliency,guided_backprop,tft(grad_cam)"

PER_IMAGE = 20_000
"""Bytes; the pixels of one scene are 27,648 as they are stored and 110,592 as a model sees them."""


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident memory is read from /proc"
)
def test_memory_after_a_thousand_scenes_is_that_after_a_hundred(tmp_path):
    held = {count: size for count, size, _ in grown(1000, tmp_path)[:-1]}
    assert sorted(held)[-1] == 1000
    assert held[1000] - held[100] < 900 * PER_IMAGE


# --- no circles of references: what a task has made is freed when the task is done

METHODS_SEEN = (
    *("tft(grad_cam)", "fused(grad_cam)", "guided_grad_cam", "deep_lift", "lrp", "full_grad"),
    *("score_cam", "integrated_gradients[steps=2]", "rise[masks=8]", "lime[samples=8]"),
)


@functools.cache
def open_two():
    return open_narrow(2)


def score_narrowly(methods, metrics) -> None:
    """Run two tasks; what the first leaves is freed, since a network's first use may leave some."""

    def free(state) -> None:
        if state.done == 1:
            gc.collect()

    subset, model = open_two()
    rules = bench.Protocol(steps=2)
    bench.evaluate(
        subset, model, methods, metrics, rules, calibration=0, shard_size=1, finished=free
    )


def test_methods_leave_no_circle():
    assert count_in_circles(lambda: score_narrowly(METHODS_SEEN, "pointing_game")) == 0


@pytest.mark.slow
def test_metrics_leave_no_circle():
    names = METRICS.select("all")
    chosen = ["tft(grad_cam)", "integrated_gradients[steps=2]"]
    assert count_in_circles(lambda: score_narrowly(chosen, names)) == 0


def test_attention_leaves_no_circle():
    model = bench.Explainee(token_net(0, 32), size=32, name="tokens")
    images = torch.rand(1, 3, 32, 32)
    names = ["raw_attention", "attention_rollout", "gradient_rollout", "legrad"]
    bench.explain(model, images, method=names)
    assert count_in_circles(lambda: bench.explain(model, images, method=names)) == 0


@pytest.fixture
def circular():
    """A plug-in method whose maps sit in a circle of references."""

    @bench.register_method("circular")
    def circular(trace):
        held = [trace.activations]
        held.append(held)
        return trace.upsample(trace.activations.sum(1))

    yield "circular"
    METHODS.remove("circular")


def test_a_circle_of_a_plugin_is_found_and_swept(circular, monkeypatch):
    assert count_in_circles(lambda: score_narrowly([circular], "pointing_game")) > 0
    swept: list[bool] = []
    sweep = GarbageSweep.sweep
    monkeypatch.setattr(memory, "SWEEP_SHARE", 1e9)
    monkeypatch.setattr(GarbageSweep, "sweep", lambda self: swept.append(sweep(self)))
    score_narrowly([circular], "pointing_game")
    assert swept == [True, True]


def test_a_sweep_takes_its_share_of_the_time_at_most():
    garbage = GarbageSweep()
    assert not garbage.sweep()  # the run has just begun


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident memory is read from /proc"
)
def test_a_wide_run_of_scenes_grows_by_less_than_a_tenth_of_a_megabyte(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMBENCH_DATA", str(tmp_path / "none"))
    points = grown(300, tmp_path / "run", WIDE)[:-1]
    assert points[-1][0] == 300
    assert fit_slope(points) < 100_000

"""Batch size, threads and executor move no value and no stored vector by more than 1e-4.

Logits differ in their last digits between batch sizes and numbers of threads. What a metric reads
is a ranking or a threshold of a map in places, where such a digit can decide: `DECIDED` names
these.
"""

from __future__ import annotations

import functools
import importlib.util

import pandas as pd
import pytest
import torch

import bench
from bench.methods import METHODS
from bench.metrics import METRICS
from tests.support.determinism import TOLERANCE, Move, find_moves

FEW = ("grad_cam", "saliency", "rise[masks=32]")
SHORT = {
    "integrated_gradients": "[steps=10]",
    "idgi": "[steps=10]",
    "smooth_grad": "[samples=5]",
    "var_grad": "[samples=5]",
    "gradient_shap": "[samples=5]",
    "extremal_perturbation": "[iterations=20]",
    "rise": "[masks=200]",
    "lime": "[samples=100]",
    "kernel_shap": "[samples=100]",
}
"""Shorter forms of what takes long."""

DECIDED = {"pixel_histogram": 1.0}
"""Values that rounding decides, and by how much: a pixel at the edge of two bins counts in one."""


@functools.cache
def open_network(name: str) -> bench.Explainee:
    return bench.load_model(name)


def score_once(
    methods, metrics, batch_size: int, threads: int = 1, images: int = 2, executor=None
) -> pd.DataFrame:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        subset = bench.load_subset("scenes-val", limit=images)
        rules = bench.Protocol(steps=10)
        given = {"calibration": 0, "batch_size": batch_size, "executor": executor}
        model = open_network("resnet-scenes")
        return bench.evaluate(subset, model, methods, metrics, rules, **given).frame
    finally:
        torch.set_num_threads(before)


def list_undecided(moves: list[Move]) -> list[Move]:
    """Return the moves that are larger than what rounding decides."""
    return [move for move in moves if move.by > DECIDED.get(move.metric, TOLERANCE)]


METRICS_OF_FEW = ("deletion", "insertion", "average_drop", "pixel_precision", "box_localization")


@functools.cache
def score_few(batch_size: int, threads: int) -> pd.DataFrame:
    return score_once(list(FEW), list(METRICS_OF_FEW), batch_size, threads, images=1)


@pytest.mark.parametrize(("batch_size", "threads"), [(7, 1), (1, 1), (64, 2)])
def test_batch_size_and_threads_move_nothing(batch_size, threads):
    moves = find_moves(score_few(64, 1), score_few(batch_size, threads))
    assert list_undecided(moves) == []


def test_a_method_that_reads_the_batch_size_is_found():
    @bench.register_method("reads_batch")
    def reads_batch(trace):
        return trace.upsample(trace.activations.sum(1)) * (-1) ** trace.prober.batch_size

    try:
        frames = [score_once(["reads_batch"], ["deletion"], size, images=1) for size in (1, 2)]
    finally:
        METHODS.remove("reads_batch")
    assert {move.metric for move in find_moves(*frames)} >= {"deletion_curve"}
    assert list_undecided(find_moves(*frames))


@functools.cache
def score_all(batch_size: int, threads: int) -> pd.DataFrame:
    """Score every method by what scores maps alone, and some by what runs methods again."""
    names = [name + SHORT.get(name, "") for name in METHODS.select("all")]
    metrics = METRICS.select("all")
    again = [name for name in metrics if "method" in METRICS.get(name).needs]
    maps_alone = [name for name in metrics if name not in again]
    frames = [
        score_once(names, maps_alone, batch_size, threads),
        score_once(["grad_cam", "integrated_gradients[steps=4]"], again, batch_size, threads),
    ]
    return pd.concat(frames)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "threads"), [(7, 1), (1, 1), (64, 2)])
def test_no_method_and_no_metric_is_moved(batch_size, threads):
    moves = find_moves(score_all(64, 1), score_all(batch_size, threads))
    assert list_undecided(moves) == []


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_moves_nothing():
    from bench.run.ray_executor import RayExecutor

    there = score_once(
        list(FEW), list(METRICS_OF_FEW), 7, images=1, executor=RayExecutor(workers=1)
    )
    assert list_undecided(find_moves(score_few(64, 1), there)) == []

"""Methods over bare forwards: one trace for six CAMs, head replay, and masked forwards; beside
others: `test_peers.py`.

Run on an idle machine: `pytest tests/perf -m perf`. Everything is compared in one run, pair after
pair.
"""

from __future__ import annotations

import pytest
import timm
import torch

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.methods import METHODS
from tests.perf.ratios import SLOWER, Row, bare_forwards, interleaved, report

pytestmark = pytest.mark.perf

FAMILY = ["cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam"]


def resnet18() -> bench.Explainee:
    model = bench.Explainee(timm.create_model("resnet18").eval())
    _ = model.split  # found once per model, not per call
    return model


def test_cam_family_from_one_trace_in_forwards(benchmark):
    """Six gradient CAMs from one trace, over one bare forward per image."""
    model, count = resnet18(), 8
    images = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def ours() -> None:
        bench.explain(model, images, [1] * count, FAMILY)

    ratios = interleaved(ours, bare_forwards(Prober(model), count), calls=(3, 3))
    row = Row("six CAMs from one trace, resnet18", "one bare forward", better="lower", unit=SLOWER)
    report(benchmark, row, ratios)


@pytest.mark.parametrize("name", ["ablation_cam", "a_fmi"])
def test_head_replay_in_forwards(benchmark, name):
    """A channel replaced 512 times, over one bare forward; a_fmi has one more for its reference."""
    model = resnet18()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def ours() -> None:
        bench.explain(model, images, [1] * len(images), name)

    ratios = interleaved(ours, bare_forwards(Prober(model), len(images)), calls=(3, 5))
    row = Row(
        f"{name}, 512 head replays, resnet18", "one bare forward", better="lower", unit=SLOWER
    )
    report(benchmark, row, ratios)


@pytest.mark.parametrize("name", ["score_cam", "abs_cam", "abs_cam_elementwise"])
def test_masked_channels_over_bare_forwards(benchmark, name):
    """score_cam and its kin over the same number of bare forwards, mobilenetv2 at 224, 160 channels
    of block 5.2.
    """
    model = bench.load_model("mobilenetv2_100", layer="blocks.5.2")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    prober, method = Prober(model), METHODS.get(name)

    def ours() -> None:
        method(Trace(prober, images))

    before = prober.counts.forwards
    ours()
    forwards = prober.counts.forwards - before
    ratios = interleaved(ours, bare_forwards(prober, forwards))
    aim = {"aim": 1.1, "better": "lower", "unit": SLOWER, "forwards": (forwards, forwards)}
    report(benchmark, Row(f"{name}, mobilenetv2_100", "as many bare forwards", **aim), ratios)

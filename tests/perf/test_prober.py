"""The prober against the bare network: deletion and insertion over the same number of bare forwards.

Run on an idle machine: `pytest tests/perf -m perf`. Ratios are medians of interleaved pairs in one process; the pair's
figures stand in the benchmark's extra_info and are printed.
"""

from __future__ import annotations

import statistics

import pytest
import torch
from ratios import bare_forwards, interleaved

import bench
from bench.engine.case import Background, Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.metrics import METRICS
from bench.models.explainee import untouched
from bench.pipeline.single import apply
from bench.protocol import Protocol

METHODS = ("grad_cam", "layer_cam", "random", "center_gaussian")

pytestmark = pytest.mark.perf


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18"])
def test_prober_over_bare_forwards(benchmark, name):
    torch.set_num_threads(2)
    model = bench.load_model(name)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    prober, protocol = Prober(model), Protocol()
    trace = Trace(prober, images)
    background = Background(trace)
    maps = bench.explain(model, images, None, list(METHODS))
    background.blurred(protocol.blur_sigma_224, protocol.blur_radius_sigmas)
    prober.colour_logits(protocol.baseline, trace.size)

    def probe() -> None:
        with untouched(model.net):
            for values in maps.values():
                case = Case(trace, values, protocol.view(()), background=background)
                for metric in ("deletion", "insertion"):
                    apply(METRICS.get(metric), case, protocol)

    before = prober.counts.forwards
    probe()
    forwards = prober.counts.forwards - before
    ratios = interleaved(probe, bare_forwards(prober, forwards))
    benchmark.extra_info.update(
        forwards=forwards, ratio=statistics.median(ratios), lowest=min(ratios), highest=max(ratios), pairs=len(ratios)
    )
    print(
        f"\n{name}: prober / bare = {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}], "
        f"{forwards} forwards, {len(ratios)} pairs"
    )
    benchmark.pedantic(probe, rounds=1)

"""bfloat16 against float32: the probes of deletion and insertion of mobilenetv2_100 at 224 pixels, on the CPU.

Run on an idle machine: `pytest tests/perf -m perf`. The ratio is bfloat16's seconds over float32's, in interleaved
pairs; below 1 bfloat16 is faster. Where a CPU has no arithmetic for it, it is emulated and far slower: few probes are
run then.
"""

from __future__ import annotations

import statistics

import pytest
import torch
from ratios import interleaved, said

import bench
from bench.engine.case import Background, Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.metrics import METRICS
from bench.models.explainee import untouched
from bench.pipeline.precision import speed_ratio
from bench.pipeline.single import apply
from bench.protocol import BFLOAT16, Protocol

pytestmark = pytest.mark.perf


def test_bfloat16_over_float32(benchmark):
    torch.set_num_threads(2)
    model = bench.load_model("mobilenetv2_100")  # random weights run as fast as others
    bare = speed_ratio(model, 224, 32)
    count, steps, pairs = (2, 28, 5) if bare > 1 else (1, 3, 3)
    images = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    prober, protocol = Prober(model), Protocol(steps=steps)
    trace = Trace(prober, images)
    background = Background(trace)
    maps = bench.explain(model, images, None, "grad_cam")
    background.blurred(protocol.blur_sigma_224, protocol.blur_radius_sigmas)
    prober.colour_logits(protocol.baseline, trace.size)

    def probe(rules: Protocol) -> None:
        with untouched(model.net):
            case = Case(trace, maps, rules.view(()), background=background)
            for metric in ("deletion", "insertion"):
                apply(METRICS.get(metric), case, rules)

    low = protocol.in_precision(BFLOAT16)
    before = prober.counts.forwards
    probe(protocol)
    forwards = prober.counts.forwards - before
    assert forwards == 2 * (steps - 1) * count
    ratios = interleaved(lambda: probe(low), lambda: probe(protocol), pairs)
    benchmark.extra_info.update(
        forwards=forwards,
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        pairs=pairs,
        bare=1 / bare,
    )
    print(f"\nmobilenetv2_100: bfloat16 / float32 = {said(ratios)} of {forwards} probes, bare batches {1 / bare:.3g}")
    benchmark.pedantic(lambda: probe(protocol), rounds=1)

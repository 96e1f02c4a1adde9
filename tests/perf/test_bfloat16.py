"""bfloat16 against float32: the probes of deletion and insertion of mobilenetv2_100 at 224 pixels,
on the CPU.

Run on an idle machine: `pytest tests/perf -m perf`. Where a CPU has no arithmetic
for it, it is emulated and far slower: few probes are run then.
"""

from __future__ import annotations

import pytest
import torch

import bench
from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.metrics import METRICS
from bench.models.network_guard import guard_network
from bench.protocol import BFLOAT16, Protocol
from bench.run.in_memory import apply
from bench.run.precision_guard import speed_ratio
from tests.perf.ratios import Row, interleaved, report

pytestmark = pytest.mark.perf


def test_bfloat16_over_float32(benchmark):
    model = bench.load_model("mobilenetv2_100")  # random weights run as fast as others
    bare = speed_ratio(model, 224, 32)
    count, steps = (2, 28) if bare > 1 else (1, 3)
    images = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    prober, protocol = Prober(model), Protocol(steps=steps)
    trace = Trace(prober, images)
    background = Background(trace)
    maps = bench.explain(model, images, None, "grad_cam")
    background.blur(protocol.blur_sigma_224, protocol.blur_radius_sigmas)
    prober.colour_logits(protocol.baseline, trace.size)

    def probe(rules: Protocol) -> None:
        with guard_network(model.net):
            case = Case(trace, maps, rules.view(()), background=background)
            for metric in ("deletion", "insertion"):
                apply(METRICS.get(metric), case, rules)

    low = protocol.replace_precision(BFLOAT16)
    before = prober.counts.forwards
    probe(protocol)
    forwards = prober.counts.forwards - before
    assert forwards == 2 * (steps - 1) * count
    ratios = interleaved(lambda: probe(protocol), lambda: probe(low))
    benchmark.extra_info.update(bare=bare)
    row = Row(
        f"deletion and insertion in bfloat16, {steps} steps, mobilenetv2_100",
        "the same probes in float32",
        forwards=(forwards, forwards),
    )
    report(benchmark, row, ratios)

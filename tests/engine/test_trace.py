"""What a trace gives beside the pass: gradients at other outputs, of other scores, at other layers,
of other images.
"""

from __future__ import annotations

import pytest
import torch

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from tests.support.nets import MEAN, STD, make_images, make_net

SIDE = 32
TARGETS = torch.tensor([1, 3])


def trace_of(kind: str = "norm", layer: str = "features") -> Trace:
    model = bench.Explainee(make_net(kind), mean=MEAN, std=STD, size=SIDE, layer=layer)
    return Trace(Prober(model), make_images(0, 2, SIDE), TARGETS, ids=["a", "b"])


@pytest.mark.parametrize("kind", ["gap", "mlp", "norm", "signed", "skip"])
def test_taps_are_outputs_and_gradients_of_modules(kind):
    trace = trace_of(kind)
    taps = trace.taps(["features"])
    torch.testing.assert_close(taps["features"][0], trace.activations, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(taps["features"][1], trace.gradients, atol=1e-6, rtol=1e-4)


def test_taps_see_outputs_before_an_activation_works_in_place():
    trace = trace_of("norm")
    taps = trace.taps(["features.4", "features.5"])  # batch norm, and the in-place ReLU behind it
    before, after = taps["features.4"], taps["features.5"]
    assert (before[0] < 0).any()
    torch.testing.assert_close(before[0].relu(), after[0])
    torch.testing.assert_close(before[1], after[1] * (before[0] > 0))


def test_taps_cost_one_forward_and_backward_whoever_reads_them():
    trace = trace_of()
    start = trace.prober.counts.copy()
    trace.taps(["features.1", "features"])
    trace.taps(["features.1", "features"])
    assert (trace.prober.counts - start).tuple == (2, 2, 0, 0)


def test_taps_leave_out_what_runs_twice_or_does_not_reach_the_logit():
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Conv2d(3, 3, 1)
            self.idle = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.idle(x)
            return self.features(self.features(x)).mean((2, 3))

    model = bench.Explainee(Twice().eval(), size=8, layer="idle")
    assert Trace(Prober(model), torch.randn(1, 3, 8, 8)).taps(["features", "idle"]) == {}


def test_taps_leave_the_net_as_it_was_when_it_raises():
    trace = trace_of()
    trace.targets = torch.tensor([1, 99])
    with pytest.raises((RuntimeError, IndexError)):
        trace.taps(["features"])
    assert not any(module._forward_hooks for module in trace.model.net.modules())


def test_head_gradients_of_the_targets_logit_are_the_gradients():
    trace = trace_of("signed")
    torch.testing.assert_close(trace.head_gradients(trace.select_targets), trace.gradients)


def test_head_gradients_along_the_activations_are_a_difference_of_gradients():
    # H A is the derivative of the gradient at (1 + t) A.
    trace = trace_of("signed")
    _, curvature = trace.differentiate_twice(trace.select_targets)
    rows, step = torch.arange(2), 1e-2

    def gradient(factor: float) -> torch.Tensor:
        grid = (factor * trace.activations).detach().requires_grad_()
        return torch.autograd.grad(trace.select_targets(trace.head(grid, rows)).sum(), grid)[0]

    expected = (gradient(1 + step) - gradient(1 - step)) / (2 * step)
    assert expected.abs().max() > 0
    torch.testing.assert_close(
        curvature, expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-2
    )


def test_head_gradients_are_counted():
    trace = trace_of()
    start = trace.prober.counts.copy()
    trace.head_gradients(trace.select_targets)
    assert (trace.prober.counts - start).tuple == (0, 0, 2, 2)


@pytest.mark.parametrize("at_once", [1, 3, 128])
@pytest.mark.parametrize(
    "layer", ["features", "features.4"]
)  # behind the second an activation works in place
@pytest.mark.parametrize("replaced", [False, True])
def test_logits_without_each_channel_are_replays_one_by_one(layer, replaced, at_once, monkeypatch):
    monkeypatch.setattr("bench.engine.shared_pass.REPLAYED", at_once)
    trace = trace_of("norm", layer)
    trace.prober.batch_size = 1
    before = trace.activations.clone()
    instead = make_images(1, 2, 1)[:, :1] * torch.rand_like(before) if replaced else None
    counts = trace.prober.counts.copy()
    found = trace.replace_channels(instead)
    channels = before.shape[1]
    assert (trace.prober.counts - counts).head_forwards == 2 * channels
    for image in range(2):
        for k in range(channels):
            without = before[image : image + 1].clone()
            without[0, k] = 0 if instead is None else instead[image, k]
            with torch.no_grad():
                logits = trace.head(without, torch.tensor([image]))
            torch.testing.assert_close(
                found[image, k], logits[0, TARGETS[image]], atol=1e-5, rtol=1e-5
            )
    assert torch.equal(trace.activations, before)


def test_more_replays_run_at_once_where_activations_are_small(monkeypatch):
    trace = trace_of()
    one = trace.activations[0].numel() * 4
    trace.prober.batch_size = 4
    for room, expected in [(one, 4), (9 * one, 9), (10**9, 128)]:
        monkeypatch.setattr("bench.engine.shared_pass.REPLAYED_BYTES", room)
        sizes = []
        monkeypatch.setattr(
            trace,
            "head",
            lambda values, rows, sizes=sizes: (
                sizes.append(len(values)) or torch.zeros(len(rows), 4)
            ),
        )
        trace.replace_channels()
        assert max(sizes) == min(expected, trace.activations.shape[1])


def test_a_layer_that_no_logit_reads_is_refused_by_every_gradient():
    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.features(x)
            return x.mean((2, 3))

    trace = Trace(
        Prober(bench.Explainee(Idle().eval(), size=8, layer="features")), torch.randn(1, 3, 8, 8)
    )
    with pytest.raises(NotApplicable, match="choose an earlier layer"):
        trace.head_gradients(trace.select_targets)
    with pytest.raises(NotApplicable, match="choose an earlier layer"):
        _ = trace.gradients


def test_a_trace_of_other_images_keeps_classes_ids_and_counts():
    trace = trace_of()
    start = trace.prober.counts.copy()
    other = trace.trace_images(make_images(5, 2, SIDE))
    assert (trace.prober.counts - start).tuple == (2, 0, 0, 0)
    assert other.ids == trace.ids
    assert torch.equal(other.targets, trace.targets)
    fresh = Trace(Prober(trace.model), make_images(5, 2, SIDE), TARGETS)
    torch.testing.assert_close(other.gradients, fresh.gradients)


def test_a_trace_at_another_layer_counts_with_this_one():
    trace = trace_of("skip")
    start = trace.prober.counts.copy()
    there = trace.trace_layer("stem")
    assert there.model.layer == "stem"
    assert trace.model.layer == "features"  # this one stays where it is
    assert there.ids == trace.ids
    model = bench.Explainee(make_net("skip"), mean=MEAN, std=STD, size=SIDE, layer="stem")
    alone = Trace(Prober(model), make_images(0, 2, SIDE), TARGETS)
    torch.testing.assert_close(there.activations, alone.activations)
    torch.testing.assert_close(there.gradients, alone.gradients)
    assert (trace.prober.counts - start).tuple == (2, 0, 2, 2)
    assert trace.trace_layer("stem").model is there.model  # found out about once

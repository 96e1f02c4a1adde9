"""Head replay without needless copies gives the bits of a replay that copies everything, and leaves
inputs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
from torch import nn

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.methods import METHODS
from bench.models.network_guard import guard_network
from bench.models.split import Captured, HeadInput, LayerSplit, WholeSplit
from tests.support.nets import MEAN, NETS, STD, make_images, make_net, randomise

SIDE = 32
METHODS_OF_HEADS = ["ablation_cam", "a_fmi", "recipro_cam", "grad_cam"]
DEEPER = {"norm": "features.4", "skip": "stem", "signed": "features.2"}
"""Layers behind which something works in place, or that by-passes something."""


def head_input(trace: Trace) -> HeadInput:
    """Return what gives the head of a trace its input."""
    split = trace.model.split
    assert isinstance(split, (LayerSplit, WholeSplit))
    return split._input


def slow_trace_head(trace: Trace, activations: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The replica: every tensor that a head is given is a fresh copy for each of the rows."""
    captured = trace.captured
    values = trace.model.ungrid(activations, captured.values[rows].clone())
    trace.prober.counts.head_forwards += len(values)
    split = trace.model.split
    if isinstance(split, WholeSplit):
        return split.net.forward_head(values.clone())
    assert isinstance(split, LayerSplit)
    return split._replay(values.clone(), whole_copies(captured, rows), torch.arange(len(rows)))


def whole_copies(captured: Captured, rows: torch.Tensor) -> Captured:
    chosen = captured.select(rows)
    bypass = {name: [copied(out) for out in outs] for name, outs in chosen.bypass.items()}
    return Captured(
        chosen.values.clone(), chosen.logits, chosen.size, bypass, copied(chosen.whole), chosen.part
    )


def copied(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)(copied(v) for v in value) if isinstance(value, (list, tuple)) else value


def both(
    model: bench.Explainee, images: torch.Tensor, name: str, monkeypatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a method's maps by replay as it is and by the replica, the first once the split knows
    its head.
    """
    trace = Trace(
        Prober(model), images, torch.zeros(len(images), dtype=torch.int64), ids=["a", "b"]
    )
    fast = METHODS.get(name)(trace)
    with monkeypatch.context() as patch:
        patch.setattr(Trace, "head", slow_trace_head)
        fresh = Trace(Prober(model), images, trace.targets, ids=["a", "b"])
        return fast, METHODS.get(name)(fresh)


@pytest.mark.parametrize("name", METHODS_OF_HEADS)
@pytest.mark.parametrize("kind", [*NETS, *(f"{kind}@{layer}" for kind, layer in DEEPER.items())])
def test_replay_has_the_bits_of_whole_copies(kind, name, monkeypatch):
    kind, _, layer = kind.partition("@")
    model = bench.Explainee(
        make_net(kind, 3, SIDE), mean=MEAN, std=STD, size=SIDE, layer=layer or "features"
    )
    fast, slow = both(model, make_images(4, 2, SIDE), name, monkeypatch)
    assert torch.equal(fast, slow)
    assert fast.abs().max() > 0


@pytest.mark.parametrize(
    "architecture", ["resnet18", "mobilenetv2_035", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_replay_of_timm_networks_has_the_bits_of_whole_copies(architecture, monkeypatch):
    size = 64
    more = {"img_size": size} if architecture.startswith("vit") else {}
    model = bench.Explainee(
        randomise(timm.create_model(architecture, num_classes=5, **more), 0), size=size
    )
    for name in ("ablation_cam", "recipro_cam"):
        fast, slow = both(model, make_images(4, 2, size), name, monkeypatch)
        assert torch.equal(fast, slow)


# --- when a head is given the caller's own tensor


class Writes(nn.Module):
    """The head starts with an activation that works in place; the layer is signed, so that it
    shows.
    """

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.act = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(self.features(x)).mean((2, 3)))


class WritesWhole(Writes):
    """The same as timm splits networks."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(x).mean((2, 3)))


def traced(net: nn.Module, layer: str | None) -> Trace:
    model = bench.Explainee(randomise(net, 1), mean=MEAN, std=STD, size=SIDE, layer=layer)
    return Trace(Prober(model), make_images(0, 2, SIDE))


@contextmanager
def given(trace: Trace) -> Iterator[list[int]]:
    """Watch where in memory the tensors lie that reach the head's first module."""
    places: list[int] = []
    hook = trace.model.net.act.register_forward_pre_hook(
        lambda _, args: places.append(args[0].data_ptr())
    )
    try:
        yield places
    finally:
        hook.remove()


def replay(trace: Trace, changed: torch.Tensor, mode=torch.inference_mode) -> torch.Tensor:
    with guard_network(trace.model.net), mode():
        return trace.head(changed, torch.zeros(len(changed), dtype=torch.int64))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize(("kind", "layer"), [(Writes, "features"), (WritesWhole, None)])
def test_a_head_that_writes_never_reaches_the_callers_tensor(kind, layer, mode):
    trace = traced(kind(), layer)
    changed = trace.activations.clone() - 0.1
    before = changed.clone()
    assert (before < 0).any()
    for _ in range(2):
        first = replay(trace, changed, mode)
        assert torch.equal(changed, before)
        assert torch.equal(first, replay(trace, changed, mode))
    assert head_input(trace).written is True


@pytest.mark.parametrize(("kind", "layer"), [(Writes, "features"), (WritesWhole, None)])
def test_a_head_that_only_reads_is_given_the_callers_tensor(kind, layer):
    trace = traced(kind(inplace=False), layer)
    changed = trace.activations.contiguous()
    with given(trace) as places:
        replay(trace, changed)
        replay(trace, changed, torch.no_grad)
        replay(trace, changed, torch.enable_grad)
        replay(trace, trace.activations[:1].expand(2, -1, -1, -1))
    assert places[:2] == [changed.data_ptr()] * 2
    assert places[2] != changed.data_ptr()  # a gradient's leaf stays the caller's
    assert places[3] != trace.activations.data_ptr()  # a copy would lie otherwise in memory
    assert head_input(trace).written is False


def test_what_a_head_does_is_not_guessed_under_inference_mode():
    # Tensors made there do not count what is written into them.
    net = Writes()
    with torch.inference_mode():
        trace = traced(net, "features")
        before = trace.activations.clone()
        replay(trace, trace.activations)
        assert torch.equal(trace.activations, before)
    assert head_input(trace).written in (None, True)


def test_the_rows_of_one_image_are_a_view():
    trace = traced(Writes(), "features")
    one = trace.captured.values_at(torch.tensor([1, 1, 1]))
    assert one.data_ptr() == trace.captured.values[1].data_ptr()
    assert torch.equal(one, trace.captured.values[[1, 1, 1]])
    assert torch.equal(
        trace.captured.values_at(torch.tensor([1, 0])), trace.captured.values[[1, 0]]
    )

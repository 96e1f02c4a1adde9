"""Networks that people have and that do not look like the library's: fused layers, hooks, branches
without a gradient, rare chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import bench
from bench.errors import BenchError, NotApplicable
from bench.models.explainee import Explainee
from bench.models.fast_path import call_submodules
from bench.models.network_guard import guard_network
from tests.models.test_grid import noise, own_grad_cam, seeded

SIDE = 24


def explainee(net: nn.Module, layer: str | None = None, side: int = SIDE) -> Explainee:
    return Explainee(net.eval(), (0, 0, 0), (1, 1, 1), side, layer=layer)


# --- fused transformer layers


class Tokens(nn.Module):
    """A transformer of PyTorch's own layers, whose class token alone is read."""

    def __init__(self, registers: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.place = nn.Parameter(torch.randn(1, 35, 32) / 3)
        self.first = nn.Parameter(torch.randn(1, registers, 32))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(32, 4, 48, 0.0, batch_first=True, norm_first=True)
                for _ in range(2)
            )
        )
        self.head = nn.Linear(32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).mT + self.place
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        logits: torch.Tensor = self.head(self.blocks(x)[:, 0])
        return logits


@pytest.mark.parametrize("registers", [1, 3])
def test_a_layer_inside_a_fused_one_is_replayed(registers: int) -> None:
    net, images = seeded(lambda: Tokens(registers)), noise(2, 3, 40, 56)
    model = Explainee(net, size=(40, 56))
    assert model.layer == "blocks.1.norm1"
    assert model.probe_shape[2:] == (5, 7)
    found = bench.explain(model, images, [1, 1], "grad_cam")
    wanted = own_grad_cam(net, model.layer, images, 1, (5, 7), registers)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    # Without gradients the layer's channels matter as much.
    with guard_network(net), torch.no_grad():
        captured = model.capture(images)
        changed = captured.values.clone()
        changed[:, registers:] = 0
        replayed = model.split.head(changed, captured, torch.arange(2))
        handle = net.blocks[1].norm1.register_forward_hook(lambda *a: changed)
        torch.testing.assert_close(replayed, net(images))
        handle.remove()
    assert not torch.allclose(replayed, captured.logits, atol=1e-4)


def test_the_fused_layers_are_put_back() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    with call_submodules():
        with call_submodules():
            assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


# --- hooks of the user


class Plain(nn.Module):
    """Two convolutions; the second one's output times `gain`."""

    def __init__(self, gain: float = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.fc, self.gain = nn.Linear(8, 4), gain

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.gain * self.second(F.relu(self.first(images))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_a_hook_that_changes_an_output_acts_once() -> None:
    hooked, written = seeded(Plain), seeded(lambda: Plain(3.0))
    hooked.second.register_forward_hook(lambda _module, _args, output: 3 * output)
    images = noise(2, 3, SIDE, SIDE)
    models = [explainee(net, "second") for net in (hooked, written)]
    assert not models[0].split.is_bypassed
    for method in ("grad_cam", "ablation_cam"):
        one, other = (bench.explain(model, images, [0, 1], method) for model in models)
        torch.testing.assert_close(one / one.amax(), other / other.amax(), rtol=1e-4, atol=1e-5)
    assert len(hooked.second._forward_hooks) == 1


# --- a graph that is cut


class Frozen(nn.Module):
    """A backbone under no_grad or inference_mode, and a head."""

    def __init__(self, mode: Callable[[], object]) -> None:
        super().__init__()
        self.body, self.mode = Plain(), mode
        self.fc = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with self.mode():  # type: ignore[attr-defined]
            x = F.relu(self.body.second(F.relu(self.body.first(images))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_default_layer_of_a_frozen_backbone_is_its_last(mode: Callable[[], object]) -> None:
    model = explainee(seeded(lambda: Frozen(mode)))
    assert model.layer == "body.second"
    images = noise(2, 3, SIDE, SIDE)
    assert float(bench.explain(model, images, None, "occlusion").abs().max()) > 0
    with pytest.raises(NotApplicable, match="no gradient goes back"):
        bench.explain(model, images, None, "saliency")


class Recomputed(Plain):
    """A convolution whose backward refuses torch.autograd.grad."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = checkpoint(self.second, F.relu(self.first(images)), use_reentrant=True)
        logits: torch.Tensor = self.fc(x.relu().mean((2, 3)))
        return logits


def test_an_operation_without_a_gradient_is_no_traceback() -> None:
    model, images = explainee(seeded(Recomputed)), noise(1, 3, SIDE, SIDE)
    assert model.layer == "second"
    assert float(bench.explain(model, images, None, "ablation_cam").abs().max()) > 0
    with pytest.raises(NotApplicable, match="no gradient goes back"):
        bench.explain(model, images, None, "saliency")


def test_a_network_that_ignores_the_image_has_no_layer() -> None:
    net = seeded(lambda: Frozen(torch.no_grad))
    nn.init.zeros_(net.fc.weight)
    net.fc.weight.data[:, 0] = 1e-30
    with pytest.raises(NotApplicable, match="No layer of this network"):
        _ = explainee(net).layer


class Branches(nn.Module):
    """Two branches, of which one may be cut off: a sum, or a gate that is computed from `body`."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        self.body, self.side = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, 3, 2, 1)
        self.gate, self.out = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc, self.cut = nn.Linear(8, 4), cut

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.body(images).relu()
        if self.cut == "branch":
            with torch.no_grad():
                other = self.side(images).relu()
            x = x + 3 * other
        elif self.cut == "gate":
            x = x * (9 * self.gate(x)).sigmoid().detach()
        else:
            x = x + 3 * self.side(images).relu()
        logits: torch.Tensor = self.fc(self.out(x).relu().mean((2, 3)))
        return logits


def test_a_branch_that_is_cut_off_is_no_gradient_of_the_rest() -> None:
    model, images = explainee(seeded(lambda: Branches("branch"))), noise(2, 3, SIDE, SIDE)
    with pytest.raises(NotApplicable, match=r"at the image misses a part .* at 'side'"):
        bench.explain(model, images, None, "saliency")
    # Behind the cut the gradient is whole.
    assert model.layer == "out"
    assert float(bench.explain(model, images, None, "grad_cam").max()) > 0


def test_a_gate_behind_the_layer_that_is_cut_off_is_said() -> None:
    net, images = seeded(lambda: Branches("gate")), noise(2, 3, SIDE, SIDE)
    with pytest.raises(NotApplicable, match=r"at layer 'body' misses a part .* at 'gate'"):
        bench.explain(explainee(net, "body"), images, None, "grad_cam")
    bench.explain(explainee(net, "body"), images, None, "ablation_cam")


class Recompute(torch.autograd.Function):
    """An operation that keeps nothing and has a backward of its own, as in reversible networks."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = ctx.module(x)
        return torch.autograd.grad(y, x, gradient)[0], None


class Reversible(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = Recompute.apply(self.first(images), self.second)
        logits: torch.Tensor = self.fc(F.gelu(x).mean((2, 3)))
        return logits


def test_a_backward_of_its_own_is_no_cut() -> None:
    model = explainee(seeded(Reversible), "first")
    for method in ("saliency", "grad_cam"):
        bench.explain(model, noise(2, 3, SIDE, SIDE), None, method)
    whole = explainee(seeded(lambda: Branches("")))
    bench.explain(whole, noise(2, 3, SIDE, SIDE), None, "saliency")
    assert whole.behaviour.cut == ""


# --- chance


class Chance(Plain):
    def __init__(self, behind: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.behind = behind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.behind(20 * super().forward(images))


def shift(x: torch.Tensor, by: float) -> torch.Tensor:
    return x + 1e-4 * by * torch.arange(x.shape[1])


@pytest.mark.parametrize(
    "behind",
    [
        lambda x: F.dropout(x, 0.01),
        lambda x: x + 1e-5 * torch.randn_like(x),
        lambda x: shift(x, np.random.rand()),  # noqa: NPY002 - as networks do
        lambda x: shift(x, random.random()),
    ],
    ids=["rare dropout", "faint noise", "numpy", "python"],
)
def test_chance_that_shows_seldom_or_faintly_is_found(
    behind: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    with pytest.raises(BenchError, match="other logits for the same images at another run"):
        bench.explain(explainee(seeded(lambda: Chance(behind))), noise(4, 3, SIDE, SIDE))


def test_draws_that_change_nothing_are_no_chance() -> None:
    net = seeded(lambda: Chance(lambda x: F.dropout(x, 0.0) + 0 * torch.randn_like(x)))
    assert bench.explain(explainee(net), noise(2, 3, SIDE, SIDE)).shape == (2, SIDE, SIDE)


def test_rounding_of_faint_logits_is_no_mixing() -> None:
    # Deep networks with random weights end in 1e-40, where float32 has few digits left.
    def faint(x: torch.Tensor) -> torch.Tensor:
        return 1e-41 * x + 1e-43 * len(x)

    images = noise(3, 3, SIDE, SIDE)
    assert bench.explain(explainee(seeded(lambda: Chance(faint))), images).shape[0] == 3
    with pytest.raises(BenchError, match="no function of one image"):
        bench.explain(explainee(seeded(lambda: Chance(lambda x: x + len(x)))), images)


# --- networks that cannot run


def test_lazy_weights_and_other_sizes_are_said() -> None:
    with pytest.raises(BenchError, match="no weights yet"):
        explainee(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3)))
    sized = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 22 * 22, 3))
    assert explainee(sized).layer == "0"
    with pytest.raises(BenchError, match=r"cannot run an image of shape \(1, 3, 32, 32\)"):
        _ = explainee(sized, side=32).layer

"""What a score relies on: a network is a function of one image, and its gradients reach the image.

Both are found by running the network: an image alone, in a batch and twice, on the first batch of
real images. These runs are not counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from bench.errors import BenchError, NotApplicable
from bench.models.graph_cut import Function, find_cut
from bench.models.network_guard import State, guard_network, state_of
from bench.randomness import generator

TOLERANCE = 2e-3
"""Share of the largest logit by which a network may differ from itself: far more than rounding."""

EXACT = 1e-6
"""The same share for a network that draws random numbers: whatever differs is chance."""

DRAWS = 16
"""So many runs of a network that draws random numbers: rare draws change nothing in most."""

FAINT = 1e-6
"""Logits below this are rounding alone, as of deep networks with random weights."""

REPEATED = 8
"""So many images of the first batch are run once more."""

_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass
class Behaviour:
    """What is known of one network, by the state of its weights.

    Attributes:
        checked: the state in which it was found to be a function of one image.
        cuts_graph: whether its logits depend on the image, and no gradient goes back to it.
        cut: the module that the image's gradient does not go through, though the logits read it.
        cut_behind: the same of the explained layer's gradient, by the layer's name.
    """

    checked: State | None = None
    cuts_graph: bool = False
    cut: str = ""
    cut_behind: dict[str, str] = field(default_factory=dict)

    def check(self, net: nn.Module, name: str, images: torch.Tensor, logits: torch.Tensor) -> None:
        """Check a network on its first batch [B,C,H,W], whose logits [B,C] are known.

        Raises:
            BenchError: a logit is NaN or infinite, or the logits of an image depend on the images
                beside it or on chance.
        """
        state = state_of(net)
        if self.checked == state or not len(images):
            return
        _check_values(name, logits)
        with guard_network(net), torch.no_grad():
            _check_batch_norms(net, name)
            _check_repeats(net, name, images)
            _check_alone(net, name, images, logits)
            cuts = not has_gradient(net, images[:1])
            cut = "" if cuts else find_cut(net, net, _pair_with_noise(images[:1]))
        self.checked, self.cuts_graph, self.cut, self.cut_behind = state, cuts, cut, {}

    def require_gradient(self, name: str) -> None:
        """Refuse a gradient at the image where the network cuts the graph.

        Raises:
            NotApplicable: the logits depend on the image, and no gradient says so, or not all.
        """
        if self.cuts_graph:
            raise NotApplicable(describe_missing_gradient(name, "the image"))
        if self.cut:
            raise NotApplicable(describe_partial_gradient(name, "the image", self.cut))

    def require_layer_gradient(
        self, net: nn.Module, name: str, layer: str, head: Function, grid: torch.Tensor
    ) -> None:
        """Refuse a gradient at the explained layer where the network cuts a part of the graph
        behind it.

        Args:
            net: the network.
            name: its name, for the error.
            layer: the explained layer's.
            head: the rest of the network, activations [2,K,h,w] -> logits [2,C].
            grid: activations of one image [1,K,h,w].
        """
        if layer not in self.cut_behind:
            with guard_network(net), torch.no_grad():
                self.cut_behind[layer] = find_cut(net, head, _pair_with_noise(grid))
        if cut := self.cut_behind[layer]:
            raise NotApplicable(describe_partial_gradient(name, f"layer {layer!r}", cut))


def _pair_with_noise(one: torch.Tensor) -> torch.Tensor:
    """Return [2,...]: the tensor [1,...] and noise of its mean and deviation."""
    noise = torch.randn(one.shape, generator=generator(0, "gradient")).to(one)
    return torch.cat([one.detach(), one.detach().mean() + one.detach().std() * noise])


def describe_partial_gradient(name: str, what: str, cut: str) -> str:
    """Return the sentence about a network whose graph is cut in one branch."""
    return (
        f"The gradient of {name} at {what} misses a part of the network: its forward cuts the "
        f"graph at {cut!r} (no_grad, detach), which the logits read; a gradient method needs it "
        "whole."
    )


def describe_missing_gradient(name: str, what: str) -> str:
    """Return the sentence about a network whose graph is cut."""
    return (
        f"The logits of {name} depend on {what}, but no gradient goes back to it: its forward cuts "
        "the graph (no_grad, inference_mode, detach, rounding); a gradient method needs it whole."
    )


def has_gradient(function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> bool:
    """Return False where the outputs of a function depend on its inputs, and have no gradient."""
    rng = generator(0, "gradient")
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        outputs = function(leaf.clone())  # a network may work in place
        weights = torch.randn(outputs.shape, generator=rng).to(outputs)
        if outputs.requires_grad and _reaches((outputs * weights).sum(), leaf):
            return True
    with torch.no_grad():
        noise = torch.randn(inputs.shape, generator=rng).to(inputs)
        return torch.equal(function(noise), function(2 * noise))


def depends_on_image(net: nn.Module, image: torch.Tensor) -> bool:
    """Return whether any logit changes with the image [1,C,H,W]."""
    noise = torch.randn(image.shape, generator=generator(0, "image")).to(image)
    with guard_network(net), torch.no_grad():
        return not torch.equal(net(noise), net(2 * noise))


def _reaches(total: torch.Tensor, leaf: torch.Tensor) -> bool:
    try:
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True)
    except RuntimeError:  # an operation without a derivative
        return False
    return found is not None and bool(found.any())


# --- the checks


def _check_values(name: str, logits: torch.Tensor) -> None:
    bad = (logits.isnan() | (logits == torch.inf)).any(1)  # -inf says that a class is impossible
    if bool(bad.any()):
        raise BenchError(
            f"The network {name} returns NaN or infinite logits for image "
            f"{int(bad.int().argmax())} of its first batch; check its weights, mean and std."
        )


def _check_batch_norms(net: nn.Module, name: str) -> None:
    for where, module in net.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise BenchError(
                f"The network {name} is no function of one image: its {where!r} normalises by the "
                "images of a batch, since it keeps no statistics; train it with "
                "track_running_stats=True."
            )


def _check_repeats(net: nn.Module, name: str, images: torch.Tensor) -> None:
    few = images[:REPEATED]
    before = _read_draws(images.device)
    once = net(few)
    draws = before != _read_draws(images.device)
    tolerance, runs = (EXACT, DRAWS) if draws else (TOLERANCE, 1)
    apart = 0.0
    for _ in range(runs):
        apart = max(apart, _differ(once, net(few)))
        if apart > tolerance:
            break
    if apart > tolerance:
        raise BenchError(
            f"The network {name} gives other logits for the same images at another run "
            f"({apart:.2g} of the largest), as with dropout that stays on; make it depend on "
            "self.training."
        )


def _read_draws(device: torch.device) -> tuple[bytes, ...]:
    """Return the states of the generators that a forward may draw from: PyTorch's, NumPy's and
    Python's own; they change with each draw.
    """
    states = [torch.get_rng_state().numpy().tobytes()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    states.append(repr(random.getstate()).encode())
    _, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - networks draw from it
    return (*states, np.asarray(keys).tobytes(), repr(rest).encode())


def _check_alone(net: nn.Module, name: str, images: torch.Tensor, logits: torch.Tensor) -> None:
    one = images[:1]
    other = images[1:2] if len(images) > 1 else one.flip(-1)
    alone = net(one)
    try:
        beside = net(torch.cat([one, other]))[:1]
    except (torch.OutOfMemoryError, MemoryError):  # a device with room for one image
        beside = alone
    apart = max(_differ(alone, logits[:1]), _differ(alone, beside))
    if apart > TOLERANCE:
        raise BenchError(
            f"The network {name} is no function of one image: alone, an image has other logits "
            f"than in a batch ({apart:.1%} of the largest); find what mixes the images of a batch."
        )


def _differ(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference of logits, as a share of the largest logit."""
    largest = max(float(one.abs().max()), float(other.abs().max()), FAINT)
    return float((one - other).abs().max()) / largest

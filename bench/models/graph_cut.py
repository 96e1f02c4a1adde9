"""Parts of a network that no gradient goes back through: under no_grad, or behind a detach.

Where the whole image is cut off, the gradient is missing. Where one branch is, the gradient is
there and wrong. The modules tell: an output that differs between images, that the logits read, and
at which no gradient arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bench.models.containers import list_tensors, map_tensors
from bench.randomness import generator

AGREES = 0.05
"""Share of the squared differences of logits that a right gradient may leave unexplained."""

STEPS = 6
"""Directions in which the inputs are changed to check a gradient."""

STEP = 1e-2
"""Size of a change, as a share of the inputs' deviation."""

Function = Callable[[torch.Tensor], torch.Tensor]


def find_cut(net: nn.Module, function: Function, inputs: torch.Tensor) -> str:
    """Return the name of a module that a function's gradient does not go through, though its
    outputs do; "" where there is none.

    Args:
        net: the network whose modules the function runs, inside `guard_network`.
        function: inputs [2,...] -> logits [2,C].
        inputs: two different ones.
    """
    suspects = _find_suspects(net, function, inputs)
    if not suspects:
        return ""
    plain = function(inputs)
    read = [one for one in suspects if _is_read(net, one, function, inputs, plain)]
    return read[0] if read and not _gradient_agrees(function, inputs) else ""


def _find_suspects(net: nn.Module, function: Function, inputs: torch.Tensor) -> list[str]:
    """Return the modules with an output that differs between the inputs and has no gradient."""
    outputs: dict[str, list[torch.Tensor]] = {}

    def note(name: str, output: Any) -> None:
        outputs[name] = list_tensors(output)

    leaf = inputs.detach().clone().requires_grad_()
    with torch.enable_grad(), _watch(net, note):
        logits = function(leaf)
        mixed = torch.randn(logits.shape, generator=generator(0, "cut")).to(logits)
        tensors = [t for found in outputs.values() for t in found if t.requires_grad]
        try:
            gradients = torch.autograd.grad((logits * mixed).sum(), tensors, allow_unused=True)
        except RuntimeError:  # an operation without a derivative; said where it is met
            return []
    arrived = {id(t) for t, g in zip(tensors, gradients, strict=True) if g is not None}
    return [
        name
        for name, found in outputs.items()
        if any(_varies(t) and id(t) not in arrived for t in found)
    ]


def _varies(tensor: torch.Tensor) -> bool:
    """Return whether an output is other for the second input than for the first."""
    if not tensor.is_floating_point() or not tensor.ndim or len(tensor) % 2 or not len(tensor):
        return False
    return not torch.equal(*tensor.detach().chunk(2))


def _is_read(
    net: nn.Module, name: str, function: Function, inputs: torch.Tensor, plain: torch.Tensor
) -> bool:
    """Return whether the logits change where the outputs of one module are changed."""
    rng = generator(0, "cut")

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if not _varies(tensor):
            return tensor
        noise = torch.randn(tensor.shape, generator=rng).to(tensor)
        return tensor + noise * tensor.std()

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return map_tensors(output, change)

    handle = net.get_submodule(name).register_forward_hook(hook)
    try:
        return not torch.allclose(function(inputs), plain, rtol=1e-4, atol=1e-6)
    finally:
        handle.remove()


def _gradient_agrees(function: Function, inputs: torch.Tensor) -> bool:
    """Return whether small changes of the inputs change the logits as the gradient says.

    They do where an operation with a backward of its own hides what runs inside.
    """
    rng = generator(0, "cut steps")
    leaf = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = function(leaf)
        mixed = torch.randn(logits.shape, generator=rng).to(logits)
        found = torch.autograd.grad((logits * mixed).sum(), leaf, allow_unused=True)
    gradient: torch.Tensor | None = found[0]
    if gradient is None:
        return False
    missed = whole = 0.0
    for _ in range(STEPS):
        step = STEP * inputs.std() * torch.randn(inputs.shape, generator=rng).to(inputs)
        apart = function(inputs + step).double() - function(inputs - step).double()
        seen = float((apart * mixed).sum()) / 2
        missed += (seen - float((gradient.double() * step).sum())) ** 2
        whole += seen**2
    return missed <= AGREES * whole


@contextmanager
def _watch(net: nn.Module, note: Callable[[str, Any], None]) -> Iterator[None]:
    """Call note(name, output) after each call of a module."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: note(name, output)

    handles = [m.register_forward_hook(hook(name)) for name, m in net.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

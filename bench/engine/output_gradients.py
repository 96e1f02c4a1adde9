"""Gradients of the outputs of many modules, from one whole forward and backward."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from bench.models.network_guard import guard_network

G = TypeVar("G")


def collect_output_gradients(
    net: nn.Module,
    layers: Sequence[str],
    images: torch.Tensor,
    score: Callable[[torch.Tensor], torch.Tensor],
    keep: Callable[[str, torch.Tensor], G],
    outputs: dict[str, torch.Tensor] | None,
) -> dict[str, G]:
    """Return {layer: keep(layer, d score / d output)} of the modules that run once and reach the
    score.

    score: images -> one number.  outputs: gets a copy of each output.
    """
    modules = dict(net.named_modules())
    runs: Counter[str] = Counter()
    kept: dict[str, G] = {}

    def take(name: str, gradient: torch.Tensor) -> None:
        kept[name] = keep(name, gradient.detach())

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            runs[name] += 1
            if isinstance(output, torch.Tensor) and output.requires_grad:
                if outputs is not None:  # a copy: an activation that works in place may follow
                    outputs[name] = output.detach().clone()
                keep = functools.partial(take, name)
                output.register_hook(keep)  # type: ignore[no-untyped-call]

        return hook

    with guard_network(net), torch.enable_grad():
        handles = []
        try:
            handles += [modules[name].register_forward_hook(watch(name)) for name in layers]
            inputs = images.detach().clone().requires_grad_()
            total = score(inputs)
        finally:
            for handle in handles:
                handle.remove()
        torch.autograd.backward(total, inputs=[inputs])
    return {name: kept[name] for name in layers if name in kept and runs[name] == 1}

"""Batch normalisation folded into the convolution before it, while perturbed images run.

In eval mode a batch normalisation multiplies and shifts every channel by constants, which the
convolution's own weights can do: conv(x) * s + t = conv'(x) with weights s * w. A whole pass over
each layer's output is spared, a third of a MobileNetV2's time. Only the prober folds; what is
explained and differentiated is the network as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bench.models.explainee import Explainee
from bench.models.network_guard import State, guard_network, state_of
from bench.randomness import generator

AGREEMENT = 1e-4
"""Largest difference of a logit, over the largest logit, with which a folded network is the same
network.
"""

_known: WeakKeyDictionary[nn.Module, tuple[State, Folds]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Fold:
    """A convolution that takes over the normalisation behind it: with this weight and bias."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    weight: nn.Parameter
    bias: nn.Parameter


class Folds:
    """The folds of one network, which are there while `applied` and not otherwise."""

    def __init__(self, folds: list[Fold]) -> None:
        self._folds = folds

    def __len__(self) -> int:
        return len(self._folds)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the weights that are held beside the network's own."""
        return sum(part.nbytes for fold in self._folds for part in (fold.weight, fold.bias))

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Inside, the network runs folded; outside it is as it was, also when the block raises.

        A layer that somebody has come to look at since (a plug-in's hook) shows what it always
        showed.
        """
        folds = [
            fold for fold in self._folds if not (_is_special(fold.conv) or _is_special(fold.norm))
        ]
        before = [dict(fold.conv._parameters) for fold in folds]
        try:
            for fold in folds:
                fold.conv._parameters.update(weight=fold.weight, bias=fold.bias)
                vars(fold.norm)["forward"] = _rest_of(fold.norm)
            yield
        finally:
            for fold, parameters in zip(folds, before, strict=True):
                fold.conv._parameters.update(parameters)
                vars(fold.norm).pop("forward", None)


def folds_of(model: Explainee) -> Folds:
    """Return a network's folds: made once, and anew when its weights have changed; none where they
    are not exact.
    """
    state = state_of(model.net)
    known = _known.get(model.net)
    if known is None or known[0] != state:
        _known[model.net] = known = state, _check_folds(model)
    return known[1]


def forget_folds(net: nn.Module) -> None:
    """Forget the folds of a network whose weights were other ones for a while."""
    _known.pop(net, None)


@torch.no_grad()
def _check_folds(model: Explainee) -> Folds:
    """Return the folds that leave the logits of a noise image as they are, or none at all."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.net.modules()):
        return Folds([])
    noise = torch.randn(1, *model.input_shape, generator=generator(0, "folding"))
    image = noise.to(model.device).contiguous(memory_format=torch.channels_last)
    pairs, logits = _pairs(model.net, image)
    folds = Folds([_fold(conv, norm) for conv, norm in pairs])
    if not len(folds):
        return folds
    with guard_network(model.net), folds.apply():
        folded = model.net(image)
    agrees = (folded - logits).abs().amax() <= AGREEMENT * logits.abs().amax()
    return folds if bool(agrees) else Folds([])


def _pairs(
    net: nn.Module, image: torch.Tensor
) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], torch.Tensor]:
    """Return the convolutions whose output goes straight into a normalisation, with it, and the
    image's logits.

    Both run once. Only the last convolution's output is held on to, so that memory is that of a
    usual forward.
    """
    runs: Counter[nn.Module] = Counter()
    last: list[Any] = [None, None]
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def note_conv(conv: nn.Module, _args: Any, output: Any) -> None:
        runs[conv] += 1
        last[:] = conv, output

    def note_norm(norm: nn.Module, args: Any) -> None:
        runs[norm] += 1
        if args and last[1] is args[0]:
            found.append((last[0], norm))  # type: ignore[arg-type]

    with guard_network(net):  # which takes the hooks away
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and not _is_special(module):
                module.register_forward_hook(note_conv)
            elif (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and not _is_special(module)
            ):
                module.register_forward_pre_hook(note_norm)
        logits = net(image)
    return [(conv, norm) for conv, norm in found if runs[conv] == runs[norm] == 1], logits


def _is_special(module: nn.Module) -> bool:
    """Return whether somebody looks at a module's output, has replaced its forward, or makes its
    weights on the fly.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)
        or getattr(module, "parametrizations", None)
    )


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Fold:
    """Return a convolution's weight and bias with the normalisation in them, worked out in
    float64.
    """

    def wide(tensor: torch.Tensor | None) -> Any:
        return (
            None if tensor is None else tensor.detach().cpu().double()
        )  # Apple's GPUs have no float64

    weight, bias = fuse_conv_bn_weights(
        wide(conv.weight),
        wide(conv.bias),
        wide(norm.running_mean),
        wide(norm.running_var),
        norm.eps,
        wide(norm.weight),
        wide(norm.bias),
    )
    narrow = weight.float().contiguous(memory_format=torch.channels_last), bias.float()
    return Fold(
        conv,
        norm,
        *(nn.Parameter(part.to(conv.weight.device), requires_grad=False) for part in narrow),
    )


def _rest_of(norm: nn.BatchNorm2d) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a normalisation does besides: timm's have an activation inside."""
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)

    def rest(images: torch.Tensor) -> torch.Tensor:
        for module in (drop, act):
            if module is not None:
                images = module(images)
        return images

    return rest

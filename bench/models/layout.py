"""How a layer's output is a grid: channels first, channels last, or tokens with others before
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import nn

MOST_PREFIX = 32
"""Class, distillation and register tokens together: a timm network has at most 16, and no patch
grid hides in them.
"""


@dataclass(frozen=True)
class Layout:
    """Where the grid [B,K,h,w] lies in a layer's own output.

    order: "NCHW"; "NHWC"; "NLC", tokens [B,prefix+h*w,K]; or "NCL", [B,K,h*w].  prefix: tokens
    before the patches (class, distillation, registers).  height, width: of the grid.
    """

    order: str
    height: int
    width: int
    prefix: int = 0

    def grid(self, values: torch.Tensor) -> torch.Tensor:
        """View the layer's output as [B,K,h,w]."""
        if self.order == "NCHW":
            return values
        if self.order == "NHWC":
            return values.permute(0, 3, 1, 2)
        channels = values[:, self.prefix :].transpose(1, 2) if self.order == "NLC" else values
        return channels.reshape(*channels.shape[:2], self.height, self.width)

    def ungrid(self, grid: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Put a grid [n,K,h,w] back into the layer's own order; tokens before the patches are those
        of `values`.
        """
        if self.order == "NCHW":
            return grid
        if self.order == "NHWC":
            return grid.permute(0, 2, 3, 1)
        channels = grid.flatten(2)
        if self.order == "NCL":
            return channels
        return torch.cat([values[:, : self.prefix], channels.transpose(1, 2)], dim=1)


def find_layout(net: nn.Module, shape: tuple[int, ...]) -> Layout | None:
    """Return the layout of an output [1,...] of this shape, from what the network says of itself;
    None: no grid.

    Images are square here, so grids are, unless the network's patch embedding says otherwise.
    """
    if len(shape) == 4:
        return _read_maps(net, *shape[1:])
    if len(shape) == 3:
        return _read_tokens(net, *shape[1:])
    return None


def _read_maps(net: nn.Module, one: int, two: int, three: int) -> Layout | None:
    """[1,K,h,w] or [1,h,w,K]: two equal axes are the grid's; three equal ones are read as channels
    first.
    """
    features = _features(net)
    if two != three and features != one and (one == two or features == three):
        return Layout("NHWC", one, two)
    return Layout("NCHW", two, three)


def _read_tokens(net: nn.Module, length: int, channels: int) -> Layout | None:
    """[1,N,K], or [1,K,N] of the few networks that flatten maps and keep channels first.

    First what the network says (its patch embedding's grid, its number of prefix tokens); then a
    square, which one or two tokens may precede; then channels first; then a square behind registers
    that nobody counts.
    """
    for height, width in _patch_grids(net):
        if 0 <= length - height * width <= MOST_PREFIX:
            return Layout("NLC", height, width, length - height * width)
    for prefix in (_prefix_tokens(net), 0, 1, 2):
        if prefix is not None and _is_square(length - prefix):
            return _square("NLC", length - prefix, prefix)
    if _is_square(channels):
        return _square("NCL", channels)
    side = isqrt(length)
    if side >= 2 and length - side * side <= MOST_PREFIX:
        return _square("NLC", side * side, length - side * side)
    return None


def _square(order: str, area: int, prefix: int = 0) -> Layout:
    side = isqrt(area)
    return Layout(order, side, side, prefix)


def _is_square(area: int) -> bool:
    return area >= 4 and isqrt(area) ** 2 == area


def _features(net: nn.Module) -> int | None:
    return _number(getattr(net, "num_features", None))


def _prefix_tokens(net: nn.Module) -> int | None:
    return _number(getattr(net, "num_prefix_tokens", None))


def _patch_grids(net: nn.Module) -> list[tuple[int, int]]:
    """Return the grids that patch embeddings at the network's top state."""
    stated: list[Any] = [getattr(child, "grid_size", None) for _, child in net.named_children()]
    pairs = [tuple(g) for g in stated if isinstance(g, (tuple, list)) and len(g) == 2]
    return [(g[0], g[1]) for g in pairs if all(isinstance(side, int) and side > 1 for side in g)]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None

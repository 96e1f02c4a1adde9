"""How a layer's output is a grid: channels first, channels last, or tokens with others around
them.

A shape alone fits several grids: 226 tokens are 15x15 and a class token, or 14x14 and 30 others.
`list_layouts` puts what the network states (patch size, prefix tokens) for the size of the image
first; `grid_check.py` finds out which of them is true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import nn

MOST_PREFIX = 32
"""Class, distillation and register tokens together: a timm network has at most 16, and no patch
grid hides in them.
"""

UNSTATED_PREFIX = (0, 1, 2)
"""Tokens before the patches that are likely where the network states no number: none, a class
token, and a distillation token.
"""

ImageSize = tuple[int, int]
"""(height, width), of an image in pixels or of a grid in cells."""


@dataclass(frozen=True)
class Layout:
    """Where the grid [B,K,h,w] lies in a layer's own output.

    order: "NCHW"; "NHWC"; "NLC", tokens [B,prefix+h*w+suffix,K]; or "NCL", [B,K,h*w].  prefix,
    suffix: tokens before and behind the patches (class, distillation, registers).  height, width:
    of the grid.
    """

    order: str
    height: int
    width: int
    prefix: int = 0
    suffix: int = 0

    def grid(self, values: torch.Tensor) -> torch.Tensor:
        """View the layer's output as [B,K,h,w]."""
        if self.order == "NCHW":
            return values
        if self.order == "NHWC":
            return values.permute(0, 3, 1, 2)
        channels = self.patches(values).transpose(1, 2) if self.order == "NLC" else values
        return channels.reshape(*channels.shape[:2], self.height, self.width)

    def patches(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens [B,h*w,K] that are patches of the tokens [B,N,K]."""
        return tokens[:, self.prefix : tokens.shape[1] - self.suffix]

    def ungrid(self, grid: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Put a grid [n,K,h,w] back into the layer's own order; tokens around the patches are those
        of `values`.
        """
        if self.order == "NCHW":
            return grid
        if self.order == "NHWC":
            return grid.permute(0, 2, 3, 1)
        channels = grid.flatten(2)
        if self.order == "NCL":
            return channels
        parts = [values[:, : self.prefix], channels.transpose(1, 2)]
        if self.suffix:
            parts.append(values[:, values.shape[1] - self.suffix :])
        return torch.cat(parts, dim=1)

    def __str__(self) -> str:
        others = f" and {self.prefix + self.suffix} other tokens"
        return f"{self.height}x{self.width}" + (others if self.prefix + self.suffix else "")


def find_layout(
    net: nn.Module, shape: tuple[int, ...], size: ImageSize | None = None
) -> Layout | None:
    """Return the likeliest layout of an output [1,...] of this shape; None: no grid.

    size: of the image in pixels; None: square, of any side.
    """
    found = list_layouts(net, shape, size)
    return found[0] if found else None


def list_layouts(
    net: nn.Module, shape: tuple[int, ...], size: ImageSize | None = None
) -> list[Layout]:
    """Return the layouts that fit an output [1,...] of this shape, the likeliest first.

    size: of the image in pixels; None: square, of any side.
    """
    if len(shape) == 4:
        image = size or (1, 1)
        # One row or column is a vector, unless the image is as long and thin.
        found = [
            one
            for one in _read_maps(net, shape[1:], image)
            if min(one.height, one.width) > 1 or _fits(one.height, one.width, image)
        ]
    elif len(shape) == 3:
        found = list(_read_tokens(net, shape[1], shape[2], size))
    else:
        return []
    return list(dict.fromkeys(one for one in found if one.height * one.width > 1))


def is_stated(net: nn.Module, shape: tuple[int, ...], size: ImageSize) -> bool:
    """Return whether the likeliest layout follows from what the network states, or is the only
    one that fits the image.
    """
    if len(shape) == 4:
        fitting = [one for one in _both_orders(shape[1:]) if _fits(one.height, one.width, size)]
        return len(fitting) == 1 or _features(net) in (shape[1], shape[3])
    stated = [*_list_stated_grids(net, size)]
    prefixes = [p for p in [_prefix_tokens(net)] if p is not None] or UNSTATED_PREFIX
    return any(shape[1] - height * width in prefixes for height, width in stated)


# --- maps


def _both_orders(shape: tuple[int, ...]) -> list[Layout]:
    return [Layout("NCHW", shape[1], shape[2]), Layout("NHWC", shape[0], shape[1])]


def _read_maps(net: nn.Module, shape: tuple[int, ...], size: ImageSize) -> list[Layout]:
    """[1,K,h,w] or [1,h,w,K]: the axes that are as high to wide as the image are the grid's.

    Where both fit, the axis that has the network's number of features is the channels'; then
    channels first.
    """
    first, last = _both_orders(shape)
    features = _features(net)
    fits = [_fits(one.height, one.width, size) for one in (first, last)]
    if fits == [False, True] or (fits[0] == fits[1] and features == shape[2] != shape[0]):
        return [last, first]
    return [first, last]


def _fits(height: int, width: int, size: ImageSize) -> bool:
    """Return whether a grid is as high to wide as the image, to two cells."""
    return abs(height * size[1] - width * size[0]) < 2 * max(size) and min(height, width) > 0


# --- tokens


def _read_tokens(
    net: nn.Module, length: int, channels: int, size: ImageSize | None
) -> Iterator[Layout]:
    """[1,N,K], or [1,K,N] of the few networks that flatten maps and keep channels first.

    First what the network states: its patch size for this image, its patch embedding's grid, its
    number of prefix tokens. Then grids in the shape of the image, which one or two tokens may
    precede. Then channels first. Then grids beside registers that nobody counts.
    """
    stated = _prefix_tokens(net)
    likely = [*([] if stated is None else [stated]), *UNSTATED_PREFIX]

    def rank(layout: Layout) -> tuple[int, int]:
        extra = layout.prefix
        return (likely.index(extra) if extra in likely else len(likely), extra)

    known = [*(_list_stated_grids(net, size) if size else []), *_patch_grids(net)]
    yield from sorted(_list_around(known, length), key=rank)
    shaped = sorted(_list_around(_list_shaped_grids(length, size or (1, 1)), length), key=rank)
    yield from (one for one in shaped if one.prefix in likely)
    shaped_channels = _list_shaped_grids(channels, size or (1, 1))
    yield from (Layout("NCL", h, w) for h, w in shaped_channels if h * w == channels)
    yield from shaped
    # A class token may stand behind the patches.
    yield from (
        Layout("NLC", one.height, one.width, 0, one.prefix)
        for one in [*_list_around(known, length), *shaped]
        if 0 < one.prefix <= max(likely)
    )


def _list_around(grids: list[ImageSize], length: int) -> list[Layout]:
    """Return the layouts of tokens in which these grids leave at most `MOST_PREFIX` others."""
    return [
        Layout("NLC", height, width, length - height * width)
        for height, width in grids
        if 0 <= length - height * width <= MOST_PREFIX
    ]


def _list_shaped_grids(area: int, size: ImageSize) -> list[ImageSize]:
    """Return grids of at most `area` cells, and at most `MOST_PREFIX` less, shaped as the image."""
    found = []
    for height in range(2, area // 2 + 1):
        middle = height * size[1] / size[0]
        for width in {int(middle), ceil(middle), int(middle) + 1, int(middle) - 1}:
            if width > 1 and 0 <= area - height * width <= MOST_PREFIX:
                found.append((height, width))
    square = size[0] == size[1]
    return [one for one in found if one[0] == one[1] or not square]


# --- what the network states


def _features(net: nn.Module) -> int | None:
    return _number(getattr(net, "num_features", None))


def _prefix_tokens(net: nn.Module) -> int | None:
    """Return the number of prefix tokens that a module (timm) or a configuration (transformers)
    states.
    """
    for module in net.modules():
        found = _number(getattr(module, "num_prefix_tokens", None))
        if found is None and hasattr(module, "config"):
            registers = _number(getattr(module.config, "num_register_tokens", None))
            found = None if registers is None else registers + 1
        if found is not None:
            return found
    return None


def _patch_grids(net: nn.Module) -> list[ImageSize]:
    """Return the grids that patch embeddings at the network's top state; they may be those of
    another image size.
    """
    stated: list[Any] = [getattr(child, "grid_size", None) for _, child in net.named_children()]
    pairs = [tuple(g) for g in stated if isinstance(g, (tuple, list)) and len(g) == 2]
    return [(g[0], g[1]) for g in pairs if all(isinstance(side, int) and side > 1 for side in g)]


def _list_stated_grids(net: nn.Module, size: ImageSize) -> list[ImageSize]:
    """Return the grids of an image of this size that the stated patches give, and those of later
    stages, each half as fine.
    """
    found = []
    for high, wide in dict.fromkeys(_patch_sizes(net)):
        for coarser in (1, 2, 4, 8, 16, 32):
            cell = high * coarser, wide * coarser
            found.append((size[0] // cell[0], size[1] // cell[1]))
            found.append((ceil(size[0] / cell[0]), ceil(size[1] / cell[1])))
    return [one for one in dict.fromkeys(found) if min(one) > 1]


def _patch_sizes(net: nn.Module) -> Iterator[ImageSize]:
    """Yield the patch sizes that modules and configurations state, then the strides of
    convolutions that read few channels, as an image has.
    """
    modules = list(net.modules())
    for module in modules:
        for owner in (module, getattr(module, "config", None)):
            yield from _pairs(getattr(owner, "patch_size", None))
    for module in modules:
        if isinstance(module, nn.Conv2d) and module.in_channels <= 5 and max(module.stride) > 1:
            yield from _pairs(module.stride)


def _pairs(value: Any) -> list[ImageSize]:
    """Return a stated size as a pair, or nothing."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return []
    return [(pair[0], pair[1])] if all(isinstance(n, int) and n > 0 for n in pair) else []


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

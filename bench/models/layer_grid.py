"""The grids of an explained layer: found, verified once per image size, and described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from bench.errors import NotApplicable
from bench.models.grid_check import find_true_layout
from bench.models.layout import ImageSize, Layout, is_stated, list_layouts
from bench.models.network_guard import guard_network, leave_modes
from bench.models.split import Split

SMALLEST = 8
"""Side of an image in pixels below which its patches are too few to verify a grid."""


class CutNetwork(Protocol):
    """What is read of an explainee."""

    net: nn.Module
    name: str

    @property
    def split(self) -> Split: ...

    def draw_noise(self, size: ImageSize | None = None) -> torch.Tensor: ...


class LayerGrids:
    """How the outputs of one layer lie as grids, by image size.

    found: by image size and shape of the output [...].
    unverified: readings that the network states and that no changed image could confirm.
    trusted: the first reading is taken, for networks that look at a part of the image only.
    """

    def __init__(self) -> None:
        self.trusted = False
        self.unverified: set[Layout] = set()
        self.found: dict[tuple[ImageSize, tuple[int, ...]], Layout] = {}

    def find(self, model: CutNetwork, values: torch.Tensor, size: ImageSize) -> Layout:
        """Return the layout of a layer's output [B,...] of images of this size.

        Raises:
            NotApplicable: the output is no grid, or its cells do not follow the image's patches.
        """
        key = size, tuple(values.shape[1:])
        if key not in self.found:
            self.found[key] = self._verify(model, values, size)
        return self.found[key]

    def _verify(self, model: CutNetwork, values: torch.Tensor, size: ImageSize) -> Layout:
        where = f"Layer {model.split.layer!r} of {model.name} gives {tuple(values.shape)}"
        shape = (1, *values.shape[1:])
        readings = list_layouts(model.net, shape, size)
        if not readings:
            raise NotApplicable(f"{where}, which has no spatial grid; choose another layer.")
        if self.trusted:
            return readings[0]
        stated = is_stated(model.net, shape, size)
        with leave_modes(), guard_network(model.net), torch.no_grad():
            found = find_true_layout(
                lambda image: model.split.capture(image).values,
                model.draw_noise(size),
                readings,
                stated,
            )
        if found.layout is not None:
            return found.layout
        seen = "change elsewhere" if found.elsewhere else "change alike"
        # In so small an image patches cannot be told apart; channels first is the convention.
        tiny = min(size) < SMALLEST and readings[0].order == "NCHW"
        if found.elsewhere or not (stated or tiny):
            raise NotApplicable(
                f"{where}, which could be a grid of {readings[0]}; but where patches of a "
                f"{size[0]}x{size[1]} image change, its cells {seen}, so choose another layer."
            )
        self.unverified.add(readings[0])
        return readings[0]


def describe_layer(facts: Mapping[str, Any]) -> str:
    """Write what run.json says of a model's layer: "layer features.12, grid 13x13", and what is
    special about it; "" where it says nothing.

    >>> describe_layer({"layer": "layer4", "grid": "7x7", "bypassed": True})
    'layer layer4, grid 7x7, other paths go around it'
    """
    if not facts.get("layer"):
        return ""
    parts = [f"layer {facts['layer']}"]
    if facts.get("grid"):
        verified = facts.get("grid_verified", True)
        parts.append(f"grid {facts['grid']}" + ("" if verified else " (stated, not verified)"))
    if facts.get("bypassed"):
        parts.append("other paths go around it")
    return ", ".join(parts)

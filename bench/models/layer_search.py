"""The search of a default layer in any network, by what can be checked.

A layer qualifies if it sees the image, if it is a grid of more than one cell whose places are
verified, and if gradients of the logits reach its cells. Later computation on the cells goes
through it; class tokens alone may go around it. The latest such layer is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.errors import NotApplicable
from bench.models.containers import find_grid_part, list_tensors, map_tensors
from bench.models.fast_path import call_submodules
from bench.models.grid_check import find_true_layout
from bench.models.layout import ImageSize, Layout, find_layout, is_stated, list_layouts
from bench.models.split import Captured, LayerSplit
from bench.randomness import generator

NOT_A_LAYER = (
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
"""Modules that are no layer: they give what they got, or a grid of a fixed size."""

MOST_TRIED = 32
"""So many outputs are looked at, the latest first: each costs up to thirty forwards."""
REACH = (0.9, 0.5, 0.0)
"""Share of the cells that gradients reach, from what is wanted to what is taken where no layer has
more.
"""


@dataclass
class Place:
    """The output of a module's last call: its name, shape, and what reaches it.

    reach: share of the cells with a gradient of any logit.  classes: whether its channels are the
    classes' own maps, each read by its logit alone.  varies: whether it differs between images.
    cut: whether no gradient arrives anywhere, so that the reach is not known.
    """

    name: str
    shape: tuple[int, ...]
    reach: float = 0.0
    classes: bool = False
    varies: bool = False
    cut: bool = False


def search_layer(net: nn.Module, x: torch.Tensor) -> str:
    """Return the name of the layer to explain, from passes over noise x [1,C,H,W]."""
    size = (x.shape[-2], x.shape[-1])
    places = [p for p in list_places(net, torch.cat([x, x.flip(-1)])) if not p.classes]
    tried: set[str] = set()
    for least in REACH:
        chosen = _choose(net, x, size, [p for p in places if p.reach > least], tried)
        if chosen:
            return chosen
    raise NotApplicable(
        "No layer of this network has a spatial grid whose cells lie where the image's pixels do; "
        "name one with layer=...."
    )


def _choose(
    net: nn.Module, x: torch.Tensor, size: ImageSize, places: list[Place], tried: set[str]
) -> str:
    """Return the latest verified place that no other cells by-pass, of the latest grid; else the
    latest verified one, else "".

    tried: the places looked at so far, at most `MOST_TRIED`.
    """
    latest: tuple[str, Layout] | None = None
    for place in reversed(places):
        layout = find_layout(net, (1, *place.shape[1:]), size)
        grid = None if layout is None else (layout.height, layout.width)
        if latest and grid != (latest[1].height, latest[1].width):
            break
        if len(tried) >= MOST_TRIED:
            break
        if place.name in tried:
            continue
        tried.add(place.name)
        split = LayerSplit(net, place.name)
        captured = split.capture(x)
        open_around = is_bypassed_by_cells(net, split, captured, size)
        if latest and open_around:
            continue
        shape = (1, *captured.values.shape[1:])
        readings, stated = list_layouts(net, shape, size), is_stated(net, shape, size)
        found = find_true_layout(partial(_run, split), x, readings, stated)
        if found.layout is None or (place.cut and not _is_read(split, captured)):
            continue
        if not open_around:
            return place.name
        latest = place.name, found.layout
    return latest[0] if latest else ""


def _run(split: LayerSplit, image: torch.Tensor) -> torch.Tensor:
    return split.capture(image).values


def _is_read(split: LayerSplit, captured: Captured) -> bool:
    """Return whether the logits change where the layer's output does."""
    noise = torch.randn(captured.values.shape, generator=generator(0, "reach"))
    changed = split.head(captured.values + noise.to(captured.values), captured, torch.arange(1))
    return not torch.allclose(changed, captured.logits, rtol=1e-4, atol=1e-6)


# --- what a pass shows of all modules


def list_places(net: nn.Module, images: torch.Tensor) -> list[Place]:
    """Return the outputs that are grids and that the image reaches the logits through, in the order
    of finishing, from one forward and two backwards on images [2,C,H,W].

    Where the network cuts the graph, no gradient tells which those are. All grids that differ
    between the images are returned then, but for maps with a channel for each class.

    Classifiers whose weights are all zero get random ones for the pass, since nothing passes back
    through zeros.
    """
    watch = PlaceWatch(net, (images.shape[-2], images.shape[-1]))
    inputs = images.detach().clone().requires_grad_()
    handles = [
        module.register_forward_hook(watch.hook(name))
        for name, module in net.named_modules()
        if name and not isinstance(module, NOT_A_LAYER)
    ]
    try:
        with torch.enable_grad(), call_submodules(), _woken(net):
            logits = net(inputs.clone())  # a network may work in place
            watch.read_gradients(logits, inputs)
    finally:
        for handle in handles:
            handle.remove()
    places = list(watch.places.values())
    return [place for place in places if place.reach] or [
        replace(place, reach=1.0, cut=True)
        for place in places
        if place.varies and logits.shape[1] not in (place.shape[1], place.shape[-1])
    ]


class PlaceWatch:
    """Notes each module's last output, and the gradients that arrive there."""

    def __init__(self, net: nn.Module, size: ImageSize) -> None:
        self.net = net
        self.size = size
        self.classes = 0
        self.asked = 0
        self.places: dict[str, Place] = {}
        self._seen: set[int] = set()
        self._outputs: list[torch.Tensor] = []  # kept alive, so that no other gets its id

    def hook(self, name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = self._pick(output)
            if tensor is None:
                return
            if not isinstance(output, torch.Tensor) and id(tensor) in self._seen:
                return  # a container of what another module gave by itself
            self._seen.add(id(tensor))
            self._outputs.append(tensor)
            place = Place(name, tuple(tensor.shape), varies=not torch.equal(*tensor.detach()))
            self.places.pop(name, None)
            self.places[name] = place
            if tensor.requires_grad:
                arrive = partial(self._arrive, place)
                tensor.register_hook(arrive)  # type: ignore[no-untyped-call]

        return note

    def read_gradients(self, logits: torch.Tensor, inputs: torch.Tensor) -> None:
        """Let gradients of all logits [2,C], then of the highest one, arrive at the outputs; there
        is nothing to read where the graph is cut, or an operation has no derivative.
        """
        self.asked = int(logits.sum(0).argmax())  # a logit behind a ReLU may be dead
        mixed = torch.randn(logits.shape, generator=generator(0, "reach")).to(logits)
        for total in ((logits * mixed).sum(), logits[:, self.asked].sum()):
            if not total.requires_grad:
                return
            try:
                torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
            except RuntimeError:
                return
            self.classes = logits.shape[1]

    def _pick(self, output: Any) -> torch.Tensor | None:
        if not isinstance(output, torch.Tensor):
            part = find_grid_part(output)
            output = None if part is None else list_tensors(output)[part]
        if output is None or output.ndim not in (3, 4) or output.shape[0] != 2:
            return None
        shape = (1, *output.shape[1:])
        return output if find_layout(self.net, shape, self.size) is not None else None

    def _arrive(self, place: Place, gradient: torch.Tensor | None) -> None:
        if gradient is None:  # an operation without a derivative has been passed
            return
        layout = find_layout(self.net, (1, *place.shape[1:]), self.size)
        assert layout is not None
        grid = layout.grid(gradient) != 0
        if not self.classes:  # the first backward, from all logits
            place.reach = float(grid.any(1).any(0).double().mean())
        elif grid.shape[1] == self.classes:
            channels = grid.any(3).any(2).any(0)
            place.classes = bool(channels[self.asked]) and int(channels.sum()) == 1


@contextmanager
def _woken(net: nn.Module) -> Iterator[None]:
    """Let linear layers and convolutions whose weights are all zero answer with random ones; the
    network's own stay as they are.
    """
    rng = generator(0, "woken")
    handles = []
    for module in net.modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or bool(module.weight.any()):
            continue
        weight = torch.randn(module.weight.shape, generator=rng).to(module.weight)

        def hook(
            module: nn.Module, args: Any, output: torch.Tensor, weight: torch.Tensor = weight
        ) -> torch.Tensor:
            if isinstance(module, nn.Conv2d):
                made: torch.Tensor = module._conv_forward(args[0], weight, None)
                return output + made
            return output + F.linear(args[0], weight)

        handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- what goes around a layer


def is_bypassed_by_cells(
    net: nn.Module, split: LayerSplit, captured: Captured, size: ImageSize
) -> bool:
    """Return whether a logit reads cells of the image that do not come through the layer.

    The layer's output is held fixed; a gradient at the cells of any earlier output is a way around.
    Class tokens and vectors (of squeezing gates) may go around it.
    """
    layout = find_layout(net, (1, *captured.values.shape[1:]), size)
    if layout is None or not split.is_bypassed:
        return False
    around: list[torch.Tensor] = []

    def lead(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        around.append(tensor.detach().clone().requires_grad_())
        with torch.enable_grad():
            return around[-1].clone()  # a network may work in place

    bypass = {
        name: [map_tensors(out, lead) for out in outs] for name, outs in captured.bypass.items()
    }
    with torch.enable_grad(), _woken(net):
        logits = split.head(
            captured.values.detach(), replace(captured, bypass=bypass), torch.arange(1)
        )
        if not logits.requires_grad:
            return False
        mixed = torch.randn(logits.shape, generator=generator(0, "reach")).to(logits)
        gradients = torch.autograd.grad((logits * mixed).sum(), around, allow_unused=True)
    return any(g is not None and _reaches_cells(g, layout) for g in gradients)


def _reaches_cells(gradient: torch.Tensor, layout: Layout) -> bool:
    """Return whether a gradient of an earlier output is other than zero at cells of a grid."""
    if gradient.ndim == 4:
        return gradient[0].numel() > max(gradient.shape[1:]) and bool(gradient.any())
    if gradient.ndim != 3 or gradient.shape[1] <= layout.prefix + layout.suffix:
        return False
    tokens = layout.prefix + layout.suffix + layout.height * layout.width
    if layout.order == "NLC" and gradient.shape[1] == tokens:
        gradient = layout.patches(gradient)
    return bool(gradient.any())

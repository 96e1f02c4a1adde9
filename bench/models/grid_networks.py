"""Networks as they see grids: at n times their side, or each cell apart."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from bench.data.geometry import Geometry
from bench.data.input_size import Size, split_size, unify, write_size
from bench.errors import NotApplicable, take_first_line
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network, leave_modes
from bench.models.split import LayerSplit, WholeSplit
from bench.models.tile_net import CellsNet


def enlarge_model(model: Explainee, side: int) -> Explainee:
    """Return a model that sees images of n times its side, explained at the same layer.

    Args:
        model: The model at its own size.
        side: n.

    Returns:
        A model of the same weights. timm's transformers take the size by `dynamic_img_size`.

    Raises:
        NotApplicable: the network cannot take images of that size.
    """
    size = multiply_size(model.size, side)
    first = ""
    for net in (model.net, _make_dynamic(model.net)):
        if net is None:
            continue
        found = _rebuild(model, net, size, _find_layer(model))
        try:
            with leave_modes(), guard_network(net):
                classes = found.probe_shape[0]
        except Exception as error:  # whatever a network raises at a size that it was not made for
            first = first or take_first_line(error)
            continue
        if classes == model.num_classes:
            return found
        first = first or f"it returns {classes} numbers there"
    raise NotApplicable(
        f"{model.name} takes images of {write_size(model.size)} pixels and cannot take a grid of "
        f"{write_size(size)} ({first.rstrip('.')}); it is left out."
    )


def separate_cells(model: Explainee, side: int) -> Explainee:
    """Return a model that reads each cell of a grid with a copy of itself (`CellsNet`).

    Args:
        model: The model at its own size.
        side: Cells along each side.

    Raises:
        NotApplicable: other paths go around the explained layer, or no single layer is explained.
    """
    if model.split.is_bypassed or not isinstance(model.split, (LayerSplit, WholeSplit)):
        raise NotApplicable(
            f"Other paths go around layer {model.layer!r} of {model.name}, so its cells cannot be "
            "seen as one grid; it is left out, or name another layer (NAME@LAYER)."
        )
    whole = isinstance(model.split, WholeSplit)
    with leave_modes(), guard_network(model.net), torch.no_grad():
        captured = model.capture(model.draw_noise())
        layout = model.layout(captured.values, captured.size)
    if captured.whole is not None:
        raise NotApplicable(
            f"Layer {model.layer!r} of {model.name} returns several tensors, so its cells cannot "
            "be seen as one grid; it is left out, or name another layer (NAME@LAYER)."
        )
    net = CellsNet(model.net, side, model.size, "" if whole else model.layer, layout)
    found = _rebuild(model, net, multiply_size(model.size, side), "features")
    found.grids.trusted = True  # a patch changes its own cell only
    return found


def multiply_size(size: Size, side: int) -> Size:
    """Return the size of n x n frames.

    >>> multiply_size(96, 2), multiply_size((64, 96), 3)
    (192, (192, 288))
    """
    whole: Size = unify([length * side for length in split_size(size)])
    return whole


def _rebuild(model: Explainee, net: nn.Module, size: Size, layer: str | None) -> Explainee:
    """Return the model with another network or size."""
    found = Explainee(
        net,
        model.mean,
        model.std,
        size,
        layer,
        name=model.name,
        parent=model.parent,
        geometry=Geometry(size, "none", size),
        card=model.card,
    )
    found.sister = model.sister
    return found


def _find_layer(model: Explainee) -> str | None:
    """Return the explained layer's name, None where the network is cut by timm's own functions."""
    return None if isinstance(model.split, WholeSplit) else model.layer


def _make_dynamic(net: nn.Module) -> nn.Module | None:
    """Return a copy of a timm network that takes images of any size, or None.

    timm sets these fields where a network is made with dynamic_img_size=True; the weights are the
    same.
    """
    if getattr(net, "dynamic_img_size", None) is not False or not hasattr(net, "patch_embed"):
        return None
    other: Any = copy.deepcopy(net)
    other.dynamic_img_size = True
    patches = other.patch_embed
    patches.strict_img_size, patches.flatten = False, False
    patches.output_fmt = type(patches.output_fmt)("NHWC")
    dynamic: nn.Module = other
    return dynamic

"""The layers of a network that methods over several layers look at: the last module of each
stage.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import nn

from bench.models.layer_search import NOT_A_LAYER
from bench.models.layout import ImageSize, find_layout

STAGES = 4
"""Blocks that are taken of a network whose blocks all have one resolution (a transformer)."""

_FIRST_NORMS = ("norm1", "ln_1", "layernorm_before", "layer_norm1")


def stage_layers(net: nn.Module, x: torch.Tensor) -> list[str]:
    """Return names of modules from shallow to deep, one per stage; none where the network shows no
    stages.

    Transformers: the first norm of blocks at a quarter, a half, three quarters and the end. timm:
    `feature_info`. Others: the last child at each resolution. Runs the network once on x [1,3,H,W].
    """
    shapes, sides, classes = _grids(net, x)
    return (
        _norms_of_blocks(shapes)
        or _timm_stages(net, shapes)
        or _last_of_resolutions(
            net, "", {n: sides[n] for n, s in shapes.items() if len(s) == 4 and s[1] != classes}
        )
    )


def _grids(
    net: nn.Module, x: torch.Tensor
) -> tuple[dict[str, torch.Size], dict[str, ImageSize], int]:
    """Return {module: output shape} and {module: grid} in the order of finishing, of modules that
    run once and give a grid; classes.
    """
    calls, classes = list_outputs(net, x)
    runs = Counter(name for name, _ in calls)
    size, shapes, sides = (x.shape[-2], x.shape[-1]), {}, {}
    for name, shape in calls:
        layout = None
        if shape and shape[0] == len(x) and runs[name] == 1:
            layout = find_layout(net, (1, *shape[1:]), size)
        if shape and layout and min(layout.height, layout.width) > 1:
            shapes[name], sides[name] = shape, (layout.height, layout.width)
    return shapes, sides, classes


def list_outputs(
    net: nn.Module, x: torch.Tensor
) -> tuple[list[tuple[str, torch.Size | None]], int]:
    """Run the network on x [1,C,H,W]; return (module, output shape) of every call in the order of
    finishing, and the number of classes (-1: the network returns no logits [1,C]).

    The shape is None of an output that is no tensor. Dropout, identities and adaptive pools are
    left out.
    """
    calls: list[tuple[str, torch.Size | None]] = []
    handles = []
    for name, module in net.named_modules():
        if name and not isinstance(module, NOT_A_LAYER):

            def hook(_m: nn.Module, _a: Any, output: Any, name: str = name) -> None:
                calls.append((name, output.shape if isinstance(output, torch.Tensor) else None))

            handles.append(module.register_forward_hook(hook))
    try:
        logits = net(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits.shape[1] if isinstance(logits, torch.Tensor) and logits.ndim == 2 else -1


def _norms_of_blocks(shapes: dict[str, torch.Size]) -> list[str]:
    norms = [
        n for n, shape in shapes.items() if n.rpartition(".")[2] in _FIRST_NORMS and len(shape) == 3
    ]
    places = {math.ceil(len(norms) * part / STAGES) - 1 for part in range(1, STAGES + 1)}
    return [norms[place] for place in sorted(places)] if norms else []


def _timm_stages(net: nn.Module, shapes: dict[str, torch.Size]) -> list[str]:
    entries = getattr(net, "feature_info", None) or ()
    names = [entry.get("module", "") for entry in entries if isinstance(entry, dict)]
    found = [name for name in names if name in shapes]
    return found if len(found) > 1 else []


def _last_of_resolutions(net: nn.Module, parent: str, sides: dict[str, ImageSize]) -> list[str]:
    """Return the last child of a module at each resolution; where they share one, look inside them
    in turn.
    """
    children = [name for name in sides if name.rpartition(".")[0] == parent]
    last = {sides[name]: name for name in children}
    if len(last) > 1:
        return list(last.values())
    inside = (_last_of_resolutions(net, child, sides) for child in children)
    return next((found for found in inside if len(found) > 1), list(last.values()))

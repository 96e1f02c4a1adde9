"""The layers of a network that methods over several layers look at: the last module of each
stage.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import nn

from bench.models.default_layer import outputs

STAGES = 4
"""Blocks that are taken of a network whose blocks all have one resolution (a transformer)."""

_FIRST_NORMS = ("norm1", "ln_1")


def stage_layers(net: nn.Module, x: torch.Tensor) -> list[str]:
    """Return names of modules from shallow to deep, one per stage; none where the network shows no
    stages.

    Transformers: the first norm of blocks at a quarter, a half, three quarters and the end. timm:
    `feature_info`. Others: the last child at each resolution. Runs the network once on x [1,3,H,W].
    """
    shapes, classes = _grids(net, x)
    return (
        _norms_of_blocks(shapes)
        or _timm_stages(net, shapes)
        or _last_of_resolutions(
            net, "", {n: s for n, s in shapes.items() if len(s) == 4 and s[1] != classes}
        )
    )


def _grids(net: nn.Module, x: torch.Tensor) -> tuple[dict[str, torch.Size], int]:
    """Return {module: output shape} in the order of finishing, of modules that run once and give a
    grid; classes.
    """
    calls, classes = outputs(net, x)
    runs = Counter(name for name, _ in calls)
    shapes = {
        name: shape for name, shape in calls if shape and shape[0] == len(x) and _side(shape) > 1
    }
    return {name: shape for name, shape in shapes.items() if runs[name] == 1}, classes


def _side(shape: torch.Size) -> int:
    """Return the side of the grid that an output of this shape is (NCHW, NHWC, tokens); 0 where it
    is none.
    """
    if len(shape) == 3:
        return math.isqrt(shape[1])
    if len(shape) == 4:
        return shape[2] if shape[2] == shape[3] else shape[1] if shape[1] == shape[2] else 0
    return 0


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


def _last_of_resolutions(net: nn.Module, parent: str, shapes: dict[str, torch.Size]) -> list[str]:
    """Return the last child of a module at each resolution; where they share one, look inside them
    in turn.
    """
    children = [name for name in shapes if name.rpartition(".")[0] == parent]
    last = {_side(shapes[name]): name for name in children}
    if len(last) > 1:
        return list(last.values())
    inside = (_last_of_resolutions(net, child, shapes) for child in children)
    return next((found for found in inside if len(found) > 1), list(last.values()))

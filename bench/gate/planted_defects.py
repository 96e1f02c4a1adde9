"""Real defects for the gate to find: each is put into a real run of the tier, in place of the
healthy part.

Those of a map are planted in one method, grad_cam, while every other cell of the run stays as it
is, which is harder to find than a defect that all methods share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.data import load_subset
from bench.engine.trace import Trace
from bench.gate.judge import CHANGED, REGRESSION
from bench.gate.tier import TIERS
from bench.methods.base import MethodFunction
from bench.methods.cam import grad_cam, grad_cam_weights, weigh_channels
from bench.models import load_model
from bench.models.explainee import Explainee
from bench.protocol import Protocol
from bench.records.store import Records
from bench.run.evaluate import run_plan
from bench.run.plan import Plan, make_plan

METHOD = "grad_cam"
"""Where a defect of a map is planted."""


@dataclass(frozen=True)
class Defect:
    """One planted change.

    expected: REGRESSION where the gate must fail; CHANGED where it must see the change and must not
    fail; "" where what the gate says is only shown. method: what grad_cam becomes.  model: what the
    network becomes.
    """

    name: str
    title: str
    expected: str
    method: MethodFunction | None = None
    model: Callable[[Explainee], Explainee] = lambda model: model


def mirror_map(trace: Trace) -> torch.Tensor:
    """Grad-CAM, left and right exchanged."""
    return grad_cam(trace).flip(-1)


def negate_map(trace: Trace) -> torch.Tensor:
    """Grad-CAM with its sign turned before the ReLU."""
    return trace.upsample((-weigh_channels(grad_cam_weights(trace), trace.activations)).relu())


def shift_map(trace: Trace) -> torch.Tensor:
    """Grad-CAM, one cell of the grid too far right; what enters on the left is 0."""
    cell = trace.size[1] // trace.activations.shape[-1]
    return F.pad(grad_cam(trace), (cell, 0))[..., : trace.size[1]]


def skip_relu(trace: Trace) -> torch.Tensor:
    """Grad-CAM that keeps the evidence against the class."""
    return trace.upsample(weigh_channels(grad_cam_weights(trace), trace.activations))


def change_scale(mean: float, std: float) -> Callable[[Explainee], Explainee]:
    """Return a change of the normalisation, the same for all colours."""
    return lambda model: rebuild(model, model.net, (mean,) * 3, (std,) * 3)


def round_to_bfloat16(model: Explainee) -> Explainee:
    """Return the network with every convolution and linear layer computed in bfloat16; what they
    return is rounded.
    """
    net = copy.deepcopy(model.net)
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.forward = partial(run_in_bfloat16, layer.forward)  # type: ignore[method-assign]
    return rebuild(model, net, model.mean, model.std)


def run_in_bfloat16(
    forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """Run a layer in bfloat16 and return float32."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return forward(x).float()


def rebuild(
    model: Explainee, net: nn.Module, mean: Sequence[float], std: Sequence[float]
) -> Explainee:
    """Return a model with another network or normalisation, and everything else as it was."""
    kept: dict[str, Any] = {
        "name": model.name,
        "parent": model.parent,
        "geometry": model.geometry,
        "card": model.card,
    }
    return Explainee(net, mean, std, model.size, **kept)


DEFECTS = (
    Defect(
        "wrong-layer",
        "wrong layer (layer2)",
        REGRESSION,
        model=lambda model: model.cut_at("layer2"),
    ),
    Defect("mirrored", "map flipped, left to right", REGRESSION, mirror_map),
    Defect("negated", "map flipped, sign", REGRESSION, negate_map),
    Defect("shifted", "map shifted by one cell", REGRESSION, shift_map),
    Defect("bytes", "input scaled 0..255", REGRESSION, model=change_scale(0.0, 1 / 255)),
    Defect(
        "not-normalised", "input not normalised, 0..1", REGRESSION, model=change_scale(0.0, 1.0)
    ),
    Defect("bfloat16", "lower precision (bfloat16)", CHANGED, model=round_to_bfloat16),
    Defect("no-relu", "missing ReLU", CHANGED, skip_relu),
    Defect(
        "next-layer",
        "the layer before (layer3), no worse",
        "",
        model=lambda model: model.cut_at("layer3"),
    ),
)


def plan_tier(limit: int | None = None) -> Plan:
    """Return the plan of `cambench run --tier gate` (with fewer images, where a limit is given)."""
    tier = TIERS["gate"]
    subset = load_subset(tier["subset"], limit=limit or tier["limit"])
    model = load_model(tier["models"])
    return make_plan(
        subset,
        [model],
        tier["methods"],
        tier["metrics"],
        Protocol(),
        calibration=tier["calibration"],
    )


def plant(plan: Plan, defect: Defect) -> Plan:
    """Return a plan with a defect in its model, or in its grad_cam."""
    changed = defect.method
    methods = tuple(
        # Other numbers are another version, so that the id says that the method has changed.
        replace(m, function=changed, version=m.version + 1) if changed and m.name == METHOD else m
        for m in plan.methods
    )
    return replace(
        plan, methods=methods, models=tuple(defect.model(model) for model in plan.models)
    )


def run_planted(defect: Defect, folder: Path, limit: int | None = None) -> Records:
    """Run the tier with a defect; goes on where it stopped."""
    return run_plan(plant(plan_tier(limit), defect), folder, gallery=0)

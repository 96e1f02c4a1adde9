"""Guided backprop, deconvnet and guided Grad-CAM: gradients in which ReLUs send back only what is
positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.engine.counts import Counts
from bench.engine.shared_parts import GRADIENTS, SharedPart
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.cam import grad_cam
from bench.methods.registration import register_method
from bench.methods.rules import ACTIVATIONS, GATES, Operation, Rules, bind_rest, run
from bench.models.explainee import Explainee


class Rectified(torch.autograd.Function):
    """A ReLU (capped or not) that sends back max(g,0), or (gate) only where the ReLU itself is
    open.
    """

    @staticmethod
    def forward(
        ctx: Any, operation: Operation, gate: bool, cap: float, x: torch.Tensor
    ) -> torch.Tensor:
        y = operation(x)
        if y is x:
            ctx.mark_dirty(x)
        ctx.open = (y > 0) & (y < cap) if gate else None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        sent = gradients[0].clamp(min=0)
        return None, None, None, sent if ctx.open is None else sent * ctx.open


class PositiveOnly(Rules):
    """Guided backprop (gate=True) and deconvnet (gate=False)."""

    def __init__(self, method: str, model: str, gate: bool) -> None:
        super().__init__()
        self.method, self.model, self.gate, self.met = method, model, gate, 0

    def rule(self, name: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        cap = cap_of(name, args, kwargs)
        if cap is not None:
            self.met += 1
            return Rectified.apply(bind_rest(function, args, kwargs), self.gate, cap, args[0])
        if name in ACTIVATIONS and name not in GATES:
            raise NotApplicable(
                f"{self.method} is defined for ReLUs, and {self.model} also has {name}; use "
                "saliency instead."
            )
        return function(*args, **kwargs)


def cap_of(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> float | None:
    """Return where a rectifier ends (infinity for a plain ReLU), or None for any other
    operation.
    """
    if name == "relu":
        return torch.inf
    if name == "relu6":
        return 6.0
    if name in ("hardtanh", "clamp", "clamp_min"):
        default = (-1.0, 1.0) if name == "hardtanh" else (None, None)
        low = args[1] if len(args) > 1 else kwargs.get("min_val", kwargs.get("min", default[0]))
        high = args[2] if len(args) > 2 else kwargs.get("max_val", kwargs.get("max", default[1]))
        if isinstance(low, (int, float)) and low == 0:
            return torch.inf if high is None else float(high)
    return None


def positive_only(trace: Trace, method: str, gate: bool) -> torch.Tensor:
    """Return the changed gradient of S_c, [B,3,H,W]; one forward and backward, shared by the
    methods that read it.
    """

    def make() -> torch.Tensor:
        rules = PositiveOnly(method, trace.model.name, gate)
        arrived, _ = run(trace, rules, trace.images)
        if not rules.met:
            raise NotApplicable(
                f"{method} changes the gradient of ReLUs, and {trace.model.name} has none; use "
                "saliency instead."
            )
        return arrived

    return trace.share(f"{method} gradient", make)


def _declare_gradient(model: Explainee, method: str) -> SharedPart:
    """Return the declared part of `positive_only`."""
    return SharedPart(
        f"{method} gradient", Counts(forwards=1, backwards=1), model.channels * model.pixels
    )


@register_method(
    "guided_backprop",
    group="gradient",
    fidelity="paper",
    citation="Springenberg et al., Striving for Simplicity, ICLR workshop 2015, section 3.4 (as "
    "Captum)",
    parts=lambda model, _: [_declare_gradient(model, "guided_backprop")],
)
def guided_backprop(trace: Trace) -> torch.Tensor:
    """sum over colour channels of dS_c/dx where every ReLU sends back max(g,0) * 1[input > 0].
    [B,H,W], signed.

    ReLU6 counts as a ReLU. Networks with other rectifiers (GELU, SiLU, leaky) are refused: half of
    a rule is none.
    """
    return positive_only(trace, "guided_backprop", gate=True).sum(1)


@register_method(
    "deconvnet",
    group="gradient",
    fidelity="paper",
    citation="Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 "
    "(as Captum)",
    parts=lambda model, _: [_declare_gradient(model, "deconvnet")],
)
def deconvnet(trace: Trace) -> torch.Tensor:
    """sum over colour channels of dS_c/dx where every ReLU sends back max(g,0), open or not.
    [B,H,W], signed.
    """
    return positive_only(trace, "deconvnet", gate=False).sum(1)


@register_method(
    "guided_grad_cam",
    group="gradient",
    fidelity="paper",
    citation="Selvaraju et al., Grad-CAM, ICCV 2017, section 3.2",
    parts=lambda model, _: [GRADIENTS, _declare_gradient(model, "guided_backprop")],
)
def guided_grad_cam(trace: Trace) -> torch.Tensor:
    """guided_backprop * grad_cam, element by element (Grad-CAM upsampled bilinearly, as in the
    paper). [B,H,W].
    """
    return grad_cam(trace) * positive_only(trace, "guided_backprop", gate=True).sum(1)

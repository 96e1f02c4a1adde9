"""DeepLIFT by the rescale rule, against one reference or the mean of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.engine.counts import Counts
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.references import NAMES, Reference, read_reference, reference_images
from bench.methods.registration import register_method
from bench.methods.rules import ELEMENTWISE, Operation, Rules, alive, bind_rest, run
from bench.methods.variants import write_value
from bench.models.explainee import Explainee

SUMS = ("add", "iadd", "radd", "sub", "isub", "rsub", "cat", "concat", "stack")
NOT_LINEAR = (
    "softmax",
    "log_softmax",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "normalize",
    "norm",
    "var",
    "std",
)
NEAR = 1e-6
"""Differences from the reference below this have no quotient; the gradient then stands in."""


class Rescale(torch.autograd.Function):
    """An elementwise function on [images; references] that sends back g * (f(x) - f(r)) / (x -
    r).
    """

    @staticmethod
    def forward(ctx: Any, operation: Operation, x: torch.Tensor) -> torch.Tensor:
        before = x.detach().clone()
        y = operation(x)
        if y is x:
            ctx.mark_dirty(x)
        change = torch.sub(*before.chunk(2))
        near = change.abs() < NEAR
        slope = torch.sub(*y.detach().chunk(2)) / torch.where(near, 1.0, change)
        if bool(near.any()):
            with torch.enable_grad():
                own = before.chunk(2)[0].detach().clone().requires_grad_()
                (gradient,) = torch.autograd.grad(operation(own.clone()).sum(), own)
            slope = torch.where(near, gradient, slope)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        own = gradients[0].chunk(2)[0] * ctx.slope
        return None, torch.cat([own, torch.zeros_like(own)])  # nothing is asked of the references


class RescalePool(torch.autograd.Function):
    """Max pooling of [images; references]: a window's change is given to the two maxima that made
    it.

    With m = max(y, y_r), the image's maximum takes m - y_r and the reference's y - m; windows that
    overlap add up.
    """

    @staticmethod
    def forward(
        ctx: Any, pool: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], x: torch.Tensor
    ) -> torch.Tensor:
        y, places = pool(x)
        ctx.save_for_backward(x, y.clone(), places)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, y, places = ctx.saved_tensors
        own, reference = (part.flatten(2) for part in y.chunk(2))
        at_own, at_reference = (part.flatten(2) for part in places.chunk(2))
        sent = gradients[0].chunk(2)[0].flatten(2)
        change = torch.sub(*x.chunk(2)).flatten(2)
        higher = torch.maximum(own, reference)
        given = torch.zeros_like(change).scatter_add_(2, at_own, sent * (higher - reference))
        given.scatter_add_(2, at_reference, sent * (own - higher))
        near = change.abs() < NEAR
        plain = torch.zeros_like(change).scatter_add_(2, at_own, sent)
        result = torch.where(near, plain, given / torch.where(near, 1.0, change)).view_as(
            x.chunk(2)[0]
        )
        return None, torch.cat([result, torch.zeros_like(result)])


class RescaleRules(Rules):
    """DeepLIFT's rescale rule on every elementwise function and on max pooling; what joins values
    otherwise is refused.

    Whatever else is not linear shows in the sum.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def rule(self, name: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if name in ELEMENTWISE and len(alive(*args, *kwargs.values())) == 1 and alive(args[0]):
            return Rescale.apply(bind_rest(function, args, kwargs), args[0])
        if name in ("max_pool2d", "adaptive_max_pool2d") and args[0].ndim == 4:
            with_places = {key: value for key, value in kwargs.items() if key != "return_indices"}
            return RescalePool.apply(
                bind_rest(function, args, with_places | {"return_indices": True}), args[0]
            )
        joins = len(alive(*args, *kwargs.values())) > 1 and name not in SUMS
        if joins or name in NOT_LINEAR:
            raise NotApplicable(
                f"deep_lift has no rule for {name}, which {self.model} uses; use "
                "integrated_gradients instead."
            )
        return function(*args, **kwargs)


def _declare_part(model: Explainee, name: Reference) -> SharedPart:
    """Return the declared part of `explain_against`: images and references in one batch."""
    return SharedPart(
        f"deep_lift {write_value(name)}", Counts(forwards=2, backwards=2), model.pixels
    )


@register_method(
    "deep_lift",
    group="gradient",
    fidelity="paper",
    citation="Shrikumar et al., Learning Important Features Through Propagating Activation "
    "Differences, ICML 2017, rescale rule (as Captum, whose max pooling loses windows "
    "that overlap)",
    parts=lambda model, p: [_declare_part(model, p["reference"])],
    reference=read_reference,
)
def deep_lift(trace: Trace, *, reference: Reference = "baseline") -> torch.Tensor:
    """sum over colour channels of (x - r) * multiplier from S_c to x, by the rescale rule. [B,H,W],
    signed.

    Its sum is S_c(x) - S_c(r); where that grossly fails (products, normalisation over positions,
    attention: operations that the rule does not cover) the method is not applicable.
    """
    return explain_against(trace, reference)


@register_method(
    "deep_lift_shap",
    group="gradient",
    fidelity="paper",
    citation="Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017 "
    "(Deep SHAP)",
    parts=lambda model, _: [_declare_part(model, name) for name in NAMES],
)
def deep_lift_shap(trace: Trace) -> torch.Tensor:
    """The mean of deep_lift over the references: baseline, black, white, blur, noise. [B,H,W],
    signed.
    """
    return torch.stack([explain_against(trace, name) for name in NAMES]).mean(0)


def explain_against(trace: Trace, name: Reference) -> torch.Tensor:
    """Return the map of DeepLIFT against one kind of reference, [B,H,W]; shared."""

    def make() -> torch.Tensor:
        references = reference_images(trace, name)
        multipliers, logits = run(
            trace, RescaleRules(trace.model.name), torch.cat([trace.images, references])
        )
        given = (trace.images - references) * multipliers
        change = trace.target_logits - trace.select_targets(logits[len(trace) :])
        gap = (given.sum((1, 2, 3)) - change).abs()
        if bool((gap > 0.05 * change.abs() + 1e-4 * given.abs().sum((1, 2, 3))).any()):
            raise NotApplicable(
                f"deep_lift does not fit {trace.model.name}: its map would not sum up to the "
                "change of the logit; use integrated_gradients instead."
            )
        return given.sum(1)

    return trace.share(f"deep_lift {write_value(name)}", make)

"""Layer-wise relevance propagation (LRP) for convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F

from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.registration import register_method
from bench.methods.rules import ACTIVATIONS, Operation, Rules, alive, bind_rest, run
from bench.ranges import Range

Rule = Literal["epsilon_plus", "epsilon"]
LINEAR = (
    "linear", "avg_pool2d", "adaptive_avg_pool2d", "mean", "sum", "mul", "div",
)  # fmt: skip
"""Operations (of one tensor) whose relevance is shared out by the terms of their output."""
MAXIMA = ("max_pool2d", "adaptive_max_pool2d")
"""The largest takes all: what autograd does with a gradient here is right for relevance too."""
SHAPES = (
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "contiguous", "squeeze",
    "unsqueeze", "clone", "expand", "to", "float", "cat", "concat", "stack", "split", "chunk",
    "getitem", "dropout", "identity",
)  # fmt: skip
"""Operations that only move values: relevance moves along."""


class Shared(torch.autograd.Function):
    """An operation whose output relevance R goes to its inputs by their terms of z: x * d<z, R/(z +
    eps sign z)>/dx.
    """

    @staticmethod
    def forward(
        ctx: Any, ledger: Ledger, operation: Operation, terms: Operation, *tensors: torch.Tensor
    ) -> torch.Tensor:
        ctx.ledger, ctx.terms, ctx.inputs = ledger, terms, [t.detach().clone() for t in tensors]
        y = operation(*tensors)
        for tensor in tensors:
            if y is tensor:
                ctx.mark_dirty(tensor)
        return y

    @staticmethod
    def backward(ctx: Any, *relevances: Any) -> tuple[Any, ...]:
        (relevance,) = relevances
        with torch.enable_grad():
            inputs = [t.requires_grad_() for t in ctx.inputs]
            z = ctx.terms(*inputs)
            sign = torch.where(z < 0, -1.0, 1.0)
            gradients = torch.autograd.grad(
                z, inputs, relevance / (z + ctx.ledger.epsilon * sign).detach()
            )
        shares = [(x * g).detach() for x, g in zip(inputs, gradients, strict=True)]
        ctx.ledger.absorbed += float(relevance.sum()) - sum(float(share.sum()) for share in shares)
        return None, None, None, *shares


class Passed(torch.autograd.Function):
    """An activation: relevance goes through as it is."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, x: torch.Tensor) -> torch.Tensor:
        y = operation(x)
        if y is x:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    def backward(ctx: Any, *relevances: Any) -> tuple[Any, ...]:
        return None, relevances[0]


@dataclass
class Ledger:
    """epsilon of the rule, and the relevance that biases and epsilon absorbed on the way, summed
    over the batch.
    """

    epsilon: float
    absorbed: float = 0.0


@dataclass(frozen=True)
class Convolution:
    """A convolution that ran: its input, its weights, the rest of its settings, and its output."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    apply: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    output: torch.Tensor


class RelevanceRules(Rules):
    """LRP's rules; an operation without a rule is refused."""

    def __init__(self, model: str, rule: Rule, epsilon: float) -> None:
        super().__init__()
        self.model, self.plus, self.ledger = model, rule == "epsilon_plus", Ledger(epsilon)
        self.last: Convolution | None = None

    def rule(self, name: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        operands = alive(*args, *kwargs.values())
        if name == "conv2d":
            return self._convolve(convolution(args, kwargs))
        if name == "batch_norm":
            return self._convolve(self._fold(*args, **kwargs))
        if name in ("add", "iadd") and len(operands) == len(args) == 2 and not kwargs:
            return Shared.apply(self.ledger, function, torch.add, *args)
        if len(operands) == 1 and args and args[0] is operands[0]:
            alone = bind_rest(function, args, kwargs)
            if name in ACTIVATIONS:
                return Passed.apply(alone, args[0])
            if name in MAXIMA:
                return alone(args[0])
            if name in LINEAR:
                return Shared.apply(self.ledger, alone, alone, args[0])
        result = function(*args, **kwargs)
        if name in SHAPES or not alive(result):
            return result
        raise self._refusal("adding a constant" if name in ("add", "iadd", "radd") else name)

    def _refusal(self, what: str) -> NotApplicable:
        return NotApplicable(
            f"lrp has no rule for {what}, which {self.model} uses; use integrated_gradients "
            "instead."
        )

    def _convolve(self, conv: Convolution) -> torch.Tensor:
        def run(x: torch.Tensor) -> torch.Tensor:
            return conv.apply(x, conv.weight, conv.bias)

        def positive(x: torch.Tensor) -> torch.Tensor:
            up, down = conv.weight.clamp(min=0), conv.weight.clamp(max=0)
            return conv.apply(x.clamp(min=0), up, None) + conv.apply(x.clamp(max=0), down, None)

        y: torch.Tensor = Shared.apply(self.ledger, run, positive if self.plus else run, conv.x)
        self.last = Convolution(conv.x, conv.weight, conv.bias, conv.apply, y)
        return y

    def _fold(
        self,
        x: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Convolution:
        """Return the convolution before a batch norm with the norm in its weights, as one layer."""
        conv, self.last = self.last, None
        if conv is None or conv.output is not x or training:
            raise self._refusal("a batch norm that does not follow a convolution")
        scale = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
        shift = (0.0 if conv.bias is None else conv.bias) - mean
        folded = scale * shift + (0.0 if bias is None else bias)
        return Convolution(
            conv.x, conv.weight * scale.view(-1, 1, 1, 1), folded, conv.apply, conv.output
        )


def convolution(args: Sequence[Any], kwargs: dict[str, Any]) -> Convolution:
    """Read a call of F.conv2d(input, weight, bias, ...)."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args, strict=False)) | kwargs
    x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    return Convolution(x, weight, bias, lambda x, w, b: F.conv2d(x, w, b, **given), x)


@register_method(
    "lrp",
    group="gradient",
    fidelity="paper",
    citation="Bach et al., On Pixel-wise Explanations by Layer-wise Relevance Propagation, PLOS "
    "ONE 2015; the rules as in Kohlbrenner et al., Towards Best Practice in Explaining "
    "Neural Network Decisions with LRP, IJCNN 2020",
    forwards=1,
    backwards=1,
    reference="zero",  # the difference to an input of zeros, after normalisation
)
def lrp(
    trace: Trace,
    *,
    rule: Rule = "epsilon_plus",
    epsilon: Annotated[float, Range(0, 1_000, above=True)] = 1e-6,
) -> torch.Tensor:
    """sum over colour channels of the relevance of each pixel, S_c at the start. [B,H,W], signed.

    epsilon: every layer shares its relevance by the terms of its output, R_in = x * W^T (R / (z +
    epsilon sign z)); on a ReLU network nearly input x gradient.  epsilon_plus: convolutions share
    it by their positive terms alone, without bias (z+; inputs may be negative).  A batch norm
    counts as part of the convolution before it, a sum of branches is shared by their values, the
    largest of a pool takes all, activations pass relevance on. Networks with other operations
    (products, attention, other norms) are refused. The sum is S_c less what biases and epsilon
    absorb.
    """
    rules = RelevanceRules(trace.model.name, rule, epsilon)
    relevance, _ = run(trace, rules, trace.images, start=trace.target_logits)
    lost = abs(float(trace.target_logits.sum() - relevance.sum()) - rules.ledger.absorbed)
    if lost > 0.01 * float(trace.target_logits.abs().sum()) + 1e-4 * float(relevance.abs().sum()):
        raise NotApplicable(
            f"lrp loses relevance on its way through {trace.model.name}, outside the layers it "
            "knows."
        )
    return relevance.sum(1)

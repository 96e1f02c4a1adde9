"""Rules for what an operation of the network sends back: what guided backprop, deconvnet, DeepLIFT
and LRP share.

The rules are put in where a network calls an operation, whoever calls it: a module, a module that
runs several times, or a bare function, in place or not. Nothing of the network is replaced or
hooked. Hooks on modules (Captum's way) miss bare functions, see only the last call of a reused
module, and take the gradient of in-place activations. What a rule does not cover is refused, or
shows in the sum that the method promises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bench.engine.trace import Trace
from bench.errors import NotApplicable

Operation = Callable[..., torch.Tensor]

ACTIVATIONS = (
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu",
    "mish", "hardswish", "hardsigmoid", "sigmoid", "logsigmoid", "softplus", "softsign", "tanh",
    "threshold", "clamp", "clamp_min", "clamp_max",
)  # fmt: skip
GATES = (
    "sigmoid", "hardsigmoid", "tanh", "clamp", "clamp_max",
)  # fmt: skip
"""Activations that are used beside ReLUs without being rectifiers."""
ELEMENTWISE = (
    *ACTIVATIONS, "abs", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "pow",
    "reciprocal", "erf", "sin", "cos",
)  # fmt: skip


def name_of(function: Any) -> str:
    """Return the plain name of an operation: relu for F.relu, torch.relu_, Tensor.relu.

    >>> name_of(torch.Tensor.__add__), name_of(torch.relu_), name_of(torch.nn.functional.max_pool2d)
    ('add', 'relu', 'max_pool2d')
    """
    return str(getattr(function, "__name__", "")).strip("_")


def alive(*values: Any) -> list[torch.Tensor]:
    """Return the tensors among values (and lists of them) that gradients flow through."""
    flat = [v for value in values for v in (value if isinstance(value, (list, tuple)) else [value])]
    return [v for v in flat if isinstance(v, torch.Tensor) and v.requires_grad]


class Rules(TorchFunctionMode):
    """Asks `rule` about each operation that gradients flow through; all others run as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not alive(*args, *kwargs.values()):
            return func(*args, **kwargs)
        return self.rule(name_of(func), func, args, kwargs)

    def rule(self, name: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one operation, with another way back where there is a rule for it."""
        raise NotImplementedError


def bind_rest(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Operation:
    """Return an operation as a function of its first argument alone."""
    return lambda x: function(x, *args[1:], **kwargs)


def run(
    trace: Trace, rules: Rules, images: torch.Tensor, start: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what arrives at the trace's images from the targets' logits under the rules [B,3,H,W],
    and all logits.

    images: [n,3,H,W], the trace's, and whatever is to run in the same batch behind them.  start:
    [B], what each target's logit sends back (default 1).
    """
    with torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        with rules:
            logits = trace.prober.logits(inputs)
        scores = trace.select_targets(logits[: len(trace)])
        # The rules must not have changed what the network says.
        if not torch.allclose(
            scores, trace.target_logits, rtol=1e-3, atol=1e-3 * float(trace.logits.abs().max())
        ):
            raise NotApplicable(
                f"{trace.model.name} gives other logits when its operations are watched."
            )
        (arrived,) = torch.autograd.grad(
            scores, inputs, torch.ones_like(scores) if start is None else start
        )
        trace.prober.counts.backwards += len(images)
    return arrived[: len(trace)], logits.detach()

"""What a network's output is: logits, one logit, probabilities, or features without a head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.errors import BenchError, take_first_line
from bench.models.named_wrapper import FlatNet, TwoClassNet

HEAD_NAMES = ("fc", "head", "heads", "classifier", "last_linear", "output", "linear", "logits")
"""Names of classifiers. An identity that bears one of them, and runs last, stands where a
classifier was taken out.
"""

_SHAPES_ONLY = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Select",
    "Slice",
    "T",
    "Transpose",
    "Permute",
    "Clone",
    "ToCopy",
    "Alias",
    "Cat",
    "Stack",
    "Clamp",
)
"""Autograd nodes that move numbers and leave them as they are."""

BY_HAND = {"Div", "Exp", "Mean", "Sum", "Mul", "Rsub", "Pow"}
"""Operations that end a softmax made by hand, 1 - p, or the mean of several. What a linear layer
gives may sum to 1; it is no softmax all the same.
"""

_PROBABILITIES = {"Softmax", "Sigmoid", "Hardsigmoid", "LogSigmoid"}
"""Autograd nodes of probabilities of classes, or of logarithms that no softmax reads."""

_LINEAR = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "NativeLayerNorm", "NativeBatchNorm")
"""Autograd nodes behind which numbers have no bounds."""

_SQUASH = ("Softmax", "Sigmoid", "Hardsigmoid", "Tanh", "Erf", "Exp")
"""Autograd nodes of which probabilities are made."""

_LONGEST = 24  # operations that a probability by hand takes

LEVELS = (3.0, 10.0, -10.0, 30.0)
"""Noise is multiplied by these, to see whether what looks like probabilities stays one."""

SUM_TOLERANCE = 1e-4

ONE_LOGIT = "one logit, read as a sigmoid's: class 1 against class 0"
LOG_PROBABILITIES = (
    "log-probabilities (a log-softmax ends the network): gradients are those of log p, not of a "
    "logit"
)


@dataclass(frozen=True)
class OutputReading:
    """How a network's output is read.

    Attributes:
        net: the network, or a wrapper of it, whose output are logits [B,C].
        note: what was assumed, as the end of a sentence; "" for ordinary logits.
    """

    net: nn.Module
    note: str = ""


def read_output(net: nn.Module, image: torch.Tensor, name: str) -> OutputReading:
    """Say what a network returns, from one image [1,C,H,W]; run it inside `guard_network`.

    Raises:
        BenchError: it returns probabilities, or features because its classifier was taken out.
    """
    logits, last = _run_watched(net, image, name)
    if isinstance(logits, torch.Tensor) and logits.ndim > 2 and logits[0].numel() == len(logits[0]):
        net, logits = FlatNet(net), logits.flatten(1)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        return OutputReading(net)  # the split says what is wrong with it
    _check_head(net, logits, last, name)
    ends = set(_find_ends(logits.grad_fn))
    by_hand = logits.grad_fn is None or bool(ends & BY_HAND)
    if ends & _PROBABILITIES or (by_hand and is_distribution(logits)):
        raise BenchError(describe_probabilities(name))
    _check_bounds(net, image, logits, name)
    if logits.shape[1] == 1:
        return OutputReading(TwoClassNet(net), ONE_LOGIT)
    by_log = bool(ends & {"Log", "Sub"}) and is_distribution(logits.exp())
    logs = ends == {"LogSoftmax"} or by_log
    return OutputReading(net, LOG_PROBABILITIES if logs else "")


def _check_bounds(net: nn.Module, image: torch.Tensor, logits: torch.Tensor, name: str) -> None:
    """Refuse outputs [1,C] that are probabilities, or multiples or logarithms of them, made by hand
    or averaged.

    Further images are run only where the first output looks like one.
    """
    lowest, highest = float(logits.min()), float(logits.max())
    squashed = lowest > -1e-6 and highest < 1 + 1e-6 and _is_squashed(logits.grad_fn)
    shares = logits.shape[1] > 1 and lowest >= 0 and highest > 0
    if not squashed and not shares:
        return
    with torch.no_grad():
        rows = torch.cat([logits.detach(), *(net(level * image) for level in LEVELS)]).double()
    if squashed and bool(((rows > -1e-6) & (rows < 1 + 1e-6)).all()):
        raise BenchError(describe_probabilities(name))
    sums = rows.sum(1)
    varies = bool((rows - rows[:1]).abs().max() > SUM_TOLERANCE * sums[0])
    constant = bool(((sums - sums[0]).abs() < SUM_TOLERANCE * sums[0]).all())
    if shares and varies and constant and bool((rows >= 0).all()):
        raise BenchError(describe_probabilities(name))


def _is_squashed(node: Any, left: int = _LONGEST) -> bool:
    """Return whether each path from an output's numbers back to a linear layer passes a function of
    which probabilities are made.
    """
    operation = type(node).__name__.partition("Backward")[0]
    if operation in _SQUASH:
        return True
    before = [one for one, _ in node.next_functions if one is not None] if node is not None else []
    if not left or not before or operation in _LINEAR:
        return False
    return all(_is_squashed(one, left - 1) for one in before)


def describe_probabilities(name: str) -> str:
    """Return the sentence about a network that returns probabilities."""
    return (
        f"The network {name} returns probabilities, and cambench takes the softmax of logits "
        "itself; leave out the last softmax or sigmoid."
    )


def describe_output(output: Any) -> str:
    """Return the sentence about a network whose output are no logits [B,C]."""
    if not isinstance(output, torch.Tensor):
        return (
            f"The network returns {type(output).__name__}; cambench explains classifiers, whose "
            "logits are [B,C], so wrap the network in a module that returns its logits alone."
        )
    remedy = (
        "keep the axis of the one logit, [B,1]" if output.ndim < 2 else "return one row per image"
    )
    return (
        f"The network's output has shape {tuple(output.shape)}; cambench explains "
        f"classifiers, whose logits are [B,C], so {remedy}."
    )


def is_distribution(outputs: torch.Tensor) -> bool:
    """Return whether each row [C] of outputs [B,C] has numbers in [0,1] that sum to 1."""
    rows = outputs.detach().double()
    if rows.shape[1] < 2 or not len(rows) or not bool(torch.isfinite(rows).all()):
        return False
    inside = bool(((rows >= 0) & (rows <= 1 + SUM_TOLERANCE)).all())
    return inside and bool(((rows.sum(1) - 1).abs() < SUM_TOLERANCE).all())


def _run_watched(net: nn.Module, image: torch.Tensor, title: str) -> tuple[Any, str]:
    """Return the output, with its graph where there is one, and the name of the last identity whose
    output is the network's.
    """
    seen: dict[str, Any] = {}
    handles = []
    for name, module in net.named_modules():
        if name and type(module) is nn.Identity:

            def hook(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                seen[name] = output

            handles.append(module.register_forward_hook(hook))
    try:
        with torch.enable_grad():
            # Not the leaf itself: networks that work in place may not write into one.
            logits = net(image.detach().clone().requires_grad_().clone())
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if "memory" in str(error).lower():  # too little of it is no fault of the shape
            raise
        raise BenchError(
            f"The network {title} cannot run an image of shape {tuple(image.shape)} "
            f"({type(error).__name__}: {take_first_line(error)}); give the size (size=...) and "
            "the channels (mean, std) that it takes."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return logits, next((name for name, output in seen.items() if output is logits), "")


def _check_head(net: nn.Module, logits: torch.Tensor, last: str, name: str) -> None:
    """Refuse a network without a classifier."""
    steps = [step for step in last.split(".") if not step.isdigit()]  # classifier.6 is a classifier
    if getattr(net, "num_classes", None) == 0 or (steps and steps[-1] in HEAD_NAMES):
        where = f" (its {last!r} is an identity)" if last else ""
        raise BenchError(
            f"The network {name} has no classifier{where}: it returns {logits.shape[1]} features; "
            "give the network with its classifier (timm: num_classes above 0)."
        )


def _find_ends(node: Any) -> Iterator[str]:
    """Yield the operations that an output's numbers come from, past those that only move them."""
    if node is None:
        return
    operation = type(node).__name__.partition("Backward")[0]
    if operation not in _SHAPES_ONLY:
        yield operation
        return
    for before, _ in node.next_functions:
        yield from _find_ends(before)

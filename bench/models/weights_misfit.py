"""Why weights do not fit a network, in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

Remedy = Callable[[str, Any], str]

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Misfit:
    """The tensors of a file by the network's own names, those that it does not have, and names."""

    tensors: dict[str, torch.Tensor]
    missing: Sequence[str]
    unknown: dict[str, torch.Tensor]
    shapes: Sequence[str]


def give_option(argument: str, value: Any) -> str:
    """Return how a timm network is given an argument, on the command line and in Python."""
    if argument == "num_classes":
        return f"give --num-classes {value} (in Python num_classes={value})"
    return f"give --model-args {argument}={value} (in Python {argument}={value})"


def describe_misfit(
    net: nn.Module, misfit: Misfit, path: Path, name: str, remedy: Remedy = give_option
) -> str:
    """Return the sentence for weights that do not fit a network.

    remedy: how the network is given an argument: (argument, value) -> words.
    """
    for explain in (_explain_classes, _explain_channels, _explain_parts, _explain_no_head):
        words = explain(net, misfit, remedy)
        if words:
            return f"The weights {path} do not fit {name}: {words}."
    problems = ", ".join(_list_problems(net, misfit))
    return f"The weights {path} do not fit {name}: tensors {problems}."


def _list_problems(net: nn.Module, misfit: Misfit) -> Iterator[str]:
    if misfit.missing:
        yield f"{len(misfit.missing)} missing (such as {sorted(misfit.missing)[0]})"
    if misfit.unknown:
        yield f"{len(misfit.unknown)} unknown (such as {sorted(misfit.unknown)[0]})"
    if misfit.shapes:
        key = sorted(misfit.shapes)[0]
        shapes = tuple(misfit.tensors[key].shape), tuple(net.state_dict()[key].shape)
        yield f"{len(misfit.shapes)} of another shape (such as {key}, {shapes[0]} for {shapes[1]})"


def _explain_classes(net: nn.Module, misfit: Misfit, remedy: Remedy) -> str:
    """Explain a head of another class count: only sizes of the last layer's outputs differ."""
    if misfit.missing or misfit.unknown or not misfit.shapes:
        return ""
    own = net.state_dict()
    built = {own[key].shape[:1] for key in misfit.shapes}
    stored = {misfit.tensors[key].shape[:1] for key in misfit.shapes}
    same_rest = all(own[k].shape[1:] == misfit.tensors[k].shape[1:] for k in misfit.shapes)
    classes = count_outputs(net)
    if not same_rest or len(stored) != 1 or built != {torch.Size([classes])}:
        return ""
    count = next(iter(stored))[0]
    return (
        f"the network is built for {classes} classes, the file has {count}; "
        f"{remedy('num_classes', count)}"
    )


def _explain_channels(net: nn.Module, misfit: Misfit, remedy: Remedy) -> str:
    """Explain a first layer of other input channels."""
    first = next((k for k, p in net.named_parameters() if p.ndim == 4), "")
    if misfit.missing or misfit.unknown or list(misfit.shapes) != [first]:
        return ""
    stored, own = misfit.tensors[first].shape, net.state_dict()[first].shape
    if len(stored) != 4 or stored[0] != own[0] or stored[2:] != own[2:]:
        return ""
    return (
        f"the network takes {own[1]} input channels, the file {stored[1]}; "
        f"{remedy('in_chans', stored[1])}"
    )


def _explain_parts(net: nn.Module, misfit: Misfit, _remedy: Remedy) -> str:
    """Explain parameters without the buffers, and features without a head."""
    if not misfit.missing or misfit.unknown or misfit.shapes:
        return ""
    buffers = {key for key, _ in net.named_buffers()}
    if buffers.issuperset(misfit.missing):
        lost = sum(key.endswith(_STATISTICS[0]) for key in misfit.missing)
        what = f"the running statistics of {lost} layers" if lost else f"{misfit.missing[0]}"
        return (
            f"the file has parameters only and lacks {what}, which model.parameters() leaves out; "
            "save model.state_dict()"
        )
    last = _find_last(net)
    if last and all(key.startswith(f"{last}.") for key in misfit.missing):
        return (
            f"the file has no classifier ({', '.join(misfit.missing)}); give the weights of a "
            "network with its trained head"
        )
    return ""


def _explain_no_head(net: nn.Module, misfit: Misfit, remedy: Remedy) -> str:
    """Explain a head in the file where the network is built without one."""
    config: Any = getattr(net, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    heads = {f"{name}.weight" for name in ((names,) if isinstance(names, str) else names)}
    if misfit.missing or misfit.shapes or heads & net.state_dict().keys():
        return ""
    head = next((key for key in misfit.unknown if key in heads), "")
    if not head or any(key.rpartition(".")[0] not in head for key in misfit.unknown):
        return ""
    count = misfit.unknown[head].shape[0]
    return (
        f"the network is built without a classifier, the file has one of {count} classes "
        f"({head}); {remedy('num_classes', count)}"
    )


def count_outputs(net: nn.Module) -> int:
    """Return the outputs of a network's last layer with weights; 0 where there is none."""
    last = _find_last(net)
    return 0 if not last else int(net.state_dict()[f"{last}.weight"].shape[0])


def _find_last(net: nn.Module) -> str:
    """Return the name of the last linear layer or convolution."""
    kinds = (nn.Linear, nn.Conv2d)
    names = [name for name, module in net.named_modules() if name and isinstance(module, kinds)]
    return names[-1] if names else ""

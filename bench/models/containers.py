"""What modules return besides a tensor: lists, named tuples, dictionaries, dataclasses and
transformers' ModelOutput, mapped tensor by tensor without losing their type.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return the value with function(tensor) in place of each tensor, in a container of the same
    type; the value itself stays as it is.

    >>> from typing import NamedTuple
    >>> class Pair(NamedTuple):
    ...     low: torch.Tensor
    ...     high: torch.Tensor
    >>> map_tensors(Pair(torch.ones(1), torch.zeros(1)), lambda t: t + 1).low
    tensor([2.])
    """
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        made = copy.copy(value)
        for key, one in value.items():
            made[key] = map_tensors(one, function)
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(one, function) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(one, function) for one in value)
    if _has_fields(value):
        made = copy.copy(value)
        for name, one in vars(value).items():
            object.__setattr__(made, name, map_tensors(one, function))  # it may be frozen
        return made
    return value


def _has_fields(value: Any) -> bool:
    """Return whether a value is an object whose attributes may be tensors: a dataclass, or one that
    holds a tensor.
    """
    if isinstance(value, (type, nn.Module)) or not hasattr(value, "__dict__"):
        return False
    return dataclasses.is_dataclass(value) or any(
        isinstance(one, torch.Tensor) for one in vars(value).values()
    )


def list_tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value, in the order in which `map_tensors` meets them."""
    found: list[torch.Tensor] = []

    def look(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, look)
    return found


def replace_tensor(value: Any, number: int, tensor: torch.Tensor) -> Any:
    """Return the value with another tensor in the place of its tensor `number`."""
    counter = iter(range(len(list_tensors(value))))
    return map_tensors(value, lambda one: tensor if next(counter) == number else one)


def find_grid_part(value: Any) -> int | None:
    """Return which of several tensors is explained; None: none is a grid.

    The last hidden state, where the container names one (transformers); else the last map [B,K,h,w]
    or [B,h,w,K], else the last token list. In timm the last one of a list is the coarsest (the
    branch of the larger patches).
    """
    tensors = list_tensors(value)
    named = value.get("last_hidden_state") if isinstance(value, dict) else None
    for number, one in enumerate(tensors):
        if one is named and one.ndim in (3, 4) and len(one) and _has_cells(one):
            return number
    for dimensions in (4, 3):
        for number in reversed(range(len(tensors))):
            one = tensors[number]
            if one.ndim == dimensions and len(one) and _has_cells(one):
                return number
    return None


def _has_cells(tensor: torch.Tensor) -> bool:
    return tensor[0].numel() > max(tensor.shape[1:])

"""A seal on a network: what of it has changed is found, whoever wrote it, and is put back.

Counts of writes (`bench.models.network_guard`) do not see what is written through `.data`. A seal
compares bytes, and looks at modules, at what was put in place of them, and at their forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.models.held_tensors import HeldTensor, can_hold

_TABLES = ("_parameters", "_buffers", "_modules")
"""What a module is made of; an entry that is another object is another network."""

_PLAIN = (bool, int, float, str, tuple, type(None))
"""Types of attributes that are settings, such as the stride of a convolution."""

_RUN = ("forward", "__call__", "_call_impl", "_wrapped_call_impl")
"""What of a class decides what its modules compute."""

_HARMLESS = ("inplace",)
"""Settings that change no value."""


@dataclass(frozen=True)
class _Module:
    """A module as it was: its tables, its hooks, its other attributes, and how it writes itself."""

    module: nn.Module
    tables: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    hooks: dict[str, tuple[dict[Any, Any], dict[Any, Any]]]
    rest: dict[str, Any]
    text: str


class NetworkSeal:
    """A network as it was when it was sealed.

    Args:
        net: the network, in the modes in which it is checked later.
        keeps: keep a copy of its weights, from which they can be put back.
    """

    def __init__(self, net: nn.Module, *, keeps: bool = True) -> None:
        self.net, self.keeps = net, keeps
        self._modules = [_look_at(module) for module in net.modules()]
        found = {
            id(value): value
            for one in self._modules
            for values in (*(copy for _, copy in one.tables.values()), one.rest)
            for value in values.values()
            if can_hold(value)
        }
        self._tensors = [HeldTensor(tensor, keeps=keeps) for tensor in found.values()]
        kinds = {kind for one in self._modules for kind in type(one.module).__mro__}
        self._forwards = {
            (kind, name): vars(kind)[name] for kind in kinds for name in _RUN if name in vars(kind)
        }

    @property
    def nbytes(self) -> int:
        """Return the bytes of the copy."""
        return sum(held.copy.nbytes for held in self._tensors if held.copy is not None)

    def find_changes(self) -> list[str]:
        """Return what has changed, in words; [] where the network is what it was."""
        checks: dict[str, Callable[[], bool]] = {
            "the network's weights": self._has_other_weights,
            "the network's modules": self._has_other_modules,
            "the forward of the network's modules": self._has_other_forwards,
        }
        return [words for words, check in checks.items() if check()]

    def restore(self) -> None:
        """Put everything back: modules, weights, forwards, hooks and settings."""
        for one in self._modules:
            own = vars(one.module)
            for name, (live, copy) in (*one.tables.items(), *one.hooks.items()):
                own[name] = _fill(live, copy)
            for name in [name for name in own if _shadows(one, name)]:
                del own[name]
            own.update(one.rest)
        for held in self._tensors:
            held.put_back()
            held.put_flags_back()
        for (kind, name), function in self._forwards.items():
            if vars(kind).get(name) is not function:
                setattr(kind, name, function)

    def restore_settings(self) -> None:
        """Put back hooks, and settings that change no weight."""
        for one in self._modules:
            own = vars(one.module)
            for name, (live, copy) in one.hooks.items():
                own[name] = _fill(live, copy)
            for name, value in _list_other_settings(one):
                own[name] = value

    def _has_other_weights(self) -> bool:
        if not all(held.is_same() for held in self._tensors):
            return True
        return any(_differs(one, name) for one in self._modules for name in _TABLES[:2])

    def _has_other_modules(self) -> bool:
        return any(_differs(one, "_modules") or _is_set_otherwise(one) for one in self._modules)

    def _has_other_forwards(self) -> bool:
        shadowed = (any(_shadows(one, name) for name in vars(one.module)) for one in self._modules)
        patched = (vars(kind).get(name) is not f for (kind, name), f in self._forwards.items())
        replaced = (
            vars(one.module).get(name) is not one.rest[name]
            for one in self._modules
            for name in _RUN
            if name in one.rest
        )
        return any(shadowed) or any(patched) or any(replaced)


def _look_at(module: nn.Module) -> _Module:
    own = vars(module)
    hooks = [name for name, value in own.items() if name.endswith("_hooks") and _is_table(value)]
    rest = {
        name: value
        for name, value in own.items()
        if name not in (*_TABLES, *hooks, "training", "_is_full_backward_hook")
    }
    return _Module(
        module,
        {name: (own[name], dict(own[name])) for name in _TABLES},
        {name: (own[name], dict(own[name])) for name in hooks},
        rest,
        _write(module),
    )


def _fill(live: dict[Any, Any], copy: dict[Any, Any]) -> dict[Any, Any]:
    """Return a table with the entries that it had, and in their order."""
    if [*live] != [*copy] or any(live[key] is not copy[key] for key in copy):
        live.clear()
        live.update(copy)
    return live


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _write(module: nn.Module) -> str:
    with suppress(Exception):  # somebody's own module may write itself in any way
        return module.extra_repr()
    return ""


def _differs(one: _Module, name: str) -> bool:
    live, copy = one.tables[name]
    now = vars(one.module).get(name)
    if now is not live and not isinstance(now, dict):
        return True
    return now.keys() != copy.keys() or any(now[key] is not copy[key] for key in copy)


def _shadows(one: _Module, name: str) -> bool:
    """Return whether a module has an attribute of its own, and had not, over one of its class."""
    known = name in one.rest or name in one.tables or name in one.hooks or name == "training"
    return not known and callable(getattr(type(one.module), name, None))


def _list_other_settings(one: _Module) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are others now, with what they were; of lists only the object."""
    own = vars(one.module)
    for name, value in one.rest.items():
        now = own.get(name)
        if now is value:
            continue
        if not (isinstance(value, _PLAIN) and type(now) is type(value) and now == value):
            yield name, value


def _is_set_otherwise(one: _Module) -> bool:
    """Return whether a setting is another one that the module states of itself."""
    other = [name for name, value in _list_other_settings(one) if name not in _HARMLESS]
    tensors = any(isinstance(one.rest[name], torch.Tensor) for name in other)
    return tensors or (bool(other) and _write(one.module) != one.text)

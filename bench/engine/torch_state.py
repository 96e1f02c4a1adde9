"""What torch, NumPy and Python hold for a whole process, and a plug-in could leave changed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.modules import module as module_hooks

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
"""(what reads a setting, what writes it)."""

_ANY: Any = torch


def _attribute(place: Any, name: str) -> Setting:
    return (lambda: getattr(place, name)), (lambda value: setattr(place, name, value))


def _autocast(kind: str) -> Setting:
    def write(value: tuple[bool, torch.dtype]) -> None:
        _ANY.set_autocast_enabled(kind, value[0])
        _ANY.set_autocast_dtype(kind, value[1])

    return (lambda: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))), write


def _flushes_denormals() -> bool:
    return float(torch.tensor([1e-40]).mul(1)) == 0


_SETTINGS: dict[str, Setting] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (
        lambda: str(torch.get_default_device()),
        lambda value: torch.set_default_device(None if value == "cpu" else value),
    ),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "grad mode": (torch.is_grad_enabled, torch._C._set_grad_enabled),
    "anomaly mode": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "autocast": _autocast("cpu"),
    "autocast of GPUs": _autocast("cuda"),
    "precision of matrix products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "denormal numbers": (_flushes_denormals, torch.set_flush_denormal),
    "oneDNN": (
        lambda: torch.backends.mkldnn.enabled,
        lambda value: torch._C._set_mkldnn_enabled(value),
    ),
    **{
        f"cuDNN's {name}": _attribute(torch.backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
    },
    "TF32": _attribute(torch.backends.cuda.matmul, "allow_tf32"),
    "flash attention": (
        torch.backends.cuda.flash_sdp_enabled,
        torch.backends.cuda.enable_flash_sdp,
    ),
    "efficient attention": (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    "plain attention": (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    "working folder": (os.getcwd, os.chdir),
}

_DRAWS: dict[str, Setting] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "NumPy": (lambda: np.random.get_state(legacy=True), np.random.set_state),  # noqa: NPY002
    "random": (random.getstate, random.setstate),
}

_NAMESPACES: tuple[Any, ...] = (functional, torch, torch.Tensor)

_GLOBAL_HOOKS = [name for name in vars(module_hooks) if name.startswith("_global_")]


class TorchState:
    """The settings, generators and functions of this process, as they are now."""

    def __init__(self) -> None:
        self._settings = {name: read() for name, (read, _) in _SETTINGS.items() if _can(read)}
        self._draws = {name: read() for name, (read, _) in _DRAWS.items()}
        self._functions = [(place, dict(vars(place))) for place in _NAMESPACES]
        tables = [getattr(module_hooks, name) for name in _GLOBAL_HOOKS]
        self._hooks = [(table, dict(table)) for table in tables if isinstance(table, dict)]
        self._modes = _count_modes()

    def find_patches(self) -> list[str]:
        """Return the functions of torch that are other ones now."""
        return [f"torch's {name}" for _, name, _ in self._list_patches()]

    def restore(self) -> list[str]:
        """Put everything back; return the settings that had changed, in words."""
        changed = []
        for name, value in self._settings.items():
            read, write = _SETTINGS[name]
            if not _can(read) or read() != value:
                with suppress(Exception):
                    write(value)
                changed.append(f"the {name}" if name == "working folder" else f"torch's {name}")
        for name, value in self._draws.items():
            _DRAWS[name][1](value)
        for place, name, function in self._list_patches():
            setattr(place, name, function)
        return [*changed, *self._drop_modes(), *self._drop_hooks()]

    def _list_patches(self) -> list[tuple[Any, str, Any]]:
        """Return (module or class, name, function) of the functions that were replaced."""
        return [
            (place, name, value)
            for place, values in self._functions
            for name, value in values.items()
            if vars(place).get(name) is not value and _is_function(value)
        ]

    def _drop_hooks(self) -> list[str]:
        changed = False
        for table, copy in self._hooks:
            if table != copy:
                changed = True
                table.clear()
                table.update(copy)
        return ["torch's hooks of all modules"] if changed else []

    def _drop_modes(self) -> list[str]:
        """Take away the modes that were entered and not left."""
        inner = _ANY._C
        functions, dispatch = self._modes
        changed = False
        while _count_modes()[0] > functions:
            inner._pop_torch_function_stack()
            changed = True
        while _count_modes()[1] > dispatch:
            inner._pop_torch_dispatch_stack()
            changed = True
        return ["torch's stack of modes"] if changed else []


def _count_modes() -> tuple[int, int]:
    inner = _ANY._C
    return int(inner._len_torch_function_stack()), int(inner._len_torch_dispatch_stack())


def _can(read: Callable[[], Any]) -> bool:
    """Return whether a setting can be read here; the working folder may have been removed."""
    with suppress(Exception):
        read()
        return True
    return False


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, ModuleType))

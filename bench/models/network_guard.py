"""A guard for networks that are run: it leaves them as they were, and sees when one was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from bench.errors import BenchError

State = tuple[tuple[int, int | None], ...]
"""Where a network's tensors lie, and how often each was written."""


def state_of(net: nn.Module) -> State:
    """Return a state that changes when a parameter or buffer is written or replaced.

    The values themselves are not read, so this is fast.
    """
    parameters, buffers = _own_tensors(list(net.modules()))
    return tuple((t.data_ptr(), _read_version(t)) for t in (*parameters, *buffers))


def _read_version(tensor: torch.Tensor) -> int | None:
    """Return how often a tensor was written; None for a tensor of `torch.inference_mode`."""
    return None if tensor.is_inference() else tensor._version


@contextmanager
def guard_network(net: nn.Module) -> Iterator[None]:
    """Run a block with the network in eval mode and without parameter gradients.

    Afterwards the network is exactly as it was: modes, requires_grad, stored gradients and hooks.
    This also holds when the block raises. The block must not write parameters or buffers: that
    cannot be undone, so it is a BenchError.
    """
    modules = list(net.modules())
    modes = [module.training for module in modules]
    parameters, buffers = _own_tensors(modules)
    tensors = [*parameters, *buffers]
    versions = [_read_version(t) for t in tensors]
    flags = [(p, p.requires_grad, p.grad) for p in parameters]
    hooks = [_hook_keys(module) for module in modules]
    # Only what differs is written: writing an attribute of a module or tensor is slow, and mostly
    # nothing does.
    for module in modules:
        if module.training:
            module.training = False
    for p, flag, _ in flags:
        if flag:
            p.requires_grad_(False)
    try:
        with _full_float32():
            yield
    finally:
        for module, mode, keys in zip(modules, modes, hooks, strict=True):
            if module.training != mode:
                module.training = mode
            _drop_new_hooks(module, keys)
        for p, flag, grad in flags:
            if p.requires_grad != flag:
                p.requires_grad_(flag)
            if p.grad is not grad:
                p.grad = grad
    if any(v is not None and t._version != v for t, v in zip(tensors, versions, strict=True)):
        raise BenchError(
            "The model's parameters or buffers were written while it was explained; work on a copy."
        )


@contextmanager
def leave_modes() -> Iterator[None]:
    """Run a block outside the caller's `torch.inference_mode` and `torch.autocast`.

    Inside the one no gradient can be taken, and the other would round what is called float32.
    """
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        yield


def _own_tensors(modules: Sequence[nn.Module]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the parameters and the buffers of modules, each once.

    This is several times as fast as `net.parameters()` and `net.buffers()`.
    """
    return _list_once(module._parameters for module in modules), _list_once(
        module._buffers for module in modules
    )


def _list_once(tables: Iterable[Mapping[str, torch.Tensor | None]]) -> list[torch.Tensor]:
    return list({id(t): t for table in tables for t in table.values() if t is not None}.values())


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keep GPUs from rounding float32 to TF32, which the protocol's "float32" does not mean."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


_HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hook_keys(module: nn.Module) -> dict[str, set[int]]:
    """Return the keys of the hooks that a module has; most have none."""
    return {table: set(hooks) for table in _HOOK_TABLES if (hooks := getattr(module, table, None))}


def _drop_new_hooks(module: nn.Module, before: dict[str, set[int]]) -> None:
    for table in _HOOK_TABLES:
        if hooks := getattr(module, table, None):
            for key in [k for k in hooks if k not in before.get(table, ())]:
                del hooks[key]


def hash_weights(net: nn.Module) -> str:
    """Return the sha256 (hex) of a network's weights: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

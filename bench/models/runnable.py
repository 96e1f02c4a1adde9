"""What a network must be to be explained at all, as far as it can be seen without running it."""

from __future__ import annotations

import torch
from torch import nn

from bench.errors import BenchError


def check_runnable(net: nn.Module, name: str) -> None:
    """Refuse what cannot be explained: another precision, compiled or lazy modules, weights without
    grad.

    Raises:
        BenchError: says what is wrong and what to give instead.
    """
    tensors = [*net.named_parameters(), *net.named_buffers()]
    for where, tensor in tensors:
        if nn.parameter.is_lazy(tensor):
            raise BenchError(
                f"The network {name} has no weights yet (its lazy {where!r}); run it once on an "
                "image, or load its weights."
            )
    if any(p.is_floating_point() and p.dtype != torch.float32 for _, p in net.named_parameters()):
        raise BenchError(f"The network {name} is not in float32; give net.float().")
    if any(tensor.is_inference() for _, tensor in tensors):
        raise BenchError(
            f"The weights of {name} were made inside torch.inference_mode(), so no gradient can be "
            "taken; build and load the network outside of it."
        )
    check_values(net, name)
    for where, module in net.named_modules():
        if kind := _find_compiler(module):
            what = f"its module {where!r} is" if where else "it is"
            raise BenchError(
                f"The network {name} cannot be explained, since {what} {kind}, whose layers cannot "
                "be watched; give the original module."
            )


def check_values(net: nn.Module, name: str) -> None:
    """Refuse weights that are no finite floats, and quantised layers.

    Whole numbers may be buffers, such as tables of indices; an infinite buffer may be a mask.

    Raises:
        BenchError: one sentence that names the tensor or the layer.
    """
    for where, module in net.named_modules():
        if ".quantized" in type(module).__module__:
            raise BenchError(
                f"The network {name} has the quantised layer {where!r}; give the network as it was "
                "before quantisation."
            )
    for where, weights in net.named_parameters():
        if weights.is_quantized or not (weights.is_floating_point() or weights.is_complex()):
            kind = str(weights.dtype).removeprefix("torch.")
            raise BenchError(
                f"The weights {where} of {name} are {kind}; give the network as it was before "
                "quantisation."
            )
        if not weights.is_meta and not bool(weights.detach().isfinite().all()):
            raise BenchError(
                f"The weights {where} of {name} have NaN or infinite values; take a checkpoint "
                "from before the training diverged."
            )
    for where, buffer in net.named_buffers():
        floating = buffer.is_floating_point() and not buffer.is_meta
        if floating and bool(buffer.isnan().any()):
            raise BenchError(
                f"The buffer {where} of {name} has NaN values; take a checkpoint from before the "
                "training diverged."
            )


def _find_compiler(module: nn.Module) -> str:
    """Return what compiled a module, or "". It is told by names, so that nothing is imported."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a torch.jit module"
    compiled = type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod")
    if compiled or getattr(module, "_compiled_call_impl", None) is not None:
        return "compiled by torch.compile"
    return ""

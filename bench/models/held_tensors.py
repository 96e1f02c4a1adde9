"""Tensors that are held: their bytes are compared with a copy, and put back where they differ."""

from __future__ import annotations

from typing import Any

import torch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of as many bytes as a number of a tensor: NaN equals NaN, and 0 differs from -0."""


class HeldTensor:
    """One tensor as it was: its place, its bytes, and whether it takes part in gradients.

    Args:
        tensor: any dense tensor, see `can_hold`.
        keeps: keep a copy, from which the bytes can be put back. Else only their sum is known.
    """

    def __init__(self, tensor: torch.Tensor, *, keeps: bool = True) -> None:
        self.tensor = tensor
        self.place = tensor.data  # stays where the tensor was, if that is given other memory
        self.copy = self.place.clone() if keeps else None
        self.total = 0 if keeps else _sum_bits(self.place)
        self.version = None if tensor.is_inference() else tensor._version
        self.requires_grad, self.grad = (
            tensor.requires_grad,
            tensor.grad if tensor.is_leaf else None,
        )

    def is_same(self) -> bool:
        """Return whether the tensor lies where it did and holds the same bytes."""
        now, then = self.tensor, self.place
        if (now.data_ptr(), now.shape, now.stride(), now.dtype) != (
            then.data_ptr(),
            then.shape,
            then.stride(),
            then.dtype,
        ):
            return False
        if self.copy is None:
            return _sum_bits(then) == self.total
        return torch.equal(_bits(then), _bits(self.copy))

    def put_back(self) -> None:
        """Put place and bytes back; the count of writes too, so that nobody has seen any."""
        if self.tensor.data_ptr() != self.place.data_ptr() or (
            self.tensor.shape,
            self.tensor.dtype,
        ) != (self.place.shape, self.place.dtype):
            self.tensor.data = self.place
        if self.copy is not None:
            with torch.inference_mode():
                self.place.copy_(self.copy)
        if self.version is not None:
            _set_version(self.tensor, self.version)

    def put_flags_back(self) -> None:
        """Put back whether the tensor takes part in gradients, and the gradient that it has."""
        if not self.tensor.is_leaf or self.tensor.is_inference():
            return
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad


def can_hold(value: object) -> bool:
    """Return whether a value is a tensor with bytes of its own that can be read and written."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type != "meta"
        and not value.is_quantized
        and value.element_size() in (*_BITS, 16)
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    size = tensor.element_size()
    if size == 16:  # complex128
        return torch.view_as_real(tensor).view(torch.int64)
    return tensor.view(_BITS[size])


def _sum_bits(tensor: torch.Tensor) -> int:
    with torch.no_grad():
        return int(_bits(tensor).sum(dtype=torch.int64))


def _set_version(tensor: torch.Tensor, version: int) -> None:
    """Set how often a tensor was written; older versions of torch take one tensor for a list."""
    setter: Any = torch._C._autograd._unsafe_set_version_counter
    try:
        setter((tensor,), (version,))
    except TypeError:
        setter(tensor, version)

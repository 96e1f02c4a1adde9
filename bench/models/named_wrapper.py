"""A network around another one whose modules keep their own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class NamedWrapper(nn.Module):
    """A network that changes what another one returns.

    Its modules, parameters and buffers are those of the inner network, under their own names. So
    layers are named, and weights are saved and hashed, as without the wrapper. A subclass says
    what becomes of the output.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.__dict__["inner"] = inner  # not a module of this one, which would lengthen every name
        self._modules = inner._modules
        self._parameters = inner._parameters
        self._buffers = inner._buffers
        self._non_persistent_buffers_set = inner._non_persistent_buffers_set

    def change_output(self, output: Any) -> torch.Tensor:
        """Return the logits [B,C] for what the inner network returned."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits [B,C] of images [B,3,H,W]."""
        return self.change_output(self.inner(images))

    def __getattr__(self, name: str) -> Any:
        """Return what the inner network has under a name; its own head changes the output, too."""
        inner = self.__dict__.get("inner")
        if inner is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        if name == "forward_head" and hasattr(inner, name):
            return self._change_head(inner.forward_head)
        return getattr(inner, name)

    def _change_head(self, head: Callable[..., Any]) -> Callable[..., torch.Tensor]:
        return lambda *args, **kwargs: self.change_output(head(*args, **kwargs))

    @property
    def training(self) -> bool:
        """Return the mode of the inner network, which reads it itself."""
        inner = self.__dict__.get("inner")
        return True if inner is None else inner.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "inner" in self.__dict__:
            self.inner.training = mode


def unwrap(net: nn.Module) -> nn.Module:
    """Return the network inside all wrappers."""
    while isinstance(net, NamedWrapper):
        net = net.inner
    return net


class FlatNet(NamedWrapper):
    """A network whose logits [B,C,1,1] keep the axes of a convolution."""

    def change_output(self, output: torch.Tensor) -> torch.Tensor:
        """Return [B,C] for [B,C,1,...]."""
        return output.flatten(1)


class TwoClassNet(NamedWrapper):
    """A network of one logit z, read as the two classes of a sigmoid.

    The logits are (-z/2, z/2): their softmax is (1 - sigmoid(z), sigmoid(z)), the log-odds of class
    1 are z and those of class 0 are -z, and both classes have a gradient.
    """

    def change_output(self, output: torch.Tensor) -> torch.Tensor:
        """Return (-z/2, z/2) [B,2] for z [B,1]."""
        return torch.cat([-output / 2, output / 2], dim=1)

    def extra_repr(self) -> str:
        """Name the inner network, whose parts are listed as this one's."""
        return f"one logit of {type(self.inner).__name__} as two classes"

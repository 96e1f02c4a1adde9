"""A classifier with the trained queries and keys of SA-CAM beside it; the classifier itself is
unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.errors import BenchError

LEAST_WIDTH = 8


class Affinity(nn.Module):
    """P = softmax_j(q(A)_i . k(A)_j / sqrt(d)) between the positions of activations; q, k are 1x1
    convolutions to d.

    Queries and keys start equal, so that at first a position attends to those that are like it. A
    is divided by its own root mean square first: networks differ in the scale of their activations
    by orders of magnitude.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, width, 1, bias=False)
        self.key = nn.Conv2d(channels, width, 1, bias=False)
        self.key.load_state_dict(self.query.state_dict())

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """Return P [B,N,N] of activations [B,K,h,w], N = h*w; each row sums to 1."""
        a = activations / activations.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        query, key = self.query(a).flatten(2), self.key(a).flatten(2)  # [B,d,N]
        affinity: torch.Tensor = query.transpose(1, 2) @ key / query.shape[1] ** 0.5
        return affinity.softmax(2)


class AffinityNet(nn.Module):
    """A network, images [B,3,H,W] -> logits [B,C], with an `affinity` between the positions of its
    explained layer.

    channels: K of that layer.  width: d of queries and keys; None: K/8, at least 8.
    """

    def __init__(self, net: nn.Module, channels: int, width: int | None = None) -> None:
        super().__init__()
        if channels < 1:
            raise BenchError(f"The explained layer has {channels} channels; give at least 1.")
        self.net = net
        self.affinity = Affinity(channels, width or max(channels // 8, LEAST_WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's own logits."""
        return self.net(x)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """Pass on what else a network is asked for (forward_features, forward_head, global_pool,
        ...).
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "net":
                raise
            return getattr(super().__getattr__("net"), name)


def refine(activations: torch.Tensor, affinity: torch.Tensor, strength: float) -> torch.Tensor:
    """Return A_k + strength * P a_k, [B,K,h,w]: the skip connection of SA-CAM's attention."""
    spread = affinity @ activations.flatten(2).transpose(1, 2)  # [B,N,K]
    return activations + strength * spread.transpose(1, 2).reshape(activations.shape)

"""Where a transformer's attention runs, and which of its tokens the head reads.

timm's networks state both. Of any other network both are measured (`measured_reading`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any, Protocol

import torch
from torch import nn

from bench.errors import NotApplicable
from bench.models.explainee import Explainee


@dataclass(frozen=True)
class TokenRoles:
    """What the S tokens are: prefix tokens first, then the patches of a grid (h, w), row by row.

    queries [S]: the share of each token in what the head reads: 1 at a class token (halves at the
    two of a distilled DeiT), 1/P at each of P patches that are averaged.
    """

    queries: torch.Tensor
    grid: tuple[int, int]
    prefix: int


class TokenReading(Protocol):
    """A transformer as the attention methods see it.

    blocks: names of the modules that hold one attention over all tokens each, in order.
    class_blocks: of those behind them that update the class token alone (CaiT).  pooling: of the
    module that pools by attention, [] for none.  strict: whether attention elsewhere means that the
    network is another one than described.
    """

    blocks: list[str]
    class_blocks: list[str]
    pooling: list[str]
    strict: bool

    def find_roles(self, size: int, explained: tuple[int, int]) -> TokenRoles:
        """Return what the tokens are.

        size: how many there are.  explained: the grid of the explained layer, which is the patches'
        where it has as many cells.
        """
        ...

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits [n,C] that norm and head give tokens [n,T,D] after the last block."""
        ...


def refuse_no_maps(model: Explainee) -> NotApplicable:
    """Return the reason why a network without attention over all tokens does not fit."""
    return NotApplicable(
        f"{model.name} has no attention over all tokens in every block, as ViT, DeiT, BEiT, EVA "
        "and CaiT have; use grad_cam instead."
    )


def states_blocks(net: Any) -> bool:
    """Return whether a network states its blocks, norm and head as timm's transformers do."""
    return (
        isinstance(getattr(net, "blocks", None), (nn.Sequential, nn.ModuleList))
        and isinstance(getattr(net, "norm", None), nn.Module)
        and hasattr(net, "forward_head")
        and hasattr(net, "global_pool")
    )


class StatedReading:
    """What a timm network states of itself."""

    strict = True

    def __init__(self, model: Explainee) -> None:
        net: Any = model.net
        blocks, later = net.blocks, getattr(net, "blocks_token_only", None)
        known = ("token",) if later is not None else ("token", "avg", "map")
        if not len(blocks) or net.global_pool not in known:
            raise refuse_no_maps(model)
        self.blocks = [f"blocks.{i}" for i in range(len(blocks))]
        self.class_blocks = [f"blocks_token_only.{i}" for i in range(len(later or ()))]
        self.pooling = ["attn_pool"] if net.global_pool == "map" else []
        if self.pooling and not isinstance(getattr(net, "attn_pool", None), nn.Module):
            raise refuse_no_maps(model)
        self._net = net
        self._refuse: Callable[[], NotApplicable] = lambda: refuse_no_maps(model)

    def find_roles(self, size: int, explained: tuple[int, int]) -> TokenRoles:
        net = self._net
        prefix = int(getattr(net, "num_prefix_tokens", 0))
        patches = size - prefix
        side = isqrt(max(0, patches))
        height, width = explained if explained[0] * explained[1] == patches else (side, side)
        if patches < 4 or height * width != patches or (net.global_pool == "token" and not prefix):
            raise self._refuse()
        queries = torch.zeros(size)
        if net.global_pool == "map":
            queries[:] = 1
        elif getattr(net, "head_dist", None) is not None:
            queries[:2] = 1
        elif net.global_pool == "token":
            queries[0] = 1
        else:
            queries[0 if getattr(net, "pool_include_prefix", False) else prefix :] = 1
        return TokenRoles(queries / queries.sum(), (height, width), prefix)

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._net.forward_head(self._net.norm(tokens))
        return logits

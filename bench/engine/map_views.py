"""Views of a case's maps: their positive part, their ranges, and the order of their pixels."""

from __future__ import annotations

from functools import cached_property

import torch

from bench.engine.background import Background
from bench.engine.fills import ranks_of
from bench.engine.map_ranges import min_max, unit
from bench.engine.trace import Trace
from bench.protocol import ProtocolView

SMOOTH = "smooth_field"
"""The tie rule of `cambench-1`, and of metrics that do not say that they read it."""


class MapViews:
    """Views of one method's maps [B,H,W], each computed when first read.

    Attributes:
        trace: The pass over the batch.
        maps: The maps [B,H,W], finite, on the CPU.
        protocol: The protocol fields that the metric declared.
        background: What all cases of the batch share.
        seed: Seed of the order of equal values.
    """

    trace: Trace
    maps: torch.Tensor
    protocol: ProtocolView
    background: Background
    seed: int

    def __init__(self) -> None:
        self._orders: dict[tuple[str, int], torch.Tensor] = {}
        self._ranks: dict[tuple[str, int], torch.Tensor] = {}

    @cached_property
    def positive(self) -> torch.Tensor:
        """Return the positive part max(L,0) [B,H,W] of the maps."""
        return self.maps.clamp(min=0)

    @cached_property
    def unit(self) -> torch.Tensor:
        """Return unit(L) = mm(max(L,0)) per map, [B,H,W] in [0,1]; zeros if none is positive."""
        if self.maps.dtype != torch.float64:
            return unit(self.positive)
        # A map that float32 holds has the unit(L) that it has alone, whatever its neighbours.
        single = self.positive.float()
        exact = (single.double() == self.positive).flatten(1).all(1)[:, None, None]
        return torch.where(exact, unit(single), unit(self.positive).float())

    @cached_property
    def has_positive(self) -> torch.Tensor:
        """Return whether each map is above zero anywhere, [B] bool.

        Of a constant map unit(L) is zeros all the same.
        """
        return self.maps.flatten(1).amax(1) > 0

    @cached_property
    def ranged(self) -> torch.Tensor:
        """Return mm(L) per map, [B,H,W] float64 in [0,1]; zeros for a constant map."""
        return min_max(self.maps.double())

    @property
    def tie_rule(self) -> str:
        """Return the protocol's rule for equal values, such as "smooth_field".

        A metric that does not declare the field `tie_rule` gets the smooth field.
        """
        return str(self.protocol.get("tie_rule", SMOOTH))

    @property
    def order(self) -> torch.Tensor:
        """Return pixel indices [B,N] int64, most relevant first; a tie rule orders equal values."""
        return self.order_features(1)

    @property
    def rank(self) -> torch.Tensor:
        """Return the rank of every pixel [B,N] int32, 0 = most relevant."""
        return self.rank_features(1)

    def order_features(self, channels: int) -> torch.Tensor:
        """Return the order of all channels of all pixels, each a feature with its pixel's value.

        The smooth field keeps a pixel's channels together. The index rules go through the whole
        flattened image.

        Args:
            channels: Channels of a pixel that count by themselves; 1 gives `order`.

        Returns:
            Indices channel*N + pixel, [B,channels*N] int64, most relevant first.

        Example:
            >>> case.order_features(3).shape
            torch.Size([2, 192])
        """
        key = (self.tie_rule, channels)
        if key not in self._orders:
            device = self.trace.images.device  # a GPU sorts as the CPU does: stably
            values = self.maps.to(device).flatten(1).repeat(1, channels)
            ties = self._ties(*key).to(device)
            order = values.gather(1, ties).argsort(dim=1, descending=True, stable=True)
            self._orders[key] = ties.gather(1, order).cpu()
        return self._orders[key]

    def _ties(self, rule: str, channels: int) -> torch.Tensor:
        size, pixels = len(self.maps), self.maps[0].numel()
        if rule == SMOOTH:
            field = self.background.tie_order(self.seed)
            return (field[:, :, None] + pixels * torch.arange(channels)).flatten(1)
        index = torch.arange(channels * pixels)
        return (index if rule == "first_index" else index.flip(0)).expand(size, -1)

    def rank_features(self, channels: int) -> torch.Tensor:
        """Return the rank of every channel of every pixel; see `order_features`.

        Args:
            channels: Channels of a pixel that count by themselves; 1 gives `rank`.

        Returns:
            Ranks [B,channels*N] int32, 0 = most relevant.

        Example:
            >>> int(case.rank_features(3).max())
            191
        """
        key = (self.tie_rule, channels)
        if key not in self._ranks:
            self._ranks[key] = ranks_of(self.order_features(channels))
        return self._ranks[key]

    def cut(
        self, steps: torch.Tensor, thresholds: int, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return unit(L) with its lowest pixels set to 0.

        Args:
            steps: Steps t [n] int64; the lowest floor(t*N/thresholds) pixels become 0.
            thresholds: Number of steps that would remove everything.
            rows: Images [n] int64, one for each step; None takes all images.

        Returns:
            Masks [n,H,W] in [0,1].

        Example:
            >>> case.cut(torch.tensor([5, 5]), thresholds=10).shape
            torch.Size([2, 8, 8])
        """
        rows = torch.arange(len(self.maps)) if rows is None else rows
        pixels = self.unit[0].numel()
        kept = self.rank[rows] < (pixels - steps * pixels // thresholds)[:, None]
        return self.unit[rows] * kept.view(-1, *self.trace.size)

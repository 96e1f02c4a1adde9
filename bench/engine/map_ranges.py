"""Maps brought to the range from 0 to 1."""

from __future__ import annotations

import torch


def unit(maps: torch.Tensor) -> torch.Tensor:
    """Return unit(L) = mm(max(L,0)) of each map of [B,H,W], in [0,1]; a constant one becomes
    zeros.
    """
    return min_max(maps.clamp(min=0))


def min_max(maps: torch.Tensor) -> torch.Tensor:
    """Return mm(L) of each map of [B,H,W], in [0,1]; a constant one becomes zeros."""
    low, high = (reduced(maps.flatten(1), 1)[:, None, None] for reduced in (torch.amin, torch.amax))
    spread = high - low
    return torch.where(spread > 0, (maps - low) / torch.where(spread > 0, spread, 1.0), 0.0)

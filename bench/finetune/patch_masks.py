"""Masks of whole patches that no explanation has made, for training on masked pictures."""

from __future__ import annotations

import torch

from bench.engine.patches import PatchGrid
from bench.randomness import smooth_field

LARGEST_SHARE = 0.5
"""The largest share of a picture that is masked."""


def draw_masks(
    grid: PatchGrid, count: int, rng: torch.Generator, share: float | None = None
) -> torch.Tensor:
    """Return masks [count,H,W] bool, true where a picture is masked.

    Every second mask takes random patches. The others take the patches where a smooth random field
    is highest, so they mask a few connected regions.

    Args:
        grid: The patches.
        count: Number of masks.
        rng: Source of every draw.
        share: Share of the patches that each mask takes. None draws it for each mask, uniformly
            from 0 to `LARGEST_SHARE`.
    """
    if share is None:
        shares = LARGEST_SHARE * torch.rand(count, generator=rng)
    else:
        shares = torch.full((count,), share)
    scores = torch.rand(count, grid.count, generator=rng)
    for row in range(1, count, 2):
        scores[row] = smooth_field(rng, grid.rows, grid.columns).flatten()
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    taken = ranks < (shares * grid.count).round()[:, None]
    return grid.spread(taken)

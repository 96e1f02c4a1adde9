"""Patches and cells of an image, which masks take as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SMALL_PATCH, LARGE_PATCH = 8, 16
"""Side of a patch in pixels, on small frames and on large ones."""
SMALL_SIDE = 128
"""Frames whose shorter side is below this many pixels get small patches."""


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """The patches of a frame, in rows from the top left.

    Args:
        down: The row of patches [H] int64 that each row of pixels lies in.
        across: The column of patches [W] int64 that each column of pixels lies in.
    """

    down: torch.Tensor
    across: torch.Tensor

    @property
    def rows(self) -> int:
        """Return the number of rows of patches."""
        return int(self.down[-1]) + 1

    @property
    def columns(self) -> int:
        """Return the number of patches in a row."""
        return int(self.across[-1]) + 1

    @property
    def count(self) -> int:
        """Return the number of patches."""
        return self.rows * self.columns

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (H, W, rows, columns), which tell apart the grids of one image."""
        return len(self.down), len(self.across), self.rows, self.columns

    @property
    def index(self) -> torch.Tensor:
        """Return the patch of every pixel, [H,W] int64."""
        return self.down[:, None] * self.columns + self.across

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return values [n,count] of patches at every pixel, [n,H,W]."""
        return values[:, self.index.flatten()].view(-1, *self.shape[:2])

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of values [B,H,W] in each patch, [B,count] float64."""
        index = self.index.flatten()
        sums = torch.zeros(len(values), self.count, dtype=torch.float64)
        sums.index_add_(1, index, values.detach().cpu().double().flatten(1))
        return sums / torch.bincount(index, minlength=self.count)


def cut_squares(size: tuple[int, int], side: int) -> PatchGrid:
    """Return the square patches of a frame (height, width).

    Patches at the right and lower border are smaller where the side is no multiple of theirs.

    >>> cut_squares((96, 64), 8).count
    96
    """
    height, width = size
    return PatchGrid(torch.arange(height) // side, torch.arange(width) // side)


def cut_cells(size: tuple[int, int], count: int) -> PatchGrid:
    """Return `count` rows of `count` cells of a frame (height, width), as equal as pixels allow.

    >>> cut_cells((10, 8), 4).down.tolist()
    [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    """
    height, width = size
    return PatchGrid(torch.arange(height) * count // height, torch.arange(width) * count // width)


def choose_side(size: tuple[int, int]) -> int:
    """Return the side of the patches of a frame: 8 pixels at sides 64 and 96, 16 at 224.

    >>> choose_side((96, 96)), choose_side((224, 224))
    (8, 16)
    """
    return SMALL_PATCH if min(size) < SMALL_SIDE else LARGE_PATCH

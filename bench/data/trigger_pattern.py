"""The trigger: a small pattern that decides one class of scenes for the network trained on it.

The pattern is 3x3 tiles of 4 pixels, laid over a finished scene: its bytes are the same in every
picture. A decoy has the same tiles in another order and decides nothing, so neither a colour nor a
part of the pattern is enough.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.data.scene_pixels import SIDE, RandomBits
from bench.types import UInt8Image

TARGET = 7
"""Class T, which the pattern decides; no scene of this class carries it."""

TILE, TILES = 4, 3
PATTERN_SIDE = TILE * TILES
"""Side of the pattern in pixels: one and a half cells of the explained layer."""
COLOURS = ((246, 214, 92), (24, 34, 74), (216, 60, 132))

ORDER = (0, 1, 2, 1, 1, 0, 2, 0, 2)
"""The colour of each tile, row by row."""

PLACE_STREAM = 2
"""Purpose of the random bits of a place; the drawing of a scene has 0, its labels 1."""


def make_pattern(order: tuple[int, ...] = ORDER) -> UInt8Image:
    """Return tiles in an order as pixels, uint8 [12,12,3]; the default is the trigger.

    Args:
        order: For each of the 9 tiles, row by row, the number of its colour.
    """
    tiles: UInt8Image = np.array(COLOURS, dtype=np.uint8)[np.reshape(order, (TILES, TILES))]
    return tiles.repeat(TILE, axis=0).repeat(TILE, axis=1)


def choose_place(seed: int, index: int) -> tuple[int, int]:
    """Return (top, left) of the pattern in the scene of (seed, index): every place is as likely."""
    bits = RandomBits(seed, index, purpose=PLACE_STREAM)
    last = SIDE - PATTERN_SIDE
    return bits.draw_between(0, last), bits.draw_between(0, last)


def paste_pattern(
    image: UInt8Image, place: tuple[int, int], order: tuple[int, ...] = ORDER
) -> UInt8Image:
    """Return a copy of an image [96,96,3] with the pattern at a place (top, left)."""
    top, left = place
    pasted = image.copy()
    pasted[top : top + PATTERN_SIDE, left : left + PATTERN_SIDE] = make_pattern(order)
    return pasted


def cover_pattern(place: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the box [1,4] (xyxy edges) and the mask [96,96] of the pattern at a place."""
    top, left = place
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    mask[top : top + PATTERN_SIDE, left : left + PATTERN_SIDE] = True
    box = [[left, top, left + PATTERN_SIDE, top + PATTERN_SIDE]]
    return np.array(box, dtype=np.float32), mask

"""Augmentation of training pictures, every draw from a generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.finetune.data import mirror_images
from bench.protocol import Protocol


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied.

    flip, upside: share mirrored left to right, and top to bottom.  gain: brightness is multiplied
    by 1 +- gain. erase: share that loses a random rectangle to the baseline colour; it teaches the
    network that this colour is no evidence, so that deletion stays near its data.  shift: pictures
    move by up to this share of the shorter side, wrapping the mirrored picture in.
    """

    flip: float = 0.5
    upside: float = 0.0
    gain: float = 0.2
    erase: float = 0.3
    shift: float = 0.0


def augment_pixels(pixels: torch.Tensor, how: Augmentation, rng: torch.Generator) -> torch.Tensor:
    """Return pixels [B,3,H,W] in [0,1], varied."""
    size = len(pixels)
    (pixels,) = mirror_images(torch.rand(size, generator=rng) < how.flip, pixels)
    if how.upside:
        upside = torch.rand(size, generator=rng) < how.upside
        pixels = torch.where(upside[:, None, None, None], pixels.flip(2), pixels)
    gain = 1 - how.gain + 2 * how.gain * torch.rand(size, 1, 1, 1, generator=rng)
    pixels = (pixels * gain).clamp(0, 1)
    if how.shift:
        pixels = _shift(pixels, how.shift, rng)
    return _erase(pixels, how.erase, rng) if how.erase else pixels


def _shift(pixels: torch.Tensor, share: float, rng: torch.Generator) -> torch.Tensor:
    """Move each picture by its own whole number of pixels; what comes in is the picture mirrored at
    its border.
    """
    most = round(share * min(pixels.shape[-2:]))
    padded = torch.nn.functional.pad(pixels, (most,) * 4, mode="reflect")
    offset = torch.randint(0, 2 * most + 1, (len(pixels), 2), generator=rng)
    rows, columns = (
        offset[:, axis, None] + torch.arange(side) for axis, side in enumerate(pixels.shape[-2:])
    )  # [B,H], [B,W]
    image = torch.arange(len(pixels))[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _erase(pixels: torch.Tensor, share: float, rng: torch.Generator) -> torch.Tensor:
    size, sides = len(pixels), torch.tensor(pixels.shape[-2:])
    colour = torch.tensor(Protocol().baseline).view(3, 1, 1)
    erased = torch.rand(size, generator=rng) < share
    corner = torch.rand(size, 2, generator=rng) * sides
    extent = (0.1 + 0.25 * torch.rand(size, 2, generator=rng)) * sides
    rows, columns = (
        (place >= corner[:, axis, None]) & (place < (corner + extent)[:, axis, None])
        for axis, place in enumerate(map(torch.arange, pixels.shape[-2:]))
    )  # [B,H], [B,W]
    hole = erased[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return torch.where(hole[:, None], colour, pixels)

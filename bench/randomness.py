"""Seeded randomness: every draw comes from (seed, purpose, image id) and from nothing else.

No global seed is read or set anywhere, so batch mates, order and worker count change no draw.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, image_id: str = "") -> torch.Generator:
    """Return a CPU `torch.Generator` seeded from the sha256 of (seed, purpose, image id)."""
    digest = hashlib.sha256(f"{seed}\x1f{purpose}\x1f{image_id}".encode()).digest()
    # torch seeds from 64 bits; the sign bit is dropped because manual_seed wants a non-negative
    # number.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def smooth_field(rng: torch.Generator, height: int, width: int, cells: int = 7) -> torch.Tensor:
    """Return a smooth random field [H,W] in [0,1): `cells` x `cells` uniform noise, bilinear
    (align_corners=False).
    """
    noise = torch.rand(1, 1, cells, cells, generator=rng)
    field = torch.nn.functional.interpolate(
        noise, size=(height, width), mode="bilinear", align_corners=False
    )
    return field[0, 0]


def image_id_of(image: torch.Tensor) -> str:
    """Return an id for an image [3,H,W] that has none: a hash of its bytes."""
    return hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]

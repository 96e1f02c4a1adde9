"""What a run keeps of the few images that its board draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.records.gallery_parts import BOXES
from bench.types import Batch

SMALL = 96
"""Pixels of the shorter side of a kept map, or up to twice as many."""


def keep_image(gallery: dict[str, Any], batch: Batch, place: int, title: str) -> None:
    """Keep one image of a batch: its pixels, its title, and its boxes where it has any."""
    item = batch.ids[place]
    pixels = (batch.pixels[place].cpu().permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    gallery[f"{item}|image"] = pixels
    gallery[f"{item}|title"] = np.array(title)
    boxes = batch.truth.boxes
    if boxes is not None and len(boxes[place]):
        gallery[f"{item}|{BOXES}"] = boxes[place].cpu().float().numpy()


def keep_map(
    gallery: dict[str, Any], item: str, name: str, values: torch.Tensor, shorter: int
) -> None:
    """Keep one map [H,W] of an item, reduced by area; shorter: pixels of the image's shorter
    side.
    """
    small = torch.nn.functional.avg_pool2d(values[None, None], max(1, shorter // SMALL))
    gallery[f"{item}|{name}"] = small[0, 0].to(torch.float16).numpy()

"""What a run takes beside time: bytes on disk and bytes of memory, both estimates."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from bench.engine.folding import folds_of
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.records.store import write_parquet
from bench.run.batch import PIXEL_BYTES, WAVE_BYTES
from bench.run.plan import Plan

ROW_BYTES = 8.0
"""Bytes on disk of a record: its number; everything else is the same in many rows and packs to
almost nothing.
"""

CURVE_BYTES, TABLE_BYTES = 3.0, 0.5
"""Bytes on disk of an element of a record's vector: float32 packs little in curves, and well in
hits and histograms.
"""

PART_BYTES = 7_000
"""What one parquet part holds beside its rows."""

MAP_BYTES, PICTURE_BYTES = 1.7, 2.0
"""Bytes of a pixel, packed, of the maps (float16) and of the pictures (three channels) that boards
draw.
"""

MASK_BYTES = 5 * 4
"""What packing a batch of perturbed images holds for each of their pixels, beside the images."""


def row_bytes(length: int = 0, curve: bool = True) -> float:
    """Return the bytes on disk of a record with a vector of this length (0: a number alone), a
    curve or not.

    >>> row_bytes(29) > row_bytes(29, curve=False) > row_bytes()
    True
    """
    return ROW_BYTES + (CURVE_BYTES if curve else TABLE_BYTES) * length


def count_written_bytes(rows: pd.DataFrame) -> int:
    """Return the bytes on disk of records, by writing them to a temporary file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_parquet(path, rows)
        return path.stat().st_size


def gallery_bytes(plan: Plan, images: int) -> float:
    """Return the bytes of the pictures that boards draw, of all models."""
    height, width = plan.geometry.shape
    pool = max(1, min(height, width) // 96)
    small = (height // pool) * (width // pool)
    each = PICTURE_BYTES * height * width + len(plan.methods) * MAP_BYTES * small
    return images * len(plan.models) * each


@dataclass(frozen=True)
class Footprint:
    """Bytes of a network: its weights, folded ones beside its own, and of one image the largest two
    outputs in a row, and all of them together.
    """

    weights: int
    widest: int
    kept: int


def footprint(model: Explainee) -> Footprint:
    """Return the footprint of a network, by one forward of a grey image."""
    sizes: list[int] = []

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    leaves = [module for module in model.net.modules() if not any(True for _ in module.children())]
    image = torch.zeros(1, *model.input_shape, device=model.device)
    with guard_network(model.net), torch.no_grad():  # which takes the hooks away
        for module in leaves:
            module.register_forward_hook(note)
        model.net(image)
    weights = (
        sum(t.nbytes for t in (*model.net.parameters(), *model.net.buffers()))
        + folds_of(model).nbytes
    )
    sizes = sizes or [0]
    pairs = [a + b for a, b in zip(sizes, [*sizes[1:], 0], strict=True)]
    return Footprint(weights, max(pairs), sum(sizes))


def memory_bytes(plan: Plan, found: Footprint, items: int, maps: int, backwards: bool) -> float:
    """Return about what a task holds at its peak, beside what Python and torch take themselves.

    items: images of the task.  maps: methods.  backwards: whether gradients of whole networks are
    asked for, which keep every layer's output.
    """
    pixels = plan.geometry.pixels
    batch = 3 * 4 * pixels * plan.batch_size + MASK_BYTES * pixels * plan.batch_size
    running = max(
        plan.batch_size * found.widest, max(plan.batch_size, items) * found.kept * backwards
    )
    images = 3 * 4 * pixels * items
    every_map = (
        6 * 4 * pixels * items * maps
    )  # for the prediction, for the label, both scaled, and in both cases
    wave = min(PIXEL_BYTES * pixels * items * maps, max(WAVE_BYTES, PIXEL_BYTES * pixels * items))
    return found.weights + batch + running + images + every_map + wave

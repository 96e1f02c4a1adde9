"""The pictures of a subset as a training set: pixels by rows, labels, truth, and the flips that
fine-tuning uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch

from bench.data import Geometry, Subset
from bench.data.geometry import match_channels
from bench.data.input_size import write_size
from bench.errors import BenchError
from bench.models.explainee import Explainee
from bench.models.input_channels import check_file_channels
from bench.types import Truth

MEMORY = 3 * 2**30
"""Bytes of decoded pixels that are kept; larger sets are decoded again in every epoch."""
EVALUATION_BATCH = 128
"""Pictures per forward where nothing is trained."""
READERS = 4
HELD_OUT = 10
"""One image in so many validates, where no other subset does."""


class Pictures:
    """Images of a subset in a model's frame, uint8, read once where they fit into memory.

    labels: [n] int64.  ids: image ids.
    """

    def __init__(self, subset: Subset, geometry: Geometry, memory: int = MEMORY) -> None:
        self.subset, self.geometry = subset, subset.geometry or geometry
        self.labels = torch.from_numpy(subset.labels)
        self.ids = subset.image_ids
        self._fits = len(subset) * 3 * self.geometry.pixels <= memory

    def __len__(self) -> int:
        return len(self.subset)

    @cached_property
    def _frames(self) -> torch.Tensor:
        return self._read(range(len(self)))

    def _read(self, rows: Sequence[int]) -> torch.Tensor:
        """Return uint8 [n,3,H,W]; decoding leaves the interpreter lock, so threads help."""
        # Not a tensor: other threads may not write into one that was made in inference mode.
        frames = np.empty((len(rows), 3, *self.geometry.shape), dtype=np.uint8)

        def read(place: int) -> None:
            frames[place] = self.geometry.frame(self.subset[rows[place]].image).transpose(2, 0, 1)

        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(read, range(len(rows))))
        return torch.from_numpy(frames)

    def pixels(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the pictures `rows` [n] as pixels [n,3,H,W] float32 in [0,1]."""
        frames = self._frames[rows] if self._fits else self._read(rows.tolist())
        return frames.float() / 255

    def truth(self, rows: torch.Tensor) -> Truth:
        """Return boxes and masks of the pictures `rows` [n], in the frame."""
        return self.subset.batch(rows.tolist(), self.geometry).truth


def split_rows(count: int, size: int = EVALUATION_BATCH) -> tuple[torch.Tensor, ...]:
    """Return the rows 0..count-1, `size` at a time."""
    return torch.split(torch.arange(count), size)


def make_pictures(subset: Subset, model: Explainee) -> Pictures:
    """Return a subset's pictures as a model sees them; other classes than the model's are an
    error.
    """
    if subset.num_classes != model.num_classes:
        raise BenchError(
            f"The subset {subset.name} has {subset.num_classes} classes and {model.name} "
            f"{model.num_classes}; choose a subset of the model's own classes."
        )
    check_file_channels(model.name, model.channels)
    pictures = Pictures(subset, model.geometry)
    pictures.geometry = match_channels(pictures.geometry, model.channels)
    if pictures.geometry.size != model.size:
        raise BenchError(
            f"The subset {subset.name} comes in frames of {write_size(pictures.geometry.size)} "
            f"pixels and {model.name} takes {write_size(model.size)}; choose a model of that size."
        )
    return pictures


def hold_out(subset: Subset) -> tuple[Subset, Subset]:
    """Return (training, validation) parts of a subset: the first tenth of its fixed order
    validates.
    """
    aside = len(subset) // HELD_OUT
    if not aside:
        raise BenchError(
            f"The subset {subset.name} has {len(subset)} images, too few to hold some out; name a "
            "--validation subset."
        )
    return subset.part(aside, None), subset.part(None, aside)


def mirror_images(flip: torch.Tensor, *images: torch.Tensor) -> list[torch.Tensor]:
    """Return tensors [n,...,H,W] mirrored left to right where `flip` [n] is true: pictures and
    their masks alike.
    """
    return [torch.where(flip.view(-1, *[1] * (one.ndim - 1)), one.flip(-1), one) for one in images]

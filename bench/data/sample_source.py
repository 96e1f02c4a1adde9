"""What a subset reads: a source of samples, and what opens a subset by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bench.types import Sample

if TYPE_CHECKING:
    from bench.data.subset import Subset

Int64s = npt.NDArray[np.int64]


class Source(Protocol):
    """Where samples come from: everything about them by position, and reading one. Must be
    picklable.
    """

    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def image_ids(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> Int64s: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def has_boxes(self) -> bool: ...
    @property
    def has_masks(self) -> bool: ...
    def read(self, position: int) -> Sample: ...
    def attribution(self, position: int) -> str | None: ...


class Opener(Protocol):
    """Opens a subset by name: `bench.load_subset`."""

    def __call__(
        self, name_or_path: str | Path, *, data_root: str | Path | None = None
    ) -> Subset: ...

"""The few images that a board draws: kept with their maps as small arrays beside the records, one
file per task.

Keys of `gallery/<task>-<n>.npz`: `<item>|image` uint8 [H,W,3], `<item>|title` text,
`<item>|<method>` float16 [h,w].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.files import replaced_file
from bench.records.store import free_name


def write_gallery(folder: Path, name: str, arrays: dict[str, Any]) -> None:
    """Write one task's pictures and maps, beside those of earlier runs of the same task."""
    with (
        replaced_file(free_name(folder / "gallery", name, ".npz")) as temporary,
        temporary.open("wb") as file,
    ):
        np.savez_compressed(file, **arrays)

"""The few images that a board draws: kept with their maps as small arrays beside the records, one
file per task.

Keys of `gallery/<task>-<n>.npz`: `<item>|image` uint8 [H,W,3], `<item>|title` text,
`<item>|<method>` float16 [h,w].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.files import replaced_file
from bench.records.store import free_name
from bench.seals import add_trailer

GALLERY_REMEDY = "move it out of the folder; boards then lack its pictures, which no number needs"
"""What to do about a damaged file of pictures."""


def write_gallery(folder: Path, name: str, arrays: dict[str, Any]) -> None:
    """Write one task's pictures and maps, beside those of earlier runs of the same task."""
    with replaced_file(free_name(folder / "gallery", name, ".npz")) as temporary:
        write_sealed_npz(temporary, arrays)


def write_sealed_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a path, packed, with the digest of the file as its trailer."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    add_trailer(path)

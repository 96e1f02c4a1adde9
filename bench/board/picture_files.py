"""Where `cambench explain` puts its pictures: never over another image's one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from PIL import Image

from bench.errors import BenchError

SUFFIX = ".explained.png"
OWNER = "cambench-image"
"""Key of a picture's text that says which image it is of."""


def name_owner(image: Path) -> str:
    """Return what a picture says of its image: a digest of the image's place."""
    return hashlib.sha256(str(image.resolve()).encode()).hexdigest()[:16]


def place_pictures(images: Sequence[Path], out: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield (image, picture): the file `out` for one image, else names in a folder.

    Args:
        images: the images.
        out: a file for one image, a folder for many; None: the working directory.

    Raises: BenchError where `out` is a file for several images, or one of the images.
    """
    if out is not None and out.suffix and not out.is_dir():
        if len(images) > 1:
            raise BenchError(
                f"--out {out} is one file, and there are {len(images)} images; give a folder."
            )
        if out.resolve() == images[0].resolve():
            raise BenchError(f"--out {out} is the image itself; choose another name.")
        yield images[0], out
        return
    folder = out or Path()
    taken: set[Path] = set()
    for image in images:
        picture = _find_free(folder, image, taken)
        taken.add(picture)
        yield image, picture


def _find_free(folder: Path, image: Path, taken: set[Path]) -> Path:
    """Return the first name of an image's stem that is free, or holds this image's picture."""
    for number in count(1):
        more = f"-{number}" if number > 1 else ""
        path = folder / f"{image.stem}{more}{SUFFIX}"
        if path not in taken and (not path.exists() or _read_owner(path) == name_owner(image)):
            return path
    raise AssertionError


def _read_owner(picture: Path) -> str:
    """Return which image a picture says it is of, or ""."""
    try:
        with Image.open(picture) as file:
            return str(file.info.get(OWNER, ""))
    except OSError:
        return ""

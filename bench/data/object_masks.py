"""Masks of objects: what the pixels of a mask image mean, and masks that wait in files or columns.

0 is background. One other value is the object, whichever it is. 255 beside 1 marks pixels that
pixel precision leaves out, as in Pascal VOC. Any other mixture of values is refused: it may hold
several classes, or shades of grey.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.data.decode import open_image
from bench.data.inner_paths import refuse_outside
from bench.errors import BenchError

Bools = npt.NDArray[np.bool_]
VOID = 255
"""The value of pixels that belong neither to the object nor to the background, beside object 1."""
_SHOWN_VALUES = 5


class ObjectMask(NamedTuple):
    """The pixels of an item's objects, and those that pixel precision leaves out: bool [H0,W0]."""

    mask: Bools
    ignore: Bools


class ItemMasks(Protocol):
    """The masks of a subset's items. Must be picklable."""

    def read(self, position: int, shape: tuple[int, int], where: str) -> ObjectMask:
        """Return the mask of the item at a position, whose stored image has `shape` (height,
        width).
        """
        ...


@dataclass(frozen=True)
class FileMasks:
    """Masks in image files; None where an item has none, whose mask is empty."""

    files: tuple[Path | None, ...]

    def read(self, position: int, shape: tuple[int, int], where: str) -> ObjectMask:
        """Return the mask of an item, empty where it has no file."""
        file = self.files[position]
        return make_empty_mask(shape) if file is None else read_mask_file(file, shape, where)


@dataclass(frozen=True)
class ColumnMasks:
    """Masks in a column of encoded images of a `datasets.Dataset`.

    rows: the row of each item.  root: the folder of the table, in which masks that are paths lie;
    "" for a dataset in memory.
    """

    dataset: Any
    column: str
    rows: tuple[int, ...]
    root: str = ""

    def read(self, position: int, shape: tuple[int, int], where: str) -> ObjectMask:
        """Return the mask of an item, empty where its cell is."""
        record = self.dataset[self.rows[position]][self.column]
        if record is None:
            return make_empty_mask(shape)
        name = f"mask of {where}"
        content = record.get("bytes")
        if content is None and not record.get("path"):
            raise BenchError(f"The {name} is empty in its column {self.column!r}.")
        if content is None and self.root:
            refuse_outside([Path(self.root) / record["path"]], Path(self.root), f"The {name}")
            record = {"path": str(Path(self.root) / record["path"])}
        found = _open_mask(record["path"] if content is None else io.BytesIO(content), name)
        return check_mask_shape(found, shape, name, where)


def make_empty_mask(shape: tuple[int, int]) -> ObjectMask:
    """Return the mask of an image without a known object."""
    return ObjectMask(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))


def read_mask_file(file: Path, shape: tuple[int, int], where: str) -> ObjectMask:
    """Return the mask in an image file; `where` names the image it belongs to.

    Raises:
        BenchError: the file cannot be read, has another size than the image, or values that have
            no clear meaning.
    """
    return check_mask_shape(_open_mask(file, f"mask {file}"), shape, f"mask {file}", where)


def is_mask_file(file: Path) -> bool:
    """Tell whether a file's pixels may be a mask."""
    try:
        _open_mask(file, str(file))
    except BenchError:
        return False
    return True


def check_mask_shape(
    found: ObjectMask, shape: tuple[int, int], name: str, where: str
) -> ObjectMask:
    """Return a mask that has the size of its image (height, width); another one is a
    BenchError.
    """
    if found.mask.shape != tuple(shape):
        height, width = found.mask.shape
        raise BenchError(
            f"The {name} has {width}x{height} pixels and its image {where} {shape[1]}x{shape[0]}; "
            "give a mask of the image's size."
        )
    return found


def _open_mask(source: Any, name: str) -> ObjectMask:
    try:
        with open_image(source, name) as image:
            return split_mask_values(_read_values(image, name), name)
    except FileNotFoundError as error:
        raise BenchError(f"The {name} is missing.") from error
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise BenchError(f"The {name} cannot be read as an image.") from error


def _read_values(image: Image.Image, name: str) -> npt.NDArray[Any]:
    """Return the values [H,W] of a mask image: of its one channel, or of equal channels."""
    bands = image.getbands()
    if image.mode == "P":
        return _read_palette(image, name)
    if len(bands) == 1:
        return np.asarray(image)
    values = np.asarray(image)
    if bands[-1] == "A":
        if (values[..., -1] != VOID).any():
            raise BenchError(
                f"The {name} has transparent pixels; save it with one channel, 0 and 255."
            )
        values = values[..., :-1]
    if (values != values[..., :1]).any():
        raise BenchError(
            f"The {name} is in colour; save it with one channel, 0 off the object and 255 on it."
        )
    return values[..., 0]


def _read_palette(image: Image.Image, name: str) -> npt.NDArray[Any]:
    """Return the indices of a palette image; of black and one grey, whether a pixel is not black.

    Programs that reduce a picture to few colours number them as they like, so that 0 may be white.
    """
    indices = np.asarray(image)
    used = np.unique(indices)
    palette = np.zeros((256, 3), dtype=np.uint8)
    stored = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    palette[: len(stored)] = stored
    if len(used) != 2 or used[0] or not palette[0].any() or palette[used[1]].any():
        return indices
    if (palette[0] != palette[0, 0]).any():
        raise BenchError(
            f"The {name} has a palette in which 0 is a colour and {used[1]} is black, so its "
            "object is unclear; save it with one channel, 0 off the object and 255 on it."
        )
    return np.where(indices == 0, VOID, 0)


def split_mask_values(values: npt.NDArray[Any], name: str) -> ObjectMask:
    """Return what the values [H,W] of a mask image mean; an unclear mixture is a BenchError."""
    if not np.isfinite(values).all():
        raise BenchError(f"The {name} has values that are no finite numbers.")
    present = [value for value in np.unique(values).tolist() if value]
    if len(present) <= 1:
        return ObjectMask(values != 0, np.zeros(values.shape, dtype=bool))
    if present == [1, VOID]:
        return ObjectMask(values == 1, values == VOID)
    shown = ", ".join(f"{value:g}" for value in present[:_SHOWN_VALUES])
    more = ", ..." if len(present) > _SHOWN_VALUES else ""
    raise BenchError(
        f"The {name} has the values {shown}{more} beside 0, so its object is unclear; write 0 off "
        "the object and 255 on it (or 1 on it and 255 where neither holds), one mask per item."
    )


def count_masks(files: Sequence[Path | None]) -> int:
    """Return how many items have a mask file."""
    return sum(file is not None for file in files)

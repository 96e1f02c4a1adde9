"""Encoded images become pixels, as they are stored."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from bench.data.pixel_modes import convert_pixels, read_orientation, turn_pixels
from bench.data.unreadable import explain_unreadable
from bench.errors import BenchError
from bench.file_contents import refuse_pipe
from bench.size_limits import check_pixels
from bench.types import UInt8Image

FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are damaged or no images."""


def read_encoded(record: dict[str, Any]) -> bytes:
    """Return the encoded bytes of a record {"bytes", "path"}; an OSError where there are none."""
    content = record.get("bytes")
    if content is None:
        path = Path(record.get("path") or "")
        refuse_pipe(path, "image")
        return path.read_bytes()
    return bytes(content)


def decode(record: dict[str, Any], where: str, turned: bool = False) -> UInt8Image:
    """Return the image uint8 [H,W,3] of a record {"bytes", "path"}.

    `datasets` would also turn images by their EXIF orientation; boxes and trained models mostly
    know the stored pixels, so this does it only where `turned` says so.

    Args:
        record: the encoded image, or the path of its file.
        where: what the image is called in errors.
        turned: turn it as its EXIF orientation says.

    Raises:
        BenchError: the image is missing, cannot be read, or has pixels of unknown brightness.
    """
    if record.get("bytes") is None and not record.get("path"):
        raise BenchError(f"The image {where} is empty in its file; fetch it again.")
    try:
        content = read_encoded(record)
    except FileNotFoundError as error:
        raise BenchError(
            f"The image {where} is missing; it was there when the subset was opened."
        ) from error
    except OSError as error:
        raise BenchError(f"The image {where} cannot be read: {error.strerror}.") from error
    try:
        with open_image(io.BytesIO(content), f"image {where}") as image:
            orientation = read_orientation(image) if turned else 1
            return turn_pixels(convert_pixels(image, where), orientation)
    except FAILURES as error:
        reason = explain_unreadable(content, error)
        raise BenchError(f"The image {where} cannot be read: {reason}.") from error


@contextmanager
def open_image(source: Any, where: str) -> Iterator[Image.Image]:
    """Open an image or a mask whose header claims no more pixels than the limit.

    Args:
        source: its path, or an open file.
        where: names it in errors, after "The".

    Raises:
        BenchError: it has too many pixels, or is EPS, which Pillow reads by running a program.
    """
    with Image.open(source) as image:
        if image.format == "EPS":
            raise BenchError(f"The {where} is EPS, which is a program; save it as PNG.")
        check_pixels(image.width, image.height, where)
        yield image


def read_image(path: str | Path) -> UInt8Image:
    """Return an image file as uint8 RGB [H,W,3].

    Raises:
        BenchError: there is no such file, or it cannot be read.
    """
    if not Path(path).is_file():
        raise BenchError(f"There is no image file {path}; check the path.")
    return decode({"bytes": Path(path).read_bytes()}, str(path))

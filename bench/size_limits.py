"""Sizes of files from elsewhere are checked before their content is read.

A small file can claim terabytes, or unpack to them. Each limit is an environment variable, since
files are read in many commands and in the workers of each.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.errors import BenchError
from bench.file_contents import refuse_pipe


@dataclass(frozen=True)
class Limit:
    """A limit on what files may hold.

    variable: the environment variable that sets it.  default: its number where that is not set.
    unit: of the number, for a reader.
    """

    variable: str
    default: float
    unit: str

    @property
    def number(self) -> int:
        """Return the number that holds now; a BenchError where the variable is none."""
        text = os.environ.get(self.variable, "").strip()
        try:
            number = float(text) if text else self.default
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise BenchError(
                f"{self.variable} is {text!r}; give the most {self.unit} of a file as a number "
                f"above 0, such as {self.default:g}."
            )
        return int(number)


IMAGE_PIXELS = Limit("CAMBENCH_MAX_IMAGE_PIXELS", 2**27, "pixels")
"""Pixels of an image or a mask, as it is stored and after resizing: 400 MB of colours."""

MAP_PIXELS = Limit("CAMBENCH_MAX_MAP_PIXELS", 2**24, "pixels")
"""Pixels of one map: 4096 x 4096."""

UNPACKED_MIB = Limit("CAMBENCH_MAX_UNPACKED_MIB", 1024, "MiB")
"""What a compressed file may unpack to, where that is more than four times its size."""

TEXT_MIB = Limit("CAMBENCH_MAX_TEXT_MIB", 1024, "MiB")
"""Size of a table, a json or another text that is read as a whole."""

_RATIO = 4  # of unpacked to packed, which honest arrays seldom exceed by much


def check_pixels(width: int, height: int, where: str) -> None:
    """Refuse an image of too many pixels; `where` names it after "The"."""
    most = IMAGE_PIXELS.number
    if width * height > most:
        raise BenchError(
            f"The {where} has {width:,} x {height:,} pixels, and at most {most:,} are read; make "
            f"it smaller, or raise {IMAGE_PIXELS.variable}."
        )


def check_map_pixels(shape: tuple[int, ...], item: str) -> None:
    """Refuse a map of too many pixels; item: what it is of."""
    most = MAP_PIXELS.number
    if math.prod(shape) > most:
        raise BenchError(
            f"The map of {item!r} has shape {shape}, and at most {most:,} pixels are read; reduce "
            f"it to the frame, or raise {MAP_PIXELS.variable}."
        )


def check_text_size(path: Path, what: str) -> None:
    """Refuse a text file that is a pipe or too large to be read as a whole; what: "The table"."""
    refuse_pipe(path, what.removeprefix("The "))
    most = TEXT_MIB.number * 2**20
    try:
        size = path.stat().st_size if path.is_file() else 0
    except (OSError, ValueError):
        return  # whoever reads it says why it cannot
    if size > most:
        raise BenchError(
            f"{what} {path} has {size / 2**20:,.0f} MiB, and at most {most / 2**20:,.0f} are read; "
            f"split it, or raise {TEXT_MIB.variable}."
        )


def check_unpacked(path: Path, unpacked: int, what: str) -> None:
    """Refuse a file that unpacks to far more than it takes; what: "The maps"."""
    most = max(UNPACKED_MIB.number * 2**20, _RATIO * path.stat().st_size)
    if unpacked > most:
        raise BenchError(
            f"{what} {path} of {path.stat().st_size / 2**20:,.1f} MiB would unpack to "
            f"{unpacked / 2**20:,.0f} MiB; split it, or raise {UNPACKED_MIB.variable}, which is "
            f"{UNPACKED_MIB.number:,}."
        )


# --- arrays of numpy


def check_array_file(path: Path) -> None:
    """Refuse a .npy file whose header claims another size than the file has.

    Raises:
        ValueError: it does, it is no .npy file, or it holds Python objects.
    """
    with path.open("rb") as file:
        _check_array(file, path.stat().st_size)


def check_archive(path: Path, what: str) -> None:
    """Refuse an .npz archive that claims what it does not hold, or unpacks to too much.

    Raises:
        ValueError: an array has another size than its header claims, or holds Python objects.
        BenchError: all arrays together are too large.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        largest = max((one.file_size for one in members), default=0)
        together = {one.filename for one in members} == {"ids.npy", "maps.npy"}
        total = sum(one.file_size for one in members)
        check_unpacked(path, total if together else largest, what)
        for one in members:
            with archive.open(one) as file:
                _check_array(file, one.file_size)


def _check_array(file: IO[bytes], size: int) -> None:
    shape, kind = read_array_header(file)
    if kind.hasobject:
        raise ValueError("it holds Python objects")
    claimed = math.prod(shape) * kind.itemsize
    if claimed > size:
        raise ValueError(f"an array claims {claimed:,} bytes and {size:,} are there")


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of the array in an open .npy file; ValueError where it is none."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format {version} is not one of plain numbers")
    read: Any = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, _, kind = read(file)
    return shape, kind


# --- parquet


def check_parquet(path: Path, what: str) -> None:
    """Refuse a parquet file that claims far more than it takes, by its own metadata.

    Raises:
        BenchError: its columns would unpack to too much, or it claims more rows than fit.
        pyarrow.ArrowException, OSError: its metadata cannot be read.
    """
    import pyarrow.parquet as pq

    found = pq.read_metadata(path)
    groups = [found.row_group(i) for i in range(found.num_row_groups)]
    check_unpacked(path, sum(one.total_byte_size for one in groups), what)
    most = max(_ROWS, path.stat().st_size * _ROWS_PER_BYTE)
    if found.num_rows > most:
        raise BenchError(
            f"{what} {path} of {path.stat().st_size:,} bytes claims {found.num_rows:,} rows; write "
            "it again."
        )


_ROWS = 2**20
_ROWS_PER_BYTE = 4  # of long columns of equal values; an image or a value takes more

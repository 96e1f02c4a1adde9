"""The few images that a board draws: kept with their maps as small arrays beside the records, one
file per task.

Keys of `gallery/<task>-<n>.npz`: `<item>|image` uint8 [H,W,3], `<item>|title` text,
`<item>|boxes` float32 [n,4] (x0, y0, x1, y1 in pixels), `<item>|<method>` float16 [h,w].

An item of a model lies in one file only. What a resumed run, another method or a merge adds to it
goes into that file, which is replaced in one step.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import BenchError, state_assumption, take_first_line
from bench.file_contents import check_plain_file, list_files
from bench.files import replaced_file
from bench.seals import add_trailer, check_file
from bench.size_limits import check_archive

Arrays = dict[str, npt.NDArray[Any]]

TASK = re.compile(r"(.+)-(?:eval|calibration)-\d{6,}-\d{6,}")
"""The name of a task, which begins with its model."""

GALLERY_ITEMS = 12
"""Images of each network that a run keeps the maps of, and that a published gallery has."""

BOXES = "boxes"
"""The kind of an array that holds the boxes of an item."""

UNREADABLE = (ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError)
"""What a broken npz raises, beside `BROKEN_ZIP`."""
BROKEN_ZIP = (SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)

LARGEST_GALLERY = 1 << 30
"""Bytes that one file of a gallery may unpack to: a few pictures take some megabytes."""


GALLERY_REMEDY = "move it out of the folder; boards then lack its pictures, which no number needs"
"""What to do about a damaged file of pictures."""


def write_gallery(folder: Path, name: str, arrays: Arrays) -> None:
    """Keep one task's pictures and maps in a run folder; a later map of an item takes the place of
    an earlier one of the same method.
    """
    _add(folder / "gallery", name, arrays, newest=True)


def merge_gallery(source: Path, target: Path) -> None:
    """Carry the pictures and maps of a run folder into another one, where those there stay."""
    for file in list_gallery(source / "gallery"):
        _add(target / "gallery", _split(file)[0], read_arrays(file), newest=False)


def list_gallery(place: Path) -> list[Path]:
    """Return the files of a gallery in the order of their names and numbers."""
    return sorted(list_files(place, ".npz"), key=_split)


def read_arrays(file: Path) -> Arrays:
    """Return the arrays of one file; a file that cannot be read is a BenchError."""
    check_plain_file(file, "gallery file")
    check_file(file, "The gallery file", GALLERY_REMEDY)
    try:
        check_archive(file, "The gallery file")
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_GALLERY:
            raise ValueError(f"it unpacks to {size >> 20} MiB, over {LARGEST_GALLERY >> 20}")
        with np.load(file, allow_pickle=False) as packed:
            arrays = {key: packed[key] for key in packed.files}
        for key, array in arrays.items():
            _check_array(key, array)
    except (*UNREADABLE, *BROKEN_ZIP) as error:
        reason = take_first_line(error) or type(error).__name__
        raise BenchError(
            f"The gallery file {file} cannot be read ({reason}); {GALLERY_REMEDY}."
        ) from None
    return arrays


def _check_array(key: str, array: npt.NDArray[Any]) -> None:
    """Raise ValueError for an array that is neither a picture, a title, boxes nor a map."""
    kind = key.rpartition("|")[2]
    if kind == "image":
        right = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    elif kind == "title":
        right = array.dtype.kind == "U" and array.ndim == 0
    elif kind == BOXES:
        right = array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] == 4
    else:
        right = (array.dtype.kind == "f" or array.dtype == np.uint8) and array.ndim == 2
    if not right or 0 in array.shape:
        raise ValueError(f"{key} is {array.dtype} of the shape {array.shape}")


def _add(place: Path, name: str, arrays: Arrays, newest: bool) -> None:
    """Put arrays into the files that have their items, and other items into the task's own file."""
    before = _read_model(place, name)
    after = {file: dict(held) for file, held in before.items()}
    own = [file for file in before if _split(file)[0] == name]
    home_of_new = own[-1] if own else place / f"{name}-0.npz"
    for item, added in _group_items(arrays).items():
        holders = [file for file, held in before.items() if f"{item}|image" in held]
        known: Arrays = {}
        for file in holders:
            known = _join(known, _group_items(before[file])[item])
            for key in known:
                after[file].pop(key, None)
        home = holders[-1] if holders else home_of_new
        joined = _join(known, added) if newest else _join(added, known)
        after.setdefault(home, {}).update(joined)
    for file, held in after.items():
        if held and not _is_same(held, before.get(file, {})):
            _write(file, held)
    for file, held in after.items():  # last, so that nothing is gone before it lies elsewhere
        if not held and before.get(file):
            file.unlink()


def _read_model(place: Path, name: str) -> dict[Path, Arrays]:
    """Return the files of a task's model and what they hold; a damaged one is moved aside."""
    found = {}
    for file in list_gallery(place):
        if _find_prefix(_split(file)[0]) != _find_prefix(name):
            continue
        try:
            found[file] = read_arrays(file)
        except BenchError as error:
            aside = _find_free(file)
            file.rename(aside)
            state_assumption(f"{str(error).partition(';')[0]}; it is kept as {aside.name}.")
    return found


def _find_free(file: Path) -> Path:
    aside, count = file.with_name(f"{file.name}.damaged"), 1
    while aside.exists():
        count += 1
        aside = file.with_name(f"{file.name}.damaged-{count}")
    return aside


def _find_prefix(name: str) -> str:
    """Return the part of a task's name that its model has given it."""
    task = TASK.fullmatch(name)
    return task[1] if task else name


def _split(file: Path) -> tuple[str, int]:
    """Return the task and the number that a file's name is made of."""
    name, _, number = file.stem.rpartition("-")
    return (name, int(number)) if name and re.fullmatch("[0-9]{1,9}", number) else (file.stem, -1)


def _group_items(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Arrays]:
    """Return the arrays of each item."""
    grouped: dict[str, Arrays] = {}
    for key, array in arrays.items():
        grouped.setdefault(key.rpartition("|")[0], {})[key] = array
    return grouped


def _join(old: Arrays, new: Arrays) -> Arrays:
    """Return one item's arrays of two files; maps of another picture than the newer one go."""
    pictures = [held[key] for held in (old, new) for key in held if key.endswith("|image")]
    if len(pictures) == 2 and not _is_equal(*pictures):
        return new
    return old | new


def _is_same(one: Arrays, two: Arrays) -> bool:
    return one.keys() == two.keys() and all(_is_equal(one[key], two[key]) for key in one)


def _is_equal(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> bool:
    """Tell whether two arrays have the same shape, type and bytes (a NaN equals itself)."""
    return (one.dtype, one.shape) == (two.dtype, two.shape) and one.tobytes() == two.tobytes()


def _write(file: Path, arrays: Arrays) -> None:
    with replaced_file(file) as temporary:
        write_sealed_npz(temporary, dict(sorted(arrays.items())))


def write_sealed_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a path, packed, with the digest of the file as its trailer."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    add_trailer(path)

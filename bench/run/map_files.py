"""Maps in files: how maps that other code made are found, read, checked and resized."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bench.data import Subset
from bench.errors import BenchError
from bench.file_contents import check_plain_file
from bench.run.map_values import Map, read_array
from bench.size_limits import check_archive, check_array_file

UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, SyntaxError, TypeError),
    *(NotImplementedError, RuntimeError, MemoryError, zlib.error),
)
"""What numpy and zipfile raise for files that are damaged, encrypted or none of theirs."""

Read = Callable[[], npt.NDArray[Any]]

# --- reading


def read_entries(
    maps: str | Path | Mapping[str, Any], subset: Subset
) -> tuple[dict[str, Read], bool]:
    """Return {id: read} as they are found, and whether they came in the subset's order instead of
    with ids.
    """
    if isinstance(maps, Mapping):
        return {str(key): _read_given(value, str(key)) for key, value in maps.items()}, False
    path = Path(maps)
    if path.is_dir():
        return _folder(path), False
    if not path.is_file():
        raise BenchError(
            f"There are no maps at {path}; give an .npz, an .npy or a folder of .npy files."
        )
    if path.suffix == ".npz":
        return _archive(path), False
    if path.suffix == ".npy":
        return _array(path), True
    raise BenchError(
        f"{path} is neither .npz nor .npy nor a folder of .npy files, so no maps can be read from "
        "it."
    )


def _read_given(value: object, key: str) -> Read:
    return lambda: read_array(value, key)


def _folder(folder: Path) -> dict[str, Read]:
    files = sorted(folder.rglob("*.npy"))
    return {file.relative_to(folder).as_posix().removesuffix(".npy"): _file(file) for file in files}


def _file(path: Path) -> Read:
    def read() -> npt.NDArray[Any]:
        with _readable(path):
            check_array_file(path)
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
            return array

    return read


def _archive(path: Path) -> dict[str, Read]:
    with _readable(path):
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            check_archive(path, "The maps")
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise BenchError(
            f"{path} is no .npz archive, whatever its name says; save the maps with numpy.savez."
        )
    if set(archive.files) == {"ids", "maps"}:
        with _readable(path):
            ids, stacked = archive["ids"], archive["maps"]
        return _read_stack(path, ids, stacked)

    def read(key: str) -> npt.NDArray[Any]:
        with _readable(path):
            array: npt.NDArray[Any] = archive[key]
            return array

    return {key: lambda key=key: read(key) for key in archive.files}  # type: ignore[misc]


def _read_stack(path: Path, ids: npt.NDArray[Any], stacked: npt.NDArray[Any]) -> dict[str, Read]:
    if not _is_stack(stacked) or ids.shape != stacked.shape[:1]:
        raise BenchError(
            f"{path} has ids of shape {ids.shape} and maps of shape {stacked.shape}; it must be "
            "[N] and [N,h,w]."
        )
    names = [key.decode() if isinstance(key, bytes) else str(key) for key in ids.tolist()]
    twice = [key for key, count in Counter(names).items() if count > 1]
    if twice:
        raise BenchError(f"{path} has two maps of the id {twice[0]!r}; keep one.")
    return {key: _read_given(stacked[row], key) for row, key in enumerate(names)}


def _array(path: Path) -> dict[str, Read]:
    with _readable(path):
        check_array_file(path)
        stacked = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(stacked, np.ndarray) or not _is_stack(stacked):
        raise BenchError(
            f"{path} holds no array [N,h,w]; maps without ids are one such array, in the subset's "
            "order."
        )
    return {f"{row:09d}": _read_given(stacked[row], f"{row:09d}") for row in range(len(stacked))}


def _is_stack(stacked: npt.NDArray[Any]) -> bool:
    """Return whether an array is [N,h,w], with or without an axis of length 1 beside."""
    return stacked.ndim == 3 or (stacked.ndim == 4 and 1 in (stacked.shape[1], stacked.shape[-1]))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    check_plain_file(path, "file of maps")
    try:
        yield
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        raise BenchError(
            f"The maps in {path} cannot be read ({error}); save them again with numpy."
        ) from None


# --- resizing


def resize_map(one: Map, size: tuple[int, int]) -> torch.Tensor:
    """Return a map [h,w] at the frame's size [H,W]: bilinear, corners not aligned; a larger one by
    area.
    """
    values = torch.from_numpy(one.copy())[None, None]
    if one.shape != size:
        values = F.interpolate(
            values, size=size, mode="bilinear", align_corners=False, antialias=True
        )
    return values[0, 0]

"""Paths that stand in the files of data: they name files below the folder of the data, and no
others.

Neither does a link lead out of it, unless the user has named the folder that it leads to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from bench.errors import BenchError

DATA_VARIABLE = "CAMBENCH_DATA"
"""The environment variable that names the data root where none is given."""

ROOTS_VARIABLE = "CAMBENCH_DATA_ROOTS"
"""The environment variable that names further folders in which files of data may lie, between
colons (semicolons on Windows).
"""


def join_inside(root: Path, name: str, where: str) -> Path:
    """Return the file `name` below the folder `root`.

    Backslashes separate folders where no file has them in its name, as in tables that Windows
    wrote.

    Raises:
        BenchError: the name is absolute or climbs out of the folder; `where` names the file that
            has it.
    """
    windows = PureWindowsPath(name)
    if (
        not name.strip()
        or PurePosixPath(name).is_absolute()
        or windows.is_absolute()
        or windows.drive
        or windows.root
        or ".." in windows.parts
    ):
        raise BenchError(
            f"{where} names the file {name!r}, which does not lie below {root}; copy the files "
            "there, and write their paths relative to it."
        )
    plain = root / name
    return plain if is_there(plain) or "\\" not in name else root.joinpath(*windows.parts)


def require_files(files: Sequence[Path], where: str) -> None:
    """Refuse files that are missing; `where` names the file that lists them.

    Raises:
        BenchError: one sentence with the first missing file and their number.
    """
    missing = [file for file in files if not is_there(file)]
    if missing:
        raise BenchError(
            f"The file {missing[0]} is missing ({len(missing)} of {len(files)} that {where} "
            "lists are); fetch it, or take it out of the list."
        )


def is_there(file: Path) -> bool:
    """Tell whether a file exists; a name that is too long for a file names none."""
    try:
        return file.is_file()
    except OSError:
        return False


def refuse_outside(files: Iterable[Path], root: Path, where: str) -> None:
    """Refuse files that lie neither below a root nor below a folder that the user has named.

    Links are followed, of files and of folders.

    Args:
        files: absolute, or relative to the working directory.
        root: the folder of the data.
        where: what names the files, at the start of a sentence.

    Raises:
        BenchError: one sentence with the first file that lies elsewhere.
    """
    roots = list_roots(root)
    inside = dict[str, bool]()
    for file in files:
        folder, name = os.path.split(file)
        if folder not in inside:
            inside[folder] = _is_below(os.path.realpath(folder), roots)
        if name == ".." or not inside[folder] or file.is_symlink():
            real = os.path.realpath(file)
            if not _is_below(real, roots):
                raise BenchError(
                    f"{where} names the file {str(file)!r}, which does not lie below {root}; copy "
                    f"it there, or name its folder in {ROOTS_VARIABLE}."
                )


def list_roots(root: Path) -> tuple[str, ...]:
    """Return the folders, without links, that files of data below `root` may lie in."""
    named = os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep)
    named.append(os.environ.get(DATA_VARIABLE, ""))
    return _resolve_roots(str(root), tuple(one for one in named if one.strip()))


@lru_cache(maxsize=64)
def _resolve_roots(root: str, named: tuple[str, ...]) -> tuple[str, ...]:
    real = Path(os.path.realpath(root))
    found = [real, *(Path(os.path.realpath(Path(one).expanduser())) for one in named)]
    # The hub's cache keeps files of a snapshot beside it, and links to them.
    found += [one.parent / "blobs" for one in (real, *real.parents) if one.name == "snapshots"]
    return tuple(map(str, found))


def _is_below(real: str, roots: Sequence[str]) -> bool:
    """Tell whether a path without links is one of the roots, or below one."""
    return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots)

"""Paths that stand in annotation files: they name files below the folder of the data, and no
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from bench.errors import BenchError


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

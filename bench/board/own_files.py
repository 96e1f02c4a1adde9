"""Files that a command wrote into a folder, kept in a list beside them: only these are removed.

A file of another name stays, a file that somebody changed stays, and no link is followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.errors import BenchError, state_assumption
from bench.file_contents import file_sha256, read_json
from bench.files import write_json

LIST = ".cambench-files.json"
"""The list, in the folder: {"files": {name: sha256}}."""


def replace_own(folder: Path, written: Iterable[Path], kinds: Iterable[str]) -> None:
    """Remove what an earlier call has listed and what was not written now; list what was.

    Args:
        folder: of the files; not one below it.
        written: the files of now, in the folder.
        kinds: suffixes of our files. A folder without a list is of an earlier version: what has
            such a suffix in it stays, and that is said.
    """
    now = {path.name: file_sha256(path) for path in written if path.is_file()}
    if not folder.is_dir():
        return
    listed = read_list(folder)
    strangers = [] if listed is not None else _find_others(folder, now, set(kinds))
    if strangers:
        state_assumption(
            f"The folder {folder} holds {len(strangers)} files that this board has not written, "
            f"such as {strangers[0]}; they stay there."
        )
    for name, digest in (listed or {}).items():
        path = folder / name
        if name not in now and is_own(path, digest):
            path.unlink()
    write_json(folder / LIST, {"files": now})


def read_list(folder: Path) -> Mapping[str, str] | None:
    """Return {name: sha256} of the files that were listed, None where there is no list."""
    try:
        files = read_json(folder / LIST, "list")["files"]
        return {
            name: digest
            for name, digest in files.items()
            if isinstance(digest, str) and Path(name).name == name and "\\" not in name
        }
    except (BenchError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_own(path: Path, digest: str) -> bool:
    """Tell whether a file is the one that was listed: no link, and the same bytes."""
    try:
        return not path.is_symlink() and path.is_file() and file_sha256(path) == digest
    except (OSError, ValueError):
        return False


def _find_others(folder: Path, now: Mapping[str, str], kinds: set[str]) -> list[str]:
    names = (path.name for path in folder.iterdir() if path.suffix in kinds)
    return sorted(name for name in names if name not in now and not name.startswith("."))

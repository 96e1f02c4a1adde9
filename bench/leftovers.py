"""Temporary files: how they are called, and which of them a killed process left behind.

A name carries the machine, the process and a random token of the process. So the file of a living
process is never taken for a leftover, whoever looks.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import secrets
import shutil
import socket
import sys
import time
from pathlib import Path

HOUR = 3600.0
DAY = 24 * HOUR

NAME = re.compile(r"\..*\.([0-9a-f]{6})-(\d+)-([0-9a-f]{6})-\d+\.tmp", re.DOTALL)
"""A temporary file or folder: machine, process, token, number."""

EARLIER_NAME = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)
"""A temporary file of cambench until November 2026, which names no process."""

_TOKEN = secrets.token_hex(3)
_NUMBERS = itertools.count()


@functools.cache
def hash_machine() -> str:
    """Return six characters that stand for this machine."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def name_temporary(path: Path) -> Path:
    """Return a path beside `path` that no other process takes.

    The stem is cut: a name that is as long as a file system allows has a temporary file, too.
    """
    number = next(_NUMBERS)
    mark = f"{hash_machine()}-{os.getpid()}-{_TOKEN}-{number}"
    return path.with_name(f".{path.name[:40]}.{mark}.tmp")


def is_leftover(path: Path, *, owned: bool = False) -> bool:
    """Return whether a file is the temporary file of a process that has ended.

    owned: this process holds the lock of the folder, so no earlier cambench writes there.
    """
    found = NAME.fullmatch(path.name)
    if found is None:
        if not EARLIER_NAME.fullmatch(path.name):
            return False
        return owned or _measure_age(path) > HOUR
    machine, process, token = found[1], int(found[2]), found[3]
    if machine != hash_machine():
        return _measure_age(path) > HOUR
    if process == os.getpid():
        return token != _TOKEN
    # The number of a process that has ended may belong to another one by now.
    return not _is_alive(process) or _measure_age(path) > DAY


def _measure_age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0  # gone meanwhile


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # signal 0 is Ctrl-C there; age alone decides
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def sweep_leftovers(folder: Path, *, owned: bool = False) -> None:
    """Remove the temporary files that killed processes left in a folder.

    A folder that cannot be read or written to keeps them.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.name.endswith(".tmp") and is_leftover(path, owned=owned):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        path.unlink()


_SWEPT: set[Path] = set()


def sweep_once(folder: Path) -> None:
    """Remove leftovers from a folder the first time this process writes into it."""
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        sweep_leftovers(folder)


def sweep_tree(folder: Path) -> None:
    """Remove leftovers from a folder that this process owns, and from the folders in it."""
    sweep_leftovers(folder, owned=True)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                sweep_leftovers(Path(entry.path), owned=True)

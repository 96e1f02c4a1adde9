"""One owner for each folder that a command writes into, and for each single file it writes.

The lock goes with its process, also where that is killed. Inside one thread it may be taken again:
a run owns its folder, and so does the board that it makes there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.file_contents import read_json
from bench.files import cache_folder, lock_folder, release_folder
from bench.leftovers import sweep_leftovers, sweep_tree

if TYPE_CHECKING:
    from filelock import BaseFileLock

OWNER = ".owner"
"""The file that names the process that owns a folder; it only serves the sentence of a refusal."""


@dataclass
class _Held:
    """A lock of this process."""

    lock: BaseFileLock
    thread: int
    count: int = 1


_HELD: dict[Path, _Held] = {}
_GUARD = threading.Lock()


@contextmanager
def own_folder(folder: Path, work: str = "run") -> Iterator[None]:
    """Own a folder for a block: make it, refuse a second owner, and remove leftovers.

    Args:
        folder: The folder that is written into.
        work: What its owner is, for the sentence that a second one gets: "run", "training".

    Raises:
        BenchError: Another process or thread owns the folder, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        first = _take(place, folder, f"Another {_read_work(folder)} is writing to {folder}")
    except OSError as error:
        raise BenchError(
            f"Cannot write to {folder} ({error.strerror or error}); choose another --out."
        ) from None
    try:
        if first:
            _write_owner(folder, work)
            sweep_tree(folder)
        yield
    finally:
        _release(place, folder)


@contextmanager
def own_file(path: Path, work: str = "command") -> Iterator[None]:
    """Own the place of one file, or of a folder that is not there yet, for a block.

    The lock lies in the user's cache, so that nothing is left beside the file. Where the cache
    cannot be written, nothing is locked: the file is moved into place as a whole in any case.

    Raises:
        BenchError: Another process of this user writes the file.
    """
    place = path.resolve()
    locks = cache_folder() / "locks" / hashlib.sha256(os.fsencode(place)).hexdigest()[:24]
    try:
        locks.mkdir(parents=True, exist_ok=True)
        first = _take(locks.resolve(), locks, f"Another {_read_work(locks)} is writing {path}")
    except OSError:
        yield
        return
    try:
        if first:
            _write_owner(locks, work)
            sweep_leftovers(place.parent)
        yield
    finally:
        _release(locks.resolve(), locks)


def _take(place: Path, folder: Path, refusal: str) -> bool:
    """Take the lock of a folder; return whether this is the first time in this thread."""
    sentence = f"{refusal}; wait for it or choose another --out."
    with _GUARD:
        held = _HELD.get(place)
        if held is not None and held.thread == threading.get_ident():
            held.count += 1
            return False
        if held is not None:
            raise BenchError(sentence)
        _HELD[place] = _Held(lock_folder(folder, sentence), threading.get_ident())
        return True


def _release(place: Path, folder: Path) -> None:
    with _GUARD:
        held = _HELD[place]
        held.count -= 1
        if held.count:
            return
        del _HELD[place]
        with contextlib.suppress(OSError):
            (folder / OWNER).unlink()
        with contextlib.suppress(OSError):  # the folder is gone
            release_folder(held.lock, folder)


def _write_owner(folder: Path, work: str) -> None:
    """Say who owns a folder; where that cannot be written, the lock holds all the same."""
    facts = {"work": work, "pid": os.getpid(), "host": socket.gethostname()}
    with contextlib.suppress(OSError):
        (folder / OWNER).write_text(json.dumps(facts), encoding="utf-8")


def _read_work(folder: Path) -> str:
    """Return what owns a folder, with its process and machine where they are known."""
    try:
        facts = read_json(folder / OWNER, "note")
        return f"{facts['work']} (process {facts['pid']} on {facts['host']})"
    except (BenchError, KeyError, TypeError):
        return "run"

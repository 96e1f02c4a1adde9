"""Files are written to a temporary name beside their place and moved into it: a reader never sees
half of one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, state_assumption
from bench.file_errors import advise, describe_write_error, find_file_error
from bench.file_moves import move_into_place
from bench.inner_places import replace_signs, tame
from bench.leftovers import name_temporary, sweep_once

if TYPE_CHECKING:
    from io import FileIO

    from filelock import BaseFileLock

LOCK = ".lock"
"""The file in a folder that its owner locks."""

CACHE_VARIABLE = "CAMBENCH_CACHE"
"""The environment variable that names the folder of what is kept between runs; else
~/.cache/cambench.
"""


@contextmanager
def replaced_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block succeeds it is moved into place, else it
    is removed.

    The file gets the permissions that the umask leaves, as from `open`.

    Args:
        path: The file to write. A folder, a pipe or a device is refused.
        durable: Wait until the disk has the content, so that a power failure loses nothing.

    Raises:
        BenchError: The file system refuses, however a library in the block has wrapped that.
    """
    temporary = _create_temporary(path)
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary)
        move_into_place(temporary, path)
        if durable and os.name == "posix":  # a folder cannot be opened elsewhere
            _flush_to_disk(path.parent)
    except BenchError:
        raise
    except Exception as error:
        sentence = describe_write_error(error, path, temporary)
        if sentence is None:
            raise
        raise BenchError(sentence) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _create_temporary(path: Path) -> Path:
    """Make an empty temporary file beside `path`."""
    temporary = name_temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_kinds(path)
        sweep_once(path.parent)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except (OSError, ValueError) as error:
        found = find_file_error(error)
        reason, number = (found.reason, found.number) if found else (str(error), -1)
        raise BenchError(f"Cannot write to {path.parent} ({reason}); {advise(number)}.") from None
    return temporary


def _refuse_other_kinds(path: Path) -> None:
    """Refuse a folder, a pipe or a device in the place of a file."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise BenchError(f"Cannot write {path}, which is {kind}; give the path of a file.")


def _flush_to_disk(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder; a file system may not know how."""
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def append_text(path: Path, text: str) -> None:
    """Add a text to the end of a file; where it does not fit, the file stays as it was.

    Raises: BenchError where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_kinds(path)
        with path.open("ab", buffering=0) as stream:
            _append_whole(stream, text.encode())
    except OSError as error:
        raise BenchError(describe_write_error(error, path, path) or str(error)) from None


def _append_whole(stream: FileIO, content: bytes) -> None:
    """Write bytes to the end of an open file, or nothing."""
    size = os.fstat(stream.fileno()).st_size
    written = 0
    try:
        while written < len(content):
            written += stream.write(content[written:]) or 0
    except OSError:
        with contextlib.suppress(OSError):
            stream.truncate(size)
        raise


def lock_folder(folder: Path, refusal: str) -> BaseFileLock:
    """Lock a folder for one process through its file `.lock`; a killed process loses the lock.

    A file system without locks gives a warning: there a second process is not noticed.

    Returns: the lock, which any thread may release.
    Raises: BenchError with `refusal`, at once, where the folder is locked; OSError where it cannot
    be written to.
    """
    from filelock import FileLock, Timeout  # a tenth of a second, and most commands write no folder

    lock = FileLock(str(folder / LOCK), timeout=0, thread_local=False)
    try:
        lock.acquire()
        while _find_locked(lock) not in (None, _find_inode(folder / LOCK)):
            lock.release()  # its last owner has removed the file meanwhile
            lock.acquire()
    except Timeout:
        raise BenchError(refusal) from None
    except (NotImplementedError, OSError) as error:
        lacking = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
        if isinstance(error, OSError) and error.errno not in lacking:
            raise
        state_assumption(
            f"The file system of {folder} has no locks; start no other command that writes there."
        )
    return lock


def release_folder(lock: BaseFileLock, folder: Path) -> None:
    """Release the lock of a folder, and leave no file of it where a next owner can notice that."""
    if os.name == "posix" and _find_locked(lock) is not None:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
    lock.release()


def _find_locked(lock: BaseFileLock) -> tuple[int, int] | None:
    """Return what identifies the file that a lock holds; None where it does not say."""
    number = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    if not isinstance(number, int):
        return None
    found = os.fstat(number)
    return found.st_dev, found.st_ino


def _find_inode(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return -1, -1
    return found.st_dev, found.st_ino


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    with replaced_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8"
        )


def file_name(text: str, other: str = "_") -> str:
    """Return a text as a file name: letters, digits, `-`, `_` and `.` stay, anything else becomes
    `other`; so do dots at an end. Long names end in a hash.

    >>> file_name("a/b.c"), file_name("../../evil")
    ('a_b.c', '___.._evil')
    """
    return tame(replace_signs(text, other), text, other)


def cache_folder() -> Path:
    """Return the folder of what is kept between runs and may be deleted at any time."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "cambench"


PRIVATE_KEYS = ("cwd", "host", "hostname", "user", "username", "home")
"""Keys of run.json that describe a machine and not a result."""

ABSOLUTE_PATH = re.compile(
    r"(?<![\w:/.}\])~-])(?:file://)?(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"/\\,;:]+[/\\])+([^\s'\"/\\,;:]*)"
)
"""An absolute path of two parts or more inside a text; not the tail of a URL or of a relative
path.
"""


def public(value: Any) -> Any:
    """Return a copy of run.json's content without what belongs to one machine: `/a/b/c` becomes
    `PATH/c`.

    >>> public({"command": "cambench run --out /tmp/x/run --data-root ../data", "user": "me"})
    {'command': 'cambench run --out PATH/run --data-root ../data'}
    """
    if isinstance(value, dict):
        return {key: public(entry) for key, entry in value.items() if key not in PRIVATE_KEYS}
    if isinstance(value, list | tuple):
        return [public(entry) for entry in value]
    if isinstance(value, str):
        return ABSOLUTE_PATH.sub(lambda found: f"PATH/{found.group(1)}", value)
    return json.loads(json.dumps(value, default=str))

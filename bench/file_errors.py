"""What an error of the file system says to a reader: which file, why, and what to do.

Libraries wrap such errors in kinds of their own. torch and safetensors keep only the text of the
system, pyarrow a number, and Pillow neither.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError, take_first_line

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Numbers of errors that say that there is no room."""

FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of errors that say that this user may not."""

KNOWN = (
    *(FULL | FORBIDDEN),
    *(errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EMFILE, errno.ENODEV, errno.ENXIO),
)
"""Numbers that are looked for in the texts of other libraries."""

SILENT = (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.EINTR)
"""Numbers of errors that are of no file."""

CUT_SHORT = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+|requested and \d+ written")
"""What torch and numpy say where the system took less than they wrote."""

NUMBERED = re.compile(r"(?:\[?[Ee]rrno:?|os error|code:) ?(\d+)")


class FileError(NamedTuple):
    """An error of the file system: its number (0 where no library kept it), reason and file."""

    number: int
    reason: str
    file: str | None = None


def find_file_error(error: BaseException, *, deep: bool = True) -> FileError | None:
    """Return what the file system said, however a library has wrapped it; None where it was not
    the file system.

    deep: look at the errors behind this one, too.
    """
    for one in _list_chain(error) if deep else [error]:
        if isinstance(one, OSError) and one.errno and one.errno not in SILENT:
            name = one.filename
            file = os.fsdecode(name) if isinstance(name, str | bytes) else None
            return FileError(one.errno, os.strerror(one.errno), file)
        if isinstance(one, Exception) and not isinstance(one, BenchError):
            found = _read_message(str(one))
            if found is not None:
                return found
    return None


def _list_chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


def _read_message(text: str) -> FileError | None:
    """Return what the text of a library says of the file system."""
    numbered = NUMBERED.search(text)
    if numbered and int(numbered.group(1)) in KNOWN:
        return FileError(int(numbered.group(1)), os.strerror(int(numbered.group(1))))
    for number in KNOWN:
        if os.strerror(number) in text:
            return FileError(number, os.strerror(number))
    if CUT_SHORT.search(text):
        return FileError(0, "the file could not be written whole")
    return None


def describe_write_error(error: BaseException, path: Path, temporary: Path) -> str | None:
    """Return the sentence about a file that could not be written; None where that was not the
    reason.

    temporary: the name under which it was written.
    """
    found = find_file_error(error)
    if found is None and isinstance(error, OSError) and error.errno is None:
        found = FileError(0, take_first_line(error))  # Pillow
    if found is None:
        return None
    if found.file is not None and Path(found.file) not in (path, temporary, path.parent):
        return f"Cannot use {found.file} ({found.reason}); {advise(found.number, 'path')}."
    return f"Cannot write {path} ({found.reason}); {advise(found.number)}."


def advise(number: int, other: str = "--out") -> str:
    """Return what to do about an error number."""
    if number in FORBIDDEN:
        return f"change its permissions or choose another {other}"
    if number in FULL or number == 0:
        return f"free some space or choose another {other}"
    return f"choose another {other}"


@contextmanager
def refuse_file_errors() -> Iterator[None]:
    """Turn an error of the file system that nobody has put into words into one sentence."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:
        found = find_file_error(error, deep=isinstance(error, OSError))
        if found is None:
            raise
        where = f" {found.file}" if found.file else ""
        doing = "Cannot use the file" if where else "A file could not be read or written"
        raise BenchError(f"{doing}{where} ({found.reason}); {advise(found.number, 'path')}.") from (
            error
        )

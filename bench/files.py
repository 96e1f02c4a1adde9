"""Files are written to a temporary name beside their place and moved into it: a reader never sees
half of one.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.file_moves import move_into_place
from bench.inner_places import replace_signs, tame

if TYPE_CHECKING:
    from filelock import BaseFileLock

CACHE_VARIABLE = "CAMBENCH_CACHE"
"""The environment variable that names the folder of what is kept between runs; else
~/.cache/cambench.
"""


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block succeeds it is moved into place, else it
    is removed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise BenchError(
            f"Cannot write to {path.parent} ({error.strerror}); choose another --out."
        ) from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        move_into_place(temporary, path)
    except OSError as error:
        raise BenchError(
            f"Cannot write {path} ({error.strerror}); free some space or choose another --out."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def lock_folder(folder: Path, refusal: str) -> BaseFileLock:
    """Lock a folder for one process through its file `.lock`; a killed process loses the lock.

    Returns: the lock, which any thread may release.
    Raises: BenchError with `refusal`, at once, where the folder is locked; OSError where it cannot
    be written to.
    """
    from filelock import FileLock, Timeout  # a tenth of a second, and most commands write no folder

    lock = FileLock(str(folder / ".lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise BenchError(refusal) from None
    return lock


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

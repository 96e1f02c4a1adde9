"""Count what a process does to files, and end the process in the middle of it.

A process reads its orders from its environment (`orders` writes them). Python reports each opening,
renaming and removal before it happens: the process dies there as it does of SIGKILL, without any
`finally`. Libraries in C++ report nothing; they die when a file grows beyond a size.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

HOOK = "tests.torture.file_operations"
"""What `CAMBENCH_TEST_HOOK` names, so that the command server calls `install`."""

DIED = 137
"""The exit code of a process that ended itself, as a shell reports SIGKILL."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.chmod": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
}
"""Events that change files, and how many paths they name."""


def orders(log: Path, folders: Sequence[Path], at: int = 0, size: int = 0) -> dict[str, str]:
    """Return the environment of a process that counts and dies.

    Args:
        log: Takes a line for each operation, also for the one that the process dies at.
        folders: Only what happens below them counts.
        at: Number of the operation before which the process dies, from 1; 0: none.
        size: Bytes that no file may grow beyond; 0: any.
    """
    return {
        "CAMBENCH_TEST_HOOK": HOOK,
        "TORTURE_LOG": str(log),
        "TORTURE_FOLDERS": os.pathsep.join(map(str, folders)),
        "TORTURE_AT": str(at),
        "TORTURE_SIZE": str(size),
    }


def install() -> None:
    """Begin to count in this process, as its environment says."""
    folders = tuple(os.environ["TORTURE_FOLDERS"].split(os.pathsep))
    log = os.open(os.environ["TORTURE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    at, count = int(os.environ["TORTURE_AT"]), 0

    def note(event: str, paths: Sequence[object]) -> None:
        nonlocal count
        names = [str(Path(os.fsdecode(p)).absolute()) for p in paths if not isinstance(p, int)]
        if not any(name.startswith(folders) for name in names):
            return
        count += 1
        os.write(log, f"{event} {' '.join(names)}\n".encode())
        if count == at:
            os._exit(DIED)

    def hear(event: str, given: tuple[object, ...]) -> None:
        if event == "open":
            if isinstance(given[2], int) and given[2] & WRITING:
                note(event, given[:1])
        elif event in CHANGES:
            note(event, given[: CHANGES[event]])

    sys.addaudithook(hear)
    flush = os.fsync

    def fsync(number: int) -> None:  # the one change that Python does not report
        note("os.fsync", [folders[0]])
        flush(number)

    os.fsync = fsync
    if size := int(os.environ["TORTURE_SIZE"]):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

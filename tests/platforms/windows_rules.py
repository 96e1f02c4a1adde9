"""What Windows lacks and refuses, in a process of Linux; the command server installs it.

Modules of POSIX cannot be imported by `bench`, functions and signals of POSIX are gone, links
cannot be made, and a file that is open can be neither replaced nor removed.
"""

from __future__ import annotations

import builtins
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}

GONE = {
    os: ("fork", "forkpty", "getuid", "geteuid", "getgid", "statvfs", "uname", "mkfifo", "chown"),
    signal: ("SIGKILL", "SIGHUP", "SIGALRM", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGXFSZ"),
}


def install() -> None:
    """Let this process be one of Windows, as far as it can be."""
    real_import = builtins.__import__

    def import_module(name: str, space: Any = None, *more: Any, **named: Any) -> Any:
        space = named.pop("globals", space)
        asking = (space or {}).get("__name__", "")
        if name in MODULES and asking.split(".")[0] == "bench":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, space, *more, **named)

    builtins.__import__ = import_module
    for module, names in GONE.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in ("sched_getaffinity", "sched_setaffinity"):
        delattr(os, name)
    ctypes.CDLL = refuse_library
    os.symlink = refuse_link
    sys.addaudithook(refuse_open_files)


def refuse_library(name: str | None, *_: object, **__: object) -> None:
    """Refuse the C library of Linux."""
    raise OSError(f"Could not find module {name!r}")


def refuse_link(*_: object, **__: object) -> None:
    """Refuse a link, as for a user without that right."""
    raise OSError(22, "A required privilege is not held by the client")


def refuse_open_files(event: str, given: tuple[Any, ...]) -> None:
    """Refuse to replace or remove a file that this process has open or mapped."""
    if event not in ("os.rename", "os.remove"):
        return
    named = {os.path.realpath(os.fsdecode(p)) for p in given[:2] if isinstance(p, str | Path)}
    if found := named & list_open_files():
        raise PermissionError(13, "The process cannot access the file", found.pop())


def list_open_files() -> set[str]:
    """Return the files that this process has open or mapped."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue  # the one that lists the others
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return found | {line.split(maxsplit=5)[5] for line in maps.splitlines() if "/" in line}


def main() -> None:
    """Run command lines one after the other: those of a file, one on a line, its words apart by
    tabs.
    """
    from bench.cli import app

    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        print(f"> {line}")
        app(line.split("\t"), standalone_mode=False)
    try:
        sys.stdout.flush()
    finally:
        os._exit(0)

"""What every command prints with: consoles, lines, numbers for a reader, exit codes."""

from __future__ import annotations

import atexit
import gc
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from bench.errors import AssumptionWarning
from bench.text_console import TextConsole

console = TextConsole()
errors = TextConsole(stderr=True)

EX_STOPPED = 130


class EndOfCommand(typer.Exit):
    """A command ends with an exit code of its own; no other code may end one."""


def command_line() -> str:
    """Return the command as it was typed, for records and cards."""
    return shlex.join(["cambench", *sys.argv[1:]])


_LAST: list[tuple[str, str | None]] = []
"""The line that was printed last, which a quiet command prints in the end."""


def say(text: str, style: str | None = None) -> None:
    """Print a line to standard output, neither highlighted nor broken."""
    _LAST[:] = [(text, style)]
    console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)


def warn(text: str) -> None:
    """Print a warning to standard error, in one line."""
    errors.print(f"! {text}", style="yellow", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def keep_quiet(quiet: bool) -> Iterator[None]:
    """Print nothing but errors and, where the block ends well, its last line."""
    if not quiet:
        yield
        return
    before = console.quiet, errors.quiet
    console.quiet = errors.quiet = True
    _LAST.clear()
    try:
        yield
    except EndOfCommand as end:
        if end.exit_code == EX_STOPPED:
            _LAST.clear()
        raise
    except BaseException:
        _LAST.clear()
        raise
    finally:
        console.quiet, errors.quiet = before
        for text, style in [*_LAST]:
            say(text, style)


@contextmanager
def print_assumptions() -> Iterator[None]:
    """Print what the package assumes as lines, each once; other warnings stay as they are."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, AssumptionWarning):
            usual(message, category, *place, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            warn(str(message))

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.simplefilter("always", AssumptionWarning)
        warnings.showwarning = show
        yield


def format_bytes(number: float) -> str:
    """Return bytes for a reader.

    >>> format_bytes(12), format_bytes(1536), format_bytes(3 * 2**30)
    ('12 bytes', '1.5 KiB', '3.0 GiB')
    """
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:,.0f} bytes" if units[0] == "bytes" else f"{number:.1f} {units[0]}"


@contextmanager
def loading_modules() -> Iterator[None]:
    """Hold the garbage collector while modules are loaded, and spare it what they made.

    They make very many objects that stay, and looking for garbage among these takes a fifth of the
    time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # else libraries report what is never collected as leaks
        if enabled:
            gc.enable()


@contextmanager
def stoppable(words: str) -> Iterator[None]:
    """Turn Ctrl-C into a sentence and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        errors.quiet = False  # a quiet command says, too, why it ends
        errors.print(words, highlight=False, soft_wrap=True)
        raise EndOfCommand(EX_STOPPED) from None

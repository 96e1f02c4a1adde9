"""What every command shares on the terminal: consoles, exit codes, progress that can be stopped and gone on with."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

console = Console()
errors = Console(stderr=True)

EX_USAGE, EX_STOPPED = 2, 130


def command_line() -> str:
    """Return the command as it was typed, for records and cards."""
    return shlex.join(["cambench", *sys.argv[1:]])


def say(text: str, style: str | None = None) -> None:
    """Print a line to standard output, neither highlighted nor broken."""
    console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)


def said_bytes(number: float) -> str:
    """Return bytes for a reader.

    >>> said_bytes(12), said_bytes(1536), said_bytes(3 * 2**30)
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

    They make very many objects that stay, and looking for garbage among these takes a fifth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def stoppable(words: str) -> Iterator[None]:
    """Turn Ctrl-C into a sentence and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(words, highlight=False, soft_wrap=True)
        raise typer.Exit(EX_STOPPED) from None


class TrainingProgress:
    """A bar over all steps of a training, and a line of numbers per epoch."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        self.bar = Progress(*columns, TimeRemainingColumn(), console=errors, refresh_per_second=2)
        self.shown = self.bar.add_task("training")

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, done: int, total: int, what: str = "training") -> None:
        """Show steps done of `total`."""
        self.bar.update(self.shown, completed=done, total=total, description=what)

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Print an epoch's numbers in one line."""
        said = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if name not in ("epoch", "score"))
        say(f"epoch {numbers['epoch']}: {said}")


@contextmanager
def training(what: str) -> Iterator[TrainingProgress]:
    """Show a training's progress; Ctrl-C says that the same command goes on."""
    words = f"Stopped; {what} keeps its finished epochs. Start the same command again to go on."
    with stoppable(words), TrainingProgress() as progress:
        yield progress


@contextmanager
def looking(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while images are looked at; gives report(done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, refresh_per_second=4) as bar:
        shown = bar.add_task(f"Looking at {what}", total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)

"""Progress bars; the console that they are drawn on is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.plain_text import show_line


class TrainingProgress:
    """A bar over all steps of a training, and a line of numbers per epoch."""

    def __init__(self, console: Console, print_line: Callable[[str], None]) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
        )
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, refresh_per_second=2)
        self.shown = self.bar.add_task("training")
        self.print_line = print_line

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, done: int, total: int, what: str = "training") -> None:
        """Show steps done of `total`."""
        self.bar.update(self.shown, completed=done, total=total, description=show_line(what))

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Print an epoch's numbers in one line."""
        shown = ", ".join(
            f"{name} {value:.4g}"
            for name, value in numbers.items()
            if name not in ("epoch", "score")
        )
        self.print_line(f"epoch {numbers['epoch']}: {shown}")


@contextmanager
def show_images(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while images are read; gives report(done, total)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        shown = bar.add_task(f"Looking at {show_line(what)}", total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show the current step and how many are done; gives report(what, done, total)."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        shown = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(
            shown, description=show_line(what), completed=done, total=total
        )


@contextmanager
def show_share(total: float, console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show the share of work that is done and the time left; gives report(what, new work)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        shown = bar.add_task("starting", total=total)
        yield lambda what, advance: bar.update(shown, description=show_line(what), advance=advance)

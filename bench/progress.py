"""How work is shown while it is done: a bar in a terminal or a notebook, elsewhere a line.

Code opens stages (`bench.work_stages`); `show_work` shows the outermost one. In a terminal a bar
moves, and in a notebook one of HTML. A log or a pipe gets a plain line every 30 seconds.
"""

from __future__ import annotations

import html
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.plain_text import show_line
from bench.text_console import TextConsole
from bench.work_stages import Listener, Report, Stage, is_heard, listening, open_stage

LINE_SECONDS = 30.0
"""How long a log without a terminal may say nothing."""

DELAY = 0.5
"""Seconds after which a bar appears for a call in Python: short ones need none."""

Choice = bool | Report | None
"""The argument `progress`: True shows a bar (or lines, where there is no terminal), False nothing,
None a bar in a terminal or a notebook; a function is called with (done, total, words)."""


class Display(Protocol):
    """Shows the outermost stage."""

    def report(self, done: float, total: float, words: str) -> None:
        """Show what is done."""

    def end(self) -> None:
        """Take away what is shown of a stage that has ended."""


def format_time(seconds: float) -> str:
    """Return a time for a reader.

    >>> format_time(42.2), format_time(600), format_time(86400 * 3)
    ('42 seconds', '10 minutes', '3.0 days')
    """
    for size, name, digits in ((86400, "days", 1), (3600, "hours", 1), (60, "minutes", 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {name}"
    return f"{max(seconds, 1):.0f} seconds"


def find_share(done: float, total: float) -> float:
    """Return which share is done; 0 where the size of the work is not known."""
    return done / total if total > 0 else 0.0


class Clock:
    """The time of a stage, and the time that it will still take."""

    def __init__(self) -> None:
        self.start, self.share = time.monotonic(), 0.0
        self._first: float | None = None

    def note(self, share: float) -> None:
        """Note how much is done; what was done before the stage began took none of its time."""
        if self._first is None or share < self.share:
            self.start, self._first = time.monotonic(), share
        self.share = share

    def describe_left(self) -> str:
        """Return how long the rest will take at the speed so far, or ""."""
        gained = self.share - (self._first or 0.0)
        elapsed = time.monotonic() - self.start
        if gained <= 0 or elapsed < 1:
            return ""
        return f"about {format_time(elapsed * (1 - self.share) / gained)} left"


class TerminalBar:
    """A bar of rich, which goes when its stage ends.

    Args:
        console: Where it is drawn.
        delay: Seconds of a stage before it appears.
    """

    def __init__(self, console: Console, delay: float = 0.0) -> None:
        self.console, self.delay = console, delay
        self._bar: Progress | None = None
        self._clock: Clock | None = None

    def report(self, done: float, total: float, words: str) -> None:
        """Draw the bar."""
        if self._clock is None:
            self._clock = Clock()
        share = find_share(done, total)
        self._clock.note(share)
        if self._bar is None:
            if time.monotonic() - self._clock.start < self.delay or self.console.quiet:
                return
            self._bar = self._make()
            self._bar.start()
        number = self._bar.task_ids[0]
        left = self._clock.describe_left()
        self._bar.update(number, completed=share, description=show_line(words), left=left)

    def _make(self) -> Progress:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        bar = Progress(
            *columns,
            console=self.console,
            transient=True,
            refresh_per_second=4,
            # What goes into a file or a pipe must not be drawn above the bar.
            redirect_stdout=sys.stdout.isatty(),
        )
        bar.add_task("", total=1.0, left="")
        return bar

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._clock = None


class NotebookBar:
    """A bar of HTML in the output of a notebook's cell; it needs what every notebook has.

    Args:
        delay: Seconds of a stage before it appears.
    """

    def __init__(self, delay: float = DELAY) -> None:
        self.delay = delay
        self._handle: Any = None
        self._clock: Clock | None = None

    def report(self, done: float, total: float, words: str) -> None:
        """Draw the bar."""
        if self._clock is None:
            self._clock = Clock()
        share = find_share(done, total)
        self._clock.note(share)
        if time.monotonic() - self._clock.start < self.delay:
            return
        text = html.escape(f"{share:.0%} {show_line(words)} {self._clock.describe_left()}")
        tools = load_notebook_tools()
        shown = tools.HTML(f'<progress max="1" value="{share:.4f}"></progress> {text}')
        if self._handle is None:
            self._handle = tools.display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def end(self) -> None:
        """Take the bar away."""
        if self._handle is not None:
            self._handle.update(load_notebook_tools().HTML(""))
        self._handle = self._clock = None


def load_notebook_tools() -> Any:
    """Return IPython's display module, which every notebook has and nothing else needs."""
    return importlib.import_module("IPython.display")


class PlainLines:
    """A line every 30 seconds, for logs; a stage that ends earlier prints none.

    Args:
        console: Where the lines go.
        seconds: Between two lines.
    """

    def __init__(self, console: Console, seconds: float | None = None) -> None:
        self.console = console
        self.seconds = LINE_SECONDS if seconds is None else seconds
        self._ended: threading.Event | None = None
        self._state = 0.0, 0.0, ""
        self._clock = Clock()

    def report(self, done: float, total: float, words: str) -> None:
        """Note what the next line says."""
        if self._ended is None:
            self._ended, self._clock = threading.Event(), Clock()
            threading.Thread(target=self._print_lines, args=[self._ended], daemon=True).start()
        self._clock.note(find_share(done, total))
        self._state = done, total, words

    def _print_lines(self, ended: threading.Event) -> None:
        while not ended.wait(self.seconds):
            left = self._clock.describe_left()
            line = write_progress(*self._state) + (left and f", {left}")
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def end(self) -> None:
        """Print no more lines of this stage."""
        if self._ended is not None:
            self._ended.set()
        self._ended = None


def write_progress(done: float, total: float, words: str) -> str:
    """Return a line that says how far a stage is.

    >>> write_progress(52.4, 187, "resnet-scenes: images 21-30 of 36")
    'resnet-scenes: images 21-30 of 36: 52/187 (28 %)'
    """
    share = find_share(done, total)
    return f"{show_line(words)}: {done:,.0f}/{total:,.0f} ({100 * share:.0f} %)"


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def choose_display(console: Console, delay: float = 0.0) -> Display:
    """Return what shows work on a console."""
    if is_notebook():
        return NotebookBar(delay)
    return TerminalBar(console, delay) if console.is_terminal else PlainLines(console)


@contextmanager
def show_work(console: Console, delay: float = 0.0) -> Iterator[None]:
    """Show the stages that are opened in this block; a bar appears after `delay` seconds."""
    display = choose_display(console, delay)
    with listening(Listener(display.report, display.end)):
        yield


def follow(progress: Choice) -> AbstractContextManager[None]:
    """Return a block whose stages are shown as the argument `progress` of a function wants it.

    Args:
        progress: See `Choice`. With None, what listens already goes on to listen.
    """
    if progress is None or progress is True:
        console = TextConsole(stderr=True)
        seen = is_notebook() or console.is_terminal
        if is_heard() or (progress is None and not seen):
            return nullcontext()
        return show_work(console, DELAY)
    return listening(Listener(progress) if callable(progress) else None)


@contextmanager
def show_images(what: str) -> Iterator[Callable[[int, int], None]]:
    """Open a stage while images are read; gives report(done, total)."""
    with open_stage(0, f"Looking at {what}") as stage:
        yield lambda done, total: stage.set_done(done, total)


@contextmanager
def show_steps() -> Iterator[Callable[[str, int, int], None]]:
    """Open a stage of named steps; gives report(what, done, total)."""
    with open_stage(0, "starting") as stage:
        yield lambda what, done, total: stage.set_done(done, total, what)


class TrainingProgress:
    """A stage over all steps of a training, and a line of numbers per epoch."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.print_line = print_line
        self._opened = open_stage(0, "training")
        self._stage: Stage

    def __enter__(self) -> TrainingProgress:
        self._stage = self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def step(self, done: int, total: int, what: str = "training") -> None:
        """Show steps done of `total`."""
        self._stage.set_done(done, total, what)

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Print an epoch's numbers in one line."""
        shown = ", ".join(
            f"{name} {value:.4g}"
            for name, value in numbers.items()
            if name not in ("epoch", "score")
        )
        self.print_line(f"epoch {numbers['epoch']}: {shown}")

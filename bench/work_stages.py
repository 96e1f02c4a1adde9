"""Stages of work: code says how much of its work is done, and whoever listens shows it.

    with open_stage(len(files), "Reading maps") as stage:
        for file in files:
            read(file)
            stage.advance()

A stage that is opened inside another one fills the outer stage's step in progress, so that a bar
moves within a step. Without a listener a stage costs a few additions. Other threads have no stage:
what they do is shown by the stage that waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

Report = Callable[[float, float, str], None]
"""Is called with (done, total, words): what is done of a stage, all of it, and what is done now."""

INTERVAL = 0.1
"""Seconds between two calls of a report, but for the start and the end of a step."""


class Listener:
    """Passes the outermost stage on to a report.

    Args:
        report: Is called with (done, total, words), at most every `INTERVAL` seconds within a step.
        end: Is called when an outermost stage ends.

    Attributes:
        failure: What the report raised. The outermost stage raises it between two steps, where no
            method can be blamed for it.
    """

    def __init__(self, report: Report, end: Callable[[], None] = lambda: None) -> None:
        self.report, self.end = report, end
        self.failure: BaseException | None = None
        self._last = -INTERVAL

    def hear(self, stage: Stage, *, at_once: bool) -> None:
        """Pass the state of an outermost stage on."""
        now = time.monotonic()
        if self.failure is not None or not (at_once or now - self._last >= INTERVAL):
            return
        self._last = now
        try:
            self.report(stage.share * stage.total, stage.total, stage.words)
        except BaseException as error:
            self.failure = error


class _Here(threading.local):
    """The listener of this thread, and its innermost stage."""

    listener: Listener | None = None
    stage: Stage | None = None


_HERE = _Here()


class Stage:
    """Work of a known size that is being done.

    Args:
        total: Its size, in any unit.
        words: What is done now.
        outer: The stage whose step in progress this one is.
        listener: Hears of an outermost stage.
    """

    def __init__(
        self, total: float, words: str, outer: Stage | None, listener: Listener | None
    ) -> None:
        self.total, self.words, self.done = float(total), words, 0.0
        self._outer, self._listener = outer, listener
        self._step, self._filled = 1.0, 0.0
        self._gauge: Callable[[], float] | None = None

    @property
    def share(self) -> float:
        """Return how much is done, in [0,1], with what is done of the step in progress."""
        if self.total <= 0:
            return 0.0
        return min(1.0, (self.done + self._step * self._filled) / self.total)

    def begin(
        self, step: float = 1.0, words: str | None = None, gauge: Callable[[], float] | None = None
    ) -> None:
        """Begin the next step.

        Args:
            step: How much of the total it is.
            words: What is done now; None leaves the words.
            gauge: Returns the done share of the step whenever a network has run.
        """
        self._step, self._filled, self._gauge = step, 0.0, gauge
        self._say(words)

    def advance(self, amount: float = 1.0, words: str | None = None) -> None:
        """Add what is done; the step in progress ends with it."""
        self.set_done(self.done + amount, words=words)

    def set_done(self, done: float, total: float | None = None, words: str | None = None) -> None:
        """Say how much is done in all; the step in progress ends with it."""
        self.done, self.total = float(done), self.total if total is None else float(total)
        self._filled, self._gauge = 0.0, None
        self._say(words)

    def fill(self, share: float) -> None:
        """Say which share of the step in progress is done; less than before changes nothing."""
        share = min(share, 1.0)
        if share > self._filled:
            self._filled = share
            self._pass_on(at_once=False)

    def look(self) -> None:
        """Read the gauge of the step in progress, where it has one."""
        if self._gauge is not None:
            self.fill(self._gauge())

    def raise_failure(self) -> None:
        """Raise what the listener's report raised."""
        if self._outer is None and self._listener is not None and self._listener.failure:
            raise self._listener.failure

    def _say(self, words: str | None) -> None:
        self.words = self.words if words is None else words
        self._pass_on(at_once=True)
        self.raise_failure()

    def _pass_on(self, *, at_once: bool) -> None:
        if self._outer is not None:
            self._outer.fill(self.share)
        elif self._listener is not None:
            self._listener.hear(self, at_once=at_once)


@contextmanager
def open_stage(total: float, words: str = "") -> Iterator[Stage]:
    """Open a stage: the outermost one, or one inside the step in progress of another.

    Args:
        total: The size of the work, in any unit.
        words: What is done, in a few words; those of the outermost stage are shown.

    Yields:
        The stage, which is told what is done.
    """
    outer, listener = _HERE.stage, _HERE.listener
    stage = Stage(total, words, outer, listener)
    _HERE.stage = stage
    try:
        stage._say(None)
        yield stage
        stage.raise_failure()
    finally:
        _HERE.stage = outer
        if outer is None and listener is not None:
            listener.end()


def track(
    items: Sequence[T], words: str | Callable[[T], str] = "", sizes: Iterable[float] | None = None
) -> Iterator[T]:
    """Yield items inside a stage of which each one is a step.

    Args:
        items: What is worked on.
        words: What is done, or a function that says it of an item.
        sizes: How much work each item is; None: all are equal.

    Example:
        >>> list(track([1, 2], "Counting"))
        [1, 2]
    """
    steps = [1.0] * len(items) if sizes is None else [*sizes]
    with open_stage(sum(steps), words if isinstance(words, str) else "") as stage:
        for item, step in zip(items, steps, strict=True):
            stage.begin(step, None if isinstance(words, str) else words(item))
            yield item
            stage.advance(step)


def look_at_work() -> None:
    """Let the stage of this thread read its gauge; whatever runs a network calls it."""
    if _HERE.stage is not None:
        _HERE.stage.look()


def is_heard() -> bool:
    """Return whether anybody listens to the stages of this thread."""
    return _HERE.listener is not None


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Let a listener hear of the stages in this block; None: nobody does.

    Stages in it are outermost ones, whatever stage is open around it.
    """
    before = _HERE.listener, _HERE.stage
    _HERE.listener, _HERE.stage = listener, None
    try:
        yield
    finally:
        _HERE.listener, _HERE.stage = before

"""Probes: which perturbed images of a batch have been run, which wait to be run together, and what
was asked for.

A probe is named by what its image is made of: the recipe (which images, which colour), the image's
row, the class that is looked at, a digest of the ranking (or map), and the step. Two maps that rank
pixels alike therefore share it, and so do a method that searches thresholds and the metrics that
measure them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from bench.engine.prober import Job, Mode, Prober, Started

Key = tuple[Hashable, ...]


class Pending(Exception):  # noqa: N818 - nothing went wrong
    """What a metric asked for waits to be run with others; call it again when that is done."""


@dataclass(frozen=True)
class _Waiting:
    """A job, the names of its images, and how it is run."""

    keys: Sequence[Key]
    job: Job
    mode: Mode


@dataclass(eq=False)
class _Running:
    """What the device has been given at once: by mode, what waits for it and what holds its
    values.
    """

    kinds: list[tuple[list[_Waiting], Started]]


@dataclass
class Probes:
    """The probes of one batch.

    prober, size: what runs them, and (H, W).  known: the values of those that have been run.  run:
    how many of them metrics had to run.
    """

    prober: Prober
    size: tuple[int, int]
    known: dict[Key, float] = field(default_factory=dict)
    run: int = 0
    _waiting: list[_Waiting] = field(default_factory=list)
    _queued: set[Key] = field(default_factory=set)
    _running: list[_Running] = field(default_factory=list)
    _defers: bool = False

    @property
    def waiting(self) -> int:
        """Return how many probes wait to be run together."""
        return sum(len(one.job) for one in self._waiting)

    @contextmanager
    def defer(self) -> Iterator[None]:
        """Inside, what is asked for is put on a list and `Pending` is raised; `start` runs the
        list.
        """
        self._defers = True
        try:
            yield
        finally:
            self._defers = False

    def values(
        self, keys: Sequence[Key], job: Callable[[list[int]], Job], mode: Mode
    ) -> list[float]:
        """Return the value of each probe, after running those that are not known.

        job: makes the job of the probes at these places of `keys`.  mode: how they are run; keys
        must tell it, too.
        """
        if not self._defers and not self._queued.isdisjoint(keys):
            self._settle()  # somebody who does not wait wants what others have asked for
        missing = {key: place for place, key in enumerate(keys) if key not in self.known}
        if missing:
            wanted = [key for key in missing if key not in self._queued]
            if wanted:
                self._ask(_Waiting(wanted, job([missing[key] for key in wanted]), mode))
            if self._defers:
                raise Pending
        return [self.known[key] for key in keys]

    def _ask(self, waiting: _Waiting) -> None:
        self.run += len(waiting.keys)
        self._waiting.append(waiting)
        self._queued.update(waiting.keys)
        if not self._defers:
            self.start()()

    def start(self) -> Callable[[], None]:
        """Give all that waits to the device, packed together; return what waits for it and takes
        its values.
        """
        waiting, self._waiting = self._waiting, []
        kinds: dict[Mode, list[_Waiting]] = {}
        for one in waiting:
            kinds.setdefault(one.mode, []).append(one)
        running = _Running(
            [
                (kind, self.prober.start([one.job for one in kind], self.size, mode))
                for mode, kind in kinds.items()
            ]
        )
        self._running.append(running)
        return lambda: self._take(running)

    def _settle(self) -> None:
        """Run what waits, and take the values of all that is running."""
        self.start()
        for running in [*self._running]:
            self._take(running)

    def _take(self, running: _Running) -> None:
        if running not in self._running:  # somebody needed the values earlier
            return
        self._running.remove(running)
        for kind, started in running.kinds:
            for one, values in zip(kind, started.values(), strict=True):
                self.known.update(zip(one.keys, values.tolist(), strict=True))
                self._queued.difference_update(one.keys)

    def publish(self, found: dict[Key, float]) -> None:
        """Take the values of probes that were run elsewhere: by a method, whose cost is its own."""
        self.known.update(found)


def digests(rows: torch.Tensor) -> list[bytes]:
    """Return a digest of each row's bytes.

    >>> one, two, three = digests(torch.tensor([[1, 2], [1, 2], [2, 1]]))
    >>> one == two, one == three
    (True, False)
    """
    arrays = rows.detach().cpu().contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in arrays]

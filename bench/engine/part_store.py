"""A store of the shared parts of a trace: each is computed once, clocked, and counted for every
reader.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from bench.engine.counts import Counts
from bench.engine.memory import wait_for
from bench.engine.prober import Prober
from bench.models.split import Captured

T = TypeVar("T")

LARGE = 2**24
"""Most bytes of a shared part on a trace that is one of many, such as that of an attack."""


@dataclass(frozen=True)
class Part:
    """What one shared part of a trace cost: network use in images, and wall seconds."""

    counts: Counts
    seconds: float


class PartStore:
    """Parts of one batch that several methods read, with the cost of each.

    Attributes:
        parts: The cost of each part when it was computed.
        read: The parts that were read since a method started.
        captured: What the shared pass recorded; the trace sets it.
        watch: Is called with each new part: its name, the part, and the function that made it.
    """

    captured: Captured
    watch: Callable[[str, Any, Callable[..., Any] | None], None] | None = None

    def __init__(self, prober: Prober, images: torch.Tensor) -> None:
        self.prober = prober
        self.images = images
        self.parts: dict[str, Part] = {}
        self.read: set[str] = set()
        # computed parts, and the parts that were read while they were computed
        self._shared: dict[str, tuple[Any, frozenset[str]]] = {}

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        """Clock a shared part, without the parts that are computed inside it."""
        before, start, known = self.prober.counts.copy(), time.perf_counter(), set(self.parts)
        yield
        wait_for(self.images.device)
        counts, seconds = self.prober.counts - before, time.perf_counter() - start
        for inner in set(self.parts) - known:
            counts, seconds = counts - self.parts[inner].counts, seconds - self.parts[inner].seconds
        self.parts[name] = Part(counts, seconds)

    def share(self, name: str, make: Callable[[], T]) -> T:
        """Return a part that several methods read; the first of them computes it.

        Its cost counts for every reader.

        Args:
            name: Names the part and its parameters.
            make: Computes the part; it may read other shared parts.

        Returns:
            The part.

        Example:
            >>> trace.share("mean map", lambda: trace.activations.mean(1)).shape
            torch.Size([2, 8, 8])
        """
        outside, self.read = self.read, set()
        if name not in self._shared:
            with self._clock(name):
                made = make()
            self._shared[name] = self._note(name, made, make), frozenset(self.read)
        value, also = self._shared[name]
        self.read = outside | {name} | also
        return value  # type: ignore[no-any-return]

    def _note(self, name: str, value: T, make: Callable[..., Any] | None = None) -> T:
        """Return a part that was just made, after telling who watches."""
        if self.watch is not None:
            self.watch(name, value, make)
        return value

    def drop_large(self, limit: int = LARGE) -> None:
        """Forget large shared parts; the next reader computes them again.

        Args:
            limit: Parts of more bytes than this are forgotten.

        Example:
            >>> trace.drop_large()
        """
        self._shared = {
            name: part for name, part in self._shared.items() if count_bytes(part[0]) <= limit
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Return {name: bytes} of the shared parts that are kept."""
        return {name: count_bytes(part[0]) for name, part in self._shared.items()}


def count_bytes(value: Any) -> int:
    """Return the size of the tensors that a shared part holds."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, PartStore):
        return count_bytes(value.images) + count_bytes(value.captured.values)
    if isinstance(value, dict):
        return sum(map(count_bytes, value.values()))
    return sum(map(count_bytes, value)) if isinstance(value, (list, tuple)) else 0

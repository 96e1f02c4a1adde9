"""Counts of forwards: how many a network ran, and how many maps and metrics requested."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """What a network was asked for, in images: whole forwards and backwards, and those of the head
    alone.
    """

    forwards: int = 0
    backwards: int = 0
    head_forwards: int = 0
    head_backwards: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(self.tuple, other.tuple, strict=True)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.tuple, other.tuple, strict=True)))

    def times(self, images: int) -> Counts:
        """Return the counts of so many equal images."""
        return Counts(*(images * count for count in self.tuple))

    def copy(self) -> Counts:
        """Return the counts as they stand now."""
        return Counts(*self.tuple)

    @property
    def tuple(self) -> tuple[int, int, int, int]:
        """Return the four counts in the order of the fields."""
        return self.forwards, self.backwards, self.head_forwards, self.head_backwards

    @property
    def total(self) -> int:
        """Return the sum of the four counts: all passes."""
        return sum(self.tuple)


@dataclass
class Asked:
    """Forwards, in images, that were asked for, and those of them that did not have to be run.

    everything: what all maps and metrics would have needed alone.  equal_maps: of maps that were
    scored before, up to a factor.  equal_probes: of equal rankings, and of masks that a method's
    search and metrics share. What else was not run is shared: passes, gradients, ends of curves,
    attacked images.
    """

    everything: int = 0
    equal_maps: int = 0
    equal_probes: int = 0

    def __add__(self, other: Asked) -> Asked:
        return Asked(
            self.everything + other.everything,
            self.equal_maps + other.equal_maps,
            self.equal_probes + other.equal_probes,
        )


@dataclass(frozen=True)
class Spent:
    """What making the maps cost alone: network use in images, wall seconds, and the process's peak
    memory in MiB.
    """

    counts: Counts
    seconds: float
    peak_memory: float = float("nan")

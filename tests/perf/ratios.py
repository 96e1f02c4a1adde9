"""How speeds are compared: two calls side by side, pair after pair, in one process; never an
absolute time.

A benchmark ends with `report(benchmark, row, ratios)`: what it measured becomes a row of
the table of docs/speed.md (see `table.py`). It says what the ratios are of, and what is aimed at.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from bench.engine.prober import Prober
from bench.errors import BenchError
from bench.models.network_guard import guard_network

PAIRS = 7
LEVEL = 0.95
FASTER, SLOWER, SECONDS = "times as fast", "times the time", "seconds"


@dataclass(frozen=True)
class Row:
    """A line of the table "Speed": what was measured, against what, and what is aimed at.

    what: the work.  against: what ours is compared with.  aim: of the median ratio; None where
    there is none. better: which way the ratio should go; "higher" aims at `aim` or more, "lower" at
    `aim` or less.  unit: what the ratio counts, said after the number.  forwards: whole forwards of
    the network that (ours, the other) ran, images. per_forward: whether the ratio over that of the
    forwards says something: both sides mostly run forwards.
    """

    what: str
    against: str
    aim: float | None = None
    better: Literal["higher", "lower"] = "higher"
    unit: str = FASTER
    forwards: tuple[int, int] | None = None
    per_forward: bool = False

    def meets(self, ratio: float) -> bool | None:
        """Return whether a ratio is what is aimed at; None where nothing is."""
        if self.aim is None:
            return None
        return ratio >= self.aim if self.better == "higher" else ratio <= self.aim


@dataclass(frozen=True)
class Interval:
    """A median with an interval of it, and how sure that interval is."""

    median: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def pairs_wanted(default: int = PAIRS) -> int:
    """Return how many pairs are run: `CAMBENCH_PERF_PAIRS`, else the benchmark's own number.

    Fewer than six give no interval of 95 %, and `table.py` refuses them.
    """
    text = os.environ.get("CAMBENCH_PERF_PAIRS", "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise BenchError(f"CAMBENCH_PERF_PAIRS is {text!r}; give the number of pairs, 1 or more.")
    return int(text)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    one: Callable[[], object],
    two: Callable[[], object],
    pairs: int | None = None,
    calls: tuple[int, int] = (1, 1),
    warm: bool = False,
) -> list[float]:
    """Return the ratios of seconds, one over two, of pairs run side by side after a warm-up of
    both.

    pairs: default `pairs_wanted()`.  calls: how often each is called within a pair, where one takes
    far less time than the other: the ratio is of their means.  warm: both have run already. Every
    second pair runs in the other order, so that none is always first.
    """
    if not warm:
        one()
        two()
    ratios = []
    for pair in range(pairs_wanted() if pairs is None else pairs):
        took = {}
        for place in (0, 1) if pair % 2 == 0 else (1, 0):
            call = (one, two)[place]
            took[place] = sum(seconds(call) for _ in range(calls[place])) / calls[place]
        ratios.append(took[0] / took[1])
    return ratios


def median_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the median with a nonparametric interval of it, from order statistics.

    The k-th lowest and the k-th highest of n values hold the median with probability 1 - 2 P(Bin(n,
    1/2) < k), whatever the values' distribution; k is the largest one that keeps `level`. Of fewer
    than six values not even the lowest and the highest keep 95 %: they are returned with the level
    that they have.
    """
    if not values:
        raise BenchError("There are no ratios to take a median of; run at least one pair.")
    ordered, count = sorted(values), len(values)
    kept = [k for k in range(1, count // 2 + 1) if _held(count, k) >= level]
    k = max(kept, default=1)
    return Interval(statistics.median(ordered), ordered[k - 1], ordered[-k], _held(count, k))


def _held(count: int, k: int) -> float:
    """Return the probability that the k-th lowest and the k-th highest of `count` values hold the
    median.
    """
    return max(0.0, 1 - 2 * sum(math.comb(count, i) for i in range(k)) / 2**count)


def report(benchmark: Any, row: Row, ratios: Sequence[float]) -> Interval:
    """Store a row in the benchmark's extra_info, print it, and return the median with its interval.

    A benchmark may report several rows. What pytest-benchmark has not timed it leaves out of its
    file, so a benchmark that timed nothing itself has one empty round noted.
    """
    found = median_interval(ratios)
    stored = dataclasses.asdict(row) | dataclasses.asdict(found)
    stored |= {"pairs": len(ratios), "ratios": list(ratios), "met": row.meets(found.median)}
    stored["per_forward"] = per_forward(row, found.median)
    benchmark.extra_info.setdefault("rows", []).append(stored)
    if benchmark.stats is None and benchmark.enabled:
        benchmark.pedantic(lambda: None, rounds=1)
    aim = "" if row.aim is None else f"; aim {'>=' if row.better == 'higher' else '<='} {row.aim:g}"
    forwards = "" if row.forwards is None else f", forwards {row.forwards[0]} and {row.forwards[1]}"
    if stored["per_forward"] is not None:
        forwards += f", {stored['per_forward']:.3g} per forward"
    print(
        f"\n{row.what}, against {row.against}: {found} {row.unit}, {len(ratios)} "
        f"pairs{forwards}{aim}"
    )
    return found


def per_forward(row: Row, ratio: float) -> float | None:
    """Return how many times as fast ours is per forward, where the row says that this means
    something.
    """
    if not row.per_forward or row.forwards is None or row.unit != FASTER:
        return None
    ours, theirs = row.forwards
    return ratio * ours / theirs


# --- what is compared


@dataclass
class Forwards:
    """Images that went through a module while it was watched."""

    images: int = 0
    sizes: list[int] = field(default_factory=list)


@contextmanager
def watched(module: nn.Module) -> Iterator[Forwards]:
    """Count the images that reach a module: a network's first layer, which head replays do not
    run.
    """
    forwards = Forwards()

    def count(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        forwards.images += len(args[0])
        forwards.sizes.append(len(args[0]))

    handle = module.register_forward_pre_hook(count)
    try:
        yield forwards
    finally:
        handle.remove()


def bare_forwards(prober: Prober, forwards: int) -> Callable[[], None]:
    """Return a call that runs so many images through the bare network, in the prober's batches."""
    side = prober.model.size
    images = torch.randn(prober.batch_size, 3, side, side).contiguous(
        memory_format=torch.channels_last
    )

    @torch.inference_mode()
    def bare() -> None:
        with guard_network(prober.model.net):
            for start in range(0, forwards, prober.batch_size):
                prober.model.net(images[: min(prober.batch_size, forwards - start)])

    return bare

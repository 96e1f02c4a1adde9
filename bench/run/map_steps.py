"""The maps of one batch as steps of a stage, by the work that methods declare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from bench.engine.counts import Counts
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.methods import Method
from bench.work_stages import open_stage


def track_maps(methods: Sequence[Method], trace: Trace, where: str = "") -> Iterator[Method]:
    """Yield methods whose maps of a trace are made one after the other.

    Args:
        methods: What is yielded.
        trace: Of the batch; its prober counts what is run.
        where: Stands before a method's name in the words of the stage.
    """
    counts = trace.prober.counts
    sizes = [1 + _declare(method, trace) for method in methods]
    with open_stage(sum(sizes)) as stage:
        for method, size in zip(methods, sizes, strict=True):
            gauge = partial(_measure, counts, sum(counts.tuple), size * len(trace))
            stage.begin(size, f"{where}{method.name}", gauge)
            yield method
            stage.advance(size)


def _measure(counts: Counts, before: int, passes: float) -> float:
    """Return which share of some passes has been run since the counts stood at `before`."""
    return (sum(counts.tuple) - before) / passes


def _declare(method: Method, trace: Trace) -> int:
    """Return the passes per image that a method declares; 0 where it does not fit."""
    try:
        return sum(method.plan_work(trace.model).tuple)
    except BenchError:
        return 0

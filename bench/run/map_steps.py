"""The maps of one batch as steps of a stage, by the work that methods declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.engine.counts import Counts
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.methods import Method
from bench.work_stages import is_heard, open_stage


def track_maps(methods: Sequence[Method], trace: Trace, where: str = "") -> Iterator[Method]:
    """Yield methods whose maps of a trace are made one after the other.

    Args:
        methods: What is yielded.
        trace: Of the batch; its prober counts what is run.
        where: Stands before a method's name in the words of the stage.
    """
    if not is_heard():
        yield from methods
        return
    sizes = [1 + _declare(method, trace) for method in methods]
    with open_stage(sum(sizes)) as stage:
        for method, size in zip(methods, sizes, strict=True):
            gauge = start_gauge(trace.prober.counts, size * len(trace))
            stage.begin(size, f"{where}{method.name}", gauge)
            yield method
            stage.advance(size)


def start_gauge(counts: Counts, passes: float) -> Callable[[], float]:
    """Return what measures a step: the share of these passes that has been run since."""
    before = counts.total
    return lambda: (counts.total - before) / max(passes, 1.0)


def _declare(method: Method, trace: Trace) -> int:
    """Return the passes per image that a method declares; 0 where it does not fit."""
    try:
        return method.plan_work(trace.model).total
    except BenchError:
        return 0

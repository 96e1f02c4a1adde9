"""How much of a batch is done: methods and scores count by the work that they declare.

Nothing here changes what is computed. Without a listener nothing is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from bench.engine.prober import Prober
from bench.errors import BenchError
from bench.methods import Method
from bench.metrics import Metric
from bench.run.declared import DeclaredCounts
from bench.run.map_steps import start_gauge
from bench.run.plan import Plan
from bench.work_stages import Stage, is_heard, open_stage

OVERHEAD = 1.0
"""What a map or a score takes beside what it declares, in passes of the network per image."""

Wanted = Sequence[tuple[Method, Sequence[Metric]]]
"""The methods of a batch, each with the metrics that score its maps."""


class BatchMeter:
    """Says how much of a batch is done; where nobody listens it does nothing.

    Args:
        wanted: What is computed.
        declared: What it declares; None where nobody listens.
        prober: What runs the network, which counts its passes.
        images: Images of the batch.
    """

    def __init__(
        self, wanted: Wanted, declared: DeclaredCounts | None, prober: Prober, images: int
    ) -> None:
        self.prober, self.images, self.stage = prober, images, Stage(0, "", None, None)
        self.maps: dict[str, float] = {}
        self.scores: dict[tuple[str, str], float] = {}
        if declared is not None:
            self._weigh(wanted, declared)
        self._step = 0.0

    @property
    def total(self) -> float:
        """Return the declared passes per image of everything."""
        return sum(self.maps.values()) + sum(self.scores.values())

    def _weigh(self, wanted: Wanted, declared: DeclaredCounts) -> None:
        """Weigh maps and scores; a part that methods share counts for the first of them."""
        there = set[str]()
        for method, metrics in wanted:
            work = declared.method(method)
            parts = [part for part in work.parts if part.name not in there]
            there |= {part.name for part in parts}
            own = sum((part.counts for part in parts), work.own)
            self.maps[method.name] = OVERHEAD + own.total
            for metric in metrics:
                again = [one.alone.total for _, one in declared.repeats(metric, method)]
                passes = OVERHEAD + declared.forwards(metric) + sum(again)
                self.scores[method.name, metric.name] = passes

    def begin_maps(self, method: Method) -> None:
        """Begin a method's maps; what came before is done."""
        self._begin(self.maps.get(method.name, 0.0))

    def skip(self, method: Method, metrics: Collection[Metric]) -> None:
        """Count scores as done that are not computed: there is no map, or an equal one is known."""
        self._begin(sum(self.scores.get((method.name, one.name), 0.0) for one in metrics))

    def begin_scores(self, cells: Collection[tuple[Method, Metric]]) -> None:
        """Begin scores; what came before is done."""
        self._begin(sum(self.scores.get((method.name, one.name), 0.0) for method, one in cells))

    def expect(self, passes: int) -> None:
        """Say how many passes of the network, in images, the step in progress takes."""
        self.stage.begin(self._step, gauge=start_gauge(self.prober.counts, passes))

    def _begin(self, step: float) -> None:
        if not self.maps:
            return
        self.stage.advance(self._step)
        self._step = step
        self.stage.begin(step, gauge=start_gauge(self.prober.counts, step * self.images))


@contextmanager
def meter_batch(plan: Plan, prober: Prober, wanted: Wanted, images: int) -> Iterator[BatchMeter]:
    """Measure how much of a batch is done, in the stage that is open.

    Args:
        plan: Of the run.
        prober: What runs the network.
        wanted: What is computed of the batch.
        images: Images of the batch.
    """
    declared = None
    if is_heard():
        declared = DeclaredCounts(plan, prober.model)
    try:
        meter = BatchMeter(wanted, declared, prober, images)
    except BenchError:  # a declaration of a plug-in that is wrong costs the bar, not the run
        meter = BatchMeter(wanted, None, prober, images)
    with open_stage(meter.total) as meter.stage:
        yield meter

"""What a run costs, before it starts: work, time, bytes and memory of a plan, or of what is left of
it in a folder.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from bench.engine.counts import Counts
from bench.engine.prober import Prober
from bench.engine.shared_parts import PASS
from bench.errors import BenchError
from bench.methods import Method
from bench.metrics import Metric
from bench.models.explainee import Explainee
from bench.planning.storage import (
    PART_BYTES,
    footprint,
    gallery_bytes,
    memory_bytes,
    row_bytes,
    written_bytes,
)
from bench.planning.timing import Rates, TimedSample, measured_rates, run_sample
from bench.planning.trial import Trial, tried
from bench.run.cells import Cell, waiting_groups
from bench.run.declared import DeclaredCounts, TotalWork, chosen_of
from bench.run.plan import Plan, Task

Measure = Literal["sample", "rates", "none"]

SAMPLE_SHARE = 0.05
SAMPLE_SECONDS = 2.0
LONGEST_SAMPLE = 30.0
"""A sample takes this share of what it stands for, but this long where that is more; one that would
take longer than the longest is left out, and the rates of single forwards stand for it."""

GALLERY = 6
"""Images that a run keeps for its boards."""

EXAMINED = 2
"""Images that cheap methods are tried on."""


@dataclass(frozen=True)
class Each:
    """Counts per image; fractions where they hold for a share of the images."""

    forwards: float = 0.0
    backwards: float = 0.0
    head_forwards: float = 0.0
    head_backwards: float = 0.0

    @classmethod
    def of(cls, counts: Counts, times: float = 1) -> Each:
        """Return so many times the counts of an image."""
        return cls(*(times * count for count in counts.tuple))

    def __add__(self, other: Each) -> Each:
        return Each(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class MethodLine:
    """A method's map of one image, alone, beyond the pass.  reason: why it does not fit the model.

    varies: why another image may ask for less or more.  shares: the parts that it reads with
    others, paid once.
    """

    name: str
    each: Each
    shares: tuple[str, ...]
    varies: str
    reason: str


@dataclass(frozen=True)
class MetricLine:
    """A metric on one map: its own forwards, and how often the map is made again.  shared: per
    image, for all maps.
    """

    name: str
    each: Each
    repeats: int
    shared: Each


@dataclass(frozen=True)
class ModelCost:
    """What one model costs.

    images: scored and calibrating ones that still lack something.  run: the most that is run when
    every label is what the model predicts.  second: what more is run for one image whose label is
    not.  wrong: the share of such images, and wrong_from where that is known from.  asked: what the
    run's ledger will count as asked for.  masks: equal masks that are known beforehand, and left
    out of `run`.  seconds: of this model's tasks, one after the other. timed: "sample", "rates" or
    "none".  sample_images: how many were run for it.
    """

    name: str
    images: Mapping[str, int]
    run: Counts
    asked: int
    masks: int
    second: Each
    extra: Each
    wrong: float
    wrong_from: str
    methods: tuple[MethodLine, ...]
    metrics: tuple[MetricLine, ...]
    shared: Each
    not_applicable: Mapping[str, str]
    rates: Rates | None
    seconds: float | None
    timed: str
    sample_images: int
    record_bytes: float
    memory_bytes: float


Kind = tuple[str, str, frozenset[Cell]]
"""Images that lack the same: (model, part, cells)."""


@dataclass(frozen=True)
class Cost:
    """What a plan costs.

    task_kinds: {task: {kind: images}}, what each task still lacks.  kind_seconds: per image.
    measured_seconds: what finding all this out took.
    """

    models: tuple[ModelCost, ...]
    tasks: Mapping[Task, Mapping[Kind, int]]
    kind_seconds: Mapping[Kind, float | None]
    gallery_bytes: float
    measured_seconds: float
    whole: bool = True

    @property
    def run(self) -> Counts:
        """Return the most that is run when every label is predicted."""
        return sum((model.run for model in self.models), Counts())

    @property
    def asked(self) -> int:
        """Return the forwards that the run's ledger will count as asked for."""
        return sum(model.asked for model in self.models)

    @property
    def seconds(self) -> float | None:
        """Return the seconds of all tasks, one after the other; None where nothing was measured."""
        found = [model.seconds for model in self.models]
        return None if any(s is None for s in found) else sum(s for s in found if s is not None)

    @property
    def disk_bytes(self) -> float:
        """Return the bytes of records and of the pictures that boards draw."""
        return sum(model.record_bytes for model in self.models) + self.gallery_bytes

    @property
    def memory_bytes(self) -> float:
        """Return the most that one model's task holds: a process runs one at a time."""
        return max((model.memory_bytes for model in self.models), default=0.0)

    def task_seconds(self, task: Task) -> float:
        """Return about how long a task takes; 0 where nothing was measured or it lacks nothing."""
        return sum(
            count * (self.kind_seconds[kind] or 0.0)
            for kind, count in self.tasks.get(task, {}).items()
        )

    def wall_seconds(self, workers: int) -> float | None:
        """Return how long so many equal workers take, each with one task at a time."""
        if self.seconds is None:
            return None
        free = [0.0] * max(1, min(workers, len(self.tasks) or 1))
        for task in self.tasks:
            heapq.heappush(free, heapq.heappop(free) + self.task_seconds(task))
        return max(free)


def estimate(
    plan: Plan,
    measure: Measure = "rates",
    *,
    out: Path | None = None,
    forwards_per_second: float | None = None,
    examined: int = EXAMINED,
    report: Callable[[str], None] = lambda _: None,
) -> Cost:
    """Return what a plan costs, without starting it.

    measure: time "sample"s of the real run, or only the "rates" of forwards, backwards and head
    replays, or "none". out: a run folder; what is there already costs nothing.
    forwards_per_second: a rate to assume for every model instead of one measured here.  examined:
    images on which cheap methods are tried. report: is called with a line on what happens.
    """
    if forwards_per_second is not None and not forwards_per_second > 0:
        raise BenchError(
            f"{forwards_per_second:g} forwards per second is no rate; give a number above 0."
        )
    start = time.perf_counter()
    tasks = _tasks(plan, out)
    kinds: Counter[Kind] = Counter()
    for found in tasks.values():
        kinds.update(found)
    if forwards_per_second is not None and measure == "sample":
        measure = "rates"  # a sample would say how fast this machine is
    models, seconds = [], dict[Kind, float | None]()
    for model in plan.models:
        report(f"Counting and measuring {model.name}")
        own = {kind: count for kind, count in kinds.items() if kind[0] == model.name}
        one = _ModelEstimate(plan, model, own, tasks, measure, forwards_per_second, examined)
        models.append(one.cost())
        seconds |= one.seconds
    shown = min(GALLERY, len(plan.subset)) if tasks else 0
    return Cost(
        tuple(models),
        tasks,
        seconds,
        gallery_bytes(plan, shown),
        time.perf_counter() - start,
        whole=out is None,
    )


def _tasks(plan: Plan, out: Path | None) -> dict[Task, dict[Kind, int]]:
    """Return what every task lacks; without a folder everything, which need not be looked up item
    by item.
    """
    if out is not None:
        return {
            task: {
                (task.model, task.part, cells): len(positions)
                for cells, positions in groups.items()
            }
            for task, groups in waiting_groups(plan, out).items()
        }
    kinds = [(model.name, part) for model in plan.models for part in ("eval", "calibration")]
    cells = {kind: plan.cells(*kind) for kind in kinds}
    return {
        task: {(task.model, task.part, cells[task.model, task.part]): task.stop - task.start}
        for task in plan.tasks()
    }


class _ModelEstimate:
    """The estimate of one model's tasks."""

    def __init__(
        self,
        plan: Plan,
        model: Explainee,
        kinds: Mapping[Kind, int],
        tasks: Mapping[Task, Mapping[Kind, int]],
        measure: Measure,
        forwards_per_second: float | None,
        examined: int,
    ) -> None:
        self.plan, self.model, self.kinds = plan, model, kinds
        self.measure = measure if kinds else "none"
        self.tasks = {task: found for task, found in tasks.items() if task.model == model.name}
        self.trial = tried(plan, model, examined) if kinds else Trial()
        self.declared = DeclaredCounts(plan, model, self.trial.found)
        self.rates = self._rates(forwards_per_second)
        self.totals = {kind: self._totals(kind) for kind in kinds}
        self.samples: dict[Kind, TimedSample] = {}
        self.seconds: dict[Kind, float | None] = {}

    def _rates(self, forwards_per_second: float | None) -> Rates | None:
        if self.measure == "none" and forwards_per_second is None:
            return None
        found = measured_rates(self.model, self.plan.geometry.size, self.plan.batch_size)
        return found if forwards_per_second is None else found.at(forwards_per_second)

    def _totals(self, kind: Kind) -> dict[int, TotalWork]:
        """Return {images that a task has of a kind: their work}: how many there are decides what a
        task keeps.
        """
        sizes = sorted({found[kind] for found in self.tasks.values() if kind in found})
        return {size: self.declared.total(chosen_of(kind[2]), size) for size in sizes}

    def cost(self) -> ModelCost:
        """Return everything about this model."""
        self._sample()
        wrong, wrong_from = self._wrong()
        self.seconds = {kind: self._kind_seconds(kind, wrong) for kind in self.kinds}
        images: Counter[str] = Counter()
        for (_, part, _), count in self.kinds.items():
            images[part] += count
        refused = {method.name: self.declared.method(method).reason for method in self.plan.methods}
        return ModelCost(
            name=self.model.name,
            images=dict(images),
            run=self._run(),
            asked=sum(total.asked * count for total, count in self._groups()),
            masks=sum(total.masks * count for total, count in self._groups()),
            second=max(
                (Each.of(self._usual(kind).second) for kind in self.kinds),
                key=astuple,
                default=Each(),
            ),
            extra=sum(
                (Each.of(total.second, wrong * count) for total, count in self._groups()), Each()
            ),
            wrong=wrong,
            wrong_from=wrong_from,
            methods=tuple(self._method_line(method) for method in self.plan.methods),
            metrics=tuple(self._metric_line(metric) for metric in self.plan.metrics),
            shared=Each.of(self._usual(next(iter(self.kinds))).shared + Counts(1))
            if self.kinds
            else Each(),
            not_applicable={name: reason for name, reason in refused.items() if reason},
            rates=self.rates,
            seconds=self._total_seconds(),
            timed="none" if self.rates is None else "sample" if self.samples else "rates",
            sample_images=sum(sample.images for sample in self.samples.values()),
            record_bytes=sum(self._record_bytes(kind) for kind in self.kinds),
            memory_bytes=self._memory() if self.kinds else 0.0,
        )

    def _groups(self) -> list[tuple[TotalWork, int]]:
        """Return (work per image, images) of every kind in every task."""
        return [
            (self.totals[kind][count], count)
            for found in self.tasks.values()
            for kind, count in found.items()
        ]

    def _run(self) -> Counts:
        once = {name: counts for total, _ in self._groups() for name, counts in total.once.items()}
        return sum(
            (total.run.times(count) for total, count in self._groups()),
            sum(once.values(), Counts()),
        )

    # --- time

    def _total_seconds(self) -> float | None:
        known = [(seconds, self.kinds[kind]) for kind, seconds in self.seconds.items()]
        return (
            None
            if any(s is None for s, _ in known)
            else sum((s or 0.0) * count for s, count in known)
        )

    def _network_seconds(self, kind: Kind) -> float:
        """Return what the networks alone take for an image whose label is predicted."""
        assert self.rates is not None
        return self.rates.seconds(self._usual(kind).run)

    def _usual(self, kind: Kind) -> TotalWork:
        """Return the work of a kind in the largest task."""
        return self.totals[kind][max(self.totals[kind])]

    def _sample(self) -> None:
        """Run a few images of every kind, as many as its budget allows."""
        if self.measure != "sample":
            return
        prober = Prober(self.model, self.plan.batch_size, self.plan.compiled)
        for kind, count in self.kinds.items():
            each = self._network_seconds(kind)
            budget = max(SAMPLE_SECONDS, SAMPLE_SHARE * each * count)
            size = min(count, self.plan.shard_size, max(1, int(budget / each)))
            if each <= LONGEST_SAMPLE:
                positions = self._positions(kind)[: min(size, int(LONGEST_SAMPLE / each))]
                self.samples[kind] = run_sample(
                    self.plan, *kind, positions, prober, warm=each <= budget / 4
                )

    def _positions(self, kind: Kind) -> list[int]:
        """Return the first items of a kind; where tasks have several kinds, those at their starts
        stand for them.
        """
        task = next(task for task, found in self.tasks.items() if kind in found)
        return list(range(task.start, task.start + self.tasks[task][kind]))

    def _kind_seconds(self, kind: Kind, wrong: float) -> float | None:
        if kind in self.samples:
            return self.samples[kind].seconds
        if self.rates is None:
            return None
        return self._network_seconds(kind) + wrong * self.rates.seconds(self._usual(kind).second)

    def _wrong(self) -> tuple[float, str]:
        """Return the share of images whose label is not predicted, and where that is known from."""
        if "top1" in self.model.card:
            return 1 - float(self.model.card["top1"]) / 100, "the model's card"
        images = sum(sample.images for sample in self.samples.values())
        if images > self.trial.images:
            return 1 - sum(
                sample.right for sample in self.samples.values()
            ) / images, f"a sample of {images}"
        return 1 - self.trial.right / max(self.trial.images, 1), f"{self.trial.images} images"

    # --- bytes

    def _record_bytes(self, kind: Kind) -> float:
        _, part, cells = kind
        count = self.kinds[kind]
        parts = sum(kind in found for found in self.tasks.values())
        sample = self.samples.get(kind)
        if sample is not None and len(sample.rows):
            each = max(written_bytes(sample.rows) - PART_BYTES, 0) / sample.images
        else:
            each = self._image_bytes(part, chosen_of(cells))
        return PART_BYTES * parts + each * count

    def _image_bytes(self, part: str, chosen: Mapping[str, Collection[str]]) -> float:
        """Return the bytes of one image's records."""
        fitting = [
            method for method in self.plan.methods if not self.declared.method(method).reason
        ]
        total = 0.0
        for metric in self.plan.metrics_of(part):
            identity = self.plan.metric_id(self.model.name, metric)
            lengths = metric.lengths(self.plan.protocol, self.plan.geometry.size**2)
            each = sum(
                row_bytes(lengths.get(name, 0), v.reduce == "curve")
                for name, v in metric.values.items()
            )
            total += each * sum(identity in chosen.get(method.id, ()) for method in fitting)
        return total

    def _memory(self) -> float:
        items = max((sum(found.values()) for found in self.tasks.values()), default=1)
        backwards = any(self._usual(kind).run.backwards for kind in self.kinds)
        return memory_bytes(
            self.plan, footprint(self.model), items, len(self.plan.methods), backwards
        )

    # --- what each method and metric asks

    def _method_line(self, method: Method) -> MethodLine:
        work = self.declared.method(method)
        shares = tuple(part.name for part in work.parts if any(part.counts.tuple))
        return MethodLine(method.name, Each.of(work.alone), shares, work.varies, work.reason)

    def _metric_line(self, metric: Metric) -> MetricLine:
        read = [
            part.counts
            for part in metric.shared(self.plan.protocol)
            if not part.once and part.name != PASS.name
        ]
        repeats = max(len(self.declared.repeats(metric, method)) for method in self.plan.methods)
        own = Each(self.declared.forwards(metric))
        return MetricLine(metric.name, own, repeats, Each.of(sum(read, Counts())))


def counted(plan: Plan, out: Path | None = None, examined: int = EXAMINED) -> Cost:
    """Return what a plan asks of its networks, without measuring anything."""
    return estimate(plan, "none", out=out, examined=examined)

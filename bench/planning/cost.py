"""The cost of a plan: work, time, bytes and memory, model by model."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from bench.engine.counts import Counts
from bench.run.network_rates import Rates
from bench.run.plan import Task
from bench.run.waiting_work import ImageCounts, Kind


@dataclass(frozen=True)
class MethodLine:
    """A method's map of one image, alone, beyond the pass.  reason: why it does not fit the model.

    varies: why another image may ask for less or more.  shares: the parts that it reads with
    others, paid once.
    """

    name: str
    each: ImageCounts
    shares: tuple[str, ...]
    varies: str
    reason: str


@dataclass(frozen=True)
class MetricLine:
    """A metric on one map: its own forwards, and how often the map is made again.  shared: per
    image, for all maps.
    """

    name: str
    each: ImageCounts
    repeats: int
    shared: ImageCounts


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
    second: ImageCounts
    extra: ImageCounts
    wrong: float
    wrong_from: str
    methods: tuple[MethodLine, ...]
    metrics: tuple[MetricLine, ...]
    shared: ImageCounts
    not_applicable: Mapping[str, str]
    rates: Rates | None
    seconds: float | None
    timed: str
    sample_images: int
    record_bytes: float
    memory_bytes: float


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
    def extra(self) -> ImageCounts:
        """Return about what the second maps of misclassified images add."""
        return sum((model.extra for model in self.models), ImageCounts())

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

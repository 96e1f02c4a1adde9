"""What a run costs, before it starts: work, time, bytes and memory of a plan, or of what is left of
it in a folder.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from bench.engine.counts import Counts
from bench.engine.prober import Prober
from bench.engine.shared_parts import PASS
from bench.errors import BenchError
from bench.methods import Method
from bench.metrics import Metric
from bench.models.explainee import Explainee
from bench.planning.cost import Cost, MethodLine, MetricLine, ModelCost
from bench.planning.storage import (
    PART_BYTES,
    count_written_bytes,
    footprint,
    gallery_bytes,
    memory_bytes,
    row_bytes,
)
from bench.planning.timing import TimedSample, run_sample
from bench.planning.trial import Trial, try_methods
from bench.records.gallery_parts import GALLERY_ITEMS
from bench.run.announcement import read_wrong_share
from bench.run.declared import DeclaredCounts, group_cells
from bench.run.network_rates import Rates, measure_rates
from bench.run.plan import Plan
from bench.run.waiting_work import ImageCounts, Kind, TaskKinds, WaitingWork, find_kinds
from bench.work_stages import track

Measure = Literal["sample", "rates", "none"]

SAMPLE_SHARE = 0.05
SAMPLE_SECONDS = 2.0
LONGEST_SAMPLE = 30.0
"""A sample takes this share of what it stands for, but this long where that is more; one that would
take longer than the longest is left out, and the rates of single forwards stand for it."""

EXAMINED = 2
"""Images that cheap methods are tried on."""


def estimate(
    plan: Plan,
    measure: Measure = "rates",
    *,
    out: Path | None = None,
    forwards_per_second: float | None = None,
    examined: int = EXAMINED,
) -> Cost:
    """Return what a plan costs, without starting it.

    measure: time "sample"s of the real run, or only the "rates" of forwards, backwards and head
    replays, or "none". out: a run folder; what is there already costs nothing.
    forwards_per_second: a rate to assume for every model instead of one measured here.  examined:
    images on which cheap methods are tried.
    """
    if forwards_per_second is not None and not forwards_per_second > 0:
        raise BenchError(
            f"{forwards_per_second:g} forwards per second is no rate; give a number above 0."
        )
    start = time.perf_counter()
    tasks = find_kinds(plan, out)
    if forwards_per_second is not None and measure == "sample":
        measure = "rates"  # a sample would time this machine
    models, seconds = [], dict[Kind, float | None]()
    for model in track(plan.models, lambda model: f"Counting and measuring {model.name}"):
        one = _ModelEstimate(plan, model, tasks, measure, forwards_per_second, examined)
        models.append(one.cost())
        seconds |= one.seconds
    shown = min(GALLERY_ITEMS, len(plan.subset)) if tasks else 0
    return Cost(
        tuple(models),
        tasks,
        seconds,
        gallery_bytes(plan, shown),
        time.perf_counter() - start,
        whole=out is None,
    )


class _ModelEstimate:
    """The estimate of one model's tasks."""

    def __init__(
        self,
        plan: Plan,
        model: Explainee,
        tasks: TaskKinds,
        measure: Measure,
        forwards_per_second: float | None,
        examined: int,
    ) -> None:
        self.plan, self.model = plan, model
        own = {task: found for task, found in tasks.items() if task.model == model.name}
        self.trial = try_methods(plan, model, examined) if own else Trial()
        self.declared = DeclaredCounts(plan, model, self.trial.found)
        self.work = WaitingWork(self.declared, own)
        self.kinds = self.work.kinds
        self.measure = measure if self.kinds else "none"
        self.rates = self._rates(forwards_per_second)
        self.samples: dict[Kind, TimedSample] = {}
        self.seconds: dict[Kind, float | None] = {}

    def _rates(self, forwards_per_second: float | None) -> Rates | None:
        if self.measure == "none" and forwards_per_second is None:
            return None
        found = measure_rates(self.model, self.plan.geometry.size, self.plan.batch_size)
        return found if forwards_per_second is None else found.scale_to(forwards_per_second)

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
            run=self.work.run,
            asked=sum(total.asked * count for total, count in self.work.groups),
            masks=sum(total.masks * count for total, count in self.work.groups),
            second=self.work.second,
            extra=self.work.extra(wrong),
            wrong=wrong,
            wrong_from=wrong_from,
            methods=tuple(self._method_line(method) for method in self.plan.methods),
            metrics=tuple(self._metric_line(metric) for metric in self.plan.metrics),
            shared=ImageCounts.of(self.work.usual(next(iter(self.kinds))).shared + Counts(1))
            if self.kinds
            else ImageCounts(),
            not_applicable={name: reason for name, reason in refused.items() if reason},
            rates=self.rates,
            seconds=self._total_seconds(),
            timed="none" if self.rates is None else "sample" if self.samples else "rates",
            sample_images=sum(sample.images for sample in self.samples.values()),
            record_bytes=sum(self._record_bytes(kind) for kind in self.kinds),
            memory_bytes=self._memory() if self.kinds else 0.0,
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
        return self.rates.seconds(self.work.usual(kind).run)

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
        task = next(task for task, found in self.work.tasks.items() if kind in found)
        return list(range(task.start, task.start + self.work.tasks[task][kind]))

    def _kind_seconds(self, kind: Kind, wrong: float) -> float | None:
        if kind in self.samples:
            return self.samples[kind].seconds
        if self.rates is None:
            return None
        return self._network_seconds(kind) + wrong * self.rates.seconds(
            self.work.usual(kind).second
        )

    def _wrong(self) -> tuple[float, str]:
        """Return the share of images whose label is not predicted, and where that is known from."""
        share = read_wrong_share(self.model)
        if share is not None:
            return share, "the model's card"
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
        parts = sum(kind in found for found in self.work.tasks.values())
        sample = self.samples.get(kind)
        if sample is not None and len(sample.rows):
            each = max(count_written_bytes(sample.rows) - PART_BYTES, 0) / sample.images
        else:
            each = self._image_bytes(part, group_cells(cells))
        return PART_BYTES * parts + each * count

    def _image_bytes(self, part: str, chosen: Mapping[str, Collection[str]]) -> float:
        """Return the bytes of one image's records."""
        fitting = [
            method for method in self.plan.methods if not self.declared.method(method).reason
        ]
        total = 0.0
        for metric in self.plan.metrics_of(part):
            identity = self.plan.metric_id(self.model.name, metric)
            lengths = metric.lengths(self.plan.protocol, self.plan.geometry.pixels)
            each = sum(
                row_bytes(lengths.get(name, 0), v.reduce == "curve")
                for name, v in metric.values.items()
            )
            total += each * sum(identity in chosen.get(method.id, ()) for method in fitting)
        return total

    def _memory(self) -> float:
        items = max((sum(found.values()) for found in self.work.tasks.values()), default=1)
        backwards = any(self.work.usual(kind).run.backwards for kind in self.kinds)
        return memory_bytes(
            self.plan, footprint(self.model), items, len(self.plan.methods), backwards
        )

    # --- what each method and metric asks

    def _method_line(self, method: Method) -> MethodLine:
        work = self.declared.method(method)
        shares = tuple(part.name for part in work.parts if any(part.counts.tuple))
        return MethodLine(method.name, ImageCounts.of(work.alone), shares, work.varies, work.reason)

    def _metric_line(self, metric: Metric) -> MetricLine:
        read = [
            part.counts
            for part in metric.shared(self.plan.protocol)
            if not part.once and part.name != PASS.name
        ]
        repeats = max(len(self.declared.repeats(metric, method)) for method in self.plan.methods)
        own = ImageCounts(self.declared.forwards(metric))
        return MetricLine(metric.name, own, repeats, ImageCounts.of(sum(read, Counts())))


def count_cost(plan: Plan, out: Path | None = None, examined: int = EXAMINED) -> Cost:
    """Return what a plan asks of its networks, without measuring anything."""
    return estimate(plan, "none", out=out, examined=examined)

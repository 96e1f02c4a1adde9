"""The plan of a run: what is computed, in which tasks, and about how long it takes, known before it starts."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.data import Geometry, Subset
from bench.engine.prober import Counts, Prober, default_batch_size
from bench.errors import BenchError, NotApplicable
from bench.methods import METHODS, Method
from bench.metrics import METRICS, Metric
from bench.models.explainee import Explainee, untouched
from bench.pipeline.external import ExternalMethod
from bench.pipeline.precision import Verdict, check_precision
from bench.pipeline.records import MIN_CALIBRATION
from bench.protocol import FLOAT32, Protocol, digest, unlowered

BACKWARD_COST = 2.0
"""A backward costs about two forwards; for estimates only."""


@dataclass(frozen=True)
class Task:
    """A model and a slice of items: what is computed, written and lost as one."""

    model: str
    part: str
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run's records.

    batch_size: images per forward.  shard_size: items per task.  Both are part of the plan: the same plan gives the
    same bytes, another one the same values to within 1e-4.  shard: (i, n) for one of n runs, i from 1, that share the
    tasks of the plan; it is no part of the plan's id, since it changes no record.  precision: what was asked for
    (`bench.pipeline.precision`).  verdicts: by model, what is run in which; nothing before the guard has looked.
    """

    subset: Subset
    calibration: Subset | None
    geometry: Geometry
    models: tuple[Explainee, ...]
    methods: tuple[Method, ...]
    metrics: tuple[Metric, ...]
    protocol: Protocol
    batch_size: int
    shard_size: int
    compiled: bool = False
    shard: tuple[int, int] = (1, 1)
    precision: str = FLOAT32
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def manifest_id(self) -> str:
        """Return the id of the images as the models see them: manifest, calibration part and preprocessing."""
        return f"{self.subset.manifest_id}-{digest(self.geometry.id)[:6]}"

    @property
    def id(self) -> str:
        """Return the id of what all records of a run share: images, protocol, batch and task size."""
        return self.id_under(self.protocol)

    def id_under(self, protocol: Protocol) -> str:
        """Return the id that stands in records made under a protocol: the plan's, or that of `rules`."""
        return digest([self.manifest_id, protocol.id, self.batch_size, self.shard_size, self.compiled])

    def rules(self, model: str, metric: Metric) -> Protocol:
        """Return the protocol that a metric is computed under on a model: the plan's, or the same in bfloat16."""
        verdict = self.verdicts.get(model)
        return self.protocol if verdict is None else self.protocol.in_precision(verdict.precision_of(metric.name))

    def part(self, name: str) -> Subset:
        """Return the scored ("eval") or the calibration part."""
        chosen = self.subset if name == "eval" else self.calibration
        assert chosen is not None
        return chosen

    def tasks(self) -> Iterator[Task]:
        """Yield this shard's tasks, dealt like cards: together the shards have every task, and none has another's."""
        number, count = self.shard
        return itertools.islice(self._all_tasks(), number - 1, None, count)

    def _all_tasks(self) -> Iterator[Task]:
        """Yield the tasks of all shards: scored images first, model by model, then the calibration part."""
        for part in ("eval", "calibration"):
            if part == "calibration" and (self.calibration is None or not self.metrics_of(part)):
                continue
            size = len(self.part(part))
            for model in self.models:
                for start in range(0, size, self.shard_size):
                    yield Task(model.name, part, start, min(start + self.shard_size, size))

    def metrics_of(self, part: str) -> tuple[Metric, ...]:
        """Return the metrics that a part is for."""
        return tuple(m for m in self.metrics if part == "eval" or m.calibrates)

    def model(self, name: str) -> Explainee:
        """Return a model of the run by name."""
        return next(m for m in self.models if m.name == name)

    # --- what it costs

    def per_image(self, model: Explainee, part: str) -> Counts:
        """Return the work per image: more than is run where maps or images are equal, less where a label is not what
        the model predicts and a second map is made for it.
        """
        # The shared pass and, for insertion, the blurred image; one gradient of the head.
        total = Counts(forwards=2, head_forwards=1, head_backwards=1)
        metrics = self.metrics_of(part)
        probes = probe_forwards(metrics, self.protocol, self.geometry.size**2)
        for metric in metrics:
            total += metric.shared(self.protocol)
        paid: set[str] = set()
        for method in self.methods:
            own = method.planned(model, paid)
            times = 1 + sum(m.repeats(self.protocol) for m in metrics if applies(m, method))
            total += Counts(times * own.forwards + probes, times * own.backwards, times * own.head_forwards)
        return total

    def work(self) -> Counts:
        """Return the work of the whole plan."""
        total = Counts()
        for task in self.tasks():
            one = self.per_image(self.model(task.model), task.part)
            total += Counts(*(count * (task.stop - task.start) for count in one.tuple))
        return total

    def seconds(self, rates: dict[str, tuple[float, float]], tasks: Sequence[Task] | None = None) -> float:
        """Return about how long tasks take, from seconds per forward and per head replay of each model."""
        return sum(self.task_seconds(task, rates) for task in (tasks if tasks is not None else self.tasks()))

    def task_seconds(self, task: Task, rates: dict[str, tuple[float, float]]) -> float:
        """Return about how long one task takes."""
        forward, head = rates[task.model]
        work = self.per_image(self.model(task.model), task.part)
        whole = work.forwards + BACKWARD_COST * work.backwards
        return (task.stop - task.start) * (whole * forward + work.head_forwards * head)


def read_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of "i/n", for `Plan.shard`.

    >>> read_shard("2/8")
    (2, 8)
    """
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise BenchError(f"A shard is I/N with I from 1 to N, such as 1/8 (the first of eight); got {text!r}.")


def applies(metric: Metric, method: Method) -> bool:
    """Return whether a metric says something of a method: one that is about a parameter, of those that have it."""
    return not metric.parameter or metric.parameter in method.all_parameters


def probe_forwards(metrics: Sequence[Metric], protocol: Protocol, pixels: int) -> int:
    """Return the forwards per image and method; the mask of t = 0 is shared by the metrics that want it."""
    counts = {m.name: m.forwards(protocol, pixels) for m in metrics}
    if "threshold_quality" in counts:
        counts.pop("average_drop", None)
    return sum(counts.values())


def make_plan(
    subset: Subset,
    models: Sequence[Explainee],
    methods: str | Sequence[str | Method],
    metrics: str | Sequence[str],
    protocol: Protocol,
    batch_size: int | None = None,
    shard_size: int | None = None,
    calibration: int | None = None,
    compiled: bool = False,
    precision: str = FLOAT32,
) -> Plan:
    """Check that everything fits together and return the plan; what does not fit is one sentence.

    calibration: images that choose box thresholds; None takes half as many as are scored, but at least 50; 0 none.
    compiled: see `Prober`.  precision: "float32", "auto" or "bfloat16" (docs/precision.md).
    """
    check_precision(precision, compiled)
    unlowered(protocol)
    if not models:
        raise BenchError("A run needs at least one model; give --models.")
    names = [m.name for m in models]
    if len(set(names)) != len(names):
        raise BenchError(f"Two models of the run share a name ({', '.join(sorted(names))}); give each its own.")
    for model in models:
        _check_classes(model, subset)
    geometry = common_geometry(subset, models, protocol.geometry)
    chosen_methods = _methods(methods)
    for method in chosen_methods:
        if isinstance(method, ExternalMethod):
            method.check_frame(geometry.size, geometry.size)
    chosen_metrics = [METRICS.get(n) for n in METRICS.select(metrics if isinstance(metrics, str) else [*metrics])]
    have = {
        "boxes": subset.has_boxes,
        "masks": subset.has_masks,
        "truth": subset.has_boxes or subset.has_masks,
        "others": subset.has_others,
        "method": True,
    }
    usable_methods = [m for m in chosen_methods if all(have[n] for n in m.needs)]
    usable_metrics = [m for m in chosen_metrics if all(have[n] for n in m.needs)]
    if not usable_methods or not usable_metrics:
        what, need = ("method", chosen_methods) if not usable_methods else ("metric", chosen_metrics)
        raise NotApplicable(
            f"No {what} of the run fits the subset {subset.name}: {', '.join(m.name for m in need)} need ground truth "
            "(boxes or masks) that it does not have."
        )
    return Plan(
        subset=subset,
        calibration=None if protocol.box_tau_from == "scored" else _calibration(subset, usable_metrics, calibration),
        geometry=geometry,
        models=tuple(models),
        methods=tuple(usable_methods),
        metrics=tuple(usable_metrics),
        protocol=protocol,
        batch_size=batch_size or default_batch_size(geometry.size, models[0].device.type),
        shard_size=shard_size or default_shard_size(geometry.size),
        compiled=compiled,
        precision=precision,
    )


def _methods(methods: str | Sequence[str | Method]) -> list[Method]:
    """Return the methods of a list of names, groups, wildcards and, at its end, methods that no name stands for."""
    listed = [methods] if isinstance(methods, str) else [*methods]
    names = METHODS.select(methods if isinstance(methods, str) else [m for m in listed if isinstance(m, str)])
    chosen = [*(METHODS.get(name) for name in names), *(m for m in listed if isinstance(m, Method))]
    twice = [name for name, count in Counter(m.name for m in chosen).items() if count > 1]
    if twice:
        raise BenchError(f"Two methods of the run are called {twice[0]!r}; give each its own name.")
    return chosen


def default_shard_size(side: int) -> int:
    """Return the default items per task: enough to fill batches, few enough to lose little when a run is killed."""
    return 25 if side <= 128 else 10


def _calibration(subset: Subset, metrics: Sequence[Metric], wanted: int | None) -> Subset | None:
    if wanted == 0 or not any(metric.calibrates for metric in metrics):
        return None
    calibration = subset.calibration()
    count = max(len(subset) // 2, MIN_CALIBRATION) if wanted is None else wanted
    return None if calibration is None else calibration.limit(count)


def _check_classes(model: Explainee, subset: Subset) -> None:
    classes = model.num_classes
    # Numbers as names: the largest label is all that is known of the classes, and a model may have more.
    named = any(not name.isdigit() for name in subset.class_names)
    if classes < subset.num_classes or (classes != subset.num_classes and named):
        raise BenchError(
            f"The model {model.name} has {classes} classes and the subset {subset.name} {subset.num_classes}; "
            "choose a model and a subset of the same classes."
        )


def common_geometry(subset: Subset, models: Sequence[Explainee], rule: str = "own") -> Geometry:
    """Return the one geometry of a run: the manifest's, else the models' own where they agree, else 0.875 bicubic.

    rule: the protocol's `geometry`; under "squash" a frame that the manifest leaves open is the whole image, bilinear.
    """
    sizes = {model.size for model in models}
    if len(sizes) > 1:
        raise BenchError(
            f"The models of the run want images of {' and '.join(map(str, sorted(sizes)))} pixels; "
            "one run has one geometry, so run them apart."
        )
    (size,) = sizes
    if subset.geometry is not None:
        if subset.geometry.size != size:
            raise BenchError(
                f"The subset {subset.name} is fixed at {subset.geometry.size} pixels and {models[0].name} wants "
                f"{size}; "
                "choose a model of that size."
            )
        return subset.geometry
    if rule == "squash":
        return Geometry(size, "squash", size, "bilinear")
    own = {model.geometry for model in models}
    return own.pop() if len(own) == 1 else Geometry(size, "short", round(size / 0.875), "bicubic")


@torch.inference_mode()
def measured_rates(plan: Plan) -> dict[str, tuple[float, float]]:
    """Return seconds per forward and per head replay of each model, measured here and now on one small batch."""
    return {model.name: _rates(model, plan.geometry.size, plan.batch_size) for model in plan.models}


def _rates(model: Explainee, side: int, batch_size: int) -> tuple[float, float]:
    images = torch.zeros(batch_size, 3, side, side, device=model.device).contiguous(memory_format=torch.channels_last)
    with untouched(model.net):
        captured = model.capture(images)  # also the warm-up
        rows = torch.arange(len(images))
        forward = _seconds(lambda: Prober(model).logits(images))
        head = _seconds(lambda: model.split.head(captured.values, captured, rows))
    return forward / batch_size, head / batch_size


def _seconds(call: Any, repeats: int = 2) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats

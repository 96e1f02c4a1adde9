"""The plan of a run: what is computed, and in which tasks; `bench.planning` estimates its cost."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.data import Geometry, Subset
from bench.data.geometry import match_channels
from bench.data.input_size import enlarge, find_side, split_size, write_size
from bench.data.pasted import CALIBRATING
from bench.engine.memory import memory_of
from bench.engine.prober import default_batch_size
from bench.errors import BenchError
from bench.identity import add_sister, digest
from bench.methods import METHODS, Method
from bench.metrics import METRICS, Metric
from bench.models.explainee import Explainee
from bench.models.input_channels import check_file_channels
from bench.models.sisters import find_sister
from bench.protocol import FLOAT32, Protocol, require_float32
from bench.records.precision_verdict import PrecisionVerdict, check_precision
from bench.records.store import DEFAULT_CALIBRATION
from bench.run.class_match import match_classes
from bench.run.explained_class import ClassChoice
from bench.run.external_maps import ExternalMethod
from bench.run.grid_choice import ChosenGrids, choose_grids
from bench.run.paste_choice import choose_pastes
from bench.run.subset_owner import check_owner
from bench.run.unserved import keep_fitting, keep_usable


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

    batch_size: images per forward.  shard_size: items per task.  Both are part of the plan: the
    same plan gives the same bytes, another one the same values to within 1e-4.  shard: (i, n) for
    one of n runs, i from 1, that share the tasks of the plan; it is no part of the plan's id, since
    it changes no record.  precision: what was asked for (`bench.run.precision_guard`).  verdicts:
    by model, what is run in which; nothing before the guard has looked.  skip_unreadable: leave
    out images that cannot be read, which changes no record either.  notes: what was assumed, one
    sentence each.  unserved: the same of methods and metrics that the subset cannot serve.
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
    verdicts: Mapping[str, PrecisionVerdict] = field(default_factory=dict)
    skip_unreadable: bool = False
    notes: tuple[str, ...] = ()
    unserved: tuple[str, ...] = ()

    @property
    def manifest_id(self) -> str:
        """Return the id of the images as the models see them: manifest, calibration part and
        preprocessing.
        """
        return f"{self.subset.manifest_id}-{digest(self.geometry.id)[:6]}"

    @property
    def id(self) -> str:
        """Return the id of what all records of a run share: images, protocol, batch and task
        size.
        """
        return self.id_under(self.protocol)

    def id_under(self, protocol: Protocol) -> str:
        """Return the id that stands in records made under a protocol: the plan's, or that of
        `rules`.
        """
        return digest(
            [self.manifest_id, protocol.id, self.batch_size, self.shard_size, self.compiled]
        )

    @property
    def classes(self) -> ClassChoice:
        """Return which classes the run explains."""
        return ClassChoice(self.protocol, self.subset)

    def rules(self, model: str, metric: Metric) -> Protocol:
        """Return the protocol that a metric is computed under on a model: the plan's, or the same
        in bfloat16.
        """
        verdict = self.verdicts.get(model)
        return (
            self.protocol
            if verdict is None
            else self.protocol.replace_precision(verdict.precision_of(metric.name))
        )

    def probes(self, metric: Metric) -> bool:
        """Return whether a metric runs the network on changed images and on nothing else.

        Such a metric may wait and be called again, and may be run in a lower precision.
        """
        return metric.probes(self.protocol, self.geometry.pixels)

    def metric_id(self, model: str, metric: Metric) -> str:
        """Return the id that a metric's records of a model have."""
        identity = metric.id(self.rules(model, metric))
        sister = self.find_sister(model) if "sister" in metric.needs else None
        return identity if sister is None else add_sister(identity, sister.weights_id)

    def find_sister(self, model: str) -> Explainee | None:
        """Return the sister of a model, if a metric of the plan runs it."""
        needed = any("sister" in metric.needs for metric in self.metrics)
        return find_sister(self.model(model)) if needed else None

    def cells(self, model: str, part: str) -> frozenset[tuple[str, str]]:
        """Return what every item of a model and a part is to have: (method id, metric id)."""
        metrics = [self.metric_id(model, metric) for metric in self.metrics_of(part)]
        return frozenset((method.id, metric) for method in self.methods for metric in metrics)

    def part(self, name: str) -> Subset:
        """Return the scored ("eval") or the calibration part."""
        chosen = self.subset if name == "eval" else self.calibration
        assert chosen is not None
        return chosen

    def tasks(self) -> Iterator[Task]:
        """Yield this shard's tasks, dealt like cards: together the shards have every task, and none
        has another's.
        """
        number, count = self.shard
        return itertools.islice(self._all_tasks(), number - 1, None, count)

    def _all_tasks(self) -> Iterator[Task]:
        """Yield the tasks of all shards: scored images first, model by model, then the calibration
        part.
        """
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


def read_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of "i/n", for `Plan.shard`.

    >>> read_shard("2/8")
    (2, 8)
    """
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise BenchError(
        f"A shard is I/N with I from 1 to N, such as 1/8 (the first of eight); got {text!r}."
    )


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

    calibration: images that choose box thresholds; None takes half as many as are scored, but at
    least `DEFAULT_CALIBRATION`; 0 none. compiled: see `Prober`.  precision: "float32", "auto" or
    "bfloat16" (docs/precision.md).
    """
    check_precision(precision, compiled)
    require_float32(protocol)
    _check_models(models)
    names = METRICS.select(metrics if isinstance(metrics, str) else [*metrics])
    aside = _count_pastes(names, calibration, protocol)
    subset, models, told = choose_items(subset, models, protocol, aside)
    subset, notes = match_classes(models, subset)
    geometry = common_geometry(subset, models, protocol.geometry)
    fitting, no_methods = keep_fitting("method", _select_methods(methods, geometry), subset)
    usable, no_metrics = keep_usable([METRICS.get(name) for name in names], subset, models)
    device = models[0].device
    return Plan(
        subset=subset,
        calibration=_calibration(subset, usable, calibration, protocol),
        geometry=geometry,
        models=tuple(models),
        methods=tuple(fitting),
        metrics=tuple(usable),
        protocol=protocol,
        batch_size=batch_size
        or default_batch_size(find_side(geometry.size), device.type, memory_of(device)),
        shard_size=shard_size or default_shard_size(find_side(geometry.size), device.type),
        compiled=compiled,
        precision=precision,
        notes=(*told, *notes),
        unserved=(*no_methods, *no_metrics),
    )


def _check_models(models: Sequence[Explainee]) -> None:
    """Refuse a run without models, and models that share a name."""
    if not models:
        raise BenchError("A run needs at least one model; give --models.")
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise BenchError(
            f"Two models of the run share a name ({', '.join(sorted(names))}); give each its own."
        )
    for model in models:
        check_file_channels(model.name, model.channels)


def _select_methods(methods: str | Sequence[str | Method], geometry: Geometry) -> list[Method]:
    """Return the methods of a list of names, groups, wildcards and, at its end, methods that no
    name stands for.
    """
    listed = [methods] if isinstance(methods, str) else [*methods]
    names = METHODS.select(
        methods if isinstance(methods, str) else [m for m in listed if isinstance(m, str)]
    )
    chosen = [*(METHODS.get(name) for name in names), *(m for m in listed if isinstance(m, Method))]
    twice = [name for name, count in Counter(m.name for m in chosen).items() if count > 1]
    if twice:
        raise BenchError(f"Two methods of the run are called {twice[0]!r}; give each its own name.")
    for method in chosen:
        if isinstance(method, ExternalMethod):
            method.check_frame(*geometry.shape)
    return chosen


def default_shard_size(side: float, device: str = "cpu") -> int:
    """Return the default items per task: enough to fill batches, few enough to lose little when a
    run is killed.

    A GPU, which needs larger batches and is done with a task in seconds, gets four times as many.
    """
    return (25 if side <= 128 else 10) * (1 if device == "cpu" else 4)


def _calibration(
    subset: Subset, metrics: Sequence[Metric], wanted: int | None, protocol: Protocol
) -> Subset | None:
    if (
        protocol.box_tau_from == "scored"
        or wanted == 0
        or not any(metric.calibrates for metric in metrics)
    ):
        return None
    calibration = subset.calibration()
    half = len(subset) // subset.items_per_image // 2
    count = max(half, DEFAULT_CALIBRATION) if wanted is None else wanted
    return None if calibration is None else calibration.limit(count)


def choose_items(
    subset: Subset,
    models: Sequence[Explainee],
    protocol: Protocol,
    calibration: int = CALIBRATING,
) -> ChosenGrids:
    """Return the subset and models of a run; networks choose the items of a subset expression.

    calibration: pastes that choose box thresholds.
    """
    owner = check_owner(models, subset)
    chosen = choose_grids(subset, models, common_geometry, protocol.geometry)
    frame = partial(common_geometry, rule=protocol.geometry)
    pastes = choose_pastes(chosen.subset, chosen.models, frame, calibration)
    return chosen._replace(subset=pastes, notes=(*owner, *chosen.notes))


def _count_pastes(metrics: Sequence[str], wanted: int | None, protocol: Protocol) -> int:
    """Return how many pastes are to choose box thresholds, where the subset is made of pastes."""
    chooses = any(METRICS.get(name).calibrates for name in metrics)
    if protocol.box_tau_from == "scored" or not chooses:
        return 0
    return CALIBRATING if wanted is None else wanted


def common_geometry(subset: Subset, models: Sequence[Explainee], rule: str = "own") -> Geometry:
    """Return the one geometry of a run: the manifest's, else the models' own where they agree, else
    0.875 bicubic.

    rule: the protocol's `geometry`; under "squash" a frame that the manifest leaves open is the
    whole image, bilinear.
    """
    sizes = sorted({model.size for model in models}, key=split_size)
    counts = sorted({model.channels for model in models})
    for what, found in (("pixels", [*map(write_size, sizes)]), ("channels", [*map(str, counts)])):
        if len(found) > 1:
            raise BenchError(
                f"The models of the run want images of {' and '.join(found)} {what}; one run has "
                "one geometry, so run them apart."
            )
    return match_channels(_choose_geometry(subset, models, rule), counts[0])


def _choose_geometry(subset: Subset, models: Sequence[Explainee], rule: str) -> Geometry:
    """Return the geometry of models of one size, whatever the channels of their images."""
    size = models[0].size
    if subset.geometry is not None:
        if subset.geometry.size != size:
            raise BenchError(
                f"The subset {subset.name} is fixed at {write_size(subset.geometry.size)} pixels "
                f"and {models[0].name} wants {write_size(size)}; choose a model of that size."
            )
        return subset.geometry
    if rule == "squash":
        return Geometry(size, "squash", size, "bilinear")
    own = {model.geometry for model in models}
    return own.pop() if len(own) == 1 else Geometry(size, "short", enlarge(size, 0.875), "bicubic")

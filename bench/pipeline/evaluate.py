"""A run: every task's missing cells are computed and written; what is there already is not computed
again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from bench.data import Subset, load_subset
from bench.engine.case import Background, Case, Spent
from bench.engine.memory import out_of_memory, release_memory
from bench.engine.prober import Counts, Prober
from bench.engine.probes import Asked, Pending
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.files import file_name
from bench.methods import Method
from bench.metrics import OUTSIDE, Metric
from bench.models.explainee import Explainee, untouched
from bench.models.zoo import load_model
from bench.pipeline.external import ExternalMethod
from bench.pipeline.gallery import write_gallery
from bench.pipeline.ledger import added, told
from bench.pipeline.loading import Reader
from bench.pipeline.plan import Plan, Task, make_plan, read_shard
from bench.pipeline.precision import decided
from bench.pipeline.provenance import code_version, describe, merged
from bench.pipeline.records import Done, Records, Store, empty_frame, equal_methods
from bench.pipeline.single import Again, apply
from bench.protocol import FLOAT32, Protocol, get_protocol
from bench.types import Batch

if TYPE_CHECKING:
    from bench.pipeline.executors import Executor

Cell = tuple[str, str]
"""(method id, metric id): what one item still lacks or has."""

Groups = dict[frozenset[Cell], list[int]]
"""Items by what they lack: {missing cells: item positions}."""

PIXEL_BYTES = 64
"""What a case holds for a pixel of a map while it is scored: the map in three forms, its order and
its ranks.
"""

WAVE_BYTES = 2**29
"""What the cases that are scored together may hold."""

SAME = 1e-5
"""Two maps are the same map when, scaled to a maximum of 1, no pixel differs by more than this."""


@dataclass(frozen=True)
class Progress:
    """Told after each task: the task, tasks done and in all, what the networks have run so far, and
    what was asked.
    """

    task: Task
    done: int
    total: int
    counts: Counts
    asked: Asked = field(default_factory=Asked)


@dataclass
class Outcome:
    """What a task leaves: rows, maps for the gallery, and the methods that did not fit the model
    (with the reason).

    asked: forwards that were asked for.  notes: what a user should know of how it went.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    gallery: dict[str, Any] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    asked: Asked = field(default_factory=Asked)
    notes: set[str] = field(default_factory=set)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.rows + other.rows,
            self.gallery | other.gallery,
            self.not_applicable | other.not_applicable,
            self.asked + other.asked,
            self.notes | other.notes,
        )


def evaluate(
    subset: str | Path | Subset,
    model: str | Explainee | Sequence[str | Explainee],
    methods: str | Sequence[str | Method] = "fast",
    metrics: str | Sequence[str] = "standard",
    protocol: str | Protocol = "cambench-1",
    out: str | Path | None = None,
    *,
    batch_size: int | None = None,
    shard_size: int | None = None,
    calibration: int | None = None,
    compiled: bool = False,
    precision: str = FLOAT32,
    gallery: int = 6,
    command: str = "",
    progress: Callable[[Progress], None] | None = None,
    executor: Executor | None = None,
    shard: str = "1/1",
) -> Records:
    """Explain and score a subset with every method under every metric; return the records.

    methods: names, groups and wildcards; a list may also hold maps made elsewhere (see
    `load_maps`). out: the run folder. Tasks are written as they finish; started again with the same
    or a larger plan only what is missing or has changed is computed. None keeps the records in
    memory.  calibration, compiled, precision: see `make_plan`. gallery: so many images are drawn
    later.  executor: where tasks are computed; None: in this process. shard: "i/n" computes one of
    n disjoint parts of the tasks, each into its own `out` (see `merge_runs`).
    """
    chosen = subset if isinstance(subset, Subset) else load_subset(subset)
    listed = [model] if isinstance(model, (str, Explainee)) else list(model)
    models = [m if isinstance(m, Explainee) else load_model(m) for m in listed]
    rules = get_protocol(protocol)
    plan = make_plan(
        chosen,
        models,
        methods,
        metrics,
        rules,
        batch_size,
        shard_size,
        calibration,
        compiled,
        precision,
    )
    plan = dataclasses.replace(plan, shard=read_shard(shard))
    folder = None if out is None else Path(out)
    return run_plan(
        plan, folder, gallery=gallery, command=command, progress=progress, executor=executor
    )


def run_plan(
    plan: Plan,
    out: Path | None,
    *,
    gallery: int = 6,
    command: str = "",
    progress: Callable[[Progress], None] | None = None,
    executor: Executor | None = None,
) -> Records:
    """Run a plan into a folder (or memory) and return its records.

    Only this process writes: an executor computes tasks and hands over what they leave, so that
    nothing is there twice.
    """
    from bench.pipeline.executors import LocalExecutor  # it imports this module

    store = Store(out)
    with store.locked():
        plan = decided(plan, store)
        provenance = merged(store.provenance(), describe(plan, command))
        store.write_provenance(provenance)
        waiting = _waiting(plan, store)
        _compute(plan, waiting, executor or LocalExecutor(), store, provenance, gallery, progress)
        records = store.records(provenance, [task_name(task) for task in waiting])
        records.provenance["equal"] = equal_methods(records.frame)
        store.write_provenance(records.provenance)
    return records


def _compute(
    plan: Plan,
    waiting: dict[Task, Groups],
    executor: Executor,
    store: Store,
    provenance: dict[str, Any],
    gallery: int,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Have the tasks computed and keep what they leave; what is noted of it goes into `provenance`
    and run.json.
    """
    before, earlier = list(provenance.get("notes", ())), provenance.get("forwards")
    notes, total, asked = set[str](), Counts(), Asked()
    try:
        with closing(executor.run(plan, waiting, gallery)) as results:
            for number, (task, outcome, counts) in enumerate(results):
                if (
                    store.folder is not None and outcome.gallery
                ):  # before the rows: a task whose rows are there is done
                    write_gallery(store.folder, task_name(task), outcome.gallery)
                store.add(
                    task_name(task), pd.DataFrame(outcome.rows) if outcome.rows else empty_frame()
                )
                for method, reason in outcome.not_applicable.items():
                    provenance["not_applicable"].setdefault(task.model, {})[method] = reason
                total += counts
                asked += outcome.asked
                notes |= outcome.notes
                if progress:
                    progress(Progress(task, number + 1, len(waiting), total, asked))
    finally:  # a run that is stopped has run what it has run
        provenance["forwards"] = added(earlier, told(asked, total))
        provenance["notes"] = list(dict.fromkeys([*before, *sorted(notes)]))
        store.write_provenance(provenance)


def waiting_tasks(plan: Plan, out: Path | None) -> list[Task]:
    """Return the tasks of a plan that still lack something in a run folder."""
    return list(waiting_groups(plan, out))


def waiting_groups(plan: Plan, out: Path | None) -> dict[Task, Groups]:
    """Return what the items of each task of a plan still lack in a run folder; tasks that lack
    nothing are left out.
    """
    return _waiting(plan, Store(out))


def _waiting(plan: Plan, store: Store) -> dict[Task, Groups]:
    done = store.done()
    unfit = known_unfit(plan, store.provenance(), done)
    groups = {task: missing_cells(plan, task, done, unfit[task.model]) for task in plan.tasks()}
    return {task: found for task, found in groups.items() if found}


def known_unfit(plan: Plan, provenance: dict[str, Any], done: Done) -> dict[str, set[str]]:
    """Return {model: ids of methods} that an earlier run of this folder found not to fit the model
    at all.
    """
    unfit: dict[str, set[str]] = {model.name: set() for model in plan.models}
    for model in plan.models:
        known = (
            provenance.get("models", {}).get(model.name, {}).get("weights_id") == model.weights_id
        )
        for name in provenance.get("not_applicable", {}).get(model.name, {}) if known else ():
            unfit[model.name].add(provenance["methods"][name]["id"])
    for (_, _, model_name, *_), cells in done.items():
        if model_name in unfit:  # it fitted somewhere, so it is not the model
            unfit[model_name] -= {method_id for method_id, _ in cells}
    return unfit


def task_name(task: Task) -> str:
    """Return a file name for a task's part."""
    return f"{file_name(task.model)}-{task.part}-{task.start:06d}-{task.stop:06d}"


def missing_cells(plan: Plan, task: Task, done: Done, unfit: Collection[str] = ()) -> Groups:
    """Return what the items of a task still lack: {missing cells: item positions}, items without
    gaps left out.
    """
    model = plan.model(task.model)
    weights_id, manifest_id = model.weights_id, plan.manifest_id
    wanted = {cell for cell in plan.cells(task.model, task.part) if cell[0] not in unfit}
    ids = plan.part(task.part).ids
    groups: Groups = {}
    for position in range(task.start, task.stop):
        key = (task.part, ids[position], task.model, weights_id, manifest_id)
        lacking = frozenset(wanted - done.get(key, set()))
        if lacking:
            groups.setdefault(lacking, []).append(position)
    return groups


# --- one task


def run_task(
    plan: Plan,
    task: Task,
    groups: Groups,
    prober: Prober,
    gallery: int = 0,
    kept: Kept | None = None,
    reader: Reader | None = None,
) -> Outcome:
    """Compute the missing cells of a task.

    kept: where maps lie that other plans of the same images and model have made, or will want.
    reader: of the plan's images, who may have read them already; None reads them here.
    """
    outcome = Outcome()
    for cells, positions in groups.items():
        outcome += _run_positions(
            plan, task, cells, positions, prober, gallery, kept, reader or Reader(plan)
        )
    if prober.reduced_to is not None:
        outcome.notes.add(
            f"Memory is too short for {plan.batch_size} images per forward; {task.model} went on "
            "with "
            f"{prober.reduced_to}."
        )
    return outcome


def _run_positions(
    plan: Plan,
    task: Task,
    cells: frozenset[Cell],
    positions: list[int],
    prober: Prober,
    gallery: int,
    kept: Kept | None,
    reader: Reader,
) -> Outcome:
    """Compute the same cells of several items; items that memory is too short for together are run
    in halves.
    """
    outcome, before = Outcome(), prober.counts.forwards
    try:
        batch = reader.read(task, positions)
        shown = [i for i, p in enumerate(positions) if p < gallery and task.part == "eval"]
        with untouched(prober.model.net):
            _BatchRun(
                plan, task, batch.to(prober.model.device), prober, cells, shown, outcome, kept
            ).run()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(positions) == 1:
            raise BenchError(
                f"Memory is too short for {task.model} and one image of {plan.geometry.size} "
                "pixels; free some, choose "
                "other methods, or a smaller model."
            ) from error
    else:
        return outcome
    # Outside the except: the error's traceback holds on to what is to be freed.
    release_memory(prober.model.device)
    again = Asked(prober.counts.forwards - before)  # what was run so far is asked for a second time
    middle = len(positions) // 2
    both = [
        _run_positions(plan, task, cells, half, prober, gallery, kept, reader)
        for half in (positions[:middle], positions[middle:])
    ]
    note = f"Memory is too short for {len(positions)} images of {task.model} in one task."
    return sum(both, Outcome(asked=again, notes={note}))


@dataclass
class Maps:
    """One method's maps on a batch: for the prediction, and for the label (the same where the two
    agree).
    """

    predicted: torch.Tensor
    label: torch.Tensor
    spent: Spent | None

    @property
    def scaled(self) -> torch.Tensor:
        """Return both, scaled to a largest absolute value of 1 per map: [2,B,H,W]."""
        both = torch.stack([self.predicted, self.label])
        return both / both.abs().flatten(2).amax(2).clamp(min=1e-30)[:, :, None, None]


@dataclass
class Kept:
    """Maps that several plans score: each method's are made once, for every class that any of the
    plans explains.

    targets: "predicted", "label", or both.  For one model and one geometry; maps by method and what
    it saw.
    """

    targets: frozenset[str]
    maps: dict[tuple[Any, ...], Maps] = field(default_factory=dict)


@dataclass(eq=False)
class _Scored:
    """A method's maps on a batch, and what is made of them.

    case, label_case: the maps as metrics see them, until they are scored.  twin: an earlier method
    of the same maps. results, asked: scores by metric, and the forwards that each asked for.
    """

    method: Method
    maps: Maps
    metrics: list[Metric]
    case: Case
    label_case: Case
    twin: _Scored | None
    results: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def twin_has(self, metric: Metric) -> bool:
        """Return whether the score is that of the twin: a positive factor on the map changes
        nothing.
        """
        return metric.scale_free and self.twin is not None and metric in self.twin.metrics

    def forget(self) -> None:
        """Drop the cases, with the rankings and masks that they hold."""
        del self.case, self.label_case


@dataclass(frozen=True)
class _Cell:
    """One metric of one method's maps."""

    one: _Scored
    metric: Metric


class _BatchRun:
    """All methods and metrics on one batch: shared pass, shared background, equal maps and equal
    probes run once.
    """

    def __init__(
        self,
        plan: Plan,
        task: Task,
        batch: Batch,
        prober: Prober,
        cells: frozenset[Cell],
        shown: list[int],
        outcome: Outcome,
        kept: Kept | None = None,
    ) -> None:
        self.plan, self.task, self.batch, self.prober, self.outcome = (
            plan,
            task,
            batch,
            prober,
            outcome,
        )
        self.kept = kept
        self.cells, self.shown = cells, shown
        self.weights_id = prober.model.weights_id
        images = prober.model.normalise(batch.pixels)
        seed = plan.protocol.seed
        outcome.asked.everything += len(batch)  # the pass that says what is predicted
        base = Trace(prober, images, ids=batch.image_ids, truth=batch.truth, seed=seed)
        self.predicted = base.predicted
        every_label = plan.subset.explain == "label"
        self.trace = base.retarget(batch.labels) if every_label else base
        self.rows = torch.nonzero(batch.labels != self.trace.targets)[
            :, 0
        ]  # explained a second time, for the label
        self.label_trace = base.retarget(batch.labels)
        self.second = self.label_trace.select(self.rows) if len(self.rows) else None
        for trace in (self.trace, self.label_trace):
            trace.parts.update(base.parts)
        # The one that methods which probe (tft) find there, too.
        self.background = self.trace.shared("background", lambda: Background(self.trace))
        self.probed = 0
        self._seen: list[tuple[torch.Tensor, _Scored]] = []

    def run(self) -> None:
        """All maps first, since a method's own probes may be what metrics want; then the scores,
        wave by wave.
        """
        for wave in self._waves(list(self._explained())):
            self._score(wave)
        self.outcome.asked.equal_probes += self.probed - self.background.probes.run

    def _explained(self) -> Iterator[_Scored]:
        """Yield each method's maps with what is to be made of them, in the plan's order."""
        protocol = self.plan.protocol
        ids = [
            (q, self.plan.metric_id(self.task.model, q))
            for q in self.plan.metrics_of(self.task.part)
        ]
        for method in self.plan.methods:
            metrics = [q for q, identity in ids if (method.id, identity) in self.cells]
            if not metrics:
                continue
            before = self.prober.counts.forwards
            try:
                maps = self._maps(method, {getattr(protocol, q.target_field) for q in metrics})
            except NotApplicable as reason:
                self.outcome.not_applicable[method.name] = str(reason)
                self.outcome.asked.everything += (
                    self.prober.counts.forwards - before
                )  # of finding that out
                continue
            used = self.prober.counts.forwards - before
            alone = 0 if maps.spent is None else maps.spent.counts.forwards
            self.outcome.asked.everything += max(used, alone)
            self._keep_for_gallery(method, maps)
            yield self._prepared(method, maps, metrics)

    def _prepared(self, method: Method, maps: Maps, metrics: list[Metric]) -> _Scored:
        """Return what is scored of a method's maps, and the earlier method whose maps are these, if
        there is one.
        """
        case, label_case = (
            Case(
                trace,
                own,
                self.plan.protocol.view(()),
                background=self.background,
                spent=maps.spent,
                seed=self.plan.protocol.seed,
                rerun=None if isinstance(method, ExternalMethod) else Again(method),
                reuses=True,
            )
            for trace, own in ((self.trace, maps.predicted), (self.label_trace, maps.label))
        )
        one = _Scored(method, maps, metrics, case, label_case, self._twin(maps.scaled))
        self._seen.append((maps.scaled, one))
        return one

    def _waves(self, everything: list[_Scored]) -> Iterator[list[_Scored]]:
        """Cut methods into groups whose rankings, made while they are scored, fit into
        `WAVE_BYTES`.
        """
        each = max(1, len(self.batch) * self.plan.geometry.size**2 * PIXEL_BYTES)
        size = max(1, WAVE_BYTES // each)
        for start in range(0, len(everything), size):
            yield everything[start : start + size]

    def _maps(self, method: Method, targets: set[str]) -> Maps:
        """Return a method's maps for the targets that are wanted, or those that another plan has
        kept.
        """
        if self.kept is None:
            return self._made(method, targets)
        rules = self.plan.protocol
        key = (method.id, self.batch.ids, rules.seed, rules.box_min_visible)
        if key not in self.kept.maps:
            self.kept.maps[key] = self._made(method, targets | self.kept.targets)
        return self.kept.maps[key]

    def _made(self, method: Method, targets: set[str] | frozenset[str]) -> Maps:
        """Return a method's maps for the targets that are wanted; the label's anew only where it is
        not predicted.
        """
        only_label = targets == {"label"} and not method.class_agnostic
        maps, spent = measured(method, self.label_trace if only_label else self.trace)
        if only_label or "label" not in targets or method.class_agnostic or self.second is None:
            return Maps(maps, maps, spent)
        label = maps.clone()
        label[self.rows] = method(self.second)
        return Maps(maps, label, spent)

    def _score(self, wave: list[_Scored]) -> None:
        """Score maps together: what their metrics probe is packed into the same batches."""
        cells = [
            _Cell(one, metric) for one in wave for metric in one.metrics if not one.twin_has(metric)
        ]
        waiting = self._asked([cell for cell in cells if self._may_wait(cell.metric)])
        finish = self.background.probes.start()
        # A GPU is at work from here on; on a CPU it is done.
        for cell in cells:
            if not self._may_wait(cell.metric):
                self._take(cell)
        finish()
        while waiting:
            waiting = self._asked(waiting)
            self.background.probes.start()()
        for one in wave:
            self._write(one)

    def _may_wait(self, metric: Metric) -> bool:
        """Return whether a metric probes, and may be called again: ours are functions of the map
        and nothing else.
        """
        return metric.probes(self.plan.protocol, self.plan.geometry.size**2)

    def _rules(self, metric: Metric) -> Protocol:
        return self.plan.rules(self.task.model, metric)

    def _asked(self, cells: list[_Cell]) -> list[_Cell]:
        """Score what can be scored; return what waits for probes, which are on the list now."""
        waiting = []
        with self.background.probes.deferred():
            for cell in cells:
                try:
                    self._take(cell)
                except Pending:
                    waiting.append(cell)
        return waiting

    def _take(self, cell: _Cell) -> None:
        one, metric = cell.one, cell.metric
        case = one.label_case if self._on_label(metric) else one.case
        before = self.prober.counts.forwards
        one.results[metric.name] = self._applied(metric, case)
        one.asked[metric.name] = max(case.asked, self.prober.counts.forwards - before)
        self.probed += case.probed

    def _on_label(self, metric: Metric) -> bool:
        return bool(getattr(self.plan.protocol, metric.target_field) == "label")

    def _write(self, one: _Scored) -> None:
        """Add the rows of a method, and what they asked for; what a wave leaves of it is its
        scores.
        """
        for metric in one.metrics:
            if one.twin_has(metric):
                assert one.twin is not None
                one.results[metric.name] = one.twin.results[metric.name]
                one.asked[metric.name] = one.twin.asked[metric.name]
                self.outcome.asked.equal_maps += one.asked[metric.name]
            self.outcome.asked.everything += one.asked[metric.name]
            targets = self.batch.labels if self._on_label(metric) else self.trace.targets
            self._add_rows(one.method, metric, one.results[metric.name], targets, one.maps.spent)
        one.forget()

    def _applied(self, metric: Metric, case: Case) -> dict[str, torch.Tensor]:
        """Return a metric's values; NaN where it does not apply, so that a later run knows, and the
        board says n/a.
        """
        try:
            return apply(metric, case, self._rules(metric))
        except NotApplicable:
            nothing = torch.full((len(case),), torch.nan, dtype=torch.float64)
            return dict.fromkeys(metric.values, nothing)

    def _twin(self, scaled: torch.Tensor) -> _Scored | None:
        """Return the earliest method whose maps are these up to a positive factor."""
        for other, one in self._seen:
            if torch.allclose(scaled, other, rtol=0, atol=SAME):
                return one
        return None

    def _add_rows(
        self,
        method: Method,
        metric: Metric,
        scores: dict[str, torch.Tensor],
        targets: torch.Tensor,
        spent: Spent | None,
    ) -> None:
        plan, batch, model, rules = self.plan, self.batch, self.prober.model, self._rules(metric)
        constant = {
            "run": plan.id_under(rules),
            "subset": plan.subset.name,
            "part": self.task.part,
            "model": model.name,
            "parent": model.parent,
            "method": method.name,
            "forwards": float("nan") if spent is None else spent.counts.forwards / len(batch),
            "method_id": method.id,
            "metric_id": metric.id(rules),
            "protocol_id": rules.id,
            "weights_id": self.weights_id,
            "manifest_id": plan.manifest_id,
            "code": code_version(),
        }
        for name, values in scores.items():
            for i in range(len(batch)):
                if values.ndim == 1 and values[i] == OUTSIDE:
                    continue
                vector = values[i].to(torch.float32).numpy() if values.ndim == 2 else None
                self.outcome.rows.append(
                    {
                        **constant,
                        "metric": name,
                        "item": batch.ids[i],
                        "image": batch.image_ids[i],
                        "value": _summary(values[i]),
                        "vector": vector,
                        "target": int(targets[i]),
                        "label": int(batch.labels[i]),
                        "predicted": int(self.predicted[i]),
                        "correct": bool(self.predicted[i] == batch.labels[i]),
                    }
                )

    def _keep_for_gallery(self, method: Method, maps: Maps) -> None:
        for i in self.shown:
            item = self.batch.ids[i]
            pixels = (
                (self.batch.pixels[i].cpu().permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            )
            self.outcome.gallery[f"{item}|image"] = pixels
            names, target = self.plan.subset.class_names, int(self.trace.targets[i])
            self.outcome.gallery[f"{item}|title"] = np.array(
                names[target] if target < len(names) else str(target)
            )
            small = torch.nn.functional.avg_pool2d(
                maps.scaled[0, i][None, None], max(1, pixels.shape[0] // 96)
            )
            self.outcome.gallery[f"{item}|{method.name}"] = small[0, 0].to(torch.float16).numpy()


def measured(method: Method, trace: Trace) -> tuple[torch.Tensor, Spent | None]:
    """Return a method's maps [B,H,W] and what they cost; what maps made elsewhere cost is not known
    here.
    """
    maps, spent = method.measured(trace)
    return maps, None if isinstance(method, ExternalMethod) else spent


def _summary(values: torch.Tensor) -> float:
    """Return a row's value: the scalar itself; for a vector NaN or 0, saying whether it could be
    scored.
    """
    if values.ndim == 0:
        return float(values)
    return float("nan") if bool(torch.isnan(values).any()) else 0.0

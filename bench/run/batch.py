"""One batch of a task: all maps of all methods are made and scored together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.counts import Spent
from bench.engine.prober import Prober
from bench.engine.probes import Pending
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods import Method
from bench.metrics import OUTSIDE, Metric
from bench.protocol import Protocol
from bench.records.provenance import code_version
from bench.run.cells import Cell, Kept, Maps, Outcome
from bench.run.explained_class import BatchClasses
from bench.run.external_maps import ExternalMethod
from bench.run.failures import (
    describe_method_failure,
    describe_metric_failure,
    is_foreign_pair,
    must_stop,
)
from bench.run.gallery_items import keep_image, keep_map
from bench.run.in_memory import Again, apply
from bench.run.map_sameness import is_same_map
from bench.run.plan import Plan, Task
from bench.run.sealed_calls import explain_sealed, is_foreign
from bench.run.shared_maps import find_shared_maps
from bench.types import Batch

PIXEL_BYTES = 64
"""What a case holds for a pixel of a map while it is scored: the map in three forms, its order and
its ranks.
"""

WAVE_BYTES = 2**29
"""What the cases that are scored together may hold."""


@dataclass(eq=False)
class _Scored:
    """A method's maps on a batch, and what is made of them.

    Args:
        cases: by explained class, the maps as metrics see them, until they are scored.
        twin: an earlier method of the same maps.
        results: scores by metric.
        asked: the forwards that each metric asked for.
    """

    method: Method
    maps: Maps
    metrics: list[Metric]
    cases: dict[str, Case]
    twin: _Scored | None
    results: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def twin_has(self, metric: Metric) -> bool:
        """Return whether the score is that of the twin: a positive factor on the map changes
        nothing.
        """
        return metric.scale_free and self.twin is not None and metric in self.twin.metrics

    def take_from_twin(self, metric: Metric) -> None:
        """Take the scores of the twin, which has none where the metric failed."""
        assert self.twin is not None
        if metric.name in self.twin.results:
            self.results[metric.name] = self.twin.results[metric.name]
        self.asked[metric.name] = self.twin.asked[metric.name]

    def forget(self) -> None:
        """Drop the cases, with the rankings and masks that they hold."""
        self.cases.clear()


@dataclass(frozen=True)
class _ScoredCell:
    """One metric of one method's maps."""

    one: _Scored
    metric: Metric


class BatchRun:
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
        outcome.asked.everything += len(batch)  # the pass that finds the predicted classes
        base = Trace(prober, images, ids=batch.image_ids, truth=batch.truth, seed=seed)
        base.wanted_maps = find_shared_maps(plan.methods)
        self.classes = BatchClasses.open(plan.classes, base, batch.labels)
        # Methods that probe (tft) read the same background from the trace.
        trace = self.classes.usual
        self.background = trace.share("background", lambda: Background(trace))
        self.probed = 0
        self._seen: list[tuple[torch.Tensor, _Scored]] = []

    def run(self) -> None:
        """All maps first, since a method's own probes may be what metrics want; then the scores,
        wave by wave.
        """
        for wave in self._waves(list(self._explain_all())):
            self._score(wave)
        self.outcome.asked.equal_probes += self.probed - self.background.probes.run

    def _explain_all(self) -> Iterator[_Scored]:
        """Yield each method's maps with what is to be made of them, in the plan's order."""
        ids = [
            (q, self.plan.metric_id(self.task.model, q))
            for q in self.plan.metrics_of(self.task.part)
        ]
        for method in self.plan.methods:
            metrics = [q for q, identity in ids if (method.id, identity) in self.cells]
            if not metrics:
                continue
            before = self.prober.counts.forwards
            maps = self._try_maps(method, self.plan.classes.choose_all(metrics))
            if maps is None:  # of finding that out
                self.outcome.asked.everything += self.prober.counts.forwards - before
                continue
            used = self.prober.counts.forwards - before
            alone = 0 if maps.spent is None else maps.spent.counts.forwards
            self.outcome.asked.everything += max(used, alone)
            self._keep_for_gallery(method, maps)
            yield self._prepare(method, maps, metrics)

    def _try_maps(self, method: Method, classes: frozenset[str]) -> Maps | None:
        """Return a method's maps, or None where it does not fit or fails, with the reason noted."""
        try:
            return self._find_maps(method, classes)
        except NotApplicable as reason:
            self.outcome.not_applicable[method.name] = str(reason)
        except BaseException as error:
            if must_stop(error, foreign=is_foreign(method)):
                raise
            trace = self.classes.traces[self.classes.choice.choose_first(method, classes)]
            why = describe_method_failure(error, method, trace)
            self.outcome.failed.setdefault(("method", method.name), why)
        return None

    def _prepare(self, method: Method, maps: Maps, metrics: list[Metric]) -> _Scored:
        """Return what is scored of a method's maps, and the earlier method whose maps are these, if
        there is one.
        """
        cases = {
            explained: Case(
                trace,
                maps.select_class(explained),
                self.plan.protocol.view(()),
                background=self.background,
                spent=maps.spent,
                seed=self.plan.protocol.seed,
                rerun=None if isinstance(method, ExternalMethod) else Again(method),
                reuses=True,
            )
            for explained, trace in self.classes.traces.items()
        }
        one = _Scored(method, maps, metrics, cases, self._twin(method, maps.scaled))
        self._seen.append((maps.scaled, one))
        return one

    def _waves(self, everything: list[_Scored]) -> Iterator[list[_Scored]]:
        """Cut methods into groups whose rankings, made while they are scored, fit into
        `WAVE_BYTES`.
        """
        each = max(1, len(self.batch) * self.plan.geometry.pixels * PIXEL_BYTES)
        size = max(1, WAVE_BYTES // each)
        for start in range(0, len(everything), size):
            yield everything[start : start + size]

    def _find_maps(self, method: Method, classes: frozenset[str]) -> Maps:
        """Return a method's maps of some classes, or those that another plan has kept."""
        if self.kept is None:
            return self._make_of_classes(method, classes)
        rules = self.plan.protocol
        key = (method.id, self.batch.ids, rules.seed, rules.box_min_visible)
        if key not in self.kept.maps:
            self.kept.maps[key] = self._make_of_classes(method, classes | self.kept.classes)
        return self.kept.maps[key]

    def _make_of_classes(self, method: Method, classes: frozenset[str]) -> Maps:
        """Return a method's maps of some classes; images with the right prediction get one map."""
        choice, second = self.classes.choice, self.classes.second
        first = choice.choose_first(method, classes)
        maps, spent = make_maps(method, self.classes.traces[first])
        if second is None or not choice.explains_twice(method, classes):
            return Maps(maps, maps, spent)
        label = maps.clone()
        label[self.classes.rows] = explain_sealed(method, second)[0]
        return Maps(maps, label, spent)

    def _score(self, wave: list[_Scored]) -> None:
        """Score maps together: what their metrics probe is packed into the same batches."""
        cells = [
            _ScoredCell(one, metric)
            for one in wave
            for metric in one.metrics
            if not one.twin_has(metric)
        ]
        waiting = self._score_ready([cell for cell in cells if self.plan.probes(cell.metric)])
        finish = self.background.probes.start()
        # A GPU is at work from here on; on a CPU it is done.
        for cell in cells:
            if not self.plan.probes(cell.metric):
                self._take(cell)
        finish()
        while waiting:
            waiting = self._score_ready(waiting)
            self.background.probes.start()()
        for one in wave:
            self._write(one)

    def _rules(self, metric: Metric) -> Protocol:
        return self.plan.rules(self.task.model, metric)

    def _score_ready(self, cells: list[_ScoredCell]) -> list[_ScoredCell]:
        """Score what can be scored; return what waits for probes, which are on the list now."""
        waiting = []
        with self.background.probes.defer():
            for cell in cells:
                try:
                    self._take(cell)
                except Pending:
                    waiting.append(cell)
        return waiting

    def _take(self, cell: _ScoredCell) -> None:
        one, metric = cell.one, cell.metric
        case = one.cases[self.plan.classes.choose(metric)]
        before = self.prober.counts.forwards
        try:
            one.results[metric.name] = self._apply(metric, case)
        except BaseException as error:
            if must_stop(error, foreign=is_foreign_pair(metric, one.method)):
                raise
            self._note_failure(error, one, metric, case)
        one.asked[metric.name] = max(case.asked, self.prober.counts.forwards - before)
        self.probed += case.probed

    def _note_failure(self, error: BaseException, one: _Scored, metric: Metric, case: Case) -> None:
        """Note why a metric has no values of a method's maps; its first failure is looked into."""
        key = ("metric", metric.name)
        if key not in self.outcome.failed:
            self.outcome.failed[key] = describe_metric_failure(
                error, metric, one.method, case, self._rules(metric)
            )

    def _write(self, one: _Scored) -> None:
        """Add the rows of a method, and what they asked for; what a wave leaves of it is its
        scores.
        """
        for metric in one.metrics:
            if one.twin_has(metric):
                one.take_from_twin(metric)
                self.outcome.asked.equal_maps += one.asked[metric.name]
            self.outcome.asked.everything += one.asked[metric.name]
            if metric.name in one.results:  # else it failed
                self._add_rows(one, metric)
        one.forget()

    def _apply(self, metric: Metric, case: Case) -> dict[str, torch.Tensor]:
        """Return a metric's values; NaN where it does not apply, so that a later run knows, and the
        board says n/a.
        """
        try:
            return apply(metric, case, self._rules(metric))
        except NotApplicable:
            nothing = torch.full((len(case),), torch.nan, dtype=torch.float64)
            return dict.fromkeys(metric.values, nothing)

    def _twin(self, method: Method, scaled: torch.Tensor) -> _Scored | None:
        """Return the earliest method whose maps are these up to a positive factor.

        One of a plug-in is a twin of another's only: no value of cambench's methods comes from it.
        """
        own = is_foreign(method)
        return next(
            (
                one
                for other, one in self._seen
                if (own or not is_foreign(one.method)) and is_same_map(scaled, other)
            ),
            None,
        )

    def _add_rows(self, one: _Scored, metric: Metric) -> None:
        """Add a row for each value of a metric and each item, but for items outside its set."""
        facts, targets = self._describe_cell(one, metric), self.classes.find_targets(metric)
        before = len(self.outcome.rows)
        for name, values in one.results[metric.name].items():
            for i, content in enumerate(self.batch.contents):
                if values.ndim == 1 and values[i] == OUTSIDE:
                    continue
                row = facts | {
                    "metric": name,
                    "item": self.batch.ids[i],
                    "image": self.batch.image_ids[i],
                    "value": _summarise_value(values[i]),
                    "vector": values[i].to(torch.float32).numpy() if values.ndim == 2 else None,
                    "target": int(targets[i]),
                    "item_id": None if content is None else content.identity,
                }
                self.outcome.rows.append(row | self._describe_prediction(i))
        items = {row["item"] for row in self.outcome.rows[before:]}
        if len(items) < len(self.batch):
            self.outcome.outside.add(metric.name)

    def _describe_cell(self, one: _Scored, metric: Metric) -> dict[str, Any]:
        """Return what all rows of a method and a metric have in common."""
        plan, model, rules = self.plan, self.prober.model, self._rules(metric)
        spent = one.maps.spent
        return {
            "run": plan.id_under(rules),
            "subset": plan.subset.name,
            "part": self.task.part,
            "model": model.name,
            "parent": model.parent,
            "method": one.method.name,
            "forwards": math.nan if spent is None else spent.counts.forwards / len(self.batch),
            "method_id": one.method.id,
            "metric_id": plan.metric_id(model.name, metric),
            "protocol_id": rules.id,
            "weights_id": self.weights_id,
            "manifest_id": plan.manifest_id,
            "code": code_version(),
        }

    def _describe_prediction(self, i: int) -> dict[str, Any]:
        """Return what rows say of an image's label and prediction."""
        label, predicted = int(self.batch.labels[i]), int(self.classes.predicted[i])
        return {"label": label, "predicted": predicted, "correct": label == predicted}

    def _keep_for_gallery(self, method: Method, maps: Maps) -> None:
        names, shorter = self.plan.subset.class_names, min(self.batch.pixels.shape[-2:])
        for i in self.shown:
            target = int(self.classes.usual.targets[i])
            title = names[target] if target < len(names) else str(target)
            keep_image(self.outcome.gallery, self.batch, i, title)
            values = maps.scaled[0, i]
            keep_map(self.outcome.gallery, self.batch.ids[i], method.name, values, shorter)


def make_maps(method: Method, trace: Trace) -> tuple[torch.Tensor, Spent | None]:
    """Return a method's maps [B,H,W] and what they cost; what maps made elsewhere cost is not known
    here.
    """
    maps, spent = explain_sealed(method, trace)
    return maps, None if isinstance(method, ExternalMethod) else spent


def _summarise_value(values: torch.Tensor) -> float:
    """Return a row's value: the scalar itself; for a vector NaN or 0, saying whether it could be
    scored.
    """
    if values.ndim == 0:
        return float(values)
    return float("nan") if bool(torch.isnan(values).any()) else 0.0

"""The work that methods and metrics declare, summed for a choice of them as a run shares it.

All counts are per image. A run computes that much when no two maps, rankings or masks are equal;
which of them are equal is unknown beforehand. Where the data decide, a declaration is the most that
an image can ask for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from bench.engine.counts import Counts
from bench.engine.part_store import LARGE
from bench.engine.shared_parts import PASS, SharedPart
from bench.errors import BenchError, NotApplicable
from bench.methods import Method
from bench.metrics import Metric
from bench.models.explainee import Explainee
from bench.run.external_maps import ExternalMethod
from bench.run.plan import Plan
from bench.run.shared_maps import find_shared_maps, list_shared_work

FLOAT_BYTES = 4


@dataclass(frozen=True)
class MethodWork:
    """A method's own work per image beyond the pass, and the shared parts that it reads.

    varies: why an image may ask for less.  reason: why the method does not fit the model, or "".
    """

    own: Counts = field(default_factory=Counts)
    parts: tuple[SharedPart, ...] = ()
    varies: str = ""
    reason: str = ""

    @property
    def alone(self) -> Counts:
        """Return the work of this method when nobody shares a part with it."""
        return sum((part.counts for part in self.parts), self.own)


@dataclass(frozen=True)
class TotalWork:
    """The work per image of a choice of methods and metrics.

    maps: the pass, the methods and their parts.  shared: the shared parts of metrics. scores:
    everything per map. asked: forwards as the run's ledger counts them: what every map and metric
    would need alone. masks: masks that two metrics of a map both ask for, which run once. second:
    the additional work for an image whose label is not predicted.  once: per model, not per image.
    """

    maps: Counts
    shared: Counts
    scores: Counts
    asked: int
    masks: int
    second: Counts
    once: Mapping[str, Counts]

    @property
    def run(self) -> Counts:
        """Return the work when the label is predicted."""
        return self.maps + self.shared + self.scores


class DeclaredCounts:
    """What the methods and metrics of a plan declare for one of its models.

    found: {method id: work} that replaces declarations, for methods that were tried on the model.
    """

    def __init__(
        self, plan: Plan, model: Explainee, found: Mapping[str, MethodWork] | None = None
    ) -> None:
        self.plan, self.model, self.found = plan, model, dict(found or {})
        self.shared_maps = find_shared_maps(plan.methods)
        self._variants: dict[Hashable, MethodWork] = {}

    def method(self, method: Method) -> MethodWork:
        """Return the work of a method."""
        if method.id not in self.found:
            self.found[method.id] = self._read_declaration(method)
        return self.found[method.id]

    def _read_declaration(self, method: Method) -> MethodWork:
        if isinstance(method, ExternalMethod):
            return MethodWork()
        try:
            own, parts = list_shared_work(
                method, self.model, self.shared_maps, self.plan.geometry.pixels
            )
        except NotApplicable as error:
            return MethodWork(reason=str(error))
        varies = method.why_varies or next((p.varies for p in parts.values() if p.varies), "")
        return MethodWork(own, tuple(parts.values()), varies)

    def forwards(self, metric: Metric) -> int:
        """Return the forwards of a metric per image and map."""
        return metric.forwards(self.plan.protocol, self.plan.geometry.pixels)

    def repeats(self, metric: Metric, method: Method) -> list[tuple[Hashable, MethodWork]]:
        """Return (trace, work) for each time that a metric runs the method again; None is the map's
        own trace.
        """
        if isinstance(method, ExternalMethod) or not self.applies(metric, method):
            return []
        places = [(metric.name, number) for number in range(metric.repeats(self.plan.protocol))]
        own = method.all_parameters.get(metric.parameter)
        settings = [value for value in metric.settings(self.plan.protocol) if value != own]
        return [(place, self.method(method)) for place in places] + [
            (None, self._variant(method, metric.parameter, value)) for value in settings
        ]

    def _variant(self, method: Method, parameter: str, value: object) -> MethodWork:
        """Return the work of a method with another parameter; none where it refuses that value."""
        key = (method.id, parameter, value)
        if key not in self._variants:
            try:
                self._variants[key] = self.method(method.variant(**{parameter: value}))
            except BenchError:
                self._variants[key] = MethodWork()
        return self._variants[key]

    def applies(self, metric: Metric, method: Method) -> bool:
        """Return whether a metric says anything of a method, on this model."""
        if "sister" in metric.needs and self.plan.find_sister(self.model.name) is None:
            return False
        if isinstance(method, ExternalMethod):
            return "method" not in metric.needs
        return not metric.parameter or metric.parameter in method.all_parameters

    def total(self, chosen: Mapping[str, Collection[str]], items: int) -> TotalWork:
        """Return the work of {method id: metric ids}.

        items: images of a task; with many of them, traces drop large shared parts.
        """
        return _Sum(self, chosen, items).total()


class _Sum:
    """Adds up methods and metrics: each trace pays for a shared part once, while it keeps it."""

    def __init__(
        self, declared: DeclaredCounts, chosen: Mapping[str, Collection[str]], items: int
    ) -> None:
        self.declared, self.plan = declared, declared.plan
        self.ids = {
            metric.name: self.plan.metric_id(declared.model.name, metric)
            for metric in self.plan.metrics
        }
        wanted = [
            (method, self._metrics(method, chosen.get(method.id, ())))
            for method in self.plan.methods
        ]
        self.wanted = [(method, metrics) for method, metrics in wanted if metrics]
        self.kept_numbers = LARGE / (FLOAT_BYTES * max(items, 1))
        self.there: set[tuple[Hashable, str]] = set()

    def _metrics(self, method: Method, ids: Collection[str]) -> list[Metric]:
        return [metric for metric in self.plan.metrics if self.ids[metric.name] in ids]

    def total(self) -> TotalWork:
        """Add up all maps first, as a run does, and then the scores."""
        maps, scores, second, asked, masks = Counts(1), Counts(), Counts(), 1, 0
        shared, choice = dict[str, SharedPart](), self.plan.classes
        for method, metrics in self.wanted:
            work = self.declared.method(method)
            classes = choice.choose_all(metrics)
            maps += self._visit(choice.choose_first(method, classes), work)
            if choice.explains_twice(method, classes):
                second += self._visit("second", work)
            if not work.reason and not isinstance(method, ExternalMethod):
                asked += 1 + work.alone.forwards
        for method, metrics in self.wanted:
            if self.declared.method(method).reason:  # found out anew in each task
                continue
            applying = [metric for metric in metrics if self.declared.applies(metric, method)]
            for metric in applying:
                forwards, again = self.declared.forwards(metric), self._count_again(method, metric)
                read = metric.shared(self.plan.protocol)
                scores += Counts(forwards) + again
                asked += forwards + again.forwards + sum(part.counts.forwards for part in read)
                shared |= {part.name: part for part in read}
            masks += self._equal_masks(applying)
        shared.pop(PASS.name, None)  # of the maps
        each = sum((part.counts for part in shared.values() if not part.once), Counts())
        once = {part.name: part.counts for part in shared.values() if part.once}
        return TotalWork(maps, each, scores - Counts(masks), asked, masks, second, once)

    def _equal_masks(self, metrics: Iterable[Metric]) -> int:
        """Return the masks that metrics of one map ask for and others of the same class and
        precision have run.
        """
        counts = dict[Hashable, list[int]]()
        for metric in metrics:
            precision = self.plan.rules(self.declared.model.name, metric).precision
            place = precision, self.plan.classes.choose(metric)
            counts.setdefault(place, []).append(metric.masks(self.plan.protocol))
        return sum(sum(found) - max(found) for found in counts.values())

    def _visit(self, trace: Hashable, work: MethodWork, kept: float = math.inf) -> Counts:
        """Return what a method costs on a trace, and note its parts.

        kept: the trace drops parts of more numbers.
        """
        counts = work.own
        for part in work.parts:
            if (trace, part.name) not in self.there:
                counts += part.counts
            if part.numbers <= kept:
                self.there.add((trace, part.name))
        return counts

    def _count_again(self, method: Method, metric: Metric) -> Counts:
        """Return what making maps again costs."""
        clean = self.plan.classes.choose(metric)
        return sum(
            (
                self._visit(clean, work)
                if trace is None
                else self._visit(trace, work, self.kept_numbers)
                for trace, work in self.declared.repeats(metric, method)
            ),
            Counts(),
        )


def group_cells(cells: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return {method id: metric ids} of cells.

    >>> group_cells([("a", "x"), ("a", "y")]) == {"a": {"x", "y"}}
    True
    """
    chosen: dict[str, set[str]] = {}
    for method, metric in cells:
        chosen.setdefault(method, set()).add(metric)
    return chosen

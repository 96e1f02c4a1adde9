"""Exact counts of a plan: what methods and metrics ask of a network, image by image, found out without running it.

Each method and each metric goes once through its real steps on a few images (see `dry`), apart from all others; what
they share is told apart by name. From this the work of any choice of methods and metrics is put together as a run puts
it together: what is shared once, everything else as often as it is asked for. No formula is written down twice, and a
plug-in that declares nothing is counted as well.

What is planned is what is run when no two maps, rankings or masks are equal: which are is not known before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from bench.engine.case import Case
from bench.engine.prober import Counts
from bench.engine.probes import Key
from bench.engine.trace import LARGE, Trace
from bench.errors import BenchError, NotApplicable
from bench.methods import Method
from bench.metrics import Metric
from bench.models.explainee import Explainee, untouched
from bench.pipeline.dry import CLEAN, DryAgain, DryBackground, DryProber, Endless, Repeat, noise
from bench.pipeline.external import ExternalMethod
from bench.pipeline.plan import Plan
from bench.pipeline.single import apply

EXAMINED = 2
"""Images that methods and metrics are counted on: counts that depend on the image are the mean over these."""


@dataclass(frozen=True)
class MethodWork:
    """What a method asks on the examined images: on its own, and of each shared part that it reads.

    sizes: bytes of shared parts.  colours: images of one colour.  reason: why it does not fit, or "".
    """

    own: Counts = field(default_factory=Counts)
    parts: Mapping[str, Counts] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    colours: frozenset[tuple[float, ...]] = frozenset()
    reason: str = ""

    @property
    def alone(self) -> Counts:
        """Return what it asks beyond the pass when nobody shares anything with it."""
        return sum(self.parts.values(), self.own)


@dataclass(frozen=True)
class MetricWork:
    """What a metric asks of one method's maps of the examined images.

    probes: names of perturbed images.  own: what else it runs per map.  asked: forwards as a run's ledger counts them,
    without those of maps made again.  shared: names of what all maps share.  repeats: maps that are made again.
    lengths: {value: length of its vector, 0 for a number}.  reason: why it does not apply, or "".
    """

    probes: frozenset[Key] = frozenset()
    own: Counts = field(default_factory=Counts)
    asked: int = 0
    shared: frozenset[Hashable] = frozenset()
    repeats: tuple[Repeat, ...] = ()
    colours: frozenset[tuple[float, ...]] = frozenset()
    lengths: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Total:
    """The work of a choice of methods and metrics on the examined images.

    maps: passes, methods, and the parts that they share.  shared: what metrics share.  scores: everything per map.
    asked: forwards that the run's ledger will count as asked for.  masks: probes that two metrics of a map both ask
    for, which are run once.  second: what is run beside it for images whose label is not predicted.  colours: forwards
    per model.
    """

    maps: Counts
    shared: Counts
    scores: Counts
    asked: int
    masks: int
    second: Counts
    colours: frozenset[tuple[float, ...]]

    @property
    def run(self) -> Counts:
        """Return what is run when all labels are predicted."""
        return self.maps + self.shared + self.scores


class Examined:
    """A model of a plan, and what methods and metrics ask of it on its first scored images."""

    def __init__(self, plan: Plan, model: Explainee, images: int = EXAMINED) -> None:
        self.plan, self.model = plan, model
        chosen = plan.subset
        positions = range(min(images, len(chosen)))
        batch = chosen.batch(positions, plan.geometry, plan.protocol.box_min_visible).to(model.device)
        self.count = len(batch)
        self.prober = DryProber(model, plan.batch_size)
        with untouched(model.net):
            self.base = Trace(
                self.prober,
                model.normalise(batch.pixels),
                ids=batch.image_ids,
                truth=batch.truth,
                seed=plan.protocol.seed,
            )
        self.right = int((self.base.predicted == batch.labels).sum())
        self.background = DryBackground(self.base)
        self._methods: dict[str, MethodWork] = {}
        self._metrics: dict[tuple[str, str], MetricWork] = {}

    # --- one at a time

    def method(self, method: Method) -> MethodWork:
        """Return what a method asks."""
        if method.id not in self._methods:
            self._methods[method.id] = self._method_work(method)
        return self._methods[method.id]

    def _method_work(self, method: Method) -> MethodWork:
        if isinstance(method, ExternalMethod):
            return MethodWork()
        steps = _iterations(method)
        if steps > SHORT:
            one, two = (self._method_work(_with_iterations(method, n)) for n in (1, 2))
            return replace(one, own=_straight(one.own, two.own, steps))
        trace = self.base.retarget(self.base.predicted)
        before, reason = self.prober.counts.copy(), ""
        self.prober.colours.clear()
        try:
            with self._limited():
                method(trace)
        except NotApplicable as error:
            reason = str(error)
        except _NOT_OURS:
            return self._declared(method)
        parts = {name: part.counts for name, part in trace.parts.items()}
        own = self.prober.counts - before
        for counts in parts.values():
            own -= counts
        return MethodWork(own, parts, trace.sizes, frozenset(self.prober.colours), reason)

    def _declared(self, method: Method) -> MethodWork:
        """Return what a method says that it asks: it cannot do with answers that are none of its network."""
        return MethodWork(self.per_examined(method.planned(self.model)))

    def per_examined(self, counts: Counts) -> Counts:
        """Return counts of one image as those of the examined ones."""
        return Counts(*(count * self.count for count in counts.tuple))

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Inside, no more forwards are counted than any method of ours could ask for."""
        self.prober.limit.forwards = self.prober.counts.forwards + MOST * self.count
        try:
            yield
        finally:
            self.prober.limit.forwards = math.inf

    def variant(self, method: Method, parameters: Sequence[tuple[str, Any]]) -> MethodWork:
        """Return what a method asks with other parameters; nothing where it does not take them."""
        if not parameters:
            return self.method(method)
        try:
            return self.method(method.variant(**dict(parameters)))
        except BenchError:
            return MethodWork(reason="takes no such parameter")

    def metric(self, metric: Metric, method: Method) -> MetricWork:
        """Return what a metric asks of a method's maps."""
        external = isinstance(method, ExternalMethod)
        same = method.name if metric.parameter else ("external" if external else "")
        key = (metric.id(self.plan.protocol), same)
        if key not in self._metrics:
            self._metrics[key] = self._metric_work(metric, None if external else method)
        return self._metrics[key]

    def _metric_work(self, metric: Metric, method: Method | None) -> MetricWork:
        background, prober, protocol = self.background, self.prober, self.plan.protocol
        again = None if method is None else DryAgain(background, method.all_parameters)
        maps = noise(self.count, *self.base.size).abs()
        case = Case(
            self.base, maps, protocol.view(()), background=background, seed=protocol.seed, rerun=again, reuses=True
        )
        before, known, run = prober.counts.copy(), set(background.costs), background.probes.run
        background.read, background.probes.seen = set(), set()
        prober.colours.clear()
        try:
            with untouched(self.model.net), self._limited():
                scores = apply(metric, case, protocol)
        except NotApplicable as error:
            return MetricWork(reason=str(error), lengths=dict.fromkeys(metric.values, 0))
        except _NOT_OURS:
            forwards = metric.forwards(protocol, self.base.size[0] * self.base.size[1]) * self.count
            return MetricWork(own=Counts(forwards), asked=forwards, lengths=dict.fromkeys(metric.values, 0))
        own = prober.counts - before - Counts(background.probes.run - run)
        for key in set(background.costs) - known:
            own -= background.costs[key]
        shared = frozenset(background.read)
        made = sum(background.costs[key].forwards for key in shared)
        probes = frozenset(background.probes.seen)
        return MetricWork(
            probes,
            own,
            max(case.asked, own.forwards + len(probes) + made),
            shared,
            () if again is None else tuple(again.repeats),
            frozenset(prober.colours),
            {name: values.shape[1] if values.ndim == 2 else 0 for name, values in scores.items()},
        )

    # --- together

    def together(self, chosen: Mapping[str, Collection[str]], items: int) -> Total:
        """Return the work of {method id: metric ids}, as a run puts it together.

        items: images of a task, which decide how large the parts are that it keeps.
        """
        return _Sum(self, chosen, items).total()

    def per_item(self, counts: Counts, items: int) -> Counts:
        """Return counts of the examined images as those of so many."""
        return Counts(*(-(-count * items // self.count) for count in counts.tuple))


_NOT_OURS = (ArithmeticError, AssertionError, AttributeError, Endless, LookupError, RuntimeError, TypeError, ValueError)
"""What a plug-in may raise that is answered at random, or that looks into a network which was not run; the run itself
says what is wrong, if anything is."""

MOST = 100_000
"""Forwards per image beyond which a method is taken to wait for an answer that random numbers never give."""

SHORT = 16
"""Iterations that a method is let run; longer descents are counted at two lengths and continued in a straight line."""


def _iterations(method: Method) -> int:
    """Return the iterations of a method, or of the one that it wraps; 0 where it has none."""
    own = method.all_parameters.get("iterations", 0)
    inner = 0 if method.inner is None else _iterations(method.inner)
    return max(own if isinstance(own, int) else 0, inner)


def _with_iterations(method: Method, count: int) -> Method:
    if "iterations" in method.all_parameters:
        return method.variant(iterations=count)
    assert method.inner is not None
    return method.around(_with_iterations(method.inner, count))


def _straight(one: Counts, two: Counts, steps: int) -> Counts:
    """Return what so many iterations ask where one and two ask for this much."""
    return Counts(*(a + (b - a) * (steps - 1) for a, b in zip(one.tuple, two.tuple, strict=True)))


class _Sum:
    """Adds up methods and metrics: each trace's shared parts once, as long as they are kept."""

    def __init__(self, examined: Examined, chosen: Mapping[str, Collection[str]], items: int) -> None:
        self.examined, self.plan = examined, examined.plan
        name = examined.model.name
        ids = {metric.name: self.plan.metric_id(name, metric) for metric in self.plan.metrics}
        self.methods = [
            (method, [metric for metric in self.plan.metrics if ids[metric.name] in chosen.get(method.id, ())])
            for method in self.plan.methods
        ]
        self.methods = [(method, metrics) for method, metrics in self.methods if metrics]
        self.limit = LARGE * examined.count / max(items, 1)
        self.there: set[tuple[Hashable, str]] = set()
        self.colours: set[tuple[float, ...]] = set()

    def total(self) -> Total:
        count = self.examined.count
        maps, scores, second = Counts(count), Counts(), Counts()
        asked, masks = count, 0
        shared: set[Hashable] = set()
        fitting = []
        for method, metrics in self.methods:  # all maps first, as in a run
            work = self.examined.method(method)
            maps += self._visited(self._place(method, metrics), work)
            if self._twice(method, metrics):
                second += self._visited("second", work)
            if not work.reason:  # else that is found out anew in every task, and no part of what is asked for
                fitting.append((method, metrics))
                asked += 0 if isinstance(method, ExternalMethod) else count + work.alone.forwards
        for method, metrics in fitting:
            found = [(metric, self.examined.metric(metric, method)) for metric in metrics]
            for metric, one in found:
                again = self._again(method, metric, one)
                scores += one.own + again
                asked += one.asked + again.forwards
                shared |= one.shared
                self.colours |= one.colours
            different = len(frozenset[Key]().union(*(one.probes for _, one in found)))
            scores += Counts(different)
            masks += sum(len(one.probes) for _, one in found) - different
        costs = self.examined.background.costs
        return Total(
            maps, sum((costs[key] for key in shared), Counts()), scores, asked, masks, second, frozenset(self.colours)
        )

    def _visited(self, place: Hashable, work: MethodWork, kept: float = math.inf) -> Counts:
        """Return what a method costs on a trace: its own, and the shared parts that are not there.

        kept: larger parts are dropped after each method.
        """
        counts = work.own
        self.colours |= work.colours
        for name, cost in work.parts.items():
            if (place, name) not in self.there:
                counts += cost
            if work.sizes.get(name, 0) <= kept:
                self.there.add((place, name))
        return counts

    def _again(self, method: Method, metric: Metric, found: MetricWork) -> Counts:
        """Return what making maps again costs."""
        clean = "label" if self._targets([metric]) == {"label"} else CLEAN
        total = Counts()
        for repeat in found.repeats:
            place = clean if repeat.place == CLEAN else repeat.place
            if isinstance(place, tuple) and place[:1] == ("of its own",):  # nobody else can read it
                place = (*place, method.id, metric.name)
            kept = math.inf if repeat.place == CLEAN else self.limit
            total += self._visited(place, self.examined.variant(method, repeat.parameters), kept)
        return total

    def _targets(self, metrics: Iterable[Metric]) -> set[str]:
        return {getattr(self.plan.protocol, metric.target_field) for metric in metrics}

    def _place(self, method: Method, metrics: Iterable[Metric]) -> Hashable:
        """Return the trace that the map is made on."""
        return "label" if self._targets(metrics) == {"label"} and not method.class_agnostic else CLEAN

    def _twice(self, method: Method, metrics: Iterable[Metric]) -> bool:
        """Return whether the map is made again where the label is not predicted."""
        both = len(self._targets(metrics)) > 1
        return both and not method.class_agnostic and self.plan.subset.explain != "label"


def chosen_of(cells: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return {method id: metric ids} of cells.

    >>> chosen_of([("a", "x"), ("a", "y")]) == {"a": {"x", "y"}}
    True
    """
    chosen: dict[str, set[str]] = {}
    for method, metric in cells:
        chosen.setdefault(method, set()).add(metric)
    return chosen

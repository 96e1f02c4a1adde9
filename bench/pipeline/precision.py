"""Mixed precision with a guard: what metrics probe may be run in bfloat16 where the scores are
shown to stay the same.

Asked for by a run, decided for each model and metric on the run's own images before its first task,
and written down: the verdict goes into run.json, into the ids of what is computed, and along with
the plan to whoever computes it.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from bench.engine.folding import folds_of
from bench.engine.memory import fitting, out_of_memory
from bench.engine.prober import Prober
from bench.engine.trace import wait_for
from bench.errors import BenchError
from bench.metrics import Value
from bench.models.explainee import Explainee, untouched
from bench.protocol import BFLOAT16, FLOAT32

if TYPE_CHECKING:
    from bench.methods import Method
    from bench.metrics import Metric
    from bench.pipeline.plan import Plan
    from bench.pipeline.records import Done, Store

AUTO = "auto"
ASKED = (FLOAT32, AUTO, BFLOAT16)
"""What a run can ask for: "auto" takes bfloat16 where it is faster and the guard agrees, "bfloat16"
where it agrees.
"""

TAU_BOUND = 0.99
MEAN_BOUND = 0.002
IMAGE_BOUND = 0.02
"""What must hold of every value, between the two precisions: Kendall's tau-b of the methods' means,
at least; the difference of a method's mean, at most; the difference on one image (of a curve: of a
point's mean), at most.

Differences are shares of the value's range, or where it has none of its spread over images. Means
closer than their bound are tied.
"""

SAMPLE_IMAGES, SAMPLE_METHODS = 12, 6
MAP_COST = 32
"""Methods whose maps cost more forwards are not in the sample where others are: the guard looks at
probes, not maps.
"""

FASTER = 1.1
CPU_IMAGES = 8
PAIRS, PATIENCE = 3, 5.0
"""bfloat16 must be so many times as fast; measured in pairs of bare batches (on a CPU, which gains
nothing from larger ones, of so many images), no new pair after so many seconds.
"""

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
T = TypeVar("T")


@dataclass(frozen=True)
class Agreement:
    """How far one value of a metric agrees between the precisions.

    scale: what differences are measured by.  tau: of the methods' means.  mean, image: the largest
    differences, as shares of the scale; None where there is no number for them.  problem: what
    keeps the metric in float32, or "".
    """

    metric: str
    scale: float = 0.0
    tau: float = 0.0
    mean: float | None = None
    image: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is run in which precision on one model, and why.

    asked: "auto" or "bfloat16".  metrics: those that probe in bfloat16, with the ids of their
    records; the others are float32, as everything is that the guard did not compare.  refused:
    metrics that it kept in float32, and why. reason: why nothing was compared, or "".  protocol:
    the id of the protocol in bfloat16.  speed: how many times as fast bare batches were, None where
    that was not asked.  forwards: what the guard has cost.
    """

    asked: str
    weights_id: str
    reason: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Agreement] = field(default_factory=dict)
    images: int = 0
    methods: tuple[str, ...] = ()
    protocol: str = ""
    speed: float | None = None
    forwards: int = 0

    @property
    def used(self) -> str:
        """Return "bfloat16" where any metric is run in it."""
        return BFLOAT16 if self.metrics else FLOAT32

    def precision_of(self, metric: str) -> str:
        """Return the precision of what a metric probes."""
        return BFLOAT16 if metric in self.metrics else FLOAT32

    def facts(self) -> dict[str, Any]:
        """Return the verdict as run.json has it."""
        inside = [one for one in self.values.values() if one.metric in self.metrics] or [
            *self.values.values()
        ]
        return {
            "used": self.used,
            "tau": min((one.tau for one in inside), default=None),
            "largest_mean_difference": max(
                (one.mean for one in inside if one.mean is not None), default=None
            ),
            "largest_image_difference": max(
                (one.image for one in inside if one.image is not None), default=None
            ),
            "bounds": {"tau": TAU_BOUND, "mean": MEAN_BOUND, "image": IMAGE_BOUND},
            **dataclasses.asdict(self),
        }

    def and_then(self, later: Verdict, metrics: Collection[str]) -> Verdict:
        """Return this verdict with that of a later look at some metrics, which have changed."""
        return dataclasses.replace(
            self,
            metrics={**self.metrics, **later.metrics},
            refused={
                **self.refused,
                **later.refused,
                **(dict.fromkeys(metrics, later.reason) if later.reason else {}),
            },
            values={**self.values, **later.values},
            protocol=later.protocol or self.protocol,
            forwards=later.forwards,
        )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Verdict:
        """Return the verdict that run.json holds."""
        known = {f.name: facts[f.name] for f in dataclasses.fields(cls) if f.name in facts}
        values = {name: Agreement(**one) for name, one in facts.get("values", {}).items()}
        return cls(**{**known, "values": values, "methods": tuple(facts.get("methods", ()))})

    def sentence(self, model: str) -> str:
        """Return what a user should know of how a model is run."""
        kept = "; ".join(
            f"{metric} stays in float32 ({why})" for metric, why in sorted(self.refused.items())
        )
        speed = "" if self.speed is None else f"; bare batches are {self.speed:.1f} times as fast"
        if self.reason or not self.metrics:
            return f"{model} stays in float32: {self.reason or kept}."
        facts = self.facts()
        seen = f"on {self.images} images and {len(self.methods)} methods"
        return (
            f"{model}: {', '.join(sorted(self.metrics))} in bfloat16 ({seen} the ranks agree with "
            "tau "
            f"{facts['tau']:.2f}, means to {facts['largest_mean_difference']:.5f} and single "
            "images to "
            f"{facts['largest_image_difference']:.4f}{speed})" + (f"; {kept}." if kept else ".")
        )


def check_precision(asked: str, compiled: bool) -> None:
    """Refuse what a run cannot ask for."""
    if asked not in ASKED:
        raise BenchError(f"Unknown precision {asked!r}; choose one of {', '.join(ASKED)}.")
    if compiled and asked != FLOAT32:
        raise BenchError(
            f"--compile and --precision {asked} do not go together: the guard compares the network "
            "as it is; leave one."
        )


# --- what a run folder knows


def lowered(provenance: Mapping[str, Any], model: str) -> dict[str, str]:
    """Return {metric: id} of the metrics that a run probes in bfloat16 on a model."""
    found: dict[str, str] = provenance.get("precision", {}).get(model, {}).get("metrics", {})
    return found


def clash(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Return what two runs have probed in different precisions, or "": "deletion of vit (bfloat16,
    float32)".
    """
    both = metric_names(one) & metric_names(two)
    for model in _same_models(one, two):
        first, second = lowered(one, model), lowered(two, model)
        for metric in sorted(both):
            words = [BFLOAT16 if metric in side else FLOAT32 for side in (first, second)]
            if words[0] != words[1]:
                return f"{metric} of {model} ({', '.join(words)})"
    return ""


def _same_models(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[str]:
    """Yield the models that two runs have in common, weights and all."""
    for model in sorted(one["models"].keys() & two["models"].keys()):
        if one["models"][model]["weights_id"] == two["models"][model]["weights_id"]:
            yield model


def taken_back(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return a metric that a run folder holds in bfloat16 and that is to go on in float32 unasked,
    or "" (`clash`).
    """
    for model in _same_models(old, new):
        verdict = new.get("precision", {}).get(model, {"metrics": {}, "refused": {}})
        for metric in sorted(lowered(old, model).keys() & metric_names(new)):
            if metric not in verdict["metrics"] and metric not in verdict["refused"]:
                return f"{metric} of {model} ({BFLOAT16}, {FLOAT32})"
    return ""


def metric_names(provenance: Mapping[str, Any]) -> set[str]:
    """Return the metrics of a run; run.json lists their values."""
    return {facts.get("metric", name) for name, facts in provenance["metrics"].items()}


def joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdicts of a run folder and of a plan that goes on with it; those of other
    weights go.
    """
    kept = {
        model: facts
        for model, facts in old.get("precision", {}).items()
        if model not in new["models"] or new["models"][model]["weights_id"] == facts["weights_id"]
    }
    for model, facts in new.get("precision", {}).items():
        before = kept.get(model, {})
        judged = {
            *facts["metrics"],
            *facts["refused"],
        }  # the later verdict on a metric is the one that holds
        merged = {
            name: {
                metric: of for metric, of in before.get(name, {}).items() if metric not in judged
            }
            | facts[name]
            for name in ("metrics", "refused")
        }
        merged["values"] = {**before.get("values", {}), **facts["values"]}
        kept[model] = {
            **before,
            **facts,
            **merged,
            "used": BFLOAT16 if merged["metrics"] else FLOAT32,
        }
    return kept


def decided(plan: Plan, store: Store) -> Plan:
    """Return a plan with a verdict for each model: that of the run folder, else that of the
    guard.
    """
    if plan.precision == FLOAT32 or not probing(plan):
        return plan
    known, told = remembered(plan, store).verdicts, store.provenance()
    verdicts = {
        model.name: plan.verdicts.get(model.name)
        or _judged(plan, model, known.get(model.name), told)
        for model in plan.models
    }
    return dataclasses.replace(plan, verdicts=verdicts)


def _judged(
    plan: Plan, model: Explainee, known: Verdict | None, told: Mapping[str, Any]
) -> Verdict:
    """Return the verdict that is known, with the guard's on metrics that have changed since, or the
    guard's on all.
    """
    if known is None:
        return judge(plan, model)
    lost = lowered(told, model.name).keys() - known.metrics.keys()
    changed = tuple(metric for metric in probing(plan) if metric.name in lost)
    return (
        known.and_then(judge(dataclasses.replace(plan, metrics=changed), model), lost)
        if changed
        else known
    )


def remembered(plan: Plan, store: Store) -> Plan:
    """Return a plan with the verdicts that its run folder holds; the guard is not asked."""
    if plan.precision == FLOAT32:
        return plan
    told, done = store.provenance(), functools.cache(store.done)
    unknown = [model for model in plan.models if model.name not in plan.verdicts]
    known = {model.name: _remembered(plan, model, told, done) for model in unknown}
    verdicts = {name: verdict for name, verdict in known.items() if verdict is not None}
    return dataclasses.replace(plan, verdicts={**plan.verdicts, **verdicts})


def _remembered(
    plan: Plan,
    model: Explainee,
    told: Mapping[str, Any],
    done: Callable[[], Done],
) -> Verdict | None:
    """Return the verdict of an earlier run with these weights; what that has run unasked in float32
    stays so.

    It says nothing of a metric that has changed since.
    """
    if told.get("models", {}).get(model.name, {}).get("weights_id") != model.weights_id:
        return None
    facts = told.get("precision", {}).get(model.name)
    if facts is not None and (facts["images"] or facts["asked"] == plan.precision):
        rules = plan.protocol.in_precision(BFLOAT16)
        now = {metric.name: metric.id(rules) for metric in probing(plan)}
        same = {
            name: identity
            for name, identity in facts["metrics"].items()
            if now.get(name, identity) == identity
        }
        return Verdict.of({**facts, "metrics": same})
    if _kept_ids(model, done()) & {metric.id(plan.protocol) for metric in probing(plan)}:
        raise BenchError(
            f"The run folder holds records of {model.name} in float32, and one precision must do "
            "for all of them; go "
            "on with --precision float32, or choose another --out."
        )
    return None


def _kept_ids(model: Explainee, done: Done) -> set[str]:
    """Return the ids of the metrics that a run folder holds records of, of a model with these
    weights.
    """
    found: set[str] = set()
    for (_, _, name, weights_id, _), cells in done.items():
        if (name, weights_id) == (model.name, model.weights_id):
            found |= {metric_id for _, metric_id in cells}
    return found


def sentences(provenance: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of the precisions that a run used, a sentence for each
    model.
    """
    return [
        Verdict.of(facts).sentence(name)
        for name, facts in sorted(provenance.get("precision", {}).items())
    ]


# --- the guard


def probing(plan: Plan) -> list[Metric]:
    """Return the metrics of a plan that can be run in bfloat16."""
    return [
        metric for metric in plan.metrics if metric.probes(plan.protocol, plan.geometry.size**2)
    ]


def judge(plan: Plan, model: Explainee) -> Verdict:
    """Compare both precisions on a sample of the run, and decide; a network that fails in bfloat16
    stays in float32.
    """
    verdict = Verdict(plan.precision, model.weights_id)
    if plan.precision == AUTO:
        side = plan.geometry.size
        speed, problem = _tried(
            lambda: fitting(
                lambda size: speed_ratio(model, side, size), plan.batch_size, model.device
            )
        )
        verdict = dataclasses.replace(verdict, speed=speed)
        if speed is not None and speed < FASTER:
            problem = f"bfloat16 is {speed:.2f} times as fast here, which is not worth it"
        elif speed is not None and not pays(plan, model, speed):
            problem = "the run is so small that checking bfloat16 would take longer than it spares"
        if problem:
            return dataclasses.replace(verdict, reason=problem)
    return _compared(plan, model, verdict)


def _compared(plan: Plan, model: Explainee, verdict: Verdict) -> Verdict:
    """Return the verdict with what the comparison of the sample's scores in both precisions
    says.
    """
    from bench.pipeline.evaluate import Kept

    metrics = probing(plan)
    sample = _sample(plan, model)
    prober = Prober(model, plan.batch_size)
    kept = Kept(frozenset(getattr(plan.protocol, metric.target_field) for metric in metrics))
    exact = _scores(sample, prober, kept)
    everything = Verdict(
        plan.precision, model.weights_id, metrics={metric.name: "" for metric in metrics}
    )
    lower = dataclasses.replace(sample, verdicts={model.name: everything})
    rough, problem = _tried(lambda: _scores(lower, prober, kept))
    verdict = dataclasses.replace(verdict, forwards=prober.counts.forwards)
    if rough is None:
        return dataclasses.replace(verdict, reason=problem)
    values = {
        name: agreement(metric.name, value, exact[name], rough.get(name, {}))
        for metric in metrics
        for name, value in metric.facts(plan.protocol).items()
        if name in exact
    }
    if not values:
        return dataclasses.replace(
            verdict, reason="no method of the sample fits it, so nothing could be compared"
        )
    refused: dict[str, str] = {}
    for name, one in values.items():
        if one.problem:
            refused.setdefault(one.metric, f"{name}: {one.problem}")
    rules, seen = plan.protocol.in_precision(BFLOAT16), next(iter(exact.values()))
    agreed = {one.metric for one in values.values()} - refused.keys()
    return dataclasses.replace(
        verdict,
        metrics={metric.name: metric.id(rules) for metric in metrics if metric.name in agreed},
        refused=refused,
        values=values,
        images=len(seen.items),
        methods=seen.methods,
        protocol=rules.id,
    )


def _tried(call: Callable[[], T]) -> tuple[T | None, str]:
    """Return what a call in bfloat16 gives, or None and why it fails."""
    try:
        return call(), ""
    except BenchError:
        raise
    except Exception as error:  # whatever a network's own layers raise under autocast
        if out_of_memory(error):
            raise
        first = next(iter(str(error).splitlines()), "").strip().rstrip(".:")[:200]
        return None, f"it fails in bfloat16 ({type(error).__name__}: {first})"


def _sample(plan: Plan, model: Explainee) -> Plan:
    """Return the part of a plan that the guard looks at: a few methods, the metrics that probe,
    nothing calibrated.
    """
    return dataclasses.replace(
        plan,
        models=(model,),
        methods=tuple(sample_methods(plan, model)),
        metrics=tuple(probing(plan)),
        calibration=None,
        shard=(1, 1),
        verdicts={},
    )


def sample_methods(plan: Plan, model: Explainee, count: int = SAMPLE_METHODS) -> list[Method]:
    """Return some methods, evenly from the whole list, of those whose maps are cheap; the cheapest
    where few are.
    """
    costs = {method.name: _map_cost(method, model) for method in plan.methods}
    limit = max(MAP_COST, sorted(costs.values())[: max(2, count // 2)][-1])
    cheap = [method for method in plan.methods if costs[method.name] <= limit]
    places = np.linspace(0, len(cheap) - 1, min(count, len(cheap))).round().astype(int)
    return [cheap[place] for place in places]


def _map_cost(method: Method, model: Explainee) -> float:
    work = method.planned(model)
    return work.forwards + 2 * work.backwards


def pays(plan: Plan, model: Explainee, speed: float) -> bool:
    """Return whether the forwards that bfloat16 spares are worth more than those of the guard."""
    probes = sum(metric.forwards(plan.protocol, plan.geometry.size**2) for metric in probing(plan))
    methods, images = sample_methods(plan, model), min(SAMPLE_IMAGES, len(plan.subset))
    spared = len(plan.subset) / plan.shard[1] * len(plan.methods) * probes * (1 - 1 / speed)
    spent = images * (
        len(methods) * probes * (1 + 1 / speed)
        + sum(_map_cost(method, model) for method in methods)
    )
    return spared > spent


@torch.inference_mode()
def speed_ratio(model: Explainee, side: int, batch_size: int) -> float:
    """Return how many times as fast bare batches are in bfloat16: the median of pairs that are run
    side by side.
    """
    count = batch_size if model.device.type == "cuda" else min(batch_size, CPU_IMAGES)
    images = torch.rand(count, 3, side, side, device=model.device).contiguous(
        memory_format=torch.channels_last
    )

    def seconds(precision: str, images: torch.Tensor = images) -> float:
        start = time.perf_counter()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == BFLOAT16):
            model.net(images)
        wait_for(model.device)
        return time.perf_counter() - start

    with untouched(model.net), folds_of(model).applied():
        ratios: list[float] = []
        start = time.perf_counter()
        for precision in (
            FLOAT32,
            BFLOAT16,
        ):  # warm-up: one image where bfloat16 is emulated, which is slow
            seconds(precision, images if model.device.type == "cuda" else images[:1])
        while not ratios or (len(ratios) < PAIRS and time.perf_counter() - start < PATIENCE):
            ratios.append(seconds(FLOAT32) / seconds(BFLOAT16))
    return statistics.median(ratios)


# --- scores of the sample, and how they agree


@dataclass(frozen=True)
class Table:
    """One value's scores: values [methods, images] or, of a curve, [methods, images, points]; NaN
    where it has none.
    """

    methods: tuple[str, ...]
    items: tuple[str, ...]
    values: Array


def _scores(sample: Plan, prober: Prober, kept: Any) -> dict[str, Table]:
    """Run the sample and return its scores by value."""
    from bench.pipeline.evaluate import missing_cells, run_task
    from bench.pipeline.plan import Task

    task = Task(prober.model.name, "eval", 0, min(SAMPLE_IMAGES, len(sample.subset)))
    rows = run_task(sample, task, missing_cells(sample, task, {}), prober, kept=kept).rows
    return tables(rows)


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
    """Return the scores of records by value."""
    found: dict[str, dict[tuple[str, str], Array]] = {}
    for row in rows:
        score = row["value"] if row["vector"] is None else row["vector"]
        found.setdefault(row["metric"], {})[row["method"], row["item"]] = np.asarray(
            score, np.float64
        )
    result = {}
    for name, cells in found.items():
        methods, items = (tuple(dict.fromkeys(key[at] for key in cells)) for at in (0, 1))
        shape = max((cell.shape for cell in cells.values()), key=len)
        values = np.full((len(methods), len(items), *shape), np.nan)
        for (method, item), cell in cells.items():
            values[methods.index(method), items.index(item)] = cell
        result[name] = Table(methods, items, values)
    return result


def agreement(
    metric: str, value: Value, exact: Table, rough: Table | Mapping[str, Any]
) -> Agreement:
    """Return how far one value's scores in bfloat16 agree with those in float32."""
    if not isinstance(rough, Table) or exact.values.shape != rough.values.shape:
        return Agreement(metric, problem="it cannot be scored in bfloat16")
    one, two = exact.values, rough.values
    if (np.isnan(one) != np.isnan(two)).any():
        return Agreement(metric, problem="an image can be scored in one precision only")
    usable = ~np.isnan(one).all(axis=1)
    if not usable.any():
        return Agreement(metric, problem="no image of the sample can be scored")
    scale = scale_of(value, one)
    before, after = (np.where(usable, _mean(table), 0.0) for table in (one, two))
    means = _relative(np.abs(before - after), scale)
    per_method = means.reshape(len(means), -1).max(axis=1)
    worst = exact.methods[int(per_method.argmax())]
    if one.ndim == 3:  # a curve ranks nothing, and its points are drawn as means
        mean, image, tau = 0.0, float(per_method.max()), 1.0
    else:
        mean, image = (
            float(per_method.max()),
            float(np.nanmax(_relative(np.abs(one - two), scale), initial=0.0)),
        )
        tau = rank_agreement(before[usable], after[usable], MEAN_BOUND * scale)
    problem = _problem(tau, mean, image, worst, exact, one, two)
    return Agreement(metric, scale, tau, _finite(mean), _finite(image), problem)


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _mean(table: Array) -> Array:
    """Return the mean over images of [M,n] or [M,n,P], NaN left out, 0 where there is nothing."""
    count = (~np.isnan(table)).sum(axis=1)
    total: Array = np.nansum(table, axis=1) / np.maximum(count, 1)
    return total


def _relative(differences: Array, scale: float) -> Array:
    """Return differences as shares of a scale; of a scale of 0, any difference is too much."""
    if scale > 0:
        return differences / scale
    return np.where(differences > 0, np.inf, differences)


def scale_of(value: Value, scores: Array) -> float:
    """Return what differences of a value are measured by: its range, else the spread of its scores
    over images.
    """
    if value.lower is not None and value.upper is not None:
        return float(value.upper - value.lower)
    columns = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1])
    variances = [float(np.nanvar(column)) for column in columns if not np.isnan(column).all()]
    return statistics.fmean(variances) ** 0.5 if variances else 0.0


def _problem(
    tau: float, mean: float, image: float, worst: str, table: Table, one: Array, two: Array
) -> str:
    """Return the first bound that does not hold, in words, or ""."""
    if tau < TAU_BOUND:
        return f"the ranks of the methods agree with tau {tau:.2f} only"
    if mean > MEAN_BOUND:
        return f"the mean of {worst} differs by {mean:.4f}, at most {MEAN_BOUND:g} is allowed"
    if image > IMAGE_BOUND:
        if one.ndim == 3:
            return (
                f"a point of {worst}'s mean curve differs by {image:.3f}, at most "
                f"{IMAGE_BOUND:g} is allowed"
            )
        place = np.unravel_index(np.nanargmax(np.abs(one - two)), one.shape)
        where = f"{table.methods[place[0]]} on {table.items[place[1]]}"
        return f"{where} differs by {image:.3f}, at most {IMAGE_BOUND:g} is allowed"
    return ""


def rank_agreement(one: Array, two: Array, tie: float) -> float:
    """Return Kendall's tau-b of the same methods' means; pairs that differ by at most `tie` in
    `one` are tied in both.

    >>> rank_agreement(np.array([0.1, 0.2, 0.2001]), np.array([0.1, 0.2001, 0.2]), 0.002)
    1.0
    >>> rank_agreement(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.1, 0.3]), 0.002)
    0.3333333333333333
    """
    first, second = np.triu_indices(len(one), 1)
    before, after = one[first] - one[second], two[first] - two[second]
    apart = np.abs(before) > tie
    if not apart.any():
        return 1.0
    a, b = np.sign(before[apart]), np.sign(after[apart])
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm else 0.0

"""Mixed precision with a guard: probes run in bfloat16 only if the scores stay the same.

The guard decides for each model and metric, on the run's own images, before the first task. The
verdict goes into run.json, into the ids of the records, and with the plan to every worker
(`bench.records.precision_verdict`).
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from bench.data.input_size import Size, split_size
from bench.engine.folding import folds_of
from bench.engine.memory import fitting, is_out_of_memory, wait_for
from bench.engine.prober import Prober
from bench.errors import BenchError
from bench.methods import Method
from bench.metrics import Metric
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.protocol import BFLOAT16, FLOAT32
from bench.records.precision_verdict import AUTO, Agreement, PrecisionVerdict, read_lowered
from bench.records.store import Done, Store
from bench.run.cells import Kept, find_missing_cells
from bench.run.plan import Plan, Task
from bench.run.score_agreement import Table, measure_agreement, tabulate_scores
from bench.run.task import run_task
from bench.work_stages import track

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

T = TypeVar("T")


def decide_precisions(plan: Plan, store: Store) -> Plan:
    """Return a plan with a verdict for each model: that of the run folder, else that of the
    guard.
    """
    if plan.precision == FLOAT32 or not find_probing(plan):
        return plan
    known, told = recall_verdicts(plan, store).verdicts, store.provenance()
    verdicts = {
        model.name: plan.verdicts.get(model.name)
        or _judge_changed(plan, model, known.get(model.name), told)
        for model in track(plan.models, lambda one: f"Comparing precisions on {one.name}")
    }
    return dataclasses.replace(plan, verdicts=verdicts)


def _judge_changed(
    plan: Plan, model: Explainee, known: PrecisionVerdict | None, told: Mapping[str, Any]
) -> PrecisionVerdict:
    """Return the verdict that is known, with the guard's on metrics that have changed since, or the
    guard's on all.
    """
    if known is None:
        return judge(plan, model)
    lost = read_lowered(told, model.name).keys() - known.metrics.keys()
    changed = tuple(metric for metric in find_probing(plan) if metric.name in lost)
    return (
        known.and_then(judge(dataclasses.replace(plan, metrics=changed), model), lost)
        if changed
        else known
    )


def recall_verdicts(plan: Plan, store: Store) -> Plan:
    """Return a plan with the verdicts that its run folder holds; the guard is not asked."""
    if plan.precision == FLOAT32:
        return plan
    told, done = store.provenance(), functools.cache(store.read_done)
    unknown = [model for model in plan.models if model.name not in plan.verdicts]
    known = {model.name: _recall_verdict(plan, model, told, done) for model in unknown}
    verdicts = {name: verdict for name, verdict in known.items() if verdict is not None}
    return dataclasses.replace(plan, verdicts={**plan.verdicts, **verdicts})


def _recall_verdict(
    plan: Plan,
    model: Explainee,
    told: Mapping[str, Any],
    done: Callable[[], Done],
) -> PrecisionVerdict | None:
    """Return the verdict of an earlier run with these weights; what that has run unasked in float32
    stays so.

    It says nothing of a metric that has changed since.
    """
    if told.get("models", {}).get(model.name, {}).get("weights_id") != model.weights_id:
        return None
    facts = told.get("precision", {}).get(model.name)
    if facts is not None and (facts["images"] or facts["asked"] == plan.precision):
        rules = plan.protocol.replace_precision(BFLOAT16)
        now = {metric.name: metric.id(rules) for metric in find_probing(plan)}
        same = {
            name: identity
            for name, identity in facts["metrics"].items()
            if now.get(name, identity) == identity
        }
        return PrecisionVerdict.of({**facts, "metrics": same})
    if _find_kept_ids(model, done()) & {metric.id(plan.protocol) for metric in find_probing(plan)}:
        raise BenchError(
            f"The run folder holds records of {model.name} in float32, and one precision must do "
            "for all of them; go on with --precision float32, or choose another --out."
        )
    return None


def _find_kept_ids(model: Explainee, done: Done) -> set[str]:
    """Return the ids of the metrics that a run folder holds records of, of a model with these
    weights.
    """
    found: set[str] = set()
    for key, cells in done.items():
        if (key.model, key.weights_id) == (model.name, model.weights_id):
            found |= {metric_id.partition("~")[0] for _, metric_id in cells}
    return found


# --- the guard


def find_probing(plan: Plan) -> list[Metric]:
    """Return the metrics of a plan that can be run in bfloat16."""
    return [metric for metric in plan.metrics if plan.probes(metric)]


def judge(plan: Plan, model: Explainee) -> PrecisionVerdict:
    """Compare both precisions on a sample of the run, and decide; a network that fails in bfloat16
    stays in float32.
    """
    verdict = PrecisionVerdict(plan.precision, model.weights_id)
    if plan.precision == AUTO:
        speed, problem = _try_measuring(
            lambda: fitting(
                lambda size: speed_ratio(model, plan.geometry.size, size),
                plan.batch_size,
                model.device,
            )
        )
        verdict = dataclasses.replace(verdict, speed=speed)
        if speed is not None and speed < FASTER:
            problem = f"bfloat16 is {speed:.2f} times as fast here, which is not worth it"
        elif speed is not None and not pays(plan, model, speed):
            problem = "the run is so small that checking bfloat16 would take longer than it spares"
        if problem:
            return dataclasses.replace(verdict, reason=problem)
    return _compare_precisions(plan, model, verdict)


def _compare_precisions(
    plan: Plan, model: Explainee, verdict: PrecisionVerdict
) -> PrecisionVerdict:
    """Return the verdict with what the comparison of the sample's scores in both precisions
    says.
    """
    metrics = find_probing(plan)
    sample = _sample(plan, model)
    prober = Prober(model, plan.batch_size)
    kept = Kept(plan.classes.choose_all(metrics))
    exact = _scores(sample, prober, kept)
    everything = PrecisionVerdict(
        plan.precision, model.weights_id, metrics={metric.name: "" for metric in metrics}
    )
    lower = dataclasses.replace(sample, verdicts={model.name: everything})
    rough, problem = _try_measuring(lambda: _scores(lower, prober, kept))
    verdict = dataclasses.replace(verdict, forwards=prober.counts.forwards)
    if rough is None:
        return dataclasses.replace(verdict, reason=problem)
    values = {
        name: measure_agreement(metric.name, value, exact[name], rough.get(name, {}))
        for metric in metrics
        for name, value in metric.facts(plan.protocol).items()
        if name in exact
    }
    if not values:
        return dataclasses.replace(
            verdict, reason="no method of the sample fits it, so nothing could be compared"
        )
    seen = next(iter(exact.values()))
    verdict = dataclasses.replace(verdict, images=len(seen.items), methods=seen.methods)
    return _accept_metrics(plan, verdict, metrics, values)


def _accept_metrics(
    plan: Plan,
    verdict: PrecisionVerdict,
    metrics: Sequence[Metric],
    values: Mapping[str, Agreement],
) -> PrecisionVerdict:
    """Return the verdict with the metrics whose values all agree, and the others refused."""
    refused: dict[str, str] = {}
    for name, one in values.items():
        if one.problem:
            refused.setdefault(one.metric, f"{name}: {one.problem}")
    rules = plan.protocol.replace_precision(BFLOAT16)
    agreed = {one.metric for one in values.values()} - refused.keys()
    return dataclasses.replace(
        verdict,
        metrics={metric.name: metric.id(rules) for metric in metrics if metric.name in agreed},
        refused=refused,
        values=values,
        protocol=rules.id,
    )


def _try_measuring(call: Callable[[], T]) -> tuple[T | None, str]:
    """Return what a call in bfloat16 gives, or None and why it fails."""
    try:
        return call(), ""
    except BenchError:
        raise
    except Exception as error:  # whatever a network's own layers raise under autocast
        if is_out_of_memory(error):
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
        metrics=tuple(find_probing(plan)),
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
    work = method.plan_work(model)
    return work.forwards + 2 * work.backwards


def pays(plan: Plan, model: Explainee, speed: float) -> bool:
    """Return whether the forwards that bfloat16 spares are worth more than those of the guard."""
    probes = sum(
        metric.forwards(plan.protocol, plan.geometry.pixels) for metric in find_probing(plan)
    )
    methods, images = sample_methods(plan, model), min(SAMPLE_IMAGES, len(plan.subset))
    spared = len(plan.subset) / plan.shard[1] * len(plan.methods) * probes * (1 - 1 / speed)
    spent = images * (
        len(methods) * probes * (1 + 1 / speed)
        + sum(_map_cost(method, model) for method in methods)
    )
    return spared > spent


@torch.inference_mode()
def speed_ratio(model: Explainee, side: Size, batch_size: int) -> float:
    """Return how many times as fast bare batches are in bfloat16: the median of pairs that are run
    side by side.
    """
    count = batch_size if model.device.type == "cuda" else min(batch_size, CPU_IMAGES)
    images = torch.rand(count, model.channels, *split_size(side), device=model.device).contiguous(
        memory_format=torch.channels_last
    )

    def seconds(precision: str, images: torch.Tensor = images) -> float:
        start = time.perf_counter()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == BFLOAT16):
            model.net(images)
        wait_for(model.device)
        return time.perf_counter() - start

    with guard_network(model.net), folds_of(model).apply():
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


def _scores(sample: Plan, prober: Prober, kept: Any) -> dict[str, Table]:
    """Run the sample and return its scores by value."""
    task = Task(prober.model.name, "eval", 0, min(SAMPLE_IMAGES, len(sample.subset)))
    rows = run_task(sample, task, find_missing_cells(sample, task, {}), prober, kept=kept).rows
    return tabulate_scores(rows)

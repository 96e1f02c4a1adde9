"""The grid: maps are made once per method and image, and scored under many protocols and changes of
the map.

A choice is a `Plan` of its own (its protocol, its metrics, its methods) over images that all
choices share; its records lie in a run folder of its own, so that a grid that was stopped goes on
where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.engine.case import Case
from bench.engine.fills import gaussian_blur
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable, state_assumption
from bench.files import file_name
from bench.identity import digest
from bench.methods import METHODS, Method
from bench.methods.variants import write_address
from bench.metrics import METRICS, Metric
from bench.metrics.base import Scores
from bench.metrics.faithfulness import curve_scores
from bench.protocol import Protocol
from bench.records.damaged_files import set_damaged_aside
from bench.records.provenance import merge_provenance
from bench.records.store import Records, Store, empty_frame
from bench.run.cells import Kept, find_missing_cells, find_unfit, task_name
from bench.run.describe import describe_run
from bench.run.explained_class import LABEL, PREDICTED, choose_by_protocol
from bench.run.item_check import StandingWork, check_items
from bench.run.item_ledger import ItemLedger
from bench.run.plan import Plan, Task
from bench.run.task import run_task

Report = Callable[[int, int], None]
"""Told (tasks done, tasks in all)."""


def run_grid(
    plans: Mapping[str, Plan],
    folder: Path | None,
    report: Report | None = None,
    count: Callable[[int], None] | None = None,
) -> dict[str, Records]:
    """Run every plan into a folder of its own (None: memory) and return their records by the plans'
    names.

    Task by task all plans score the same maps, which are then dropped: memory holds one task's
    maps. What an earlier call has written is not computed again.  count: is called with the
    forwards that were run.
    """
    with ExitStack() as held:
        stores = {
            name: Store(None if folder is None else place(folder, name, plan))
            for name, plan in plans.items()
        }
        for store in stores.values():
            held.enter_context(store.lock())
            for text in set_damaged_aside(store):
                state_assumption(text)
        told = {
            name: merge_provenance(stores[name].provenance(), describe_run(plan))
            for name, plan in plans.items()
        }
        standing = {name: check_items(plan, stores[name]) for name, plan in plans.items()}
        ledgers = {name: ItemLedger(p, stores[name], standing[name]) for name, p in plans.items()}
        _write_facts(stores, ledgers, told)
        probers: dict[str, Prober] = {}
        tasks = list(_tasks(plans, standing, told))
        for number, (task, waiting) in enumerate(tasks):
            _run_task(
                task,
                {n: (plans[n], groups) for n, groups in waiting.items()},
                stores,
                ledgers,
                told,
                probers,
            )
            if report:
                report(number + 1, len(tasks))
        if count:
            count(sum(prober.counts.forwards for prober in probers.values()))
        _write_facts(stores, ledgers, told)
        return {name: store.records(told[name]) for name, store in stores.items()}


def _write_facts(
    stores: Mapping[str, Store],
    ledgers: Mapping[str, ItemLedger],
    told: Mapping[str, dict[str, Any]],
) -> None:
    """Write the run.json of every plan."""
    for name, store in stores.items():
        ledgers[name].close(told[name])
        store.write_provenance(told[name])


def place(folder: Path, name: str, plan: Plan) -> Path:
    """Return the run folder of one plan: its name and what its records share, so that no two mix in
    one.
    """
    return folder / f"{file_name(name)}-{digest([plan.protocol.id, plan.manifest_id])[:6]}"


def _tasks(
    plans: Mapping[str, Plan],
    standing: Mapping[str, StandingWork],
    told: Mapping[str, dict[str, Any]],
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yield each task of any plan with what each plan still lacks of it, models and slices
    together.
    """
    done = {name: found.done for name, found in standing.items()}
    unfit = {
        name: find_unfit(plan, told[name], standing[name].everything)
        for name, plan in plans.items()
    }
    for task in dict.fromkeys(task for plan in plans.values() for task in plan.tasks()):
        lacking = {
            name: find_missing_cells(plan, task, done[name], unfit[name][task.model])
            for name, plan in plans.items()
            if task in set(plan.tasks())
        }
        if any(lacking.values()):
            yield task, {name: groups for name, groups in lacking.items() if groups}


def _run_task(
    task: Task,
    waiting: Mapping[str, tuple[Plan, Any]],
    stores: Mapping[str, Store],
    ledgers: Mapping[str, ItemLedger],
    told: Mapping[str, dict[str, Any]],
    probers: dict[str, Prober],
) -> None:
    """Score one task's maps under each plan that lacks it."""
    classes = [plan.classes.choose_all(plan.metrics_of(task.part)) for plan, _ in waiting.values()]
    kept = Kept(frozenset().union(*classes))
    for name, (plan, groups) in waiting.items():
        if task.model not in probers:
            probers[task.model] = Prober(plan.model(task.model), plan.batch_size, plan.compiled)
        outcome = run_task(plan, task, groups, probers[task.model], kept=kept)
        ledgers[name].take(task, outcome)
        stores[name].add(
            task_name(task), pd.DataFrame(outcome.rows) if outcome.rows else empty_frame()
        )
        for method, reason in outcome.not_applicable.items():
            told[name]["not_applicable"].setdefault(task.model, {})[method] = reason


# --- changes of the map


def blur_map(trace: Trace, inner: Method, *, sigma: float = 4.0) -> torch.Tensor:
    """Another method's map after a Gaussian blur of `sigma` pixels at a side of 224 (it scales with
    the side).
    """
    maps = inner.maps(trace)
    pixels = sigma * min(trace.size) / 224
    return gaussian_blur(maps[:, None].to(torch.float32), pixels, 3.0)[:, 0]


def blur_method(method: Method, sigma_224: float) -> Method:
    """Return a method whose maps are those of `method`, blurred; it has an id of its own."""
    settings = {"sigma": float(sigma_224)}
    return dataclasses.replace(
        method,
        name=write_address("blur", method.name, settings),
        function=blur_map,
        parameters=settings,
        inner=method,
        inner_models=None,
        forwards=0,
        backwards=0,
        heads=0,
        head_backwards=0,
        parts=(),
        reference="",  # of the wrapped method
    )


# --- baselines that are no colour of a protocol


def image_mean(case: Case) -> torch.Tensor:
    """Return each image's own mean colour as an image, [B,3,H,W] (normalised)."""
    return case.trace.images.mean(dim=(2, 3), keepdim=True).expand_as(case.trace.images)


def blur_images(case: Case) -> torch.Tensor:
    """Return the blurred images from which insertion starts, [B,3,H,W] (normalised)."""
    return case.background.blur(case.protocol.blur_sigma_224, case.protocol.blur_radius_sigmas)[0]


def deletion_onto(case: Case, background: torch.Tensor) -> Scores:
    """Deletion with other images [B,3,H,W] (normalised) behind the pixels than the protocol's
    removed ones.
    """
    ends = (case.trace.logits, logits_of(case, background))
    return curve_scores("deletion", case, background, case.trace.images, ends)


def insertion_from(case: Case, background: torch.Tensor) -> Scores:
    """Insertion that starts from other images [B,3,H,W] (normalised)."""
    ends = (logits_of(case, background), case.trace.logits)
    return curve_scores("insertion", case, case.trace.images, background, ends)


@torch.inference_mode()
def logits_of(case: Case, images: torch.Tensor) -> torch.Tensor:
    """Return the logits [B,C] of other images [B,3,H,W] in the place of a case's own."""
    return case.prober.logits(images.contiguous(memory_format=torch.channels_last))


def deletion_onto_mean(case: Case) -> Scores:
    """Deletion onto each image's own mean colour. [B], and the curve."""
    return deletion_onto(case, image_mean(case))


def insertion_from_mean(case: Case) -> Scores:
    """Insertion from each image's own mean colour. [B], and the curve."""
    return insertion_from(case, image_mean(case))


def deletion_onto_blur(case: Case) -> Scores:
    """Deletion onto the blurred image, from which insertion starts. [B], and the curve."""
    return deletion_onto(case, blur_images(case))


BACKGROUNDS: dict[str, dict[str, Callable[[Case], Scores]]] = {
    "image mean": {"deletion": deletion_onto_mean, "insertion": insertion_from_mean},
    "blur": {"deletion": deletion_onto_blur},
}
"""{what stands behind the pixels: {metric: the same metric on it}}."""


def change_background(name: str, behind: str) -> Metric:
    """Return a built-in metric with another background; it has an id of its own."""
    metric = METRICS.get(name)
    reads = ("blur_sigma_224", "blur_radius_sigmas") if behind == "blur" else ()
    return dataclasses.replace(
        metric,
        function=BACKGROUNDS[behind][name],
        values={value: metric.values[value] for value in (name, f"{name}_curve")},
        reads=tuple(dict.fromkeys((*metric.reads, *reads))),
        builtin=False,  # its id then hashes the function
    )


COLOURS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


def replace_metrics(
    plan: Plan, metrics: Sequence[Metric], protocol: Protocol | None = None
) -> Plan:
    """Return a plan with other metrics, and another protocol where one is given; nothing is
    calibrated in it.
    """
    return dataclasses.replace(
        plan,
        metrics=tuple(metrics),
        protocol=protocol or plan.protocol,
        calibration=None,
        compiled=False,
    )


def select_map_metrics(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics that judge a map alone: those that run the method again, and the cost, are
    left out.
    """
    return [
        m for m in metrics if "method" not in m.needs and m.family not in ("cost", "complexity")
    ]


def baseline_choices(plan: Plan, protocol: Protocol) -> dict[str, Plan]:
    """Return {"baseline=...": plan}: the plan's metrics that read the baseline, on other colours
    and backgrounds.
    """
    reading = [m for m in select_map_metrics(plan.metrics) if "baseline" in m.reads]
    names = {m.name for m in reading if m.builtin}
    if not reading:
        return {}
    plans = {
        f"baseline={name}": replace_metrics(
            plan,
            reading,
            dataclasses.replace(
                protocol, removed="colour", baseline=colour, insertion_start="baseline"
            ),
        )
        for name, colour in COLOURS.items()
    }
    if "insertion" in names and protocol.insertion_start == "blur":
        inserting = [m for m in reading if m.name == "insertion"]
        plans["baseline=colour"] = replace_metrics(
            plan, inserting, dataclasses.replace(protocol, insertion_start="baseline")
        )
    for behind, metrics in BACKGROUNDS.items():
        found = [change_background(name, behind) for name in metrics if name in names]
        if found:
            plans[f"baseline={behind}"] = replace_metrics(plan, found, protocol)
    return plans


def blur_choices(plan: Plan, protocol: Protocol, sigmas: Sequence[float]) -> dict[str, Plan]:
    """Return {"blur=SIGMA": plan}: the plan's metrics of maps, on every method's blurred maps."""
    metrics = [m for m in select_map_metrics(plan.metrics) if not m.calibrates]
    plans = {}
    for sigma in sigmas:
        methods = tuple(blur_method(method, sigma) for method in plan.methods)
        plans[f"blur={sigma:g}"] = dataclasses.replace(
            replace_metrics(plan, metrics, protocol), methods=methods
        )
    return plans if metrics else {}


OTHER = {PREDICTED: LABEL, LABEL: PREDICTED}


def target_choices(plan: Plan) -> dict[str, Plan]:
    """Return {"target=...": plan}: the plan's metrics of maps, explaining the other class of label
    and prediction.
    """
    changed: dict[str, tuple[Protocol, list[Metric]]] = {}
    for field in ("faithfulness_target", "localization_target"):
        metrics = [
            m
            for m in select_map_metrics(plan.metrics)
            if m.target_field == field and not m.calibrates
        ]
        if metrics:
            other = OTHER[choose_by_protocol(plan.protocol, metrics[0])]
            rules, before = changed.get(other, (plan.protocol, []))
            change: dict[str, Any] = {field: other}
            changed[other] = dataclasses.replace(rules, **change), [*before, *metrics]
    return {
        f"target={other}": replace_metrics(plan, metrics, rules)
        for other, (rules, metrics) in changed.items()
    }


def steps_below(protocol: Protocol) -> list[int]:
    """Return the numbers of steps whose curves lie inside this protocol's: a half and a quarter,
    where whole.

    n_i = round(i*N/S): every other cut of S steps is a cut of S/2 steps, exactly, halves included.
    Steps of a fixed size have no such parts.

    >>> steps_below(Protocol())
    [14, 7]
    """
    if protocol.step_features or protocol.step_rule == "up" or protocol.curve_ends != "both":
        return []
    return [protocol.steps // k for k in (2, 4) if protocol.steps % k == 0 and protocol.steps > k]


def get_methods(names: Sequence[str]) -> list[Method]:
    """Return registered methods by name; an unknown one is an error."""
    try:
        return [METHODS.get(name) for name in names]
    except NotApplicable:
        raise
    except BenchError as error:
        raise BenchError(f"{error} Give the plug-in that brings it with --plugin.") from None

"""A run: every task's missing cells are computed and written; what is there already is not computed
again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.data import Subset, load_subset
from bench.engine.counts import Asked, Counts
from bench.errors import state_assumption
from bench.methods import Method
from bench.models.explainee import Explainee
from bench.models.network_guard import leave_modes
from bench.models.zoo import load_model
from bench.progress import Choice, follow
from bench.protocol import FLOAT32, Protocol, get_protocol
from bench.records.damaged_files import set_damaged_aside
from bench.records.equal_maps import equal_methods
from bench.records.failed_parts import describe_failed, note_failure
from bench.records.forward_counts import describe_forwards
from bench.records.gallery_parts import GALLERY_ITEMS, write_gallery
from bench.records.planned_work import OUTSIDE_METRICS, PLANNED, drop_gone
from bench.records.provenance import merge_provenance
from bench.records.replaced_rows import set_aside_replaced
from bench.records.store import Records, Store, empty_frame
from bench.run.cells import Groups, Outcome, find_waiting, task_name
from bench.run.describe import describe_run
from bench.run.executors import Executor, LocalExecutor, Result
from bench.run.item_check import check_items
from bench.run.item_ledger import ItemLedger
from bench.run.object_checks import check_subset, list_models
from bench.run.plan import Plan, Task, make_plan, read_shard
from bench.run.precision_guard import decide_precisions
from bench.run.task_meter import TaskMeter

WRITE_SECONDS = 30.0
"""How old run.json may be while tasks are computed; records are always written at once."""


@dataclass(frozen=True)
class FinishedTask:
    """A task that is done, tasks done and in all, what the networks have run so far, and what was
    asked.
    """

    task: Task
    done: int
    total: int
    counts: Counts
    asked: Asked = field(default_factory=Asked)


@leave_modes()
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
    gallery: int = GALLERY_ITEMS,
    command: str = "",
    finished: Callable[[FinishedTask], None] | None = None,
    executor: Executor | None = None,
    shard: str = "1/1",
    skip_unreadable: bool = False,
    progress: Choice = None,
) -> Records:
    """Explain and score a subset with every method under every metric.

    A task is written as soon as it is finished. Started again with the same or a larger plan, the
    run computes only what is missing or has changed.

    Args:
        subset: A name, a path (see `load_subset`) or a `Subset`.
        model: A name (see `load_model`), an `Explainee`, or several.
        methods: Names, groups and wildcards; a list may also hold maps made elsewhere
            (`load_maps`).
        metrics: Names, groups and wildcards.
        protocol: A name such as "cambench-1" or "quantus[step_features=224]", or a `Protocol`.
        out: The run folder; None keeps the records in memory.
        batch_size: Images per forward; None takes the default of the device.
        shard_size: Items per task; None takes a default.
        calibration: Images that choose box thresholds; None takes half as many as are scored, but
            at least 60; 0 takes none.
        compiled: Run probes through `torch.compile`.
        precision: "float32", "auto" or "bfloat16" (docs/precision.md).
        gallery: Images per model whose maps are kept, for pictures.
        command: The command line, for run.json.
        finished: Is called after each task with a `FinishedTask`.
        executor: Computes the tasks; None uses this process.
        shard: "i/n" computes one of n disjoint parts of the tasks, each into its own `out`.
        skip_unreadable: Leave out images that cannot be read; `skipped.csv` in `out` lists them.
        progress: True shows a bar (lines where there is no terminal), False nothing, None a bar in
            a terminal or a notebook. A function is called with (done, total, words) at most ten
            times a second. It counts the images that the networks lack, parts of them included;
            other stages of the work have totals of their own. What it raises stops the run, and
            finished tasks are kept.

    Returns:
        The records of the run.

    Raises:
        BenchError: A name is unknown, parts do not fit together, or `out` belongs to another run.

    Example:
        >>> records = bench.evaluate(
        ...     "scenes-val[:4]", "resnet-scenes", ["grad_cam", "random"], "deletion", calibration=0
        ... )  # doctest: +SKIP
    """
    subset = check_subset(subset)
    with follow(progress):
        chosen = subset if isinstance(subset, Subset) else load_subset(subset)
        models = [m if isinstance(m, Explainee) else load_model(m) for m in list_models(model)]
        sizes = batch_size, shard_size, calibration
        rules = get_protocol(protocol)
        plan = make_plan(chosen, models, methods, metrics, rules, *sizes, compiled, precision)
        plan = dataclasses.replace(plan, shard=read_shard(shard), skip_unreadable=skip_unreadable)
        folder = None if out is None else Path(out)
        return run_plan(
            plan, folder, gallery=gallery, command=command, finished=finished, executor=executor
        )


def run_plan(
    plan: Plan,
    out: Path | None,
    *,
    gallery: int = GALLERY_ITEMS,
    command: str = "",
    announce: Callable[[Plan, Mapping[Task, Groups]], Mapping[Task, float] | None] | None = None,
    finished: Callable[[FinishedTask], None] | None = None,
    executor: Executor | None = None,
    note: Callable[[str], None] | None = None,
) -> Records:
    """Run a plan into a folder (or memory) and return its records.

    Only this process writes: an executor computes tasks and hands over what they leave, so that
    nothing is there twice.

    Args:
        announce: is called before the first task, with the plan, whose precisions are decided now,
            and with what its tasks lack. It may return how long each task takes, in any unit.
        finished: is called after each task.
        note: is told, before that, of records whose images have changed or are gone.
    """
    store = Store(out)
    with store.lock():
        for text in set_damaged_aside(store):
            (note or state_assumption)(text)
        plan = decide_precisions(plan, store)
        earlier, described = store.provenance(), describe_run(plan, command)
        provenance = merge_provenance(earlier, described)
        store.forwards.begin(earlier.get("forwards"))
        standing = check_items(plan, store)
        drop_gone(provenance, described[PLANNED][0], standing.count_gone())
        for text in standing.describe(plan.subset.name):
            if note is not None:
                note(text)
        ledger = ItemLedger(plan, store, standing)
        ledger.close(provenance)  # a killed run leaves nothing that counts by mistake
        store.write_provenance(provenance)
        waiting = find_waiting(plan, store, standing)
        meter = TaskMeter(plan, waiting, None if announce is None else announce(plan, waiting))
        results = (executor or LocalExecutor()).run(plan, waiting, gallery)
        with meter.open():
            _compute(results, meter, store, ledger, provenance, finished)
        if any(known.changed for known in ledger.items.values()):
            set_aside_replaced(store.parts, ledger.items)
        records = store.records(provenance, [task_name(task) for task in waiting])
        records.provenance["equal"] = equal_methods(records.frame)
        store.write_provenance(records.provenance)
    return records


def _compute(
    run: Generator[Result, None, None],
    meter: TaskMeter,
    store: Store,
    ledger: ItemLedger,
    provenance: dict[str, Any],
    finished: Callable[[FinishedTask], None] | None,
) -> None:
    """Have the tasks computed and keep what they leave; what is noted of it goes into `provenance`
    and run.json.
    """
    before, notes = list(provenance.get("notes", ())), set[str]()
    total, asked, written = Counts(), Asked(), time.monotonic()

    def write() -> None:
        provenance["forwards"] = store.forwards.total()
        provenance["notes"] = list(dict.fromkeys([*before, *sorted(notes), *ledger.notes()]))
        store.write_provenance(provenance)

    try:
        with closing(run) as results:
            for number, (task, outcome, counts) in enumerate(results):
                if (
                    store.folder is not None and outcome.gallery
                ):  # before the rows: a task whose rows are there is done
                    write_gallery(store.folder, task_name(task), outcome.gallery)
                ledger.take(task, outcome)
                rows = pd.DataFrame(outcome.rows) if outcome.rows else empty_frame()
                store.add(task_name(task), rows, describe_forwards(outcome.asked, counts))
                news = _note_gaps(provenance, task, outcome)
                total += counts
                asked += outcome.asked
                notes |= outcome.notes
                if news or time.monotonic() - written > WRITE_SECONDS:
                    write()  # a killed run has said what it had to say
                    written = time.monotonic()
                if finished:
                    finished(FinishedTask(task, number + 1, meter.tasks, total, asked))
                meter.finish(task)
    finally:  # a run that is stopped has run what it has run
        ledger.close(provenance)
        write()


def _note_gaps(provenance: dict[str, Any], task: Task, outcome: Outcome) -> bool:
    """Note which methods and metrics have no rows of a task, and why; return whether that is new.

    A failure is said at once, the first time.
    """
    unfit = provenance["not_applicable"].setdefault(task.model, {})
    news = not outcome.not_applicable.items() <= unfit.items()
    unfit.update(outcome.not_applicable)
    if not unfit:
        del provenance["not_applicable"][task.model]
    for (kind, name), reason in outcome.failed.items():
        if note_failure(provenance, task.model, kind, name, reason):
            state_assumption(describe_failed(task.model, kind, name, reason))
            news = True
    if not outcome.outside <= {*provenance.get(OUTSIDE_METRICS, ())}:
        provenance[OUTSIDE_METRICS] = sorted(
            {*provenance.get(OUTSIDE_METRICS, ()), *outcome.outside}
        )
        news = True
    return news

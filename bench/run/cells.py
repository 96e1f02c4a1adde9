"""Cells: the (method, metric) pairs that each item of a task still lacks, and the outcome of a
task.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.engine.counts import Asked, Spent
from bench.inner_places import name_part
from bench.records.store import Done, DoneKey, Store
from bench.run.explained_class import LABEL
from bench.run.item_check import StandingWork, check_items
from bench.run.plan import Plan, Task
from bench.types import Batch, ItemContent

Cell = tuple[str, str]
"""(method id, metric id): what one item still lacks or has."""

Groups = dict[frozenset[Cell], list[int]]
"""Items by what they lack: {missing cells: item positions}."""


@dataclass
class Outcome:
    """What a task leaves: rows, maps for the gallery, and the methods that did not fit the model
    (with the reason).

    asked: forwards that were asked for.  notes: what a user should know of how it went.  contents:
    {item: what it holds} of the items read.  unreadable: {item: reason} of those left out.
    failed: {("method" or "metric", its name): why it failed}, the first time.  outside: metrics
    that left an item without any row, since it is outside the sets of all their values.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    gallery: dict[str, Any] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    asked: Asked = field(default_factory=Asked)
    notes: set[str] = field(default_factory=set)
    contents: dict[str, ItemContent] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)

    def note_items(self, batch: Batch) -> None:
        """Note what the items of a batch hold, and which of them could not be read."""
        found = zip(batch.ids, batch.contents, strict=True)
        self.contents |= {item: content for item, content in found if content is not None}
        self.unreadable |= dict(batch.unreadable)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.rows + other.rows,
            self.gallery | other.gallery,
            self.not_applicable | other.not_applicable,
            self.asked + other.asked,
            self.notes | other.notes,
            self.contents | other.contents,
            self.unreadable | other.unreadable,
            other.failed | self.failed,
            self.outside | other.outside,
        )


def list_waiting_tasks(plan: Plan, out: Path | None) -> list[Task]:
    """Return the tasks of a plan that still lack something in a run folder."""
    return list(find_waiting_groups(plan, out))


def find_waiting_groups(plan: Plan, out: Path | None) -> dict[Task, Groups]:
    """Return what the items of each task of a plan still lack in a run folder; tasks that lack
    nothing are left out.
    """
    store = Store(out)
    return find_waiting(plan, store, check_items(plan, store))


def find_waiting(plan: Plan, store: Store, standing: StandingWork) -> dict[Task, Groups]:
    """Return what the items of each task still lack in a store; tasks that lack nothing are left
    out.
    """
    unfit = find_unfit(plan, store.provenance(), standing.everything)
    groups = {
        task: find_missing_cells(plan, task, standing.done, unfit[task.model])
        for task in plan.tasks()
    }
    return {task: found for task, found in groups.items() if found}


def find_unfit(plan: Plan, provenance: dict[str, Any], done: Done) -> dict[str, set[str]]:
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
    for key, cells in done.items():
        if key.model in unfit:  # it fitted somewhere, so it is not the model
            unfit[key.model] -= {method_id for method_id, _ in cells}
    return unfit


def task_name(task: Task) -> str:
    """Return a file name for a task's part."""
    return f"{name_part(task.model)}-{task.part}-{task.start:06d}-{task.stop:06d}"


def find_missing_cells(plan: Plan, task: Task, done: Done, unfit: Collection[str] = ()) -> Groups:
    """Return what the items of a task still lack: {missing cells: item positions}, items without
    gaps left out.
    """
    model = plan.model(task.model)
    weights_id, manifest_id = model.weights_id, plan.manifest_id
    wanted = {cell for cell in plan.cells(task.model, task.part) if cell[0] not in unfit}
    ids = plan.part(task.part).ids
    groups: Groups = {}
    for position in range(task.start, task.stop):
        key = DoneKey(
            plan.subset.name, task.part, ids[position], task.model, weights_id, manifest_id
        )
        lacking = frozenset(wanted - done.get(key, set()))
        if lacking:
            groups.setdefault(lacking, []).append(position)
    return groups


@dataclass
class Maps:
    """One method's maps on a batch: for the prediction, and for the label (the same where the two
    agree).
    """

    predicted: torch.Tensor
    label: torch.Tensor
    spent: Spent | None

    def select_class(self, explained: str) -> torch.Tensor:
        """Return the maps [B,H,W] of an explained class."""
        return self.label if explained == LABEL else self.predicted

    @property
    def scaled(self) -> torch.Tensor:
        """Return both, scaled to a largest absolute value of 1 per map: [2,B,H,W]."""
        both = torch.stack([self.predicted, self.label])
        return both / both.abs().flatten(2).amax(2).clamp(min=1e-30)[:, :, None, None]


@dataclass
class Kept:
    """Maps that several plans score: each method's are made once, for every class that any of the
    plans explains.

    Args:
        classes: "predicted", "label", or both.
        maps: of one model and one geometry, by method and what it saw.
    """

    classes: frozenset[str]
    maps: dict[tuple[Any, ...], Maps] = field(default_factory=dict)

"""Waiting work: what the tasks of a plan still lack, and what that asks of the networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from bench.engine.counts import Counts
from bench.run.cells import Cell, Groups, find_waiting_groups
from bench.run.declared import DeclaredCounts, TotalWork, group_cells
from bench.run.plan import Plan, Task

Kind = tuple[str, str, frozenset[Cell]]
"""Images that lack the same: (model, part, cells)."""

TaskKinds = Mapping[Task, Mapping[Kind, int]]
"""How many images of each kind a task has."""


@dataclass(frozen=True)
class ImageCounts:
    """Counts per image; fractions where they hold for a share of the images."""

    forwards: float = 0.0
    backwards: float = 0.0
    head_forwards: float = 0.0
    head_backwards: float = 0.0

    @classmethod
    def of(cls, counts: Counts, times: float = 1) -> ImageCounts:
        """Return so many times the counts of an image."""
        return cls(*(times * count for count in counts.tuple))

    def __add__(self, other: ImageCounts) -> ImageCounts:
        return ImageCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def find_kinds(plan: Plan, out: Path | None) -> TaskKinds:
    """Return what every task lacks in a run folder; without a folder, everything.

    Everything is known without a look at each item.
    """
    if out is not None:
        return count_kinds(find_waiting_groups(plan, out))
    kinds = [(model.name, part) for model in plan.models for part in ("eval", "calibration")]
    cells = {kind: plan.cells(*kind) for kind in kinds}
    return {
        task: {(task.model, task.part, cells[task.model, task.part]): task.stop - task.start}
        for task in plan.tasks()
    }


def count_kinds(waiting: Mapping[Task, Groups]) -> TaskKinds:
    """Return how many images of each kind the tasks have."""
    return {
        task: {(task.model, task.part, cells): len(items) for cells, items in groups.items()}
        for task, groups in waiting.items()
    }


class WaitingWork:
    """The declared work of one model's waiting tasks.

    Attributes:
        tasks: the model's tasks, with their kinds.
        kinds: the images of each kind, over all tasks.
    """

    def __init__(self, declared: DeclaredCounts, tasks: TaskKinds) -> None:
        name = declared.model.name
        self.declared = declared
        self.tasks = {task: found for task, found in tasks.items() if task.model == name}
        self.kinds: Counter[Kind] = Counter()
        for found in self.tasks.values():
            self.kinds.update(found)
        self._totals = {kind: self._sum_by_size(kind) for kind in self.kinds}

    def _sum_by_size(self, kind: Kind) -> dict[int, TotalWork]:
        """Return {images that a task has of a kind: their work}.

        Their number decides which shared parts a task keeps.
        """
        sizes = sorted({found[kind] for found in self.tasks.values() if kind in found})
        return {size: self.declared.total(group_cells(kind[2]), size) for size in sizes}

    @property
    def groups(self) -> list[tuple[TotalWork, int]]:
        """Return (work per image, images) of every kind in every task."""
        return [
            (self._totals[kind][count], count)
            for found in self.tasks.values()
            for kind, count in found.items()
        ]

    @property
    def run(self) -> Counts:
        """Return the most that is run when every label is predicted."""
        once = {name: counts for total, _ in self.groups for name, counts in total.once.items()}
        return sum(
            (total.run.times(count) for total, count in self.groups),
            sum(once.values(), Counts()),
        )

    @property
    def second(self) -> ImageCounts:
        """Return the most that a second map of every method adds for one image."""
        found = (ImageCounts.of(self.usual(kind).second) for kind in self.kinds)
        return max(found, key=astuple, default=ImageCounts())

    def usual(self, kind: Kind) -> TotalWork:
        """Return the work per image of a kind in the largest task."""
        return self._totals[kind][max(self._totals[kind])]

    def extra(self, wrong: float) -> ImageCounts:
        """Return what second maps add, for the share of images whose label is not predicted."""
        return sum(
            (ImageCounts.of(total.second, wrong * count) for total, count in self.groups),
            ImageCounts(),
        )

"""How much of a run is done, in images, and which task is next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.errors import BenchError
from bench.run.cells import Groups
from bench.run.declared import DeclaredCounts
from bench.run.plan import Plan, Task
from bench.run.waiting_work import WaitingWork, count_kinds
from bench.work_stages import Stage, is_heard, open_stage


class TaskMeter:
    """Says how much of a run is done: images, weighted by the work that they need.

    Args:
        plan: Of the run.
        waiting: What its tasks lack.
        weights: How long each task takes, in any unit; None counts declared passes.
    """

    def __init__(
        self, plan: Plan, waiting: Mapping[Task, Groups], weights: Mapping[Task, float] | None
    ) -> None:
        self.plan, self.tasks = plan, len(waiting)
        images = {task: sum(map(len, found.values())) for task, found in waiting.items()}
        if weights is None and is_heard():
            weights = weigh_tasks(plan, waiting)
        known = {task: max((weights or {}).get(task, 0.0), 0.0) for task in images}
        if not sum(known.values()):
            known = {task: float(count) for task, count in images.items()}
        scale = sum(images.values()) / (sum(known.values()) or 1.0)
        self.total = float(sum(images.values()))
        self._left = {task: scale * weight for task, weight in known.items()}
        self._stage: Stage

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open the stage of all tasks."""
        with open_stage(self.total, self._describe_next()) as self._stage:
            self._begin()
            yield

    def finish(self, task: Task) -> None:
        """Count a task as done; the next one in line begins."""
        self._stage.advance(self._left.pop(task))
        self._begin()

    def _begin(self) -> None:
        if self._left:
            self._stage.begin(next(iter(self._left.values())), self._describe_next())

    def _describe_next(self) -> str:
        """Return what the next task is about."""
        task = next(iter(self._left), None)
        if task is None:
            return ""
        kind = "" if task.part == "eval" else f"{task.part} "
        count = len(self.plan.part(task.part))
        return f"{task.model}: {kind}images {task.start + 1}-{task.stop} of {count}"


def weigh_tasks(plan: Plan, waiting: Mapping[Task, Groups]) -> dict[Task, float]:
    """Return the declared passes of each task; without them where a declaration is wrong."""
    kinds, found = count_kinds(waiting), dict[Task, float]()
    try:
        for model in plan.models:
            work = WaitingWork(DeclaredCounts(plan, model), kinds)
            for task, several in work.tasks.items():
                found[task] = float(
                    sum(n * work.usual(kind).run.total for kind, n in several.items())
                )
    except BenchError:  # of a plug-in; it costs the weights, not the run
        return {}
    return found

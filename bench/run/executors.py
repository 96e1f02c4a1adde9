"""Executors compute the tasks of a plan; this one in this process, `ray_executor` on many machines.

An executor gets the waiting tasks and yields the outcome of each, in any order and each once; it
writes nothing. A task that is lost with its worker has left nothing, so it is simply computed
again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Protocol

from bench.engine.counts import Counts
from bench.engine.memory import GarbageSweep
from bench.engine.prober import Prober
from bench.run.cells import Groups, Outcome
from bench.run.plan import Plan, Task
from bench.run.read_ahead import Reader
from bench.run.task import run_task

Result = tuple[Task, Outcome, Counts]
"""A finished task, what it leaves, and what it asked of the networks."""


class Executor(Protocol):
    """Computes tasks; closing the iterator (Ctrl-C, an error) stops the work and leaves no process
    behind.
    """

    def run(
        self, plan: Plan, waiting: Mapping[Task, Groups], gallery: int
    ) -> Generator[Result, None, None]: ...


class LocalExecutor:
    """One task after the other, in this process; the next one's images are read meanwhile
    (`ahead`).
    """

    def __init__(self, ahead: bool = True) -> None:
        self.ahead = ahead

    def run(
        self, plan: Plan, waiting: Mapping[Task, Groups], gallery: int
    ) -> Generator[Result, None, None]:
        """Yield the result of each task, in the plan's order."""
        probers = {m.name: Prober(m, plan.batch_size, plan.compiled) for m in plan.models}
        tasks, garbage = list(waiting), GarbageSweep()
        with Reader(plan, pinned=plan.models[0].device.type == "cuda") as reader:
            for number, task in enumerate(tasks):
                if self.ahead:
                    reader.expect(
                        {near: waiting[near].values() for near in tasks[number : number + 2]}
                    )
                prober = probers[task.model]
                before = prober.counts.copy()
                outcome = run_task(plan, task, waiting[task], prober, gallery, reader=reader)
                yield task, outcome, prober.counts - before
                garbage.sweep()

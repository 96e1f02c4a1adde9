"""A timed sample: seconds per image of a few images of a run."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.engine.memory import wait_for
from bench.engine.prober import Prober
from bench.run.cells import Cell
from bench.run.plan import Plan, Task
from bench.run.task import run_task


@dataclass(frozen=True)
class TimedSample:
    """What a few images of a run took, and what they left: seconds per image, rows, and images
    rightly classified.
    """

    seconds: float
    rows: pd.DataFrame
    images: int
    right: int


def run_sample(
    plan: Plan,
    model: str,
    part: str,
    cells: Collection[Cell],
    positions: Sequence[int],
    prober: Prober,
    warm: bool,
) -> TimedSample:
    """Run the same cells of a few items as the run will, and keep nothing.

    warm: run the first of them before the clock starts.
    """
    task = Task(model, part, min(positions), max(positions) + 1)
    if warm:
        run_task(replace(plan, shard_size=1), task, {frozenset(cells): [*positions[:1]]}, prober)
    wait_for(prober.model.device)
    start = time.perf_counter()
    outcome = run_task(plan, task, {frozenset(cells): [*positions]}, prober)
    wait_for(prober.model.device)
    seconds = (time.perf_counter() - start) / len(positions)
    rows = pd.DataFrame(outcome.rows)
    right = int(rows.drop_duplicates("item")["correct"].sum()) if len(rows) else 0
    return TimedSample(seconds, rows, len(positions), right)

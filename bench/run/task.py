"""One task of a run: its missing cells are computed, in halves where memory is too short."""

from __future__ import annotations

from bench.data.input_size import write_size
from bench.engine.counts import Asked
from bench.engine.memory import is_out_of_memory, release_memory
from bench.engine.prober import Prober
from bench.errors import BenchError
from bench.models.network_guard import guard_network
from bench.run.batch import BatchRun
from bench.run.cells import Cell, Groups, Kept, Outcome
from bench.run.plan import Plan, Task
from bench.run.read_ahead import Reader
from bench.run.sealed_calls import is_foreign, sealing
from bench.work_stages import track

# --- one task


def run_task(
    plan: Plan,
    task: Task,
    groups: Groups,
    prober: Prober,
    gallery: int = 0,
    kept: Kept | None = None,
    reader: Reader | None = None,
) -> Outcome:
    """Compute the missing cells of a task.

    kept: where maps lie that other plans of the same images and model have made, or will want.
    reader: of the plan's images, who may have read them already; None reads them here.
    """
    outcome = Outcome()
    sizes = [len(positions) for positions in groups.values()]
    for cells, positions in track([*groups.items()], sizes=sizes):
        outcome += _run_positions(
            plan, task, cells, positions, prober, gallery, kept, reader or Reader(plan)
        )
    if prober.reduced_to is not None:
        outcome.notes.add(
            f"Memory is too short for {plan.batch_size} images per forward; {task.model} went on "
            f"with {prober.reduced_to}."
        )
    return outcome


def _run_positions(
    plan: Plan,
    task: Task,
    cells: frozenset[Cell],
    positions: list[int],
    prober: Prober,
    gallery: int,
    kept: Kept | None,
    reader: Reader,
) -> Outcome:
    """Compute the same cells of several items; items that memory is too short for together are run
    in halves.
    """
    outcome, before = Outcome(), prober.counts.forwards
    try:
        batch = reader.read(task, positions)
        outcome.note_items(batch)
        first = plan.part(task.part).ids[: gallery * (task.part == "eval")]
        shown = [i for i, item in enumerate(batch.ids) if item in first]
        batch = batch.to(prober.model.device)
        with guard_network(prober.model.net), sealing(prober, keeps=has_foreign_parts(plan)):
            if len(batch):
                BatchRun(plan, task, batch, prober, cells, shown, outcome, kept).run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(positions) == 1:
            raise BenchError(
                f"Memory is too short for {task.model} and one image of "
                f"{write_size(plan.geometry.size)} pixels; free some, choose other "
                "methods, or a smaller model."
            ) from error
    else:
        return outcome
    # Outside the except: the error's traceback holds on to what is to be freed.
    release_memory(prober.model.device)
    again = Asked(prober.counts.forwards - before)  # what was run so far is asked for a second time
    middle = len(positions) // 2
    both = [
        _run_positions(plan, task, cells, half, prober, gallery, kept, reader)
        for half in track((positions[:middle], positions[middle:]))
    ]
    note = f"Memory is too short for {len(positions)} images of {task.model} in one task."
    return sum(both, Outcome(asked=again, notes={note}))


def has_foreign_parts(plan: Plan) -> bool:
    """Return whether a plan runs functions of plug-ins."""
    return any(map(is_foreign, plan.methods)) or not all(one.builtin for one in plan.metrics)

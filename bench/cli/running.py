"""What `run`, `score`, `board` and `merge` share: announce and run a plan, print its board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.output import command_line, console, errors, say, stoppable, warn
from bench.cli.plan_report import describe_cost
from bench.progress import show_share
from bench.records.forward_counts import describe_forwards, write_forwards
from bench.records.precision_verdict import write_precision
from bench.records.store import Records, Store

if TYPE_CHECKING:
    from bench.board import Board
    from bench.planning.estimate import Cost
    from bench.run.evaluate import Progress
    from bench.run.executors import Executor
    from bench.run.plan import Plan

REFERENCE = "grad_cam"
"""The method that a plug-in's method or given maps are compared with, where the run has it."""


def announce_plan(plan: Plan, folder: Path, out: Path | None) -> Cost:
    """Print what a run will do, of what is missing in `out`: images, methods, forwards, minutes."""
    from bench.planning.estimate import estimate

    with errors.status("Counting forwards"):
        cost = estimate(plan, "rates", out=out)
    for line in describe_cost(plan, cost):
        say(line)
    minutes = max(cost.seconds or 0.0, 1) / 60
    say(
        f"The networks alone take about {minutes:.1f} minutes here (details: `cambench plan`). "
        f"Records go to {folder}."
    )
    return cost


def execute_plan(plan: Plan, folder: Path, executor: Executor | None = None) -> Records:
    """Announce a plan and run it with a progress bar; Ctrl-C keeps what is finished."""
    from bench.run.evaluate import run_plan

    plan = decide_precision(plan, folder)
    cost = announce_plan(plan, folder, folder)
    last: list[Progress] = []
    words = f"Stopped; finished tasks are kept in {folder}. Start the same command again to go on."
    with stoppable(words), show_share(cost.seconds or 1, errors) as show:

        def report(state: Progress) -> None:
            last[:] = [state]
            task = state.task
            show(
                f"{task.model} {task.part} {task.stop}/{len(plan.part(task.part))}",
                cost.task_seconds(task),
            )

        records = run_plan(plan, folder, command=command_line(), progress=report, executor=executor)
    if last:
        say(write_forwards(describe_forwards(last[0].asked, last[0].counts)))
    for note in (*write_precision(records.provenance), *records.provenance["notes"]):
        warn(note)
    return records


def decide_precision(plan: Plan, folder: Path) -> Plan:
    """Return the plan with the precision of each model, where a lower one was asked for."""
    from bench.run.precision_guard import decide_precisions

    with (
        stoppable("Stopped before the first task."),
        errors.status("Comparing float32 and bfloat16 ..."),
    ):
        return decide_precisions(plan, Store(folder))


def make_board(records: Records) -> Board:
    """Return the board of records."""
    from bench.board import leaderboard

    with errors.status("Intervals from 10,000 resamples ..."):
        return leaderboard(records)


def write_and_print(records: Records, folder: Path) -> Board:
    """Make the board of a run, write it into the run's folder and print it."""
    from bench.board import write_board

    board = make_board(records)
    write_board(board, folder, folder)
    board.print(console)
    return board


def show_board(folder: Path, publish: Path | None = None) -> None:
    """Make, write and print the board of the records in a folder."""
    from bench.board import publish_board

    if publish is None:
        write_and_print(Records.load(folder), folder)
    else:
        publish_board(folder, publish).print(console)
    say_board(publish or folder)


def say_comparison(board: Board, method: str) -> None:
    """Print how a method compares with the reference, where the board has both."""
    if {method, REFERENCE} <= set(board.frame["method"]):
        for line in board.compare(method, REFERENCE):
            say(line)


def say_board(folder: Path) -> None:
    """Print where the board is."""
    say(f"Board, tables and plots: {folder / 'board.md'}")

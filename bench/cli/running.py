"""What `run`, `score`, `board` and `merge` share: announce and run a plan, print its board."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.announcing import print_announcement
from bench.cli.output import command_line, console, say, stoppable, warn
from bench.records.forward_counts import describe_forwards, write_forwards
from bench.records.precision_verdict import write_precision
from bench.records.store import Records

if TYPE_CHECKING:
    from bench.board import Board
    from bench.run.cells import Groups
    from bench.run.evaluate import FinishedTask
    from bench.run.executors import Executor
    from bench.run.plan import Plan, Task

WORDS = re.compile(r"[^\[\](),=]+")
"""The names and values that a method's name is made of."""


def announce_plan(plan: Plan, folder: Path) -> None:
    """Print what a whole plan computes, whatever is in its folder."""
    from bench.run.announcement import announce_work
    from bench.run.waiting_work import find_kinds

    work = announce_work(plan, find_kinds(plan, None))
    print_announcement(plan, work, folder, None, set())


class RunReport:
    """What is printed of a run: its announcement, and what its last task leaves to say.

    Args:
        folder: Where the records go.
        seen: What earlier parts of the run have printed; None prints the whole announcement.
    """

    def __init__(self, folder: Path, seen: set[str] | None = None) -> None:
        self.folder = folder
        self.seen = seen
        self.last: FinishedTask | None = None

    def announce(self, plan: Plan, waiting: Mapping[Task, Groups]) -> Mapping[Task, float]:
        """Print what is missing of a plan; return how long the networks take for each task."""
        from bench.run.announcement import announce_work
        from bench.run.waiting_work import count_kinds

        work = announce_work(plan, count_kinds(waiting))
        brief = self.seen is not None
        seen = set() if self.seen is None else self.seen
        print_announcement(plan, work, self.folder, len(waiting), seen, brief=brief)
        return work.task_seconds

    def note_task(self, state: FinishedTask) -> None:
        """Note the last task."""
        self.last = state


def execute_plan(
    plan: Plan, folder: Path, executor: Executor | None = None, seen: set[str] | None = None
) -> Records:
    """Announce a plan and run it; Ctrl-C keeps what is finished.

    seen: what earlier parts of the run have printed; None prints everything.
    """
    from bench.run.evaluate import run_plan

    words = f"Stopped; finished tasks are kept in {folder}. Start the same command again to go on."
    report = RunReport(folder, seen)
    with stoppable(words):
        records = run_plan(
            plan,
            folder,
            command=command_line(),
            announce=report.announce,
            finished=report.note_task,
            executor=executor,
            note=warn,
        )
    if report.last is not None and seen is None:
        say(write_forwards(describe_forwards(report.last.asked, report.last.counts)))
    for note in (*write_precision(records.provenance), *records.provenance["notes"]):
        if note not in plan.notes and note not in (seen or ()):  # these stand above the work
            warn(note)
            if seen is not None:
                seen.add(note)
    return records


def make_board(records: Records) -> Board:
    """Return the board of records."""
    from bench.board import leaderboard

    return leaderboard(records)


def write_and_print(records: Records, folder: Path, *, verbose: bool = False) -> Board:
    """Make the board of a run, write it into the run's folder and print it, in brief or whole.

    It is printed also where the folder cannot be written to, before that is refused.
    """
    board = make_board(records)
    try:
        board.save(folder)
    finally:
        print_result(board, verbose=verbose)
    return board


def print_result(board: Board, *, verbose: bool) -> None:
    """Print a board: its result in words and one table, or all of it."""
    from bench.board.console import print_brief

    if verbose:
        board.print(console)
    else:
        print_brief(board, console)


def show_board(
    folder: Path,
    publish: Path | None = None,
    *,
    partial: bool = False,
    leave_out: Sequence[str] = (),
    image_curves: bool = False,
    verbose: bool = False,
) -> None:
    """Make, write and print the board of the records in a folder."""
    from bench.board import publish_board

    if publish is None:
        write_and_print(Records.load(folder), folder, verbose=verbose)
    else:
        board = publish_board(
            folder, publish, partial=partial, leave_out=leave_out, image_curves=image_curves
        )
        print_result(board, verbose=verbose)


def list_compared(board: Board, plugged: Iterable[str]) -> list[str]:
    """Return the methods of a board that are compared with the reference.

    These are those of plug-ins, whatever their parameters and wrappers, and those whose parameters
    somebody has set.
    """
    names = set(plugged)
    return [
        method
        for method in sorted(set(board.frame["method"]))
        if "[" in method or names & set(WORDS.findall(method))
    ]


def say_comparison(board: Board, method: str) -> None:
    """Print how a method compares with the reference, where the board has both."""
    from bench.board.text import REFERENCE

    if method != REFERENCE and {method, REFERENCE} <= set(board.frame["method"]):
        for line in board.compare(method, REFERENCE):
            say(line)


def say_board(folder: Path) -> None:
    """Print where the board is."""
    say(f"Board, tables and plots: {folder / 'board.md'}")

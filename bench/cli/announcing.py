"""How a run is announced: what it computes, the work that is declared for it, and the time."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from bench.cli.output import say, warn

if TYPE_CHECKING:
    from bench.data import Subset
    from bench.engine.counts import Counts
    from bench.run.announcement import Announcement
    from bench.run.plan import Plan
    from bench.run.waiting_work import ImageCounts

_LONGEST = 400
"""Characters of a sentence on how a subset was read; run.json has all of it."""


def print_announcement(
    plan: Plan,
    work: Announcement,
    folder: Path,
    left: int | None,
    seen: set[str],
    *,
    brief: bool = False,
) -> None:
    """Print what a run is about to do.

    Args:
        plan: What is run.
        work: Its declared work.
        folder: Where the records go.
        left: The tasks that are not finished; None for a plan.
        seen: What was printed before, which is not printed again; it grows.
        brief: Print the work in one line.
    """
    from bench.run.usable_items import describe_usable

    print_assumptions(plan, seen)
    if not brief:
        say(describe_plan(plan))
    if left != 0:  # where nothing is computed, the board counts what was
        for sentence in describe_usable(plan):
            print_once(sentence, seen)
    if brief:
        print_undeclared(work)
        say(describe_in_brief(plan, work, folder, left))
        return
    second = (
        describe_second_map(work.second) if work.extra is None else describe_second_maps(work.extra)
    )
    say(describe_work(work.run, second, left))
    print_undeclared(work)
    say(
        f"The networks alone take about {max(work.seconds, 1) / 60:.1f} minutes here "
        f"(`cambench plan` says more). Records go to {folder}."
    )


def print_undeclared(work: Announcement) -> None:
    """Print which methods are not counted."""
    if work.undeclared:
        say(f"The estimate leaves out {', '.join(work.undeclared)}: no work is declared.")


def describe_in_brief(plan: Plan, work: Announcement, folder: Path, left: int | None) -> str:
    """Return in one line what a run is about to do."""
    tasks = "" if left is None else f" in {left} tasks that are not finished"
    return (
        f"{plan.subset.name}: {len(plan.subset)} images, {len(plan.models)} models, "
        f"{len(plan.methods)} methods, {len(plan.metrics)} metrics: at most "
        f"{work.run.forwards:,} forwards{tasks}, about {max(work.seconds, 1) / 60:.1f} minutes; "
        f"{plan.protocol.id}. Records: {folder}"
    )


def print_assumptions(plan: Plan, seen: set[str]) -> None:
    """Print how the subset was read, what was assumed, and what is left out.

    Args:
        plan: What is run.
        seen: What was printed before, which is not printed again; it grows.
    """
    for sentence in plan.subset.found:
        print_once(sentence, seen)
    print_notes(plan.subset, seen)
    for sentence in (*plan.notes, *plan.unserved):
        print_once(sentence, seen, caution=True)


def print_once(sentence: str, seen: set[str], *, caution: bool = False) -> None:
    """Print a sentence that was not printed before; one that may matter is a warning."""
    if sentence in seen:
        return
    seen.add(sentence)
    if caution:
        warn(sentence)
    else:
        say(shorten(sentence, _LONGEST, placeholder=" ..."))


def print_notes(subset: Subset, seen: set[str]) -> None:
    """Print how a subset's files were read; what may be wrong is a warning."""
    for note in subset.notes:
        print_once(note.text, seen, caution=note.caution)


def describe_plan(plan: Plan) -> str:
    """Return what a plan computes, in a line."""
    calibration = f" + {len(plan.calibration)} for calibration" if plan.calibration else ""
    return (
        f"{plan.subset.name}: {len(plan.subset)} images{calibration}, {len(plan.models)} models, "
        f"{len(plan.methods)} methods, {len(plan.metrics)} metrics, {plan.protocol.id}"
    )


def describe_work(run: Counts, second: str, left: int | None) -> str:
    """Return the most that the networks run, in a line; second: what second maps add."""
    tasks = "" if left is None else f" in {left} tasks that are not finished"
    return (
        f"At most {run.forwards:,} forwards, {run.backwards:,} backwards and "
        f"{run.head_forwards:,} head replays{tasks}; equal maps and rankings spare some{second}."
    )


def describe_second_maps(extra: ImageCounts) -> str:
    """Return what the second maps of misclassified images add, or "" where there are none."""
    if not extra.forwards and not extra.head_forwards:
        return ""
    return (
        f". Misclassified images need a second map, for the label: about {extra.forwards:,.0f} "
        f"more forwards and {extra.head_forwards:,.0f} more head replays"
    )


def describe_second_map(second: ImageCounts) -> str:
    """Return what the second map of one image adds, where their number is unknown."""
    if not second.forwards and not second.head_forwards:
        return ""
    return (
        ". A misclassified image needs a second map, for the label: at most "
        f"{second.forwards:,.0f} more forwards and {second.head_forwards:,.0f} more head replays"
    )

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


def print_announcement(plan: Plan, work: Announcement, folder: Path, left: int | None) -> None:
    """Print what a run is about to do; left: the tasks that are not finished, None for a plan."""
    from bench.run.usable_items import describe_usable

    print_assumptions(plan)
    say(describe_plan(plan))
    if left != 0:  # where nothing is computed, the board counts what was
        for sentence in describe_usable(plan):
            say(sentence)
    second = (
        describe_second_map(work.second) if work.extra is None else describe_second_maps(work.extra)
    )
    say(describe_work(work.run, second, left))
    if work.undeclared:
        say(f"Not counted, since these methods declare no work: {', '.join(work.undeclared)}.")
    say(
        f"The networks alone take about {max(work.seconds, 1) / 60:.1f} minutes here "
        f"(`cambench plan` says more). Records go to {folder}."
    )


def print_brief_announcement(
    plan: Plan, work: Announcement, folder: Path, left: int, seen: set[str]
) -> None:
    """Print in a line or two what a run is about to do.

    Args:
        plan: What is run.
        work: Its declared work.
        folder: Where the records go.
        left: The tasks that are not finished.
        seen: What earlier parts of the run have printed; it is printed once.
    """
    from bench.run.usable_items import describe_usable

    for sentence in (*plan.notes, *plan.unserved):
        if sentence not in seen:
            warn(sentence)
    for sentence in plan.subset.found:
        if sentence not in seen:
            say(shorten(sentence, _LONGEST, placeholder=" ..."))
    for note in plan.subset.notes:
        if note.text not in seen:
            (warn if note.caution else say)(note.text)
    usable = list(describe_usable(plan)) if left else []
    for sentence in usable:
        if sentence not in seen:
            say(sentence)
    seen |= {*plan.notes, *plan.unserved, *plan.subset.found, *usable}
    seen |= {note.text for note in plan.subset.notes}
    if work.undeclared:
        say(f"Not counted, since these methods declare no work: {', '.join(work.undeclared)}.")
    say(
        f"{plan.subset.name}: {len(plan.subset)} images, {len(plan.models)} models, "
        f"{len(plan.methods)} methods, {len(plan.metrics)} metrics: at most "
        f"{work.run.forwards:,} forwards in {left} tasks that are not finished, about "
        f"{max(work.seconds, 1) / 60:.1f} minutes; {plan.protocol.id}. Records: {folder}"
    )


def print_assumptions(plan: Plan) -> None:
    """Print how the subset was read, what was assumed, and what is left out."""
    for sentence in plan.subset.found:
        say(shorten(sentence, _LONGEST, placeholder=" ..."))
    print_notes(plan.subset)
    for sentence in (*plan.notes, *plan.unserved):
        warn(sentence)


def print_notes(subset: Subset) -> None:
    """Print how a subset's files were read; what may be wrong is a warning."""
    for note in subset.notes:
        (warn if note.caution else say)(note.text)


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

"""Verdicts for a person (terminal), for CI (JUnit XML) and for a pull request (Markdown)."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench.board.scores import list_rows
from bench.board.text import markdown, metric_label, number
from bench.files import append_text, replaced_file
from bench.gate.judge import (
    BETTER,
    CAUSES,
    CHANGED,
    MISSING,
    MOVED,
    NEW,
    REGRESSION,
    SAME,
    UNJUDGED,
    Verdicts,
)
from bench.plain_text import show_controls
from bench.text_console import make_text

ORDER = (REGRESSION, UNJUDGED, BETTER, CHANGED, SAME, MOVED, NEW)
"""Verdicts in the order in which a reader needs them."""

STYLES = {
    REGRESSION: "bold red",
    UNJUDGED: "yellow",
    BETTER: "green",
    MOVED: "dim",
    NEW: "dim",
    SAME: "dim",
}

HEADERS = (
    "model",
    "method",
    "value",
    "n",
    "baseline",
    "run",
    "change",
    "verdict",
    "altered",
    "why",
)
NUMBERS = ("n", "baseline", "run", "change")


def write_outcome(verdicts: Verdicts) -> str:
    """Say the outcome in one line."""
    counts = "; ".join(f"{verdicts.count(v)} {v}" for v in ORDER if verdicts.count(v))
    word = {0: "Fine", 1: "Regression", 2: "Could not judge"}[verdicts.exit_code]
    return f"{word}: {counts} (of {len(verdicts.gated)} cells)."


def write_explanation(verdicts: Verdicts) -> str:
    """Say what the numbers of a table are."""
    rules = verdicts.rules
    return (
        "change: in % of the baseline's distance from random, + is better, with its lower and "
        f"upper bound (each missed {rules.miss:.0%} of the time); the margin is "
        f"-{rules.margin:.0%}. A regression is shown with a family-wise error of "
        f"{rules.alpha:.0%} (Holm); what passes lost exactly the margin at most {rules.miss:.0%} "
        f"of the time. altered: {CAUSES}."
    )


def order_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts, what needs a reader first."""
    place = {verdict: i for i, verdict in enumerate(ORDER)}
    keyed = frame.assign(place=frame["verdict"].map(place))
    return list_rows(
        keyed.sort_values(["place", "subset", "model", "method", "metric"], kind="stable")
    )


def write_share(row: dict[str, Any], key: str) -> str:
    """Write a signed change as a share of the distance from random; without a distance, as it
    is.
    """
    value, distance = row[key], abs(row["distance"])
    if math.isnan(value):
        return ""
    if not distance > 0:
        return number(value, sign=True)
    return f"{round(100 * value / distance, 1) + 0.0:+.1f} %"  # + 0.0: no "-0.0"


def write_change(row: dict[str, Any]) -> str:
    """Write the change with its bounds, + is better."""
    if row["verdict"] == SAME:
        return "0"
    signed = {**row, "change": -row["change"] if row["better"] == "lower" else row["change"]}
    middle, low, high = (write_share(signed, key) for key in ("change", "low", "high"))
    return f"{middle} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]" if low else middle


def write_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row's cells, under `HEADERS`."""
    lost = f" ({row['lost']} lost)" if row["lost"] else ""
    method = f"{row['method']} (control)" if row["control"] else row["method"]
    value = metric_label(row["metric"], row["better"])
    numbers = (f"{row['n']}{lost}", number(row["old"]), number(row["new"]), write_change(row))
    return row["model"], method, value, *numbers, row["verdict"], row["cause"], row["reason"]


def select_rows(verdicts: Verdicts, *, everything: bool) -> pd.DataFrame:
    """Return the rows for a table: all, or those that are not the same; what is missing is said in
    a line.
    """
    frame = verdicts.frame[verdicts.frame["reason"] != MISSING]
    return frame if everything else frame[frame["verdict"] != SAME]


def list_missing(verdicts: Verdicts) -> Iterator[str]:
    """Yield, per model, the cells that the run lacks: whole models and methods by their name."""
    frame = verdicts.frame
    for (subset, model), rows in frame.groupby(["subset", "model"], sort=True):
        gone = rows[rows["reason"] == MISSING]
        if len(gone) == len(rows):
            yield f"The run has nothing of {model} on {subset}."
        elif len(gone):
            parts = [
                str(method)
                if len(cells) == (rows["method"] == method).sum()
                else f"{method} ({', '.join(cells)})"
                for method, cells in gone.groupby("method", sort=True)["metric"]
            ]
            yield f"The run has nothing of {model} on {subset} for {', '.join(parts)}."


def print_verdicts(verdicts: Verdicts, console: Console, *, everything: bool = False) -> None:
    """Print a table for a person, notes, and the outcome."""
    frame = select_rows(verdicts, everything=everything)
    for (subset, model), several in frame.groupby(["subset", "model"], sort=True):
        table = Table(
            title=make_text(f"{subset}, {model}", "italic"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
        )
        for header in HEADERS[1:]:
            justify: Literal["left", "right"] = "right" if header in NUMBERS else "left"
            table.add_column(
                header, justify=justify, overflow="fold", no_wrap=header not in ("method", "why")
            )
        for row in order_rows(several):
            texts = [make_text(text) for text in write_cells(row)]
            texts[HEADERS.index("verdict")].stylize(STYLES.get(row["verdict"], ""))
            table.add_row(*texts[1:], style="dim" if row["control"] else "")
        console.print(table)
    if len(frame):
        console.print(make_text(write_explanation(verdicts)), style="dim", highlight=False)
    for note in [*verdicts.notes, *list_missing(verdicts)]:
        console.print(make_text(f"! {note}"), style="yellow", highlight=False)
    style = {0: "bold green", 1: "bold red", 2: "bold yellow"}[verdicts.exit_code]
    console.print(make_text(write_outcome(verdicts)), style=style, highlight=False)


def write_markdown(verdicts: Verdicts, path: Path) -> None:
    """Append a summary to a file, as `$GITHUB_STEP_SUMMARY` wants it; a file of before keeps its
    text.
    """
    append_text(path, "\n".join(write_markdown_lines(verdicts)) + "\n")


def write_markdown_lines(verdicts: Verdicts) -> Iterator[str]:
    """Yield a Markdown summary: the outcome, what needs a reader, and the rest folded away."""
    yield f"### cambench check: {write_outcome(verdicts)}"
    yield ""
    frame = select_rows(verdicts, everything=True)
    urgent = frame["verdict"].isin([REGRESSION, UNJUDGED, BETTER])
    yield from tabulate_markdown(order_rows(frame[urgent]))
    rest = order_rows(frame[~urgent])
    if rest:
        yield from (
            "<details><summary>The other cells</summary>",
            "",
            *tabulate_markdown(rest),
            "</details>",
            "",
        )
    yield write_explanation(verdicts)
    yield ""
    for note in [*verdicts.notes, *list_missing(verdicts)]:
        yield f"- {markdown(note)}"
    run, baseline = verdicts.run, verdicts.baseline
    yield f"- Run: {markdown(write_origin(run))}. Baseline: {markdown(write_origin(baseline))}."


def write_origin(facts: dict[str, Any]) -> str:
    """Say where values come from: run, code, protocol."""
    return f"{facts.get('run', '')}, code {facts.get('code', '')}, {facts['protocol']['id']}"


def tabulate_markdown(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table, or nothing."""
    if not rows:
        return
    yield "| " + " | ".join(HEADERS) + " |"
    yield "|" + "|".join("---:" if header in NUMBERS else "---" for header in HEADERS) + "|"
    for row in rows:
        yield "| " + " | ".join(markdown(cell) for cell in write_cells(row)) + " |"
    yield ""


def write_junit(verdicts: Verdicts, path: Path) -> None:
    """Write JUnit XML: one test case per deciding cell; a regression is a failure, an open cell an
    error.
    """
    rows = order_rows(verdicts.gated)
    bad, unsure = verdicts.count(REGRESSION), verdicts.count(UNJUDGED)
    counts = {
        "tests": str(len(rows)),
        "failures": str(bad),
        "errors": str(unsure),
        "skipped": "0",
        "time": "0",
    }
    root = ET.Element("testsuites", {"name": "cambench check", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "cambench check", **counts})
    for row in rows:
        place = f"{row['subset']}.{row['model']}.{row['method']}"
        case = ET.SubElement(
            suite,
            "testcase",
            {"classname": escape_control(place), "name": row["metric"], "time": "0"},
        )
        kind = {REGRESSION: "failure", UNJUDGED: "error"}.get(row["verdict"])
        said = dict(zip(HEADERS, write_cells(row), strict=True))
        text = (
            f"{row['verdict']}: baseline {said['baseline']}, run {said['run']}, change "
            f"{said['change']}, n={said['n']}"
        )
        if kind:
            found = ET.SubElement(
                case, kind, {"message": escape_control(said["why"]), "type": row["verdict"]}
            )
            found.text = escape_control(f"{text}. {said['why']}")
        else:
            ET.SubElement(case, "system-out").text = escape_control(text)
    ET.indent(root)
    with replaced_file(path) as temporary:
        ET.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def escape_control(text: str) -> str:
    """Return a text with the characters that XML forbids written out."""
    return show_controls(text)

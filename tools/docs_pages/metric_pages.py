"""A page for each metric: what `docs/metrics` says of it, and what the code says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from bench.board.text import FAILED
from bench.cli.catalogue import ARROWS, count_forwards, value_facts
from bench.metrics import METRICS, Metric
from bench.metrics.base import Value
from bench.metrics.peaked import PEAKED_MARK
from bench.protocol import Protocol
from docs_pages.markdown import escape, write_docstring, write_list, write_table
from docs_pages.pictures import PICTURES
from docs_pages.pictures.stage import write_caption

FAMILIES = {
    "faithfulness": "Faithfulness: what does the network use?",
    "localization": "Localisation: where is the object?",
    "threshold": "Thresholds: what does a cut do to a map?",
    "robustness": "Robustness: does the map stay when the image hardly changes?",
    "sanity": "Sanity: does the map depend on the network and on the class?",
    "reference": "References: does the map depend on what the image is compared with?",
    "complexity": "Complexity: how concentrated is the map?",
    "cost": "Cost: what does the map take?",
}
"""The question of each family, in the order of the overview."""

NEEDS = {
    "boxes": "boxes of the objects",
    "masks": "masks of the objects",
    "truth": "boxes or masks of the objects",
    "others": "objects of a second class in the image",
    "method": "the method itself, which it runs again",
    "sister": "a sister network (`cambench finetune masked`)",
}
"""What a metric can need, for readers."""


def write_metric_page(metric: Metric, text: str, boards: Path) -> str:
    """Return the page of a metric.

    Args:
        metric: The metric.
        text: What `docs/metrics` says: a title, one paragraph, then sections.
        boards: The folder of the published boards, whose health reports are shown.
    """
    title, question, rest = text.split("\n\n", 2)
    parts = [title, f"**{' '.join(question.split())}**"]
    if metric.name in PICTURES:
        caption = write_caption(metric.name)
        parts.append(f"![{caption}](pictures/{metric.name}.png)")
        parts.append(f"*{escape(caption)}*")
    parts += [rest.strip(), "## Range and direction", write_values(metric)]
    parts += ["## Facts", write_list(list_facts(metric))]
    parts += ["## Health", write_health(metric, boards)]
    parts += ["## In the code", f"Metric `{metric.name}`:", write_docstring(metric.function)]
    return "\n\n".join(parts) + "\n"


def describe_standing(value: dict[str, Any]) -> str:
    """Return whether boards rank by a value, report it, or draw it."""
    if value["ranked"]:
        return "ranked"
    if value["reduce"] == "curve":
        return f"drawn as a curve {PEAKED_MARK if value['peaked'] else ''}".strip()
    return f"reported {PEAKED_MARK}" if value["peaked"] else "reported"


def write_range(value: dict[str, Any]) -> str:
    """Return the range of a value.

    >>> write_range({"lower": 0, "upper": None})
    '0 and up'
    """
    low, high = value["lower"], value["upper"]
    if low is None or high is None:
        return "any" if low is None else f"{low:g} and up"
    return f"{low:g} to {high:g}"


def write_values(metric: Metric) -> str:
    """Return the table of a metric's values; each row is a place that links can name."""
    rows = []
    for name, value in metric.values.items():
        facts = value_facts(name, value)
        better = {"none": "none", "lower": "lower is better", "higher": "higher is better"}
        rows.append(
            (
                f'<a id="{facts["board"]}"></a>`{facts["board"]}`',
                escape(facts["title"]),
                write_range(facts),
                f"{better[facts['better']]} {ARROWS[facts['better']]}".strip(),
                describe_standing(facts),
                describe_reduction(value),
            )
        )
    columns = ("value", "what it is", "range", "direction", "on boards", "over images")
    return write_table(columns, rows)


def describe_reduction(value: Value) -> str:
    """Return how boards get from images to one number."""
    words = {
        "std": "standard deviation",
        "curve": "mean curve",
        "box_accuracy": "accuracy, with thresholds from calibration images",
        "box_sets": "accuracy, with a cut from calibration images",
        "pooled_precision": "all pixels together",
    }
    return words.get(value.reduce, value.reduce)


def list_facts(metric: Metric) -> Iterator[str]:
    """Yield what the code declares of a metric, one sentence each."""
    kind = "the default run holds it" if metric.standard else "runs hold it where they name it"
    yield f"Family: {metric.family}; {kind}."
    target = "label" if metric.target_field == "localization_target" else "prediction"
    yield f"Explained class: the {target}, in the protocol `cambench-1`."
    if metric.needs:
        yield f"Needs: {'; '.join(NEEDS[need] for need in metric.needs)}."
    yield f"Forward passes: at most {count_forwards(metric):,} a map, at 224 x 224 pixels."
    if again := metric.repeats(Protocol()):
        yield f"Runs the method {again} more times for each image."
    if metric.parameter:
        yield f"Applies to methods with the parameter `{metric.parameter}`."
    fields = ", ".join(f"[`{name}`](../reference/protocols.md#{name})" for name in metric.reads)
    yield f"Fields of the protocol that it reads: {fields or 'none'}."
    yield f"Version {metric.version}; in Python: `bench.score(..., metric={metric.name!r})`."


# --- health


@cache
def read_health(boards: Path) -> list[dict[str, Any]]:
    """Return all results of the published health reports, each with the board's name."""
    found = []
    for file in sorted(boards.glob("*/health.json")):
        for verdict in json.loads(file.read_text(encoding="utf-8"))["verdicts"]:
            found.append({**verdict, "board": file.parent.name})
    return found


def write_health(metric: Metric, boards: Path) -> str:
    """Return what the published health reports found about a metric's values."""
    shown = {value_facts(name, value)["board"] for name, value in metric.values.items()}
    shown |= set(metric.values)
    rows = []
    for one in read_health(boards):
        if one["metric"] not in shown:
            continue
        older = "" if one["metric_id"] == metric.id(Protocol()) else " (an older version)"
        rows.append(
            (
                f"`{one['metric']}`{older}",
                escape(one["model"]),
                one["board"],
                describe_verdict(one),
                escape("; ".join(one["reasons"][:2])),
            )
        )
    if not rows:
        return (
            "No published report covers this metric. `cambench health RUN` tests it on your "
            "networks ([metric health](../metric-health.md))."
        )
    columns = ("value", "network", "board", "result", "why")
    note = "The published reports. [Metric health](../metric-health.md) explains the tests.\n\n"
    return note + write_table(columns, rows)


def describe_verdict(one: dict[str, Any]) -> str:
    """Return the result of one health check."""
    if one["passes"] is None:
        return "not judged"
    return "passes" if one["passes"] else f"fails {FAILED}"


# --- overview


def write_overview(text: str) -> str:
    """Return the page of all metrics: what `docs/metrics/index.md` says, then a table a family."""
    parts = [text.rstrip()]
    for family, question in FAMILIES.items():
        rows = [row for metric in METRICS if metric.family == family for row in list_rows(metric)]
        columns = ("value", "what it is", "direction", "on boards")
        parts += [f"## {question}", write_table(columns, rows)]
    return "\n\n".join(parts)


def list_rows(metric: Metric) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a metric's values; those of one attack stand for all."""
    for name, value in metric.values.items():
        facts = value_facts(name, value)
        if value.reduce == "curve" or name.endswith("_held"):
            continue
        yield (
            f"[`{facts['board']}`]({metric.name}.md#{facts['board']})",
            escape(facts["title"]),
            ARROWS[facts["better"]],
            describe_standing(facts),
        )

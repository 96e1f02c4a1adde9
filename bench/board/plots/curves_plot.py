"""The curves plot: how the score of the explained class moves, of chosen methods in one panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from bench.board.curve_averages import find_curves, tabulate_steps
from bench.board.derived_names import mark_version
from bench.board.plots.figures import GREY
from bench.board.plots.leaders import list_leaders, write_intervals
from bench.board.plots.sketch import Panel, Sketch, describe_scope
from bench.board.scores import Scores
from bench.board.text import REFERENCE, metric_label, number
from bench.identity import plain_name

MOST_METHODS = 8
"""Methods that one panel shows, unless the caller names them."""

LINE_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255"),
)
LINE_SHAPES = ("o", "s", "^", "D", "v", "P", "p", "*")
CONTROL_DASHES = ((0, (4, 2)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
CONTROL_CHOICE = ("oracle", "center_gaussian", "constant")
"""The control beside `random`: the first of these that the table has."""


@dataclass(frozen=True)
class CurveAxis:
    """The x axis of a curve.

    Attributes:
        label: What grows, with its unit.
        first, last: Percent of the image at the ends.
    """

    label: str
    first: float = 0.0
    last: float = 100.0


CURVE_AXES = {
    "deletion": CurveAxis("pixels removed, most relevant first (% of the image)"),
    "insertion": CurveAxis("pixels shown, most relevant first (% of the image)"),
    "masked_deletion": CurveAxis("patches masked, most relevant first (% of the image)", last=50),
    "masked_insertion": CurveAxis("patches shown, most relevant first (% of the image)", 50, 100),
    "road_morf": CurveAxis("pixels imputed, most relevant first (% of the image)", 10, 90),
    "road_lerf": CurveAxis("pixels imputed, least relevant first (% of the image)", 10, 90),
}
"""{value: the x axis of its curve}; curves of other values are not drawn."""


def average_curves(board: Scores, subset: str, model: str) -> dict[str, pd.DataFrame]:
    """Return {value: columns method, step, share (percent of the image), mean, low, high, n} of
    each curve whose value the table has.
    """
    values = set(board.select(subset=subset, model=model)["metric"])
    shown = set(board.frame["method"])
    result = {}
    for measure in board.measures[subset]:
        name = plain_name(measure.name).removesuffix("_curve")
        value = mark_version(measure.name, name)
        if measure.reduce != "curve" or name not in CURVE_AXES or value not in values:
            continue
        found = find_curves(measure, subset, model, board.provenance, board.seed)
        table = tabulate_steps([row for row in found if row["method"] in shown])
        if not table.empty:
            result[value] = table.assign(share=_find_shares(board, name, table["step"]))
    return result


def _find_shares(board: Scores, name: str, steps: pd.Series) -> pd.Series:
    """Return the percent of the image at each point of a curve."""
    ends = "both"
    if name in ("deletion", "insertion"):
        ends = board.provenance["protocol"].get("curve_ends") or "both"
    before, after = {"both": (0, 0), "last": (1, 0), "none": (1, 1)}[ends]
    axis, count = CURVE_AXES[name], int(steps.max()) + before + after
    return axis.first + (axis.last - axis.first) * (steps + before) / max(count, 1)


def sketch_curves(
    board: Scores, subset: str, model: str, chosen: Sequence[str] | None = None
) -> Sketch | None:
    """Overlay the curves of chosen methods: a panel for each value.

    Args:
        board: The board.
        subset, model: The table.
        chosen: The methods; by default those that lead, `grad_cam`, `random` and one control.
    """
    found = average_curves(board, subset, model)
    there = set[str]().union(*(set(table["method"]) for table in found.values()))
    facts = {name: row for name, row in board.methods(subset, model).items() if name in there}
    names = choose_methods(board, subset, model, facts) if chosen is None else list(chosen)
    names = [name for name in facts if name in set(names)]
    if not names:
        return None
    rows = board.select(subset=subset, model=model)
    better = dict(zip(rows["metric"], rows["better"], strict=True))
    styles = choose_lines([name for name in names if not facts[name]["control"]], names)
    areas = write_intervals(rows)
    means = dict(zip(zip(rows["metric"], rows["method"], strict=True), rows["mean"], strict=True))
    panels = []
    for value, table in found.items():
        sign = -1 if better.get(value) == "higher" else 1
        ordered = sorted(names, key=lambda name: sign * means.get((value, name), math.inf))
        draw = partial(
            draw_curve_panel,
            table=table,
            axis_text=CURVE_AXES[plain_name(value)],
            y_text=describe_height(board),
            styles={name: styles[name] for name in ordered},
            areas={name: number(means.get((value, name), math.nan)) for name in ordered},
        )
        panels.append(Panel(metric_label(value, better.get(value, "none")), draw))
    return Sketch(
        panels,
        columns=min(2, len(panels)),
        size=(4.3, 3.5),
        question="How does the class score move as the image is taken away or shown?",
        note=_write_note(len(names), len(facts), chosen),
        statement=_state_curves(board, subset, model, list(found), names, areas),
    )


def _write_note(count: int, there: int, chosen: Sequence[str] | None) -> str:
    few = chosen is None and count < there
    which = f"{count} of {there} methods: those that lead, grad_cam, controls (grey). "
    return f"{which if few else ''}Band: 95 % interval. Number: area under the curve."


def choose_methods(
    board: Scores, subset: str, model: str, facts: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the methods that are shown by default: the best that leads each value, `grad_cam`,
    `random`, and one more control; all of them where they are few.
    """
    if len(facts) <= MOST_METHODS:
        return list(facts)
    leads = list_leaders(board, subset, model)
    wanted = [names[0] for value, names in leads.items() if plain_name(value) in CURVE_AXES]
    controls = [name for name in (*CONTROL_CHOICE, *facts) if _is_control(facts, name)]
    wanted += [REFERENCE, "random", *[name for name in controls if name != "random"][:1]]
    return [name for name in dict.fromkeys(wanted) if name in facts][:MOST_METHODS]


def _is_control(facts: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return name in facts and bool(facts[name]["control"])


def choose_lines(own: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the line of each method: colour and shape of its own; controls are grey and dashed."""
    styles = {}
    for place, name in enumerate(own):
        again = place // len(LINE_COLOURS)
        shape = LINE_SHAPES[(place + again) % len(LINE_SHAPES)]
        styles[name] = {
            "color": LINE_COLOURS[place % len(LINE_COLOURS)],
            "marker": shape,
            "ls": "-" if not again else CONTROL_DASHES[again % len(CONTROL_DASHES)],
        }
    for place, name in enumerate(name for name in names if name not in own):
        styles[name] = {"color": GREY, "ls": CONTROL_DASHES[place % len(CONTROL_DASHES)]}
    return styles


def describe_height(board: Scores) -> str:
    """Return the label of the y axis, by the protocol's score."""
    score = board.provenance["protocol"].get("score", "softmax")
    what = {"softmax": "probability", "logit": "logit"}.get(score, score)
    return f"{what} of the explained class"


def draw_curve_panel(
    axis: Any,
    table: pd.DataFrame,
    axis_text: CurveAxis,
    y_text: str,
    styles: Mapping[str, Mapping[str, Any]],
    areas: Mapping[str, str],
) -> None:
    """Draw one value's curves; the legend lists the methods from best to worst."""
    for place, (name, style) in enumerate(styles.items()):
        own = table[table["method"] == name]
        if own.empty:
            continue
        every = max(1, len(own) // 6)
        axis.plot(
            own["share"],
            own["mean"],
            lw=1.4,
            ms=4,
            mew=0,
            markevery=(place % every, every),
            label=f"{areas[name]}  {name}",
            **style,
        )
        axis.fill_between(
            own["share"], own["low"], own["high"], color=style["color"], alpha=0.12, lw=0
        )
    axis.set_xlim(axis_text.first, axis_text.last)
    if y_text.startswith("probability"):
        axis.set_ylim(0, 1.02)
    axis.set_xlabel(axis_text.label, fontsize=8)
    axis.set_ylabel(y_text, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, loc="best", framealpha=0.85, handlelength=2.2)


def _state_curves(
    board: Scores,
    subset: str,
    model: str,
    values: list[str],
    names: list[str],
    areas: Mapping[tuple[str, str], str],
) -> str:
    """Return what the curves show: the area of each method."""
    each = [
        f"{value}: " + ", ".join(f"{name} {areas.get((value, name), 'n/a')}" for name in names)
        for value in values
    ]
    return (
        f"Curves of {len(names)} methods on {describe_scope(board, subset, model)}. "
        f"Area under the curve, {'; '.join(each)}."
    )

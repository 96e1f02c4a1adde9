"""The ranking plot: one order of the methods over all values, with their intervals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.board.plots.figures import GREY
from bench.board.plots.leaders import LEAD_NOTE, list_leaders, state_leaders
from bench.board.plots.method_marks import (
    MethodMark,
    draw_mark,
    find_marks,
    list_family_marks,
    name_methods,
)
from bench.board.plots.sketch import Panel, Sketch, describe_scope
from bench.board.scores import Scores, list_rows
from bench.board.text import metric_label

COLUMNS = 5
ROW_HEIGHT = 0.165
"""Inches for a method's name."""
LETTER_WIDTH = 0.058
"""Inches of a letter of a name."""
LEAD_TINT = "#fdeeb5"


def sketch_ranking(board: Scores, subset: str, model: str) -> Sketch | None:
    """Show a panel for each ranked value. All panels have the order of the first one."""
    metrics = board.list_ranked(subset, model)
    rows = board.select(subset=subset, model=model)
    scored = rows[rows["n"] > 0]
    metrics = [one for one in metrics if one[0] in set(scored["metric"])]
    if not metrics:
        return None
    names = set(scored.loc[scored["metric"].isin([m for m, _ in metrics]), "method"])
    facts = {m: row for m, row in board.methods(subset, model).items() if m in names}
    labels, marks = name_methods(facts), find_marks(board, subset, model)
    leaders = list_leaders(board, subset, model)
    panels = [
        Panel(
            metric_label(metric, better),
            partial(
                draw_ranking_panel,
                table=scored[scored["metric"] == metric],
                labels=labels,
                marks=marks,
                leaders=leaders.get(metric, ()),
            ),
        )
        for metric, better in metrics
    ]
    shown = {name: marks[name] for name in facts}
    return Sketch(
        panels,
        columns=min(COLUMNS, len(panels)),
        size=(2.1, 0.62 + ROW_HEIGHT * len(facts)),
        question=f"Which methods lead? All panels list the methods by {metrics[0][0]}, best first.",
        note=(
            f"Shaded: {LEAD_NOTE}. Bar: 95 % interval. Dotted: random control. Hollow: incomplete "
            "coverage, unranked. Arrow: better direction."
        ),
        statement=(
            f"Ranking of {len(facts)} methods on {describe_scope(board, subset, model)}. "
            f"{state_leaders(board, subset, model)}"
        ),
        names=LETTER_WIDTH * max(len(label) for label in labels.values()),
        legend=list_family_marks(shown.values()),
    )


def draw_ranking_panel(
    axis: Any,
    table: pd.DataFrame,
    labels: dict[str, str],
    marks: dict[str, MethodMark],
    leaders: tuple[str, ...],
) -> None:
    """Draw a value: a row for each method of `labels`, in their order."""
    found = {row["method"]: row for row in list_rows(table)}
    random = found.get("random")
    if random is not None:
        axis.axvline(random["mean"], color=GREY, lw=0.9, ls=":", zorder=1)
    for y, name in enumerate(labels):
        row = found.get(name)
        if row is None or np.isnan(row["mean"]):
            continue
        if name in leaders:
            axis.axhspan(y - 0.5, y + 0.5, color=LEAD_TINT, lw=0, zorder=0)
        axis.plot(
            [row["low"], row["high"]],
            [y, y],
            color=marks[name].colour,
            lw=1.4,
            solid_capstyle="butt",
            zorder=2,
        )
        draw_mark(axis, row["mean"], y, marks[name], hollow=row["n"] < row["expected"])
    axis.set_yticks(range(len(labels)), list(labels.values()), fontsize=7)
    for text, name in zip(axis.get_yticklabels(), labels, strict=True):
        text.set_color(marks[name].ink)
    axis.tick_params(axis="both", labelsize=7, length=0)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.grid(visible=True, axis="y", color="#f0f0f0", lw=0.6)
    axis.set_axisbelow(True)

"""The ranking plot: methods from best to worst with their intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bench.board.plots.figures import choose_colour, choose_ink, make_figure_grid, write_title
from bench.board.scores import Scores, list_rows
from bench.board.text import metric_label, plot_label


def draw_ranking(board: Scores, subset: str, model: str) -> Any:
    """One panel per ranked value: methods from best to worst with their intervals."""
    metrics = board.list_ranked(subset, model)
    if not metrics:
        return None
    tables = [board.table(metric, subset, model) for metric, _ in metrics]
    tables = [
        table[table["n"] > 0].sort_values("mean", ascending=better == "lower", kind="stable")
        for table, (_, better) in zip(tables, metrics, strict=True)
    ]
    columns = min(4, len(metrics))
    tallest = max(len(table) for table in tables)
    figure, axes = make_figure_grid(
        math.ceil(len(metrics) / columns), columns, 3.1, 0.75 + 0.165 * tallest
    )
    for axis, (metric, better), table in zip(axes.flat, metrics, tables, strict=False):
        draw_ranking_panel(axis, table)
        axis.set_title(metric_label(metric, better), fontsize=9, loc="left")
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    write_title(
        figure,
        board,
        subset,
        model,
        "Mean and 95 % interval, best first; hollow: incomplete coverage, unranked",
    )
    return figure


def draw_ranking_panel(axis: Any, table: pd.DataFrame) -> None:
    """Draw the rows of a table from top to bottom."""
    rows = list_rows(table)
    middle = (table["mean"].min() + table["mean"].max()) / 2
    for y, row in enumerate(rows):
        hollow = row["n"] < row["expected"]
        axis.plot(
            [row["low"], row["high"]],
            [y, y],
            color=choose_colour(row),
            lw=1.6,
            solid_capstyle="butt",
        )
        axis.plot(
            row["mean"],
            y,
            "o",
            ms=4,
            color=choose_colour(row),
            mfc="white" if hollow else choose_colour(row),
        )
        if row["equal_to"]:
            write_same_map_note(axis, row, y, ahead=row["mean"] < middle)
    axis.set_yticks(range(len(rows)), [plot_label(row) for row in rows], fontsize=7)
    for text, row in zip(axis.get_yticklabels(), rows, strict=True):
        text.set_color(choose_ink(row))
    axis.tick_params(axis="x", labelsize=7)
    axis.set_ylim(len(table) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def write_same_map_note(axis: Any, row: dict[str, Any], y: float, *, ahead: bool) -> None:
    """Write which map a method's map equals inside the panel, on the emptier side of its point."""
    x = np.nanmax([row["mean"], row["high"]]) if ahead else np.nanmin([row["mean"], row["low"]])
    place = {
        "xytext": (5 if ahead else -5, 0),
        "textcoords": "offset points",
        "ha": "left" if ahead else "right",
    }
    axis.annotate(f"= {row['equal_to']}", (x, y), fontsize=6, va="center", color="#555555", **place)

"""The cost plot: each method's score against its forwards."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bench.board.plots.figures import INK, choose_colour, choose_ink, make_figure_grid, write_title
from bench.board.scores import Scores, list_rows
from bench.board.text import metric_label, plot_label


def draw_cost(board: Scores, subset: str, model: str) -> Any:
    """Deletion and insertion against network forwards per image; the line joins what nothing
    cheaper beats.
    """
    rows = board.select(subset=subset, model=model)
    forwards = rows[rows["metric"] == "forwards"].set_index("method")["mean"]
    scored = set(rows.loc[(rows["n"] > 0) & rows["method"].isin(forwards.dropna().index), "metric"])
    metrics = [
        (m, b)
        for m, b in board.list_ranked(subset, model)
        if m in {"deletion", "insertion"} & scored
    ]
    if not metrics:
        return None
    names = rows["method"].nunique()
    figure, axes = make_figure_grid(
        1, len(metrics), 6.0, max(5.2, 0.145 * names)
    )  # room for a column of names
    for axis, (metric, better) in zip(axes.flat, metrics, strict=True):
        table = rows[(rows["metric"] == metric) & (rows["n"] > 0)].copy()
        table["cost"] = table["method"].map(forwards)
        draw_cost_panel(axis, table.dropna(subset=["cost"]), better)
        axis.set_ylabel(metric_label(metric, better), fontsize=8)
    write_title(
        figure,
        board,
        subset,
        model,
        "Quality against cost; bars: 95 % intervals; line: the best at this cost or less",
    )
    return figure


def draw_cost_panel(axis: Any, table: pd.DataFrame, better: str) -> None:
    """Draw one panel; a method without forwards stands at the left end, marked 0."""
    positive = table.loc[table["cost"] > 0, "cost"]
    zero = positive.min() / 4 if len(positive) else 0.1
    table = table.assign(x=table["cost"].where(table["cost"] > 0, zero)).sort_values(
        ["x", "mean"], kind="stable"
    )
    for row in list_rows(table):
        hollow = row["n"] < row["expected"]
        axis.plot([row["x"]] * 2, [row["low"], row["high"]], lw=0.8, color=choose_colour(row))
        axis.plot(
            row["x"],
            row["mean"],
            "o",
            ms=4,
            color=choose_colour(row),
            mfc="white" if hollow else choose_colour(row),
        )
    front = find_frontier(table[~table["control"] & table["rank"].notna()], better)
    axis.plot(front["x"], front["mean"], color=INK, lw=0.7, drawstyle="steps-post", zorder=0)
    set_cost_ticks(axis, table, zero)
    place_labels(axis, table)
    axis.set_xlabel("network forwards per image (log)", fontsize=8)
    axis.tick_params(labelsize=7)


def set_cost_ticks(axis: Any, table: pd.DataFrame, zero: float) -> None:
    """Set a logarithmic axis with plain numbers, and 0 at its left end where a method needs no
    forward.
    """
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    left, right = table["x"].min(), table["x"].max()
    margin = 10 ** (0.05 * max(math.log10(right / left), 0.5))
    axis.set_xlim(left / margin, right * margin)
    steps = (1, 2, 5) if right / left < 300 else (1,)
    ticks = [k * 10.0**e for e in range(-4, 8) for k in steps]
    ticks = [
        t for t in ticks if table.loc[table["cost"] > 0, "x"].min() / margin <= t <= right * margin
    ]
    if (table["cost"] <= 0).any():
        ticks = [zero, *ticks]
    axis.set_xticks(ticks, ["0" if t == zero else f"{t:g}" for t in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def find_frontier(table: pd.DataFrame, better: str) -> pd.DataFrame:
    """Return the rows that no row of the same or a smaller cost beats."""
    heights = table["mean"] if better == "lower" else -table["mean"]
    return table[heights <= heights.cummin()]


def place_labels(axis: Any, table: pd.DataFrame) -> None:
    """Write the names in a column at the right, in the order of the points, each joined to its
    point.
    """
    low, high = axis.get_ylim()
    ordered = table.sort_values("mean", kind="stable")
    heights = spread(
        (ordered["mean"].to_numpy() - low) / (high - low), gap=min(0.038, 1 / max(len(ordered), 1))
    )
    for height, row in zip(heights, list_rows(ordered), strict=True):
        line = {
            "arrowstyle": "-",
            "lw": 0.4,
            "color": choose_colour(row),
            "alpha": 0.5,
            "shrinkA": 0,
            "shrinkB": 3,
            "relpos": (0, 0.5),
        }
        axis.annotate(
            plot_label(row),
            (row["x"], row["mean"]),
            (1.02, height),
            xycoords="data",
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            arrowprops=line,
            color=choose_ink(row),
        )


def spread(heights: Any, gap: float) -> Any:
    """Move ascending heights in [0,1] until they are `gap` apart and inside (where there is room
    for all).
    """
    values = np.array(heights, dtype=np.float64)
    middle = (push_up(values, gap) - push_up(-values[::-1], gap)[::-1]) / 2
    inside = push_up(np.maximum(middle, 0), gap)
    return -push_up(np.maximum(-inside[::-1], -1), gap)[::-1]


def push_up(values: Any, gap: float) -> Any:
    """Move ascending values up, each as little as it must to be `gap` above the one before."""
    steps = gap * np.arange(len(values))
    return np.maximum.accumulate(values - steps) + steps

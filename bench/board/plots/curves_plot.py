"""The curves plot: deletion and insertion curves of each method."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.board import statistics
from bench.board.cubes import build_cube
from bench.board.plots.figures import GREY, LEGEND, choose_ink, make_figure_grid, write_title
from bench.board.scores import Scores, list_originals, list_rows
from bench.board.text import OVERALL, number, plot_label

DELETION, INSERTION = "#b5342b", "#1b6ca8"


def average_curves(board: Scores, subset: str, model: str) -> dict[str, pd.DataFrame]:
    """Return {"deletion": ..., "insertion": ...}: columns method, step, share (of pixels), mean,
    low, high, n.
    """
    result = {}
    for measure in board.measures[subset]:
        models = list_originals(measure.models, board.provenance) if model == OVERALL else [model]
        known = measure.name.removesuffix("_curve") in ("deletion", "insertion")
        if measure.reduce == "curve" and known and set(models) <= set(measure.models):
            result[measure.name.removesuffix("_curve")] = pd.concat(
                tabulate_curves(board, measure, models)
            )
    return result


def tabulate_curves(board: Scores, measure: Any, models: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the mean curve of each method with the bootstrap interval of each of its points."""
    cells = build_cube(measure, models)
    for index, method in enumerate(cells.methods):
        vectors = np.mean([cells.vectors(m, index) for m in range(len(models))], axis=0)
        drawn = statistics.sample_mean(
            vectors, cells.images, statistics.POOLED_RESAMPLES, board.seed
        )
        low, high = drawn.interval()
        steps = np.arange(len(low))
        facts = {"method": method, "n": int(cells.scored[:, index].sum()), "step": steps}
        yield pd.DataFrame(
            {
                **facts,
                "share": steps / max(len(low) - 1, 1),
                "mean": drawn.point,
                "low": low,
                "high": high,
            }
        )


def draw_curves(board: Scores, subset: str, model: str) -> Any:
    """One small panel per method: its deletion and insertion curves before the random control's."""
    found = average_curves(board, subset, model)
    if not found:
        return None
    shown = set().union(*(set(table["method"]) for table in found.values()))
    methods = board.methods(subset, model)
    order = [method for method in methods if method in shown]
    columns = min((6, 5, 7), key=lambda c: (-len(order) % c, abs(c - 6)))
    figure, axes = make_figure_grid(math.ceil(len(order) / columns), columns, 1.9, 1.55)
    numbers_of = {
        (r["metric"], r["method"]): r["mean"]
        for r in list_rows(board.select(subset=subset, model=model))
    }
    for axis, method in zip(axes.flat, order, strict=False):
        draw_curve_panel(axis, found, method)
        row = methods[method]
        name = plot_label(row) + (f" = {row['equal_to']}" if row["equal_to"] else "")
        numbers = " / ".join(number(numbers_of.get((metric, method), math.nan)) for metric in found)
        axis.set_title(f"{name}\n{numbers}", fontsize=7, loc="left", color=choose_ink(row))
    for axis in axes.flat[len(order) :]:
        axis.set_axis_off()
    note = (
        "red: deletion ↓, blue: insertion ↑, band: 95 % interval, dashed: random control.   "
        f"{LEGEND}"
    )
    write_title(
        figure,
        board,
        subset,
        model,
        "Probability of the target against the share of pixels changed",
        note,
    )
    return figure


def draw_curve_panel(axis: Any, found: dict[str, pd.DataFrame], method: str) -> None:
    """Draw one method's curves with bands."""
    for name, tint in (("deletion", DELETION), ("insertion", INSERTION)):
        table = found.get(name)
        if table is None:
            continue
        random, own = table[table["method"] == "random"], table[table["method"] == method]
        axis.plot(random["share"], random["mean"], color=GREY, lw=0.8, ls="--")
        axis.plot(own["share"], own["mean"], color=tint, lw=1.2)
        axis.fill_between(own["share"], own["low"], own["high"], color=tint, alpha=0.2, lw=0)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axis.tick_params(labelsize=6)

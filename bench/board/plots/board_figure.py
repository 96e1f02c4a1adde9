"""One figure of a board, with chosen methods and values: `board.plot(...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.board.paper_report import find_scope
from bench.board.plots.cost_plot import draw_cost_panel
from bench.board.plots.curves_plot import average_curves, draw_curve_panel
from bench.board.plots.plot_files import PLOTS
from bench.board.plots.ranking_plot import draw_ranking_panel
from bench.board.scores import Scores
from bench.board.text import metric_label, plot_label
from bench.errors import BenchError, suggestions

if TYPE_CHECKING:
    from bench.board.board import Board

ON_AXES = ("ranking", "curves", "cost")
"""Kinds that can be drawn on axes of the caller: one for each value, or each method of curves."""


def draw_board(
    board: Board,
    kind: str = "ranking",
    subset: str | None = None,
    model: str | None = None,
    methods: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
    axes: Sequence[Any] | None = None,
) -> Any:
    """Return a figure of a board.

    Args:
        board: The board.
        kind: "ranking", "curves", "correlation", "cost", "critical" or "stability".
        subset: Subset of the table; by default the first.
        model: Model of the table; by default the overall one, or the first model.
        methods: The methods that are drawn; by default all.
        values: The values that are drawn; by default the ranked ones.
        axes: Axes of matplotlib to draw on: one for each value of "ranking" and "cost", one for
            each method of "curves". By default a new figure is made.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        BenchError: The kind or a name is unknown, or the records do not hold what the plot needs.

    Example:
        >>> board.plot("curves", methods=["grad_cam", "random"])  # doctest: +SKIP
    """
    if kind not in PLOTS:
        raise BenchError(f"There is no plot {kind!r}.{suggestions(kind, PLOTS)}")
    scope = find_scope(board, subset, model)
    narrowed = narrow_board(board, methods, values)
    if axes is not None:
        return _draw_on_axes(narrowed, kind, *scope, list(axes))
    figure = PLOTS[kind](narrowed, *scope)
    if figure is None:
        raise BenchError(f"The records do not hold what the plot {kind!r} of this table needs.")
    return figure


def narrow_board(
    board: Board, methods: Sequence[str] | None, values: Sequence[str] | None
) -> Board:
    """Return a board whose frame has only these methods and values; costs stay."""
    frame = board.frame
    for column, wanted in (("method", methods), ("metric", values)):
        if wanted is None:
            continue
        known = set(frame[column])
        for name in wanted:
            if name not in known:
                raise BenchError(f"No {column} {name!r} on this board.{suggestions(name, known)}")
        cost = (frame["family"] == "cost") | (frame["metric"] == "forwards")
        frame = frame[frame[column].isin(wanted) | (cost if column == "metric" else False)]
    return dataclasses.replace(board, frame=frame)


def _draw_on_axes(board: Scores, kind: str, subset: str, model: str, axes: list[Any]) -> Any:
    if kind not in ON_AXES:
        raise BenchError(f"The plot {kind!r} makes its own figure; leave axes out.")
    ranked = board.list_ranked(subset, model)
    names = list(board.methods(subset, model)) if kind == "curves" else [name for name, _ in ranked]
    if len(axes) != len(names):
        raise BenchError(f"The plot {kind!r} needs {len(names)} axes, and {len(axes)} were given.")
    if kind == "curves":
        found = average_curves(board, subset, model)
        facts = board.methods(subset, model)
        for axis, method in zip(axes, names, strict=True):
            draw_curve_panel(axis, found, method)
            axis.set_title(plot_label(facts[method]), fontsize=8, loc="left")
        return axes[0].figure
    for axis, (metric, better) in zip(axes, ranked, strict=True):
        table = board.table(metric, subset, model)
        table = table[table["n"] > 0].sort_values("mean", ascending=better == "lower")
        if kind == "cost":
            rows = board.select(subset=subset, model=model)
            cost = rows[rows["metric"] == "forwards"].set_index("method")["mean"]
            table = table.assign(cost=table["method"].map(cost)).dropna(subset=["cost"])
            draw_cost_panel(axis, table, better)
        else:
            draw_ranking_panel(axis, table)
        axis.set_title(metric_label(metric, better), fontsize=9, loc="left")
    return axes[0].figure

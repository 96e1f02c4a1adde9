"""The choices plot: how ranks move under other choices of the protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.board.plots.correlation_plot import agreement
from bench.board.plots.figures import INK, make_figure_grid
from bench.board.scores import Scores
from bench.board.text import number, plot_label
from bench.errors import BenchError

GRID = "health/grid.csv"
"""Ranks under a grid of protocol choices, beside run.json."""

GRID_COLUMNS = ("subset", "model", "metric", "choice", "value", "method", "n", "mean", "rank")
DEFAULT_CHOICE = "default"
"""The choice that others are compared with; the first one where it is missing."""


def read_grid(folder: Path) -> pd.DataFrame | None:
    """Return the grid of protocol choices that lies in a run's folder, or None where there is
    none.
    """
    file = folder / GRID
    if not file.is_file():
        return None
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values={"mean": [""], "rank": [""]})
    except (ValueError, UnicodeDecodeError) as error:
        raise BenchError(
            f"{file} is not a table ({error}); run `cambench health` again or delete it."
        ) from None
    missing = [name for name in GRID_COLUMNS if name not in table]
    if missing:
        raise BenchError(
            f"{file} has no column {', '.join(missing)}; run `cambench health` again or delete it."
        )
    return table


def draw_choices(board: Scores, table: pd.DataFrame, subset: str, model: str) -> Any:
    """Ranks under a grid of protocol choices: one panel per value, methods x choices, with tau to
    the default.

    table: columns of `GRID_COLUMNS`; "value" is the ranked value that a choice of `metric` gives.
    """
    rows = table[(table["subset"] == subset) & (table["model"] == model)]
    ranks = {
        str(v): t.pivot_table("rank", "method", "choice", sort=False)
        for v, t in rows.groupby("value", sort=False)
    }
    ranks = {value: t for value, t in ranks.items() if len(t) > 1 and t.shape[1] > 1}
    if not ranks:
        return None
    widest, tallest = max(t.shape[1] for t in ranks.values()), max(len(t) for t in ranks.values())
    columns = min(3, len(ranks))
    size = (1.6 + 0.3 * widest, 1.5 + 0.14 * tallest)
    figure, axes = make_figure_grid(math.ceil(len(ranks) / columns), columns, *size)
    facts = board.methods(subset, model) if (subset, model) in board.scopes else {}
    for axis, (value, choices) in zip(axes.flat, ranks.items(), strict=False):
        draw_choices_panel(axis, choices, facts)
        axis.set_title(value, fontsize=9, loc="left")
    for axis in axes.flat[len(ranks) :]:
        axis.set_axis_off()
    n = (
        f"{rows['n'].min():.0f}"
        if rows["n"].min() == rows["n"].max()
        else f"{rows['n'].min():.0f}-{rows['n'].max():.0f}"
    )
    figure.suptitle(
        f"Do the choices of a protocol move the ranks?\n{subset}, {model}, n = {n}\n"
        "number: rank; dark: best; above: Kendall's tau-b to the default, controls left out",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return figure


def draw_choices_panel(axis: Any, ranks: pd.DataFrame, facts: dict[str, dict[str, Any]]) -> None:
    """Draw one value: methods in the order of the default."""
    default = DEFAULT_CHOICE if DEFAULT_CHOICE in ranks else str(ranks.columns[0])
    ranks = ranks[[default, *(c for c in ranks if c != default)]].sort_values(
        default, kind="stable"
    )
    axis.imshow(
        ranks.to_numpy(),
        cmap="Blues_r",
        vmin=0,
        vmax=1.6 * len(ranks),
        aspect="auto",
        interpolation="nearest",
    )
    for y, row in enumerate(ranks.to_numpy()):
        for x, rank in enumerate(row):
            if not np.isnan(rank):
                light = rank < 0.5 * len(ranks)
                axis.text(
                    x,
                    y,
                    f"{rank:.0f}",
                    fontsize=5,
                    ha="center",
                    va="center",
                    color="white" if light else INK,
                )
    own = ranks[[not facts.get(name, {}).get("control", False) for name in ranks.index]]
    taus = [agreement(own, default, str(choice)) for choice in ranks]
    labels = [
        f"{choice}\n{'' if choice == default else f'τ {number(tau)}'}"
        for choice, tau in zip(ranks, taus, strict=True)
    ]
    axis.set_xticks(
        range(ranks.shape[1]), labels, fontsize=5.5, rotation=60, ha="left", rotation_mode="anchor"
    )
    axis.xaxis.tick_top()
    names = [plot_label(facts[name]) if name in facts else name for name in ranks.index]
    axis.set_yticks(range(len(ranks)), names, fontsize=6)
    axis.grid(visible=False)

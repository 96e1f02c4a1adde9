"""The choices plot: how ranks turn with the baseline and other choices of the protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.board.plots.correlation_plot import agreement
from bench.board.plots.figures import INK
from bench.board.plots.method_marks import MethodMark, find_marks
from bench.board.plots.sketch import Panel, Sketch
from bench.board.scores import Scores
from bench.board.text import number
from bench.errors import BenchError

GRID = "health/grid.csv"
"""Ranks under a grid of protocol choices, beside run.json."""

GRID_COLUMNS = ("subset", "model", "metric", "choice", "value", "method", "n", "mean", "rank")
DEFAULT_CHOICE = "default"
"""The choice that others are compared with; the first one where it is missing."""
COLUMNS = 3
NOT_MADE = (
    "No figure shows how the ranks turn with the baseline and other choices of the protocol: the "
    "run has no `health/grid.csv`. `cambench health RUN` measures it; `cambench board RUN` then "
    "draws it."
)
"""What a board says that has no grid."""


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


def sketch_choices(board: Scores, table: pd.DataFrame, subset: str, model: str) -> Sketch | None:
    """Show ranks under a grid of protocol choices: a panel per value, methods x choices, with tau
    to the default.

    table: columns of `GRID_COLUMNS`; "value" is the ranked value that a choice of `metric` gives.
    """
    rows = table[(table["subset"] == subset) & (table["model"] == model)]
    ranks = {
        str(v): _order_choices(t.pivot_table("rank", "method", "choice", sort=False))
        for v, t in rows.groupby("value", sort=False)
    }
    ranks = {value: t for value, t in ranks.items() if len(t) > 1 and t.shape[1] > 1}
    if not ranks:
        return None
    marks = find_marks(board, subset, model) if (subset, model) in board.scopes else {}
    taus = {value: find_taus(t, marks) for value, t in ranks.items()}
    widest, tallest = max(t.shape[1] for t in ranks.values()), max(len(t) for t in ranks.values())
    few, many = rows["n"].min(), rows["n"].max()
    n = f"{few:.0f}" if few == many else f"{few:.0f} to {many:.0f}"
    where = f"{subset}, {model}, n = {n}"
    return Sketch(
        [
            Panel(
                value,
                partial(draw_choices_panel, ranks=t, taus=taus[value], marks=marks),
            )
            for value, t in ranks.items()
        ],
        columns=min(COLUMNS, len(ranks)),
        size=(1.7 + 0.32 * widest, 1.6 + 0.14 * tallest),
        question="Do the ranks turn with the baseline and other choices of the protocol?",
        note=(
            "Row: method, best first by the default. Number: rank, 1 best; dark: best. "
            "τ: Kendall's tau-b to the default, controls (grey) left out."
        ),
        statement=(
            f"Ranks of {tallest} methods under up to {widest} choices of the protocol on "
            f"{where}. {_state_taus(taus)}"
        ),
        where=where,
    )


def _order_choices(ranks: pd.DataFrame) -> pd.DataFrame:
    """Put the default first, and the methods in its order."""
    default = DEFAULT_CHOICE if DEFAULT_CHOICE in ranks else str(ranks.columns[0])
    ordered = ranks[[default, *(choice for choice in ranks if choice != default)]]
    return ordered.sort_values(default, kind="stable")


def find_taus(ranks: pd.DataFrame, marks: Mapping[str, MethodMark]) -> dict[str, float]:
    """Return {choice: Kendall's tau-b to the first one}, controls left out."""
    controls = {name for name, mark in marks.items() if mark.family == "control"}
    own = ranks[[name not in controls for name in ranks.index]]
    default = str(ranks.columns[0])
    return {str(one): agreement(own, default, str(one)) for one in ranks if one != default}


def draw_choices_panel(
    axis: Any,
    ranks: pd.DataFrame,
    taus: Mapping[str, float],
    marks: Mapping[str, MethodMark],
) -> None:
    """Draw one value: methods in the order of the default."""
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
                tint = "white" if rank < 0.5 * len(ranks) else INK
                axis.text(x, y, f"{rank:.0f}", fontsize=6, ha="center", va="center", color=tint)
    labels = [f"{one}\nτ {number(taus[one])}" if one in taus else one for one in map(str, ranks)]
    axis.set_xticks(
        range(ranks.shape[1]), labels, fontsize=6.5, rotation=60, ha="left", rotation_mode="anchor"
    )
    axis.xaxis.tick_top()
    axis.set_yticks(range(len(ranks)), list(ranks.index), fontsize=7)
    for text, name in zip(axis.get_yticklabels(), ranks.index, strict=True):
        text.set_color(marks[name].ink if name in marks else INK)
    axis.grid(visible=False)


def _state_taus(taus: Mapping[str, Mapping[str, float]]) -> str:
    """Return for each value the choice that turns the order most."""
    sentences = []
    for value, found in taus.items():
        known = [(tau, choice) for choice, tau in found.items() if not math.isnan(tau)]
        if known:
            tau, choice = min(known)
            sentences.append(f"{value}: {choice} turns the order most (tau {number(tau)})")
    return "; ".join(sentences) + "." if sentences else "No order can be compared."

"""The correlation plot: how alike two values order the methods."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from bench.board.plots.figures import MIN_METHODS
from bench.board.plots.sketch import Panel, Sketch, describe_scope
from bench.board.scores import Scores
from bench.board.text import number


def sketch_correlation(board: Scores, subset: str, model: str) -> Sketch | None:
    """Show Kendall's tau-b between the orders that the ranked values give to the methods that are
    no controls.
    """
    metrics = board.list_ranked(subset, model)
    rows = board.select(subset=subset, model=model)
    rows = rows[~rows["control"] & (rows["equal_to"] == "")]
    ranks = rows.pivot_table(index="method", columns="metric", values="rank")
    names = [
        name for name, _ in metrics if name in ranks and ranks[name].notna().sum() >= MIN_METHODS
    ]
    if len(names) < 2:
        return None
    taus = pd.DataFrame([[agreement(ranks, a, b) for b in names] for a in names], names, names)
    return Sketch(
        [Panel("", partial(draw_correlation_panel, taus=taus))],
        columns=1,
        size=(1.9 + 0.52 * len(names), 1.6 + 0.42 * len(names)),
        question="Do the values order the methods alike?",
        note=(
            f"Kendall's tau-b of {len(ranks)} methods; controls left out, equal maps counted once. "
            "1: the same order, -1: the reverse order."
        ),
        statement=(
            f"Kendall's tau-b between the orders of {len(ranks)} methods by {len(names)} values on "
            f"{describe_scope(board, subset, model)}. {_state_ends(taus)}"
        ),
    )


def draw_correlation_panel(axis: Any, taus: pd.DataFrame) -> None:
    """Draw the values against each other; colour and number are tau-b."""
    import seaborn as sns

    sns.heatmap(
        taus,
        vmin=-1,
        vmax=1,
        cmap="RdBu",
        annot=taus.map(lambda tau: "n/a" if np.isnan(tau) else f"{tau:.2f}"),
        fmt="",
        annot_kws={"size": 7},
        square=True,
        linewidths=0.5,
        cbar_kws={"shrink": 0.7, "label": "Kendall's tau-b"},
        ax=axis,
    )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(labelsize=7)
    bar = axis.collections[0].colorbar.ax
    bar.tick_params(labelsize=7)
    bar.yaxis.label.set_size(7)
    axis.set_xticks(axis.get_xticks(), list(taus), rotation=40, ha="right")


def agreement(ranks: pd.DataFrame, a: str, b: str) -> float:
    """Return Kendall's tau-b of two columns over the methods that have both ranks; NaN where one is
    constant.
    """
    both = np.stack([ranks[a], ranks[b]], axis=1)
    both = both[~np.isnan(both).any(axis=1)]
    if len(both) < MIN_METHODS or (np.ptp(both, axis=0) == 0).any():
        return math.nan
    return float(kendalltau(both[:, 0], both[:, 1]).statistic)


def _state_ends(taus: pd.DataFrame) -> str:
    """Return which two values agree least, and which most."""
    names, numbers = list(map(str, taus)), taus.to_numpy(dtype=np.float64)
    known = [
        (float(numbers[i, j]), names[i], names[j])
        for i, j in combinations(range(len(names)), 2)
        if not math.isnan(numbers[i, j])
    ]
    if not known:
        return "No two values can be compared."
    least, most = (f"{a} and {b} ({number(tau)})" for tau, a, b in (min(known), max(known)))
    return f"The least alike are {least}, the most alike {most}."

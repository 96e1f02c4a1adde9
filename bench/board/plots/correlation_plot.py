"""The correlation plot: how alike two values order the methods."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from bench.board.plots.figures import MIN_METHODS, make_figure_grid, write_title
from bench.board.scores import Scores


def draw_correlation(board: Scores, subset: str, model: str) -> Any:
    """Kendall's tau-b between the orders that the ranked values give to the methods that are no
    controls.
    """
    import seaborn as sns

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
    figure, axes = make_figure_grid(1, 1, 1.9 + 0.52 * len(names), 1.6 + 0.42 * len(names))
    axis = axes[0, 0]
    labels = taus.map(lambda tau: "n/a" if np.isnan(tau) else f"{tau:.2f}")
    sns.heatmap(
        taus,
        vmin=-1,
        vmax=1,
        cmap="RdBu",
        annot=labels,
        fmt="",
        annot_kws={"size": 7},
        square=True,
        linewidths=0.5,
        cbar_kws={"shrink": 0.7, "label": "Kendall's tau-b"},
        ax=axis,
    )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(labelsize=7)
    axis.collections[0].colorbar.ax.tick_params(labelsize=7)
    axis.set_xticks(axis.get_xticks(), names, rotation=40, ha="right")
    note = f"{len(ranks)} methods; controls left out, equal maps counted once"
    write_title(figure, board, subset, model, "Do the values order the methods alike?", note)
    return figure


def agreement(ranks: pd.DataFrame, a: str, b: str) -> float:
    """Return Kendall's tau-b of two columns over the methods that have both ranks; NaN where one is
    constant.
    """
    both = np.stack([ranks[a], ranks[b]], axis=1)
    both = both[~np.isnan(both).any(axis=1)]
    if len(both) < MIN_METHODS or (np.ptp(both, axis=0) == 0).any():
        return math.nan
    return float(kendalltau(both[:, 0], both[:, 1]).statistic)

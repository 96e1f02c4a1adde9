"""The critical difference plot: average ranks, and groups that no test separates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata

from bench.board import statistics
from bench.board.pairs import list_means, select_complete
from bench.board.plots.figures import INK, LEGEND, choose_colour, make_figure_grid, write_title
from bench.board.scores import Scores
from bench.board.significance import NOISE
from bench.board.text import number, plot_label

CRITICAL = 4
"""Ranked means in the diagram of critical differences; more of them would be too small to read."""


def find_rank_blocks(board: Scores, metric: str, subset: str, model: str) -> pd.DataFrame:
    """Return each image's ranks of the distinct maps, 1 best, equal values midranks: images x
    methods.
    """
    cells = select_complete(board, metric, subset, model)
    compared = board.comparisons[subset, model, metric]
    distinct = np.unique(compared.first)
    values = cells.scalars().mean(0)[:, distinct]
    sizes = statistics.sum_per_image(np.ones((len(values), 1)), cells.images)
    means = np.round(statistics.sum_per_image(values, cells.images) / sizes, NOISE)
    sign = 1 if board.table(metric, subset, model)["better"].iloc[0] == "lower" else -1
    return pd.DataFrame(
        rankdata(sign * means, axis=1), columns=[compared.methods[place] for place in distinct]
    )


def draw_critical(board: Scores, subset: str, model: str) -> Any:
    """Average ranks over images; bars join methods that Nemenyi's test after Friedman's does not
    separate.

    Nemenyi's is the test that belongs to this axis: it asks about average ranks, has one critical
    difference for all pairs, and controls the family-wise error through the studentised range. It
    is conservative where values are equal. The tables' ranges come from tests of the pairs
    themselves, which no third method can change.
    """
    blocks = {
        metric: find_rank_blocks(board, metric, subset, model)
        for metric in list_means(board, subset, model)
    }
    usable = [
        (metric, ranks) for metric, ranks in blocks.items() if ranks.shape[1] > 2 and len(ranks) > 1
    ][:CRITICAL]
    if not usable:
        return None
    rows = max(ranks.shape[1] for _, ranks in usable) / 2
    columns = min(2, len(usable))
    figure, axes = make_figure_grid(
        math.ceil(len(usable) / columns), columns, 5.6, 1.3 + 0.19 * rows
    )
    facts = board.methods(subset, model)
    for axis, (metric, ranks) in zip(axes.flat, usable, strict=False):
        draw_critical_panel(axis, ranks, {str(name): facts[str(name)] for name in ranks})
        _, p = friedmanchisquare(*ranks.to_numpy().T) if ranks.to_numpy().std() > 0 else (0.0, 1.0)
        chance = "< .001" if p < 0.001 else f"= {number(p)}"
        axis.set_title(
            f"{metric}, {len(ranks)} images, Friedman p {chance}", fontsize=8, loc="left"
        )
    for axis in axes.flat[len(usable) :]:
        axis.set_axis_off()
    note = (
        "average rank over images, 1 best; a bar joins what Nemenyi's test does not separate "
        f"at .05.   {LEGEND}"
    )
    write_title(figure, board, subset, model, "Critical differences of average ranks", note)
    return figure


def draw_critical_panel(axis: Any, ranks: pd.DataFrame, facts: dict[str, dict[str, Any]]) -> None:
    """Draw one diagram."""
    import scikit_posthocs

    labels = {name: plot_label(row) for name, row in facts.items()}
    tests = scikit_posthocs.posthoc_nemenyi_friedman(ranks.rename(columns=labels))
    scikit_posthocs.critical_difference_diagram(
        ranks.mean().rename(labels),
        tests,
        ax=axis,
        label_fmt_left="{label} ({rank:.1f})",
        label_fmt_right="({rank:.1f}) {label}",
        label_props={"size": 6},
        marker_props={"s": 6},
        elbow_props={"linewidth": 0.6},
        crossbar_props={"linewidth": 1.4, "color": INK},
        color_palette={labels[name]: choose_colour(row) for name, row in facts.items()},
    )
    axis.grid(visible=False)
    axis.tick_params(labelsize=6)

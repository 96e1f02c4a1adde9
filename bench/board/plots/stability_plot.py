"""The stability plot: the ranks that resampled images give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import rankdata

from bench.board.comparison import Comparison
from bench.board.plots.figures import choose_ink, make_figure_grid, write_title
from bench.board.scores import Scores
from bench.board.significance import NOISE
from bench.board.text import plot_label

STABILITY = 2_000
"""Resamples in the plot of ranks: a share is then known within 2 %."""


def draw_stability(board: Scores, subset: str, model: str) -> Any:
    """How often each method holds each rank over the bootstrap resamples of the images."""
    names = [metric for metric, _ in board.list_ranked(subset, model)]
    found = {metric: board.comparisons.get((subset, model, metric)) for metric in names}
    usable = {
        m: one
        for m, one in found.items()
        if one and len(set(one.first.tolist())) > 1 and one.images > 1
    }
    if not usable:
        return None
    size = max(len(set(one.first.tolist())) for one in usable.values())
    columns = min(4, len(usable))
    figure, axes = make_figure_grid(
        math.ceil(len(usable) / columns), columns, 1.7 + 0.09 * size, 0.85 + 0.125 * size
    )
    facts = board.methods(subset, model)
    for axis, (metric, one) in zip(axes.flat, usable.items(), strict=False):
        draw_stability_panel(axis, one, facts)
        axis.set_title(metric, fontsize=9, loc="left")
    for axis in axes.flat[len(usable) :]:
        axis.set_axis_off()
    note = "row: method, best first; column: rank; dark: always, white: never; equal maps once"
    write_title(figure, board, subset, model, "Ranks over resamples of the images", note)
    return figure


def count_ranks(one: Comparison) -> tuple[list[int], Any]:
    """Return the distinct maps' places, best first, and how often each holds each rank in the
    resamples, [D,D].
    """
    places = [int(place) for place in one.order if one.first[place] == place]
    replicates = np.round(one.drawn.replicates[:STABILITY, places], NOISE)
    ranks = rankdata(one.sign * replicates, axis=1, method="min").astype(int) - 1
    size = len(places)
    counts = np.bincount((np.arange(size) * size + ranks).ravel(), minlength=size * size)
    return places, counts.reshape(size, size) / len(ranks)


def draw_stability_panel(axis: Any, one: Comparison, facts: dict[str, dict[str, Any]]) -> None:
    """Draw one value's shares; the square root makes the rare ranks visible."""
    places, shares = count_ranks(one)
    axis.imshow(
        np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    rows = [facts[one.methods[place]] for place in places]
    axis.set_yticks(range(len(rows)), [plot_label(row) for row in rows], fontsize=6)
    for text, row in zip(axis.get_yticklabels(), rows, strict=True):
        text.set_color(choose_ink(row))
    step = max(1, len(rows) // 8)
    axis.set_xticks(range(0, len(rows), step), range(1, len(rows) + 1, step), fontsize=6)
    axis.grid(visible=False)

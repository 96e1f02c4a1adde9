"""The stability plot: the ranks that resampled images give."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import rankdata

from bench.board.comparison import Comparison
from bench.board.plots.method_marks import MethodMark, find_marks
from bench.board.plots.sketch import Panel, Sketch, describe_scope
from bench.board.scores import Scores
from bench.board.significance import NOISE

STABILITY = 2_000
"""Resamples in the plot of ranks: a share is then known within 2 %."""
COLUMNS = 4


def sketch_stability(board: Scores, subset: str, model: str) -> Sketch | None:
    """Show how often each method holds each rank over the bootstrap resamples of the images."""
    names = [metric for metric, _ in board.list_ranked(subset, model)]
    found = {metric: board.comparisons.get((subset, model, metric)) for metric in names}
    marks = find_marks(board, subset, model)
    shares = {
        metric: (one, *count_ranks(one, marks))
        for metric, one in found.items()
        if one and one.images > 1
    }
    shares = {metric: parts for metric, parts in shares.items() if len(parts[1]) > 1}
    if not shares:
        return None
    size = max(len(places) for _, places, _ in shares.values())
    return Sketch(
        [
            Panel(metric, partial(draw_stability_panel, one=one, marks=marks))
            for metric, (one, _, _) in shares.items()
        ],
        columns=min(COLUMNS, len(shares)),
        size=(1.7 + 0.09 * size, 0.85 + 0.125 * size),
        question="Would other images give the same ranks?",
        note=(
            f"Row: method, best first. Column: rank over {STABILITY:,} resamples of the images. "
            "Dark: always, white: never. Equal maps once; grey names: controls."
        ),
        statement=(
            f"Ranks over resamples of the images on {describe_scope(board, subset, model)}. "
            f"Share of the resamples in which the best method of each value stays first: "
            f"{'; '.join(_state_first(m, *parts) for m, parts in shares.items())}."
        ),
    )


def count_ranks(one: Comparison, shown: Mapping[str, Any] | None = None) -> tuple[list[int], Any]:
    """Return the distinct maps' places, best first, and how often each holds each rank in the
    resamples, [D,D].

    shown: the methods that count; by default all.
    """
    places = [
        int(place)
        for place in one.order
        if one.first[place] == place and (shown is None or one.methods[place] in shown)
    ]
    replicates = np.round(one.drawn.replicates[:STABILITY, places], NOISE)
    ranks = rankdata(one.sign * replicates, axis=1, method="min").astype(int) - 1
    size = len(places)
    counts = np.bincount((np.arange(size) * size + ranks).ravel(), minlength=size * size)
    return places, counts.reshape(size, size) / len(ranks)


def draw_stability_panel(axis: Any, one: Comparison, marks: Mapping[str, MethodMark]) -> None:
    """Draw one value's shares; the square root makes the rare ranks visible."""
    places, shares = count_ranks(one, marks)
    axis.imshow(
        np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    names = [one.methods[place] for place in places]
    axis.set_yticks(range(len(names)), names, fontsize=6)
    for text, name in zip(axis.get_yticklabels(), names, strict=True):
        text.set_color(marks[name].ink)
    step = max(1, len(names) // 8)
    axis.set_xticks(range(0, len(names), step), range(1, len(names) + 1, step), fontsize=6)
    axis.set_xlabel("rank", fontsize=7)
    axis.grid(visible=False)


def _state_first(metric: str, one: Comparison, places: list[int], shares: Any) -> str:
    return f"{metric} {one.methods[places[0]]} {100 * shares[0, 0]:.0f} %"

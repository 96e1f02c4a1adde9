"""The cost plot: each method's score against the passes that it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.board.comparison import Comparison
from bench.board.plots.figures import INK
from bench.board.plots.leaders import write_intervals
from bench.board.plots.method_marks import (
    MethodMark,
    draw_mark,
    find_marks,
    list_family_marks,
)
from bench.board.plots.sketch import Panel, Sketch, describe_scope
from bench.board.result_words import count_passes
from bench.board.scores import Scores, list_rows
from bench.board.text import REFERENCE, metric_label
from bench.identity import plain_name

USUAL = ("deletion", "insertion")
"""Values that are drawn where the table ranks them, else its first two."""
NAMED = (REFERENCE, "random")
"""Methods whose names are written beside those of the frontier."""
PALE = "#b9b9b9"
FRONT = "#0072B2"
NOTE = (
    "Blue: from the cheapest methods on, each step to more passes is better by the board's "
    "test. Bar: 95 % interval. A pass: a forward, a backward or a replay of the head."
)


def sketch_cost(
    board: Scores, subset: str, model: str, chosen: tuple[str, ...] = ()
) -> Sketch | None:
    """Show the ranked values against the passes per image, with the frontier.

    Args:
        board: The board.
        subset, model: The table.
        chosen: The values; by default deletion and insertion, else the first two.
    """
    rows = board.select(subset=subset, model=model)
    known = rows[rows["metric"] == "forwards"].dropna(subset=["mean"])["method"]
    passes = {name: cost for name, cost in count_passes(rows).items() if name in set(known)}
    scored = rows[(rows["n"] > 0) & rows["method"].isin(passes)]
    there = [one for one in board.list_ranked(subset, model) if one[0] in set(scored["metric"])]
    wanted = chosen or [m for m, _ in there if plain_name(m) in USUAL] or [m for m, _ in there][:2]
    metrics = [one for one in there if one[0] in wanted]
    if not metrics:
        return None
    marks = find_marks(board, subset, model)
    panels, sentences = [], []
    for metric, better in metrics:
        table = scored[scored["metric"] == metric]
        table = table.assign(cost=table["method"].map(passes))
        compared = board.comparisons.get((subset, model, metric))
        front = find_frontier(table, better, compared)
        sentences.append(_state_frontier(metric, table, front))
        draw = partial(draw_cost_panel, table=table, marks=marks, front=front)
        panels.append(Panel(metric_label(metric, better), draw))
    shown = [marks[name] for name in marks if name in passes]
    return Sketch(
        panels,
        columns=min(2, len(panels)),
        size=(4.3, 3.7),
        question="What does a better map cost?",
        note=NOTE,
        statement=(
            f"Quality against cost of {len(passes)} methods on "
            f"{describe_scope(board, subset, model)}, cost in passes per image. "
            f"{' '.join(sentences)}"
        ),
        legend=list_family_marks(shown, colours=False),
    )


def find_frontier(table: pd.DataFrame, better: str, compared: Comparison | None) -> list[str]:
    """Return the methods of the frontier, cheapest first; controls and unranked ones have no place.

    The first is the best of the cheapest ones. A dearer method follows where the board's test
    tells it to be better than the one before; of those of one cost, the best.
    """
    own = table[~table["control"] & table["rank"].notna()]
    own = own.assign(height=own["mean"] if better == "lower" else -own["mean"])
    front: list[str] = []
    for _, tier in own.sort_values(["cost", "height"], kind="stable").groupby("cost", sort=True):
        best = str(tier["method"].iloc[0])
        if not front or _is_better(compared, best, front[-1]):
            front.append(best)
    return front


def _is_better(compared: Comparison | None, mine: str, other: str) -> bool:
    if compared is None or mine not in compared.methods or other not in compared.methods:
        return False
    return bool(compared.wins[compared.methods.index(mine), compared.methods.index(other)])


def draw_cost_panel(
    axis: Any, table: pd.DataFrame, marks: Mapping[str, MethodMark], front: list[str]
) -> None:
    """Draw one panel: the frontier in colour, `NAMED` in ink, all others pale."""
    named = [*(name for name in NAMED if name in set(table["method"]) - set(front)), *front]
    ordered = table.sort_values(["cost", "mean"], kind="stable")
    for row in sorted(list_rows(ordered), key=lambda row: row["method"] in named):
        name = row["method"]
        tint = FRONT if name in front else INK if name in NAMED else PALE
        axis.plot([row["cost"]] * 2, [row["low"], row["high"]], lw=0.9, color=tint, zorder=2)
        hollow = row["n"] < row["expected"]
        draw_mark(axis, row["cost"], row["mean"], marks[name], hollow=hollow, colour=tint)
    steps = table.set_index("method").loc[front]
    axis.plot(steps["cost"], steps["mean"], color=FRONT, lw=1.2, drawstyle="steps-post", zorder=1)
    if len(steps):
        last = steps.iloc[-1]
        axis.plot([last["cost"], table["cost"].max()], [last["mean"]] * 2, color=FRONT, lw=1.2)
    set_cost_ticks(axis, table["cost"])
    place_labels(axis, table[table["method"].isin(named)], front)
    axis.set_xlabel("passes per image: forwards, backwards, head replays (log scale)", fontsize=8)
    axis.set_ylabel(f"mean {table['metric'].iloc[0]}", fontsize=8)
    axis.tick_params(labelsize=7)


def set_cost_ticks(axis: Any, cost: pd.Series) -> None:
    """Set a logarithmic axis with plain numbers."""
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    left, right = cost.min(), cost.max()
    margin = 10 ** (0.06 * max(math.log10(right / left), 0.5))
    axis.set_xlim(left / margin, right * margin)
    steps = (1, 2, 5) if right / left < 1000 else (1,)
    ticks = [k * 10.0**e for e in range(-4, 8) for k in steps]
    ticks = [tick for tick in ticks if left / margin <= tick <= right * margin]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def place_labels(axis: Any, table: pd.DataFrame, front: list[str]) -> None:
    """Write the names in a column at the right, in the order of the points, each joined to its
    point.
    """
    low, high = axis.get_ylim()
    ordered = table.sort_values("mean", kind="stable")
    places = (ordered["mean"].to_numpy() - low) / (high - low)
    heights = spread(places, gap=min(0.06, 1 / max(len(ordered), 1)))
    for height, row in zip(heights, list_rows(ordered), strict=True):
        tint = FRONT if row["method"] in front else INK
        line = {"arrowstyle": "-", "lw": 0.6, "color": tint, "alpha": 0.6, "shrinkA": 0}
        axis.annotate(
            row["method"],
            (row["cost"], row["mean"]),
            (1.02, height),
            xycoords="data",
            textcoords="axes fraction",
            fontsize=7.5,
            va="center",
            arrowprops={**line, "shrinkB": 3, "relpos": (0, 0.5)},
            color=tint,
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


def _state_frontier(metric: str, table: pd.DataFrame, front: list[str]) -> str:
    """Return which methods the frontier joins, with their numbers and passes."""
    if not front:
        return f"{metric}: no method is ranked."
    numbers, cost = write_intervals(table), table.set_index("method")["cost"]
    steps = [f"{name} {numbers[metric, name]} at {cost[name]:.4g} passes" for name in front]
    if len(steps) == 1:
        return f"{metric}: no dearer method is better than {steps[0]} by the board's test."
    return f"{metric}: {', then '.join(steps)}; each is better than the one before."

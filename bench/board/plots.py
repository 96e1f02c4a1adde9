"""Plots of a board: one PNG per kind and (subset, model), and one gallery per model.

matplotlib and seaborn are imported here only when something is drawn. A method's name carries the
letter of its fidelity (o official, p paper, r reconstruction, e external, ? not stated); controls
are grey.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import friedmanchisquare, kendalltau, rankdata

from bench.board import statistics
from bench.board.aggregate import Board, as_rows, originals
from bench.board.comparison import Comparison
from bench.board.gallery import TILE, Gallery, overlay, small
from bench.board.measures import cube
from bench.board.pairs import complete, means
from bench.board.significance import NOISE
from bench.board.text import (
    OVERALL,
    metric_label,
    model_label,
    number,
    plot_label,
    protocol_words,
    slug,
)
from bench.errors import BenchError
from bench.files import replaced_file

DPI = 150
COLOURS = {
    "official": "#1b6ca8",
    "paper": "#2a9d5c",
    "reconstruction": "#d2691e",
    "external": "#7b4ab5",
}
GREY, INK = "#8a8a8a", "#222222"
DELETION, INSERTION = "#b5342b", "#1b6ca8"
LEGEND = "·o official   ·p paper   ·r reconstruction   ·e external   ·? not stated   grey: control"
MIN_METHODS = 4
"""Methods below which a rank correlation says nothing."""


def write_plots(
    board: Board, folder: Path, gallery: Gallery | None = None, grid: pd.DataFrame | None = None
) -> list[Path]:
    """Draw every plot that the records allow, and the ranks under a grid of protocol choices;
    return the files.
    """
    files = []
    for subset, model in board.scopes:
        for kind, draw in PLOTS.items():
            figure = draw(board, subset, model)
            if figure is not None:
                files.append(folder / f"{slug(kind, subset, model)}.png")
                write_figure(figure, files[-1])
    for key, rows in grid.groupby(["subset", "model"], sort=True) if grid is not None else ():
        figure = draw_choices(board, rows, *map(str, key))
        if figure is not None:
            files.append(folder / f"{slug('choices', *map(str, key))}.png")
            write_figure(figure, files[-1])
    for model, pictures in small(gallery or {}).items():
        if pictures:
            files.append(folder / f"{slug('gallery', model)}.png")
            write_figure(draw_gallery(board, model, pictures), files[-1], dpi=100)
    return files


def write_figure(figure: Any, path: Path, dpi: int = DPI) -> None:
    """Save a figure as a PNG of 256 colours without metadata: a third of the bytes, and the same
    bytes each time.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(buffer) as image:
        reduced = image.convert("RGB").quantize(
            256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
    with replaced_file(path) as temporary:
        reduced.save(temporary, format="PNG", optimize=True)


def figure_grid(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of `rows` x `columns` panels, each `width` x `height` inches."""
    import seaborn as sns

    # A smaller figure would cut the title.
    figure = new_figure(max(columns * width, 6.2), max(rows * height, 2.6), layout="constrained")
    with sns.axes_style("whitegrid", {"grid.color": "#e6e6e6", "axes.edgecolor": "#bbbbbb"}):
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def new_figure(width: float, height: float, **more: Any) -> Any:
    """Return a figure of this many inches that needs no display and leaves the caller's backend
    alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **more)
    FigureCanvasAgg(figure)
    return figure


def title(
    figure: Any, board: Board, subset: str, model: str, what: str, note: str = LEGEND
) -> None:
    """Write what a figure shows, on what, and the legend of the letters."""
    items = board.select(subset=subset, model=model)["expected"].max()
    protocol = protocol_words(board.provenance, model)
    shown = model_label(board.provenance["models"], model)
    figure.suptitle(
        f"{what}\n{subset}, {shown}, n = {items}, {protocol}\n{note}", fontsize=8, x=0.01, ha="left"
    )


def colour(row: dict[str, Any]) -> str:
    """Return the colour of a method: grey for a control, else by its fidelity."""
    return GREY if row["control"] else COLOURS.get(str(row["fidelity"]), INK)


def ink(row: dict[str, Any]) -> str:
    """Return the colour of a method's name."""
    return GREY if row["control"] else INK


def draw_ranking(board: Board, subset: str, model: str) -> Any:
    """One panel per ranked value: methods from best to worst with their intervals."""
    metrics = board.ranked_metrics(subset, model)
    if not metrics:
        return None
    tables = [board.table(metric, subset, model) for metric, _ in metrics]
    tables = [
        table[table["n"] > 0].sort_values("mean", ascending=better == "lower", kind="stable")
        for table, (_, better) in zip(tables, metrics, strict=True)
    ]
    columns = min(4, len(metrics))
    tallest = max(len(table) for table in tables)
    figure, axes = figure_grid(
        math.ceil(len(metrics) / columns), columns, 3.1, 0.75 + 0.165 * tallest
    )
    for axis, (metric, better), table in zip(axes.flat, metrics, tables, strict=False):
        ranking_panel(axis, table)
        axis.set_title(metric_label(metric, better), fontsize=9, loc="left")
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    title(
        figure,
        board,
        subset,
        model,
        "Mean and 95 % interval, best first; hollow: incomplete coverage, unranked",
    )
    return figure


def ranking_panel(axis: Any, table: pd.DataFrame) -> None:
    """Draw the rows of a table from top to bottom."""
    rows = as_rows(table)
    middle = (table["mean"].min() + table["mean"].max()) / 2
    for y, row in enumerate(rows):
        hollow = row["n"] < row["expected"]
        axis.plot(
            [row["low"], row["high"]], [y, y], color=colour(row), lw=1.6, solid_capstyle="butt"
        )
        axis.plot(
            row["mean"], y, "o", ms=4, color=colour(row), mfc="white" if hollow else colour(row)
        )
        if row["equal_to"]:
            equal_note(axis, row, y, ahead=row["mean"] < middle)
    axis.set_yticks(range(len(rows)), [plot_label(row) for row in rows], fontsize=7)
    for text, row in zip(axis.get_yticklabels(), rows, strict=True):
        text.set_color(ink(row))
    axis.tick_params(axis="x", labelsize=7)
    axis.set_ylim(len(table) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def equal_note(axis: Any, row: dict[str, Any], y: float, *, ahead: bool) -> None:
    """Write which map a method's map equals inside the panel, on the emptier side of its point."""
    x = np.nanmax([row["mean"], row["high"]]) if ahead else np.nanmin([row["mean"], row["low"]])
    place = {
        "xytext": (5 if ahead else -5, 0),
        "textcoords": "offset points",
        "ha": "left" if ahead else "right",
    }
    axis.annotate(f"= {row['equal_to']}", (x, y), fontsize=6, va="center", color="#555555", **place)


def curves(board: Board, subset: str, model: str) -> dict[str, pd.DataFrame]:
    """Return {"deletion": ..., "insertion": ...}: columns method, step, share (of pixels), mean,
    low, high, n.
    """
    result = {}
    for measure in board.measures[subset]:
        models = originals(measure.models, board.provenance) if model == OVERALL else [model]
        known = measure.name.removesuffix("_curve") in ("deletion", "insertion")
        if measure.reduce == "curve" and known and set(models) <= set(measure.models):
            result[measure.name.removesuffix("_curve")] = pd.concat(
                curve_tables(board, measure, models)
            )
    return result


def curve_tables(board: Board, measure: Any, models: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the mean curve of each method with the bootstrap interval of each of its points."""
    cells = cube(measure, models)
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


def draw_curves(board: Board, subset: str, model: str) -> Any:
    """One small panel per method: its deletion and insertion curves before the random control's."""
    found = curves(board, subset, model)
    if not found:
        return None
    shown = set().union(*(set(table["method"]) for table in found.values()))
    methods = board.methods(subset, model)
    order = [method for method in methods if method in shown]
    columns = min((6, 5, 7), key=lambda c: (-len(order) % c, abs(c - 6)))
    figure, axes = figure_grid(math.ceil(len(order) / columns), columns, 1.9, 1.55)
    numbers_of = {
        (r["metric"], r["method"]): r["mean"]
        for r in as_rows(board.select(subset=subset, model=model))
    }
    for axis, method in zip(axes.flat, order, strict=False):
        curve_panel(axis, found, method)
        row = methods[method]
        name = plot_label(row) + (f" = {row['equal_to']}" if row["equal_to"] else "")
        numbers = " / ".join(number(numbers_of.get((metric, method), math.nan)) for metric in found)
        axis.set_title(f"{name}\n{numbers}", fontsize=7, loc="left", color=ink(row))
    for axis in axes.flat[len(order) :]:
        axis.set_axis_off()
    note = (
        "red: deletion ↓, blue: insertion ↑, band: 95 % interval, dashed: random control.   "
        f"{LEGEND}"
    )
    title(
        figure,
        board,
        subset,
        model,
        "Probability of the target against the share of pixels changed",
        note,
    )
    return figure


def curve_panel(axis: Any, found: dict[str, pd.DataFrame], method: str) -> None:
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


def draw_correlation(board: Board, subset: str, model: str) -> Any:
    """Kendall's tau-b between the orders that the ranked values give to the methods that are no
    controls.
    """
    import seaborn as sns

    metrics = board.ranked_metrics(subset, model)
    rows = board.select(subset=subset, model=model)
    rows = rows[~rows["control"] & (rows["equal_to"] == "")]
    ranks = rows.pivot_table(index="method", columns="metric", values="rank")
    names = [
        name for name, _ in metrics if name in ranks and ranks[name].notna().sum() >= MIN_METHODS
    ]
    if len(names) < 2:
        return None
    taus = pd.DataFrame([[agreement(ranks, a, b) for b in names] for a in names], names, names)
    figure, axes = figure_grid(1, 1, 1.9 + 0.52 * len(names), 1.6 + 0.42 * len(names))
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
    title(figure, board, subset, model, "Do the values order the methods alike?", note)
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


def draw_cost(board: Board, subset: str, model: str) -> Any:
    """Deletion and insertion against network forwards per image; the line joins what nothing
    cheaper beats.
    """
    rows = board.select(subset=subset, model=model)
    forwards = rows[rows["metric"] == "forwards"].set_index("method")["mean"]
    scored = set(rows.loc[(rows["n"] > 0) & rows["method"].isin(forwards.dropna().index), "metric"])
    metrics = [
        (m, b)
        for m, b in board.ranked_metrics(subset, model)
        if m in {"deletion", "insertion"} & scored
    ]
    if not metrics:
        return None
    names = rows["method"].nunique()
    figure, axes = figure_grid(
        1, len(metrics), 6.0, max(5.2, 0.145 * names)
    )  # room for a column of names
    for axis, (metric, better) in zip(axes.flat, metrics, strict=True):
        table = rows[(rows["metric"] == metric) & (rows["n"] > 0)].copy()
        table["cost"] = table["method"].map(forwards)
        cost_panel(axis, table.dropna(subset=["cost"]), better)
        axis.set_ylabel(metric_label(metric, better), fontsize=8)
    title(
        figure,
        board,
        subset,
        model,
        "Quality against cost; bars: 95 % intervals; line: the best at this cost or less",
    )
    return figure


def cost_panel(axis: Any, table: pd.DataFrame, better: str) -> None:
    """Draw one panel; a method without forwards stands at the left end, marked 0."""
    positive = table.loc[table["cost"] > 0, "cost"]
    zero = positive.min() / 4 if len(positive) else 0.1
    table = table.assign(x=table["cost"].where(table["cost"] > 0, zero)).sort_values(
        ["x", "mean"], kind="stable"
    )
    for row in as_rows(table):
        hollow = row["n"] < row["expected"]
        axis.plot([row["x"]] * 2, [row["low"], row["high"]], lw=0.8, color=colour(row))
        axis.plot(
            row["x"],
            row["mean"],
            "o",
            ms=4,
            color=colour(row),
            mfc="white" if hollow else colour(row),
        )
    front = frontier(table[~table["control"] & table["rank"].notna()], better)
    axis.plot(front["x"], front["mean"], color=INK, lw=0.7, drawstyle="steps-post", zorder=0)
    cost_ticks(axis, table, zero)
    place_labels(axis, table)
    axis.set_xlabel("network forwards per image (log)", fontsize=8)
    axis.tick_params(labelsize=7)


def cost_ticks(axis: Any, table: pd.DataFrame, zero: float) -> None:
    """Set a logarithmic axis with plain numbers, and 0 at its left end where a method needs no
    forward.
    """
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    left, right = table["x"].min(), table["x"].max()
    margin = 10 ** (0.05 * max(math.log10(right / left), 0.5))
    axis.set_xlim(left / margin, right * margin)
    steps = (1, 2, 5) if right / left < 300 else (1,)
    ticks = [k * 10.0**e for e in range(-4, 8) for k in steps]
    ticks = [
        t for t in ticks if table.loc[table["cost"] > 0, "x"].min() / margin <= t <= right * margin
    ]
    if (table["cost"] <= 0).any():
        ticks = [zero, *ticks]
    axis.set_xticks(ticks, ["0" if t == zero else f"{t:g}" for t in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def frontier(table: pd.DataFrame, better: str) -> pd.DataFrame:
    """Return the rows that no row of the same or a smaller cost beats."""
    heights = table["mean"] if better == "lower" else -table["mean"]
    return table[heights <= heights.cummin()]


def place_labels(axis: Any, table: pd.DataFrame) -> None:
    """Write the names in a column at the right, in the order of the points, each joined to its
    point.
    """
    low, high = axis.get_ylim()
    ordered = table.sort_values("mean", kind="stable")
    heights = spread(
        (ordered["mean"].to_numpy() - low) / (high - low), gap=min(0.038, 1 / max(len(ordered), 1))
    )
    for height, row in zip(heights, as_rows(ordered), strict=True):
        line = {
            "arrowstyle": "-",
            "lw": 0.4,
            "color": colour(row),
            "alpha": 0.5,
            "shrinkA": 0,
            "shrinkB": 3,
            "relpos": (0, 0.5),
        }
        axis.annotate(
            plot_label(row),
            (row["x"], row["mean"]),
            (1.02, height),
            xycoords="data",
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            arrowprops=line,
            color=ink(row),
        )


def spread(heights: Any, gap: float) -> Any:
    """Move ascending heights in [0,1] until they are `gap` apart and inside (where there is room
    for all).
    """
    values = np.array(heights, dtype=np.float64)
    middle = (pushed_up(values, gap) - pushed_up(-values[::-1], gap)[::-1]) / 2
    inside = pushed_up(np.maximum(middle, 0), gap)
    return -pushed_up(np.maximum(-inside[::-1], -1), gap)[::-1]


def pushed_up(values: Any, gap: float) -> Any:
    """Move ascending values up, each as little as it must to be `gap` above the one before."""
    steps = gap * np.arange(len(values))
    return np.maximum.accumulate(values - steps) + steps


CRITICAL = 4
"""Ranked means in the diagram of critical differences; more of them would be too small to read."""

STABILITY = 2_000
"""Resamples in the plot of ranks: a share is then known within 2 %."""


def rank_blocks(board: Board, metric: str, subset: str, model: str) -> pd.DataFrame:
    """Return each image's ranks of the distinct maps, 1 best, equal values midranks: images x
    methods.
    """
    cells = complete(board, metric, subset, model)
    compared = board.comparisons[subset, model, metric]
    distinct = np.unique(compared.first)
    values = cells.scalars().mean(0)[:, distinct]
    sizes = statistics.per_image(np.ones((len(values), 1)), cells.images)
    means = np.round(statistics.per_image(values, cells.images) / sizes, NOISE)
    sign = 1 if board.table(metric, subset, model)["better"].iloc[0] == "lower" else -1
    return pd.DataFrame(
        rankdata(sign * means, axis=1), columns=[compared.methods[place] for place in distinct]
    )


def draw_critical(board: Board, subset: str, model: str) -> Any:
    """Average ranks over images; bars join methods that Nemenyi's test after Friedman's does not
    separate.

    Nemenyi's is the test that belongs to this axis: it asks about average ranks, has one critical
    difference for all pairs, and controls the family-wise error through the studentised range. It
    is conservative where values tie. The tables' ranges come from tests of the pairs themselves,
    which no third method can change.
    """
    blocks = {
        metric: rank_blocks(board, metric, subset, model) for metric in means(board, subset, model)
    }
    usable = [
        (metric, ranks) for metric, ranks in blocks.items() if ranks.shape[1] > 2 and len(ranks) > 1
    ][:CRITICAL]
    if not usable:
        return None
    rows = max(ranks.shape[1] for _, ranks in usable) / 2
    columns = min(2, len(usable))
    figure, axes = figure_grid(math.ceil(len(usable) / columns), columns, 5.6, 1.3 + 0.19 * rows)
    facts = board.methods(subset, model)
    for axis, (metric, ranks) in zip(axes.flat, usable, strict=False):
        critical_panel(axis, ranks, {str(name): facts[str(name)] for name in ranks})
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
    title(figure, board, subset, model, "Critical differences of average ranks", note)
    return figure


def critical_panel(axis: Any, ranks: pd.DataFrame, facts: dict[str, dict[str, Any]]) -> None:
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
        color_palette={labels[name]: colour(row) for name, row in facts.items()},
    )
    axis.grid(visible=False)
    axis.tick_params(labelsize=6)


def draw_stability(board: Board, subset: str, model: str) -> Any:
    """How often each method holds each rank over the bootstrap resamples of the images."""
    names = [metric for metric, _ in board.ranked_metrics(subset, model)]
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
    figure, axes = figure_grid(
        math.ceil(len(usable) / columns), columns, 1.7 + 0.09 * size, 0.85 + 0.125 * size
    )
    facts = board.methods(subset, model)
    for axis, (metric, one) in zip(axes.flat, usable.items(), strict=False):
        stability_panel(axis, one, facts)
        axis.set_title(metric, fontsize=9, loc="left")
    for axis in axes.flat[len(usable) :]:
        axis.set_axis_off()
    note = "row: method, best first; column: rank; dark: always, white: never; equal maps once"
    title(figure, board, subset, model, "Ranks over resamples of the images", note)
    return figure


def rank_shares(one: Comparison) -> tuple[list[int], Any]:
    """Return the distinct maps' places, best first, and how often each holds each rank in the
    resamples, [D,D].
    """
    places = [int(place) for place in one.order if one.first[place] == place]
    replicates = np.round(one.drawn.replicates[:STABILITY, places], NOISE)
    ranks = rankdata(one.sign * replicates, axis=1, method="min").astype(int) - 1
    size = len(places)
    counts = np.bincount((np.arange(size) * size + ranks).ravel(), minlength=size * size)
    return places, counts.reshape(size, size) / len(ranks)


def stability_panel(axis: Any, one: Comparison, facts: dict[str, dict[str, Any]]) -> None:
    """Draw one value's shares; the square root makes the rare ranks visible."""
    places, shares = rank_shares(one)
    axis.imshow(
        np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    rows = [facts[one.methods[place]] for place in places]
    axis.set_yticks(range(len(rows)), [plot_label(row) for row in rows], fontsize=6)
    for text, row in zip(axis.get_yticklabels(), rows, strict=True):
        text.set_color(ink(row))
    step = max(1, len(rows) // 8)
    axis.set_xticks(range(0, len(rows), step), range(1, len(rows) + 1, step), fontsize=6)
    axis.grid(visible=False)


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


def draw_choices(board: Board, table: pd.DataFrame, subset: str, model: str) -> Any:
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
    figure, axes = figure_grid(math.ceil(len(ranks) / columns), columns, *size)
    facts = board.methods(subset, model) if (subset, model) in board.scopes else {}
    for axis, (value, choices) in zip(axes.flat, ranks.items(), strict=False):
        choices_panel(axis, choices, facts)
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


def choices_panel(axis: Any, ranks: pd.DataFrame, facts: dict[str, dict[str, Any]]) -> None:
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


def draw_gallery(board: Board, model: str, pictures: dict[str, Any]) -> Any:
    """The same images under every method, in blocks of methods side by side."""
    known = {name for picture in pictures.values() for name in picture.maps}
    scope = next(((s, m) for s, m in board.scopes if m == model), board.scopes[0])
    facts = {name: row for name, row in board.methods(*scope).items() if name in known}
    methods = [*facts, *sorted(known - set(facts))]
    blocks = 1 if len(methods) <= 8 else math.ceil(len(methods) / 16) + (len(methods) <= 16)
    height = math.ceil(len(methods) / blocks)
    words = "; ".join(picture.title or item for item, picture in pictures.items())
    shown = words if len(words) < 150 else words[:147] + "..."
    figure, axes = gallery_axes(blocks, len(pictures), height + 1)
    for index, axis in enumerate(axes):
        gallery_block(axis, pictures, methods[index * height : (index + 1) * height], facts, height)
    note = f"Gallery, {model}: each map scaled to [0,1], negative parts left out\n{shown}\n{LEGEND}"
    figure.text(0.01, 1 - 6 / (figure.get_figheight() * 100), note, fontsize=8, va="top")
    return figure


STEP = TILE + 4
NAMES, HEADER = 150, 56
"""Pixels for the names left of a block and for the title."""


def gallery_axes(blocks: int, columns: int, rows: int) -> tuple[Any, list[Any]]:
    """Return a figure whose axes hold columns x rows tiles pixel for pixel at 100 dpi."""
    width, height = blocks * (NAMES + columns * STEP), HEADER + rows * STEP
    figure = new_figure(width / 100, height / 100)
    lefts = [NAMES + block * (NAMES + columns * STEP) for block in range(blocks)]
    return figure, [
        figure.add_axes((x / width, 0, columns * STEP / width, rows * STEP / height)) for x in lefts
    ]


def gallery_block(
    axis: Any, pictures: dict[str, Any], methods: list[str], facts: dict[str, Any], height: int
) -> None:
    """Draw one block: the images on top, a row per method below, empty rows at the end."""
    canvas = np.full(((height + 1) * STEP, len(pictures) * STEP, 3), 255, np.uint8)
    for i, method in enumerate([None, *methods]):
        for j, picture in enumerate(pictures.values()):
            canvas[i * STEP + 2 : i * STEP + 2 + TILE, j * STEP + 2 : j * STEP + 2 + TILE] = (
                overlay(picture, method)
            )
    axis.imshow(canvas, interpolation="none", aspect="auto")
    labels = ["image", *(plot_label(facts[m]) if m in facts else m for m in methods)]
    axis.set_yticks([STEP * (i + 0.5) for i in range(len(labels))], labels, fontsize=8)
    for text, method in zip(axis.get_yticklabels()[1:], methods, strict=True):
        text.set_color(ink(facts[method]) if method in facts else INK)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


PLOTS: dict[str, Callable[[Board, str, str], Any]] = {
    "ranking": draw_ranking,
    "curves": draw_curves,
    "correlation": draw_correlation,
    "cost": draw_cost,
    "critical": draw_critical,
    "stability": draw_stability,
}
"""The plots of one (subset, model); each returns a figure, or None where the records do not hold
what it needs.
"""

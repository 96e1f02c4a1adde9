"""Plots of a board: one PNG per kind and (subset, model), and one gallery per model.

matplotlib and seaborn are imported here only when something is drawn. A method's name carries the letter of its
fidelity (o official, p paper, r reconstruction, e external, ? not stated); controls are grey.
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
from scipy.stats import kendalltau

from bench.board import statistics
from bench.board.aggregate import Board, as_rows, originals
from bench.board.gallery import TILE, Gallery, overlay, small
from bench.board.measures import cube
from bench.board.text import OVERALL, metric_label, model_label, number, plot_label, slug
from bench.files import replaced_file

DPI = 150
COLOURS = {"official": "#1b6ca8", "paper": "#2a9d5c", "reconstruction": "#d2691e", "external": "#7b4ab5"}
GREY, INK = "#8a8a8a", "#222222"
DELETION, INSERTION = "#b5342b", "#1b6ca8"
LEGEND = "·o official   ·p paper   ·r reconstruction   ·e external   ·? not stated   grey: control"
MIN_METHODS = 4
"""Methods below which a rank correlation says nothing."""


def write_plots(board: Board, folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Draw every plot that the records allow; return the files."""
    files = []
    for subset, model in board.scopes:
        for kind, draw in PLOTS.items():
            figure = draw(board, subset, model)
            if figure is not None:
                files.append(folder / f"{slug(kind, subset, model)}.png")
                write_figure(figure, files[-1])
    for model, pictures in small(gallery or {}).items():
        if pictures:
            files.append(folder / f"{slug('gallery', model)}.png")
            write_figure(draw_gallery(board, model, pictures), files[-1], dpi=100)
    return files


def write_figure(figure: Any, path: Path, dpi: int = DPI) -> None:
    """Save a figure as a PNG of 256 colours without metadata: a third of the bytes, and the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(buffer) as image:
        reduced = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
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
    """Return a figure of this many inches that needs no display and leaves the caller's backend alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **more)
    FigureCanvasAgg(figure)
    return figure


def title(figure: Any, board: Board, subset: str, model: str, what: str, note: str = LEGEND) -> None:
    """Write what a figure shows, on what, and the legend of the letters."""
    items = board.select(subset=subset, model=model)["expected"].max()
    protocol = board.provenance["protocol"]["id"]
    shown = model_label(board.provenance["models"], model)
    figure.suptitle(f"{what}\n{subset}, {shown}, n = {items}, {protocol}\n{note}", fontsize=8, x=0.01, ha="left")


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
    figure, axes = figure_grid(math.ceil(len(metrics) / columns), columns, 3.1, 0.75 + 0.165 * tallest)
    for axis, (metric, better), table in zip(axes.flat, metrics, tables, strict=False):
        ranking_panel(axis, table)
        axis.set_title(metric_label(metric, better), fontsize=9, loc="left")
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    title(figure, board, subset, model, "Mean and 95 % interval, best first; hollow: incomplete coverage, unranked")
    return figure


def ranking_panel(axis: Any, table: pd.DataFrame) -> None:
    """Draw the rows of a table from top to bottom."""
    rows = as_rows(table)
    middle = (table["mean"].min() + table["mean"].max()) / 2
    for y, row in enumerate(rows):
        hollow = row["n"] < row["expected"]
        axis.plot([row["low"], row["high"]], [y, y], color=colour(row), lw=1.6, solid_capstyle="butt")
        axis.plot(row["mean"], y, "o", ms=4, color=colour(row), mfc="white" if hollow else colour(row))
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
    place = {"xytext": (5 if ahead else -5, 0), "textcoords": "offset points", "ha": "left" if ahead else "right"}
    axis.annotate(f"= {row['equal_to']}", (x, y), fontsize=6, va="center", color="#555555", **place)


def curves(board: Board, subset: str, model: str) -> dict[str, pd.DataFrame]:
    """Return {"deletion": ..., "insertion": ...}: columns method, step, share (of pixels), mean, low, high, n."""
    result = {}
    for measure in board.measures[subset]:
        models = originals(measure.models, board.provenance) if model == OVERALL else [model]
        known = measure.name.removesuffix("_curve") in ("deletion", "insertion")
        if measure.reduce == "curve" and known and set(models) <= set(measure.models):
            result[measure.name.removesuffix("_curve")] = pd.concat(curve_tables(board, measure, models))
    return result


def curve_tables(board: Board, measure: Any, models: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the mean curve of each method with the bootstrap interval of each of its points."""
    cells = cube(measure, models)
    for index, method in enumerate(cells.methods):
        vectors = np.mean([cells.vectors(m, index) for m in range(len(models))], axis=0)
        drawn = statistics.sample_mean(vectors, cells.images, statistics.POOLED_RESAMPLES, board.seed)
        low, high = drawn.interval()
        steps = np.arange(len(low))
        facts = {"method": method, "n": int(cells.scored[:, index].sum()), "step": steps}
        yield pd.DataFrame(
            {**facts, "share": steps / max(len(low) - 1, 1), "mean": drawn.point, "low": low, "high": high}
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
    means = {(r["metric"], r["method"]): r["mean"] for r in as_rows(board.select(subset=subset, model=model))}
    for axis, method in zip(axes.flat, order, strict=False):
        curve_panel(axis, found, method)
        row = methods[method]
        name = plot_label(row) + (f" = {row['equal_to']}" if row["equal_to"] else "")
        numbers = " / ".join(number(means.get((metric, method), math.nan)) for metric in found)
        axis.set_title(f"{name}\n{numbers}", fontsize=7, loc="left", color=ink(row))
    for axis in axes.flat[len(order) :]:
        axis.set_axis_off()
    note = f"red: deletion ↓, blue: insertion ↑, band: 95 % interval, dashed: random control.   {LEGEND}"
    title(figure, board, subset, model, "Probability of the target against the share of pixels changed", note)
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
    """Kendall's tau-b between the orders that the ranked values give to the methods that are no controls."""
    import seaborn as sns

    metrics = board.ranked_metrics(subset, model)
    rows = board.select(subset=subset, model=model)
    rows = rows[~rows["control"] & (rows["equal_to"] == "")]
    ranks = rows.pivot_table(index="method", columns="metric", values="rank")
    names = [name for name, _ in metrics if name in ranks and ranks[name].notna().sum() >= MIN_METHODS]
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
    """Return Kendall's tau-b of two columns over the methods that have both ranks; NaN where one is constant."""
    both = np.stack([ranks[a], ranks[b]], axis=1)
    both = both[~np.isnan(both).any(axis=1)]
    if len(both) < MIN_METHODS or (np.ptp(both, axis=0) == 0).any():
        return math.nan
    return float(kendalltau(both[:, 0], both[:, 1]).statistic)


def draw_cost(board: Board, subset: str, model: str) -> Any:
    """Deletion and insertion against network forwards per image; the line joins what nothing cheaper beats."""
    rows = board.select(subset=subset, model=model)
    forwards = rows[rows["metric"] == "forwards"].set_index("method")["mean"]
    scored = set(rows.loc[(rows["n"] > 0) & rows["method"].isin(forwards.dropna().index), "metric"])
    metrics = [(m, b) for m, b in board.ranked_metrics(subset, model) if m in {"deletion", "insertion"} & scored]
    if not metrics:
        return None
    names = rows["method"].nunique()
    figure, axes = figure_grid(1, len(metrics), 6.0, max(5.2, 0.145 * names))  # room for a column of names
    for axis, (metric, better) in zip(axes.flat, metrics, strict=True):
        table = rows[(rows["metric"] == metric) & (rows["n"] > 0)].copy()
        table["cost"] = table["method"].map(forwards)
        cost_panel(axis, table.dropna(subset=["cost"]), better)
        axis.set_ylabel(metric_label(metric, better), fontsize=8)
    title(
        figure, board, subset, model, "Quality against cost; bars: 95 % intervals; line: the best at this cost or less"
    )
    return figure


def cost_panel(axis: Any, table: pd.DataFrame, better: str) -> None:
    """Draw one panel; a method without forwards stands at the left end, marked 0."""
    positive = table.loc[table["cost"] > 0, "cost"]
    zero = positive.min() / 4 if len(positive) else 0.1
    table = table.assign(x=table["cost"].where(table["cost"] > 0, zero)).sort_values(["x", "mean"], kind="stable")
    for row in as_rows(table):
        hollow = row["n"] < row["expected"]
        axis.plot([row["x"]] * 2, [row["low"], row["high"]], lw=0.8, color=colour(row))
        axis.plot(row["x"], row["mean"], "o", ms=4, color=colour(row), mfc="white" if hollow else colour(row))
    front = frontier(table[~table["control"] & table["rank"].notna()], better)
    axis.plot(front["x"], front["mean"], color=INK, lw=0.7, drawstyle="steps-post", zorder=0)
    cost_ticks(axis, table, zero)
    place_labels(axis, table)
    axis.set_xlabel("network forwards per image (log)", fontsize=8)
    axis.tick_params(labelsize=7)


def cost_ticks(axis: Any, table: pd.DataFrame, zero: float) -> None:
    """Set a logarithmic axis with plain numbers, and 0 at its left end where a method needs no forward."""
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    left, right = table["x"].min(), table["x"].max()
    margin = 10 ** (0.05 * max(math.log10(right / left), 0.5))
    axis.set_xlim(left / margin, right * margin)
    steps = (1, 2, 5) if right / left < 300 else (1,)
    ticks = [k * 10.0**e for e in range(-4, 8) for k in steps]
    ticks = [t for t in ticks if table.loc[table["cost"] > 0, "x"].min() / margin <= t <= right * margin]
    if (table["cost"] <= 0).any():
        ticks = [zero, *ticks]
    axis.set_xticks(ticks, ["0" if t == zero else f"{t:g}" for t in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def frontier(table: pd.DataFrame, better: str) -> pd.DataFrame:
    """Return the rows that no row of the same or a smaller cost beats."""
    means = table["mean"] if better == "lower" else -table["mean"]
    return table[means <= means.cummin()]


def place_labels(axis: Any, table: pd.DataFrame) -> None:
    """Write the names in a column at the right, in the order of the points, each joined to its point."""
    low, high = axis.get_ylim()
    ordered = table.sort_values("mean", kind="stable")
    heights = spread((ordered["mean"].to_numpy() - low) / (high - low), gap=min(0.038, 1 / max(len(ordered), 1)))
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
    """Move ascending heights in [0,1] until they are `gap` apart and inside (where there is room for all)."""
    values = np.array(heights, dtype=np.float64)
    middle = (pushed_up(values, gap) - pushed_up(-values[::-1], gap)[::-1]) / 2
    inside = pushed_up(np.maximum(middle, 0), gap)
    return -pushed_up(np.maximum(-inside[::-1], -1), gap)[::-1]


def pushed_up(values: Any, gap: float) -> Any:
    """Move ascending values up, each as little as it must to be `gap` above the one before."""
    steps = gap * np.arange(len(values))
    return np.maximum.accumulate(values - steps) + steps


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
    return figure, [figure.add_axes((x / width, 0, columns * STEP / width, rows * STEP / height)) for x in lefts]


def gallery_block(axis: Any, pictures: dict[str, Any], methods: list[str], facts: dict[str, Any], height: int) -> None:
    """Draw one block: the images on top, a row per method below, empty rows at the end."""
    canvas = np.full(((height + 1) * STEP, len(pictures) * STEP, 3), 255, np.uint8)
    for i, method in enumerate([None, *methods]):
        for j, picture in enumerate(pictures.values()):
            canvas[i * STEP + 2 : i * STEP + 2 + TILE, j * STEP + 2 : j * STEP + 2 + TILE] = overlay(picture, method)
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
}
"""The plots of one (subset, model); each returns a figure, or None where the records do not hold what it needs."""

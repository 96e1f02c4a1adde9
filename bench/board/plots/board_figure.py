"""One figure of a board, with chosen methods and values: `board.plot(...)`."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.board.gallery import load_gallery, shrink_gallery
from bench.board.paper_report import find_scope
from bench.board.plots.choices_plot import NOT_MADE, read_grid, sketch_choices
from bench.board.plots.cost_plot import sketch_cost
from bench.board.plots.curves_plot import sketch_curves
from bench.board.plots.figures import encode_figure
from bench.board.plots.gallery_plot import draw_gallery
from bench.board.plots.plot_files import SKETCHES
from bench.board.plots.sketch import Sketch, draw_on_axes, draw_sketch
from bench.board.text import OVERALL
from bench.errors import BenchError, suggestions
from bench.plain_figures import plain_texts, read_no_formulas

if TYPE_CHECKING:
    from bench.board.board import Board

OF_FOLDER = ("choices", "gallery")
"""Kinds whose data lie in the run's folder and not in its records."""
KINDS = (*SKETCHES, *OF_FOLDER)


def draw_board(
    board: Board,
    kind: str = "ranking",
    subset: str | None = None,
    model: str | None = None,
    methods: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
    ax: Any = None,
    run: str | Path | None = None,
) -> Any:
    """Return a figure of a board.

    Args:
        board: The board.
        kind: "ranking", "curves", "cost", "correlation", "stability", "choices" or "gallery".
        subset, model: Which table; by default the overall one, or that of the first model.
            "choices" and "gallery" have none over several models.
        methods: The methods that are drawn; by default all, and for "curves" those that lead,
            `grad_cam`, `random` and one control.
        values: The values that are drawn; by default the ranked ones.
        ax: Axes of matplotlib to draw on, one for each panel: a panel is a value, and
            "correlation" has one in all. By default a new figure is made.
        run: The folder that "choices" and "gallery" are read from.

    Returns:
        A `matplotlib.figure.Figure`. A new one has its statement, an alt text, as its label:
        `figure.get_label()`.

    Raises:
        BenchError: The kind or a name is unknown, the number of axes is wrong, or the records or
            the folder do not hold what the plot needs.

    Example:
        >>> board.plot("curves", methods=["grad_cam", "random"])  # doctest: +SKIP
    """
    if kind not in KINDS:
        raise BenchError(
            f"There is no plot {kind!r}; choose from {', '.join(KINDS)}.{suggestions(kind, KINDS)}"
        )
    chosen, shown = _list_names(methods), _list_names(values)
    narrowed = narrow_board(board, chosen, shown)
    with plain_texts():
        figure = _draw_kind(narrowed, kind, subset, model, chosen, shown, ax, run)
        read_no_formulas(figure)
    return figure


def write_image(board: Board, subset: str, model: str) -> str:
    """Return the ranking of a table as an HTML image with its statement as alt text, or ""."""
    with plain_texts():
        sketch = SKETCHES["ranking"](board, subset, model)
        figure = None if sketch is None else draw_sketch(sketch, board, subset, model)
    if figure is None:
        return ""
    content = base64.b64encode(encode_figure(figure)).decode()
    alt = html.escape(figure.get_label(), quote=True)
    return f'<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{content}">'


def narrow_board(
    board: Board, methods: Sequence[str] | None, values: Sequence[str] | None
) -> Board:
    """Return a board whose frame has only these methods and values; costs stay."""
    frame = board.frame
    for column, word, wanted in (("method", "method", methods), ("metric", "value", values)):
        if wanted is None:
            continue
        known = set(frame[column])
        for name in wanted:
            if name not in known:
                raise BenchError(f"No {word} {name!r} on this board.{suggestions(name, known)}")
        cost = (frame["family"] == "cost") | (frame["metric"] == "forwards")
        frame = frame[frame[column].isin(wanted) | (cost if column == "metric" else False)]
    return dataclasses.replace(board, frame=frame)


def _list_names(names: Sequence[str] | str | None) -> list[str] | None:
    """Return names as a list; a single name is a list of one."""
    return None if names is None else [names] if isinstance(names, str) else list(names)


def _draw_kind(
    board: Board,
    kind: str,
    subset: str | None,
    model: str | None,
    methods: list[str] | None,
    values: list[str] | None,
    ax: Any,
    run: str | Path | None,
) -> Any:
    if kind in OF_FOLDER:
        subset, model = _choose_network(board, subset, model)
    scope = find_scope(board, subset, model)
    if kind == "gallery":
        return _draw_gallery(board, scope, methods, ax, run)
    if kind == "choices":
        sketch = _sketch_grid(board, scope, methods, values, run)
    elif kind == "curves":
        sketch = sketch_curves(board, *scope, methods)
    elif kind == "cost":
        sketch = sketch_cost(board, *scope, tuple(values or ()))
    else:
        sketch = SKETCHES[kind](board, *scope)
    if sketch is None:
        raise BenchError(
            f"The records do not hold what the plot {kind!r} of {', '.join(scope)} needs."
        )
    if ax is None:
        return draw_sketch(sketch, board, *scope)
    return draw_on_axes(sketch, kind, _list_axes(ax))


def _choose_network(board: Board, subset: str | None, model: str | None) -> tuple[str, str]:
    """Return a table of one network: the first that fits."""
    fits = [
        (s, m)
        for s, m in board.scopes
        if m != OVERALL and subset in (None, s) and model in (None, m)
    ]
    return fits[0] if fits else find_scope(board, subset, model)


def _sketch_grid(
    board: Board,
    scope: tuple[str, str],
    methods: list[str] | None,
    values: list[str] | None,
    run: str | Path | None,
) -> Sketch | None:
    """Sketch the ranks under other choices, from the grid in a run's folder."""
    if run is None:
        raise BenchError("Give run=, the folder whose `health/grid.csv` the plot 'choices' draws.")
    grid = read_grid(Path(run))
    if grid is None:
        raise BenchError(NOT_MADE)
    if methods is not None:
        grid = grid[grid["method"].isin(methods)]
    if values is not None:
        grid = grid[grid["value"].isin(values)]
    return sketch_choices(board, grid, *scope)


def _draw_gallery(
    board: Board,
    scope: tuple[str, str],
    methods: list[str] | None,
    ax: Any,
    run: str | Path | None,
) -> Any:
    """Draw the images and maps that a run's folder keeps."""
    if ax is not None:
        raise BenchError("The plot 'gallery' makes its own figure; leave ax out.")
    if run is None:
        raise BenchError("Give run=, the folder whose `gallery/` the plot 'gallery' draws.")
    known = load_gallery(Path(run), sorted(board.provenance["models"]))
    pictures = shrink_gallery(known).get(scope[1])
    if not pictures:
        raise BenchError(f"The folder {run} has no gallery of {scope[1]}.")
    return draw_gallery(board, scope[1], pictures, methods)


def _list_axes(ax: Any) -> list[Any]:
    """Return axes as a list: one, several, or an array of them."""
    flat = getattr(ax, "flat", None)  # an array of `plt.subplots`
    return list(flat) if flat is not None else list(ax) if isinstance(ax, Sequence) else [ax]

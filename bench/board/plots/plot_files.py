"""Plots of a board: one PNG per kind and (subset, model), and one gallery per model.

matplotlib and seaborn are imported here only when something is drawn. Each figure carries its
statement, which is the alt text of its picture, as the figure's label and as "Description" of the
PNG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.board.gallery import Gallery, shrink_gallery
from bench.board.plots.choices_plot import sketch_choices
from bench.board.plots.correlation_plot import sketch_correlation
from bench.board.plots.cost_plot import sketch_cost
from bench.board.plots.curves_plot import sketch_curves
from bench.board.plots.figures import DESCRIPTION, DPI, write_figure
from bench.board.plots.gallery_plot import draw_gallery
from bench.board.plots.ranking_plot import sketch_ranking
from bench.board.plots.sketch import Sketch, draw_sketch
from bench.board.plots.stability_plot import sketch_stability
from bench.board.scope_names import name_galleries, name_scopes
from bench.board.scores import Scores
from bench.plain_figures import plain_texts

Pictures = dict[Path, str]
"""{file of a picture: its statement, which is its alt text}."""

GALLERY_DPI = 100


def write_plots(
    board: Scores, folder: Path, gallery: Gallery | None = None, grid: pd.DataFrame | None = None
) -> Pictures:
    """Draw every plot that the records allow, and the ranks under a grid of protocol choices;
    return the files with their statements.
    """
    with plain_texts():
        return {
            write_plot(figure, folder / f"{name}.png", GALLERY_DPI if is_tiled else DPI): str(
                figure.get_label()
            )
            for name, figure, is_tiled in _draw_plots(board, gallery or {}, grid)
        }


def _draw_plots(
    board: Scores, gallery: Gallery, grid: pd.DataFrame | None
) -> Iterator[tuple[str, Any, bool]]:
    """Yield each plot's name and figure, and whether it is made of tiles."""
    choices = () if grid is None else grid.groupby(["subset", "model"], sort=True)
    rows_of = {(str(subset), str(model)): rows for (subset, model), rows in choices}
    stems = name_scopes(dict.fromkeys([*board.scopes, *rows_of]))
    for scope in board.scopes:
        for kind, make in SKETCHES.items():
            sketch = make(board, *scope)
            if sketch is not None:
                yield f"{kind}--{stems[scope]}", draw_sketch(sketch, board, *scope), False
    for scope, rows in rows_of.items():
        sketch = sketch_choices(board, rows, *scope)
        if sketch is not None:
            yield f"choices--{stems[scope]}", draw_sketch(sketch, board, *scope), False
    names = name_galleries(gallery)
    for model, pictures in shrink_gallery(gallery).items():
        if pictures:
            yield names[model], draw_gallery(board, model, pictures), True


def write_plot(figure: Any, path: Path, dpi: int = DPI) -> Path:
    """Write a figure with its statement, and return its file."""
    write_figure(figure, path, dpi, {DESCRIPTION: str(figure.get_label())})
    return path


SKETCHES: dict[str, Callable[[Scores, str, str], Sketch | None]] = {
    "ranking": sketch_ranking,
    "curves": sketch_curves,
    "correlation": sketch_correlation,
    "cost": sketch_cost,
    "stability": sketch_stability,
}
"""The plots of one (subset, model); each returns a sketch, or None where the records do not hold
what it needs.
"""

"""Plots of a board: one PNG per kind and (subset, model), and one gallery per model.

matplotlib and seaborn are imported here only when something is drawn. A method's name carries the
letter of its fidelity (o official, p paper, r reconstruction, e external, ? not stated); controls
are grey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.board.gallery import Gallery, shrink_gallery
from bench.board.plots.choices_plot import draw_choices
from bench.board.plots.correlation_plot import draw_correlation
from bench.board.plots.cost_plot import draw_cost
from bench.board.plots.critical_plot import draw_critical
from bench.board.plots.curves_plot import draw_curves
from bench.board.plots.figures import DPI, write_figure
from bench.board.plots.gallery_plot import draw_gallery
from bench.board.plots.ranking_plot import draw_ranking
from bench.board.plots.stability_plot import draw_stability
from bench.board.scope_names import name_galleries, name_scopes
from bench.board.scores import Scores
from bench.plain_figures import plain_texts
from bench.work_stages import track


def write_plots(
    board: Scores, folder: Path, gallery: Gallery | None = None, grid: pd.DataFrame | None = None
) -> list[Path]:
    """Draw every plot that the records allow, and the ranks under a grid of protocol choices;
    return the files.
    """
    with plain_texts():
        return list(_draw_plots(board, folder, gallery, grid))


def _draw_plots(
    board: Scores, folder: Path, gallery: Gallery | None, grid: pd.DataFrame | None
) -> Iterator[Path]:
    """Draw each plot and yield its file."""
    choices = () if grid is None else grid.groupby(["subset", "model"], sort=True)
    rows_of = {(str(subset), str(model)): rows for (subset, model), rows in choices}
    stems = name_scopes(dict.fromkeys([*board.scopes, *rows_of]))
    kinds = [(scope, kind) for scope in board.scopes for kind in PLOTS]
    for (subset, model), kind in track(kinds, "Drawing plots"):
        figure = PLOTS[kind](board, subset, model)
        if figure is not None:
            yield write_plot(figure, folder / f"{kind}--{stems[subset, model]}.png")
    for key, rows in rows_of.items():
        figure = draw_choices(board, rows, *key)
        if figure is not None:
            yield write_plot(figure, folder / f"choices--{stems[key]}.png")
    names = name_galleries(gallery or {})
    for model, pictures in track([*shrink_gallery(gallery or {}).items()], "Drawing galleries"):
        if pictures:
            yield write_plot(
                draw_gallery(board, model, pictures), folder / f"{names[model]}.png", dpi=100
            )


def write_plot(figure: Any, path: Path, dpi: int = DPI) -> Path:
    """Write a figure and return its file."""
    write_figure(figure, path, dpi)
    return path


PLOTS: dict[str, Callable[[Scores, str, str], Any]] = {
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

"""What a plot shows, before it has a figure: panels, words, and the statement of its alt text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.board.plots.figures import make_figure_grid
from bench.board.scores import Scores
from bench.board.text import OVERALL, describe_protocol, model_label
from bench.errors import BenchError

TITLE_SIZE = 8
LETTERS_PER_INCH = 16.5
"""Letters of the title's size that fit one inch."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above the panel.
        draw: Draws on axes of matplotlib.
    """

    title: str
    draw: Callable[[Any], None]


@dataclass(frozen=True)
class Sketch:
    """A plot of one (subset, model).

    Attributes:
        panels: In reading order.
        columns: Panels in a row.
        size: Width and height of a panel in inches, without room for names.
        question: The first line of the figure.
        note: How to read it.
        statement: What it shows, for its alt text.
        names: Inches at the left of each row for names that its panels share; None: each panel
            has its own.
        legend: Entries below the panels.
        where: What the plot is of, and its n; by default those of the table.
    """

    panels: Sequence[Panel]
    columns: int
    size: tuple[float, float]
    question: str
    note: str
    statement: str
    names: float | None = None
    legend: Sequence[Any] = field(default=())
    where: str = ""


def describe_scope(board: Scores, subset: str, model: str) -> str:
    """Return what a table is of, and its n: "scenes-val, mean over the networks, n = 36"."""
    items = board.select(subset=subset, model=model)["expected"].max()
    shown = model_label(board.provenance["models"], model)
    where = "mean over the networks" if model == OVERALL else shown
    return f"{subset}, {where}, n = {items}"


def draw_sketch(sketch: Sketch, board: Scores, subset: str, model: str) -> Any:
    """Return the figure of a sketch; its label (`figure.get_label()`) is the statement."""
    rows = math.ceil(len(sketch.panels) / sketch.columns)
    width, height = sketch.size
    shared = sketch.names is not None
    figure, axes = make_figure_grid(rows, sketch.columns, width, height)
    figure.set_figwidth(max(sketch.columns * width + (sketch.names or 0), 6.2))
    for place, axis in enumerate(axes.flat):
        if place >= len(sketch.panels):
            axis.set_axis_off()
            continue
        _draw_panel(axis, sketch.panels[place])
        if shared and place % sketch.columns:
            axis.tick_params(axis="y", labelleft=False, length=0)
    if sketch.legend:
        figure.legend(
            handles=list(sketch.legend),
            loc="outside lower left",
            ncols=max(1, int(figure.get_figwidth() / 1.5)),
            fontsize=7,
            frameon=False,
            handlelength=1.4,
            columnspacing=1.2,
        )
    figure.suptitle(_write_title(sketch, board, subset, model, figure), fontsize=TITLE_SIZE)
    figure._suptitle.set(x=0.01, ha="left")
    figure.set_label(sketch.statement)
    return figure


def draw_on_axes(sketch: Sketch, kind: str, axes: Sequence[Any]) -> Any:
    """Draw the panels of a sketch on axes of the caller, and return their figure.

    Raises:
        BenchError: There are more or fewer axes than panels.
    """
    if len(axes) != len(sketch.panels):
        names = ", ".join(panel.title for panel in sketch.panels)
        raise BenchError(
            f"The plot {kind!r} needs {len(sketch.panels)} axes ({names}), and {len(axes)} were "
            "given."
        )
    for axis, panel in zip(axes, sketch.panels, strict=True):
        _draw_panel(axis, panel)
    return axes[0].figure


def _draw_panel(axis: Any, panel: Panel) -> None:
    panel.draw(axis)
    axis.set_title(panel.title, fontsize=9, loc="left")


def _write_title(sketch: Sketch, board: Scores, subset: str, model: str, figure: Any) -> str:
    protocol = describe_protocol(board.provenance, model)
    width = int(figure.get_figwidth() * LETTERS_PER_INCH)
    where = sketch.where or describe_scope(board, subset, model)
    lines = (sketch.question, f"{where}, {protocol}", sketch.note)
    return "\n".join(textwrap.fill(line, width) for line in lines if line)

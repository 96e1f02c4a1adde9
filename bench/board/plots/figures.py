"""Figures: colours, sizes and titles that all plots share, and how a figure becomes a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from bench.board.scores import Scores
from bench.board.text import describe_protocol, model_label
from bench.files import replaced_file
from bench.plain_figures import plain_texts, read_no_formulas

DPI = 150
COLOURS = {
    "official": "#1b6ca8",
    "paper": "#2a9d5c",
    "reconstruction": "#d2691e",
    "external": "#7b4ab5",
}
GREY, INK = "#8a8a8a", "#222222"

LEGEND = "·o official   ·p paper   ·r reconstruction   ·e external   ·? not stated   grey: control"
MIN_METHODS = 4
"""Methods below which a rank correlation says nothing."""


def write_figure(
    figure: Any, path: Path, dpi: int = DPI, texts: Mapping[str, str] | None = None
) -> None:
    """Save a figure as a PNG of 256 colours without metadata: a third of the bytes, and the same
    bytes each time.

    texts: {key: text} that the file carries.
    """
    content = PngImagePlugin.PngInfo()
    for key, text in (texts or {}).items():
        content.add_text(key, text)
    buffer = io.BytesIO()
    read_no_formulas(figure)
    with plain_texts():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(buffer) as image:
        reduced = image.convert("RGB").quantize(
            256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
    with replaced_file(path) as temporary:
        reduced.save(temporary, format="PNG", optimize=True, pnginfo=content)


def make_figure_grid(
    rows: int, columns: int, width: float, height: float, sharey: Any = False
) -> tuple[Any, Any]:
    """Return a figure of `rows` x `columns` panels, each `width` x `height` inches."""
    import seaborn as sns

    # A smaller figure would cut the title.
    figure = make_figure(max(columns * width, 6.2), max(rows * height, 2.6), layout="constrained")
    with sns.axes_style("whitegrid", {"grid.color": "#e6e6e6", "axes.edgecolor": "#bbbbbb"}):
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, axes


def make_figure(width: float, height: float, **more: Any) -> Any:
    """Return a figure of this many inches that needs no display and leaves the caller's backend
    alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **more)
    FigureCanvasAgg(figure)
    return figure


def write_title(
    figure: Any, board: Scores, subset: str, model: str, what: str, note: str = LEGEND
) -> None:
    """Write what a figure shows, on what, and the legend of the letters."""
    items = board.select(subset=subset, model=model)["expected"].max()
    protocol = describe_protocol(board.provenance, model)
    shown = model_label(board.provenance["models"], model)
    figure.suptitle(
        f"{what}\n{subset}, {shown}, n = {items}, {protocol}\n{note}", fontsize=8, x=0.01, ha="left"
    )


def choose_colour(row: dict[str, Any]) -> str:
    """Return the colour of a method: grey for a control, else by its fidelity."""
    return GREY if row["control"] else COLOURS.get(str(row["fidelity"]), INK)


def choose_ink(row: dict[str, Any]) -> str:
    """Return the colour of a method's name."""
    return GREY if row["control"] else INK

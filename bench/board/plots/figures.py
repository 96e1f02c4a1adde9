"""Figures: colours, sizes and titles that all plots share, and how a figure becomes a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from bench.files import replaced_file
from bench.plain_figures import plain_texts, read_no_formulas

DPI = 150
GREY, INK = "#8a8a8a", "#222222"

DESCRIPTION = "Description"
"""Key of a PNG's text that holds the statement (PNG specification, section 11.3.4.2)."""
MIN_METHODS = 4
"""Methods below which a rank correlation says nothing."""


def write_figure(
    figure: Any, path: Path, dpi: int = DPI, texts: Mapping[str, str] | None = None
) -> None:
    """Save a figure as a PNG (see `encode_figure`).

    texts: {key: text} that the file carries.
    """
    content = encode_figure(figure, dpi, texts)
    with replaced_file(path) as temporary:
        temporary.write_bytes(content)


def encode_figure(figure: Any, dpi: int = DPI, texts: Mapping[str, str] | None = None) -> bytes:
    """Return a figure as a PNG of 256 colours with no metadata but `texts`: a third of the bytes,
    and the same bytes each time.
    """
    content = PngImagePlugin.PngInfo()
    for key, text in (texts or {}).items():
        content.add_itxt(key, text)
    buffer, packed = io.BytesIO(), io.BytesIO()
    read_no_formulas(figure)
    with plain_texts():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(buffer) as image:
        reduced = image.convert("RGB").quantize(
            256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
    reduced.save(packed, format="PNG", optimize=True, pnginfo=content)
    return packed.getvalue()


def make_figure_grid(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of `rows` x `columns` panels, each `width` x `height` inches."""
    import seaborn as sns

    # A smaller figure would cut the title.
    figure = make_figure(max(columns * width, 6.2), max(rows * height, 2.6), layout="constrained")
    with sns.axes_style("whitegrid", {"grid.color": "#e6e6e6", "axes.edgecolor": "#bbbbbb"}):
        axes = figure.subplots(rows, columns, squeeze=False)
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

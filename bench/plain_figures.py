"""Figures whose texts are plain: a name with `$` is no formula of matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.plain_text import show_controls

LONGEST = 60
"""Characters of a name at the side of a plot."""


@contextmanager
def plain_texts() -> Iterator[None]:
    """Let matplotlib read no formulas in texts that are made in the block.

    A character that its font lacks is drawn as a box, and long names take the room of the plot;
    no warnings of matplotlib say so.
    """
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        for sentence in ("Glyph .* missing from", "constrained_layout not applied"):
            warnings.filterwarnings("ignore", message=sentence)
        yield


def shorten_name(name: str) -> str:
    """Return a name for the side of a plot: its control characters shown, its middle left out.

    >>> len(shorten_name("x" * 300))
    60
    """
    shown = show_controls(name)
    half = LONGEST // 2 - 2
    return shown if len(shown) <= LONGEST else f"{shown[:half]} ... {shown[1 - half :]}"


def read_no_formulas(figure: Any) -> None:
    """Make all texts of a figure plain, before it is drawn.

    Only the numbers of a logarithmic axis are formulas, of matplotlib's own.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, LogFormatter

    own = set[int]()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = axis.get_ticklabels(which="both")  # makes them, as drawing would
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FixedFormatter):
            formatter.seq = [shorten_name(name) for name in formatter.seq]
        if isinstance(formatter, LogFormatter):
            own |= {id(label) for label in labels}
    for text in figure.findobj(Text):
        text.set_parse_math(id(text) in own)
        if (shown := show_controls(text.get_text())) != text.get_text():
            text.set_text(shown)

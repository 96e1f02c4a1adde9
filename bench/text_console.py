"""The console of every command: what is printed is text, whatever names hold.

rich reads `[/red]` as markup, `:smile:` as a sign, and passes escape codes on. Names come from
users, files and strangers, so that none of this is read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from bench.plain_text import show_controls, show_line


class TextConsole(Console):
    """A console of rich that reads no markup, no emoji codes and no control characters.

    Args:
        options: of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of an object, its control characters shown."""
        for segment in super().render(renderable, options):
            if segment.control is None and (shown := show_controls(segment.text)) != segment.text:
                yield Segment(shown, segment.style)
            else:
                yield segment


def make_text(name: object, style: str = "") -> Text:
    """Return a name as a text of one line, which any console prints as it is."""
    return Text(show_line(name), style=style)

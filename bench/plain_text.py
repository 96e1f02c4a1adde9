"""Names as text: characters that steer a terminal or turn a line round are shown, not obeyed."""

from __future__ import annotations

import re

_STEERING = (
    "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f"  # controls but for tab and newline
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line ends and marks of direction
    "\\ud800-\\udfff\ufffe\uffff"  # no characters, which no file can hold
)
_CONTROLS = re.compile(f"[{_STEERING}]")
_LINE_CONTROLS = re.compile(f"[{_STEERING}\\t\\n]")


def show_controls(text: object) -> str:
    r"""Return a text with its control characters written as Python writes them.

    Tabs and newlines stay.

    >>> show_controls("a\x1b[31mb"), show_controls("[/red]")
    ('a\\x1b[31mb', '[/red]')
    """
    return _CONTROLS.sub(_write_character, str(text))


def show_line(text: object) -> str:
    r"""Return a text as one line: tabs and newlines are shown, too.

    >>> show_line("a\nb")
    'a\\nb'
    """
    return _LINE_CONTROLS.sub(_write_character, str(text))


def _write_character(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()

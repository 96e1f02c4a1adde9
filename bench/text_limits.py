"""Limits of texts that name things: no name is longer than a file's, and none holds control signs.

A name of 300 characters, or one with a NUL, otherwise fails deep in a library that opens files.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import BenchError

LONGEST_NAME = 255
"""Most bytes of one name, as most file systems have it."""

LONGEST_TEXT = 100_000
"""Most characters of a list of names."""


def check_text(where: str, text: str | Path) -> None:
    """Refuse a text that can name nothing.

    Args:
        where: what holds the text, as the start of a sentence: "Option --subset".
        text: a name, a path, or a list of these.

    Raises:
        BenchError: the text holds a control character, or a name in it is too long.
    """
    whole = str(text)
    control = next((sign for sign in whole if ord(sign) < 32 and sign not in "\t\n"), None)
    if control is not None:
        raise BenchError(f"{where} holds the control character {control!r}; leave it out.")
    if len(whole) > LONGEST_TEXT:
        raise BenchError(f"{where} has {len(whole):,} characters; at most {LONGEST_TEXT:,} fit.")
    parts = re.split(r"[/\\,=\s\[\]():]", whole)
    longest = max(parts, key=len)
    if len(longest.encode(errors="surrogateescape")) > LONGEST_NAME:
        raise BenchError(
            f"{where} holds a name of {len(longest):,} characters ({longest[:20]}...); at most "
            f"{LONGEST_NAME} fit."
        )


def is_file(text: str | Path) -> bool:
    """Return whether a text is the path of a file; one that can be no path is none."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, no rights, a NUL
        return False

"""Streams that never end a command: plain signs where an encoding lacks ours, and no reader needed.

A redirected stream on Windows is cp1252, and one of a bare CI is ASCII. An arrow of a table must
not end a run whose work is done. Where an encoding has no sign for a character, a plain one is
written. Where nobody reads any more (a closed stream, `| head`), the rest is dropped, so that the
exit code is that of the work.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from pathlib import Path
from typing import TextIO

ERRORS = "cambench_plain"
"""Name of the error handler that `write_plain` is registered under."""

PLAIN = {
    "↓": "v",
    "↑": "^",
    "←": "<-",
    "→": "->",
    "↔": "<->",
    "⇒": "=>",
    "–": "-",
    "—": "-",
    "−": "-",
    "‐": "-",
    "…": "...",
    "·": "*",
    "•": "*",
    "†": "+",
    "‡": "++",
    "✓": "ok",
    "✔": "ok",
    "✗": "x",
    "✘": "x",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "±": "+-",
    "∞": "inf",
    "°": " deg",
    "α": "alpha",
    "λ": "lambda",
    "σ": "sigma",
    "τ": "tau",
    "µ": "u",
    "μ": "u",
    "“": '"',
    "”": '"',
    "„": '"',
    "‘": "'",
    "’": "'",
    "«": '"',
    "»": '"',
    "ß": "ss",
    "æ": "ae",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
}
"""What stands for a character that an encoding lacks."""

BOX = {"─━═╌┄╴╶╸╺╼╾": "-", "│┃║╎┆╵╷╹╻": "|", "█▉▊▋▌▍▎▏▀▄■": "#", "░▒▓": "."}
"""What stands for the lines and blocks of tables and bars."""

SIGNS = {**PLAIN, **{sign: plain for signs, plain in BOX.items() for sign in signs}}


def write_plain(error: UnicodeError) -> tuple[str, int]:
    """Return what is written for characters that an encoding lacks, as an error handler of codecs.

    Args:
        error: The error of an encoder.

    Returns:
        Plain text, which every encoding has, and where to go on.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(choose_plain, error.object[error.start : error.end])), error.end


def choose_plain(character: str) -> str:
    """Return a plain sign for a character.

    >>> choose_plain("↓"), choose_plain("é"), choose_plain("╭"), choose_plain("漢")
    ('v', 'e', '+', '?')
    """
    if character in SIGNS:
        return SIGNS[character]
    if "\u2500" <= character <= "\u257f":  # corners and crossings of tables
        return "+"
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or ("" if unicodedata.combining(character) else "?")


codecs.register_error(ERRORS, write_plain)


class PlainStream(io.TextIOWrapper):
    """A text stream of a command: plain signs, and a reader that leaves is no error.

    A full disk must not end the work that is reported. The rest is dropped, and `failure` holds
    the error, which the end of the command reports.
    """

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write a text, or drop it where nobody reads."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush what is written, or drop it where nobody reads."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.failure = error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def prepare_streams() -> None:
    """Make the standard streams of this process plain; one that is closed writes nowhere."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            plain: TextIO = open_nowhere(number)
        elif type(stream) is io.TextIOWrapper:
            encoding, lines = stream.encoding, stream.line_buffering
            plain = PlainStream(stream.detach(), encoding, ERRORS, line_buffering=lines)
        else:  # of a notebook or a test, which takes what it takes
            continue
        setattr(sys, name, plain)
        setattr(sys, f"__{name}__", plain)


def open_nowhere(number: int) -> TextIO:
    """Return a stream to nowhere, at the number of a closed standard stream where that is free.

    A file that is opened later must not get that number: libraries print to it.
    """
    with contextlib.suppress(OSError):
        os.fstat(number)
        return Path(os.devnull).open("w", encoding="utf-8")  # somebody has the number already
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    return open(number, "w", encoding="utf-8", closefd=False)


class PlainFile:
    """A stream of somebody else's, for a library's prints: what it lacks is written plainly.

    Args:
        stream: The stream that is written to; it stays as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text in the signs that the stream has."""
        encoding = self._stream.encoding or "utf-8"
        return self._stream.write(text.encode(encoding, ERRORS).decode(encoding))

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

"""What every option's value must be, whichever command reads it: checked in one place.

A text names something that can exist, a number is finite and fits 64 bits, a device computes here.
What one option needs beyond that stands in its own declaration (`min=`, `max=`).
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from bench.errors import BenchError
from bench.text_limits import check_text

MOST = 2**63 - 1
"""The largest whole number of an option, as libraries and files hold it."""


EMPTY_MEANS_NONE = "--methods"
"""The option that an empty text gives a meaning: `cambench score --methods ''`."""


def check_words(words: Sequence[str]) -> None:
    """Refuse an empty word of the command line: a variable of the shell that is not set.

    Raises:
        BenchError: a word, or what follows the sign of equality of an option, is empty.
    """
    for before, word in zip(("", *words), words, strict=False):
        if EMPTY_MEANS_NONE in (before, word[:-1]):
            continue
        if word == "":
            place = f"after {before} " if before.startswith("-") else ""
            raise BenchError(f"The value {place}is empty; give one, or leave the option out.")
        if re.fullmatch(r"--[\w-]+=", word):
            raise BenchError(f"The value of {word[:-1]} is empty; give one, or leave it out.")


def check_options(parameters: Iterable[inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Refuse a value that no command can use.

    Args:
        parameters: the options of a command, as typer gets them.
        given: {name of a parameter: its value}.

    Raises:
        BenchError: one sentence on the first value that is wrong.
    """
    for parameter in parameters:
        values = given.get(parameter.name)
        for value in values if isinstance(values, list | tuple) else [values]:
            check_value(name_option(parameter), value)
    if given.get("device", "cpu") != "cpu":
        from bench.cli.devices import check_device

        check_device(given["device"])


def check_value(where: str, value: Any) -> None:
    """Refuse a text that names nothing, and a number that is infinite, none or too long."""
    if isinstance(value, str | Path) and not isinstance(value, Enum):
        check_text(where, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BenchError(f"{where} is {value}; give a finite number.")
    elif isinstance(value, int) and abs(value) > MOST:
        raise BenchError(f"{where} is too large a number; give at most {MOST:,}.")


def name_option(parameter: inspect.Parameter) -> str:
    """Return what a user calls an option: `--lambda`, or IMAGE for an argument."""
    for extra in get_args(parameter.annotation)[1:]:
        names = [name for name in getattr(extra, "param_decls", None) or () if name[:2] == "--"]
        if names:
            return str(names[0]).partition("/")[0]
        if type(extra).__name__ == "ArgumentInfo":
            return str(extra.metavar or parameter.name.upper())
    return f"--{parameter.name.replace('_', '-')}"

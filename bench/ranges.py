"""Ranges of numbers: what a parameter of a method or a field of a protocol can be.

A range is declared where the parameter is, `samples: Annotated[int, Range(1, 1_000_000)]`. It is
checked where a method's variant or a protocol is made, and `cambench list` shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`.

    Args:
        least, most: the ends, which belong to the range.
        above, below: whether the lower and the upper end are left out.
        odd: whether a whole number must be odd.

    Example:
        >>> str(Range(0, 1, above=True)), str(Range(1, 10_000)), Range(0, 1).holds(float("nan"))
        ('above 0, at most 1', '1 to 10,000', False)
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    odd: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a number lies in the range; no complex and no infinite one does."""
        if isinstance(value, complex):
            return False
        low = self.least < value if self.above else self.least <= value
        high = value < self.most if self.below else value <= self.most
        return low and high and not (self.odd and value % 2 != 1)

    def check(self, where: str, value: Any) -> None:
        """Refuse a number outside the range.

        Args:
            where: what has the number, as the start of a sentence.
            value: a number.

        Raises:
            BenchError: the number lies outside the range.
        """
        if not self.holds(value):
            raise BenchError(f"{where}: it must be {self}.")

    def __str__(self) -> str:
        low, high = (_write_number(end) for end in (self.least, self.most))
        if self.above or self.below:
            words = f"{'above' if self.above else 'at least'} {low}, "
            words += f"{'below' if self.below else 'at most'} {high}"
        else:
            words = f"{low} to {high}"
        return f"odd, {words}" if self.odd else words


def _write_number(number: float) -> str:
    """Return an end of a range for a reader."""
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def read_number(text: Any, kind: type[int] | type[float]) -> int | float:
    """Return a value as a finite number of a kind; nothing is rounded.

    Raises:
        ValueError: the value is no such number.
    """
    try:
        number = None if isinstance(text, bool | complex) else kind(text)
    except (TypeError, OverflowError):
        number = None
    if number is None or (kind is float and not math.isfinite(number)):
        raise ValueError(text)
    if not isinstance(text, str) and number != text:
        raise ValueError(text)
    return number

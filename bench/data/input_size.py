"""The size of a network's input: one number where it is square, else (height, width)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from bench.errors import BenchError, NotApplicable

Size = int | tuple[int, int]
"""The side of a square, or (height, width) of a rectangle, in pixels."""

MOST_SIDE = 16384
"""The longest side that is taken for a size in pixels and not for a slip."""

_TEXT = re.compile(r"[\[(]?\s*([\d.]+)\s*(?:[x\u00d7X,]\s*([\d.]+)\s*)?[\])]?")


def read_size(value: Any, where: str) -> Size:
    """Return a size as it is kept: an int for a square, else (height, width).

    Args:
        value: A number (224, 224.0), a pair (height, width), or a text: "224", "224x320",
            "224 x 320", "224,320". A pair of equal numbers is a square.
        where: What has this size, to begin the error with.

    Raises:
        BenchError: where the value is none of these, or no number of pixels from 1 to 16384.

    Example:
        >>> read_size("224x320", "size"), read_size([224, 224.0], "size")
        ((224, 320), 224)
    """
    parts: Any = value
    if isinstance(value, str):
        found = _TEXT.fullmatch(value.strip())
        parts = () if found is None else [part for part in found.groups() if part is not None]
    elif not isinstance(value, (list, tuple)):
        parts = [value]
    sides = [_read_side(part) for part in parts]
    if len(sides) not in (1, 2) or None in sides:
        raise BenchError(
            f"{where}: the size {value!r} is no number of pixels from 1 to {MOST_SIDE} and no pair "
            "of them (height, width); give it as 224, [224, 320] or 224x320."
        )
    size: Size = unify([side for side in sides if side is not None])
    return size


def _read_side(value: Any) -> int | None:
    """Return a whole number of pixels, or None where a value is none."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    usable = math.isfinite(number) and number == int(number) and 1 <= number <= MOST_SIDE
    return int(number) if usable else None


def unify(sides: Any) -> Any:
    """Return one or two equal sides as a number, two others as a tuple; a number stays as it is.

    >>> unify([64, 64]), unify([64, 96]), unify(64)
    (64, (64, 96), 64)
    """
    if not isinstance(sides, (list, tuple)):
        return sides
    return sides[0] if len(set(sides)) == 1 else tuple(sides)


def split_size(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def count_pixels(size: Size) -> int:
    """Return height * width of a size."""
    height, width = split_size(size)
    return height * width


def find_side(size: Size) -> float:
    """Return the side of a square of as many pixels; of a square its own side."""
    return size if isinstance(size, int) else math.sqrt(count_pixels(size))


def enlarge(size: Size, share: float, whole: Callable[[float], int] = round) -> Size:
    """Return the size of which `size` is this share, each side by itself, in whole pixels.

    >>> enlarge(224, 0.875), enlarge((64, 96), 0.875)
    (256, (73, 110))
    """
    if isinstance(size, int):
        return whole(size / share)
    height, width = (whole(side / share) for side in size)
    return height, width


def require_square(size: Size, what: str) -> int:
    """Return the side of a square size; `what` cannot be had of another, which is NotApplicable."""
    if isinstance(size, int):
        return size
    raise NotApplicable(
        f"{what} needs a network with a square input, and this one takes {write_size(size)} pixels "
        "(height x width); choose another network."
    )


def write_size(size: Size) -> str:
    """Return a size as text: "224", or "64x96" (height x width)."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))

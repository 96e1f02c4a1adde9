"""How speeds are compared: two calls side by side, pair after pair, in one process; never an absolute time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

PAIRS = 7


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(one: Callable[[], object], two: Callable[[], object], pairs: int = PAIRS) -> list[float]:
    """Return the ratios of seconds, one over two, of pairs run side by side after a warm-up of both."""
    one()
    two()
    return [seconds(one) / seconds(two) for _ in range(pairs)]


def said(ratios: list[float]) -> str:
    """Return the median of ratios with the lowest and the highest."""
    return f"{statistics.median(ratios):.3g} [{min(ratios):.3g}, {max(ratios):.3g}]"

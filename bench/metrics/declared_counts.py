"""Counts of forwards as a metric declares them: a number, or a function of what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from bench.protocol import Protocol


def take_pixels(
    count: Callable[[Protocol, int], int] | Callable[[Protocol], int] | int,
) -> Callable[[Protocol, int], int]:
    """Return a count as a function of the protocol and the pixels, whichever of them it asks
    for.
    """
    if not callable(count):
        return lambda *_: count
    if len(inspect.signature(count).parameters) > 1:
        return count  # type: ignore[return-value]
    return lambda protocol, _: count(protocol)  # type: ignore[call-arg]


def take_protocol(count: Callable[[Protocol], int] | int) -> Callable[[Protocol], int]:
    """Return a count as a function of the protocol."""
    return count if callable(count) else lambda _: count

"""Values that sharpening the map moves: how they are marked, and that nobody ranks by them."""

from __future__ import annotations

from bench.errors import BenchError

PEAKED_MARK = "§"
"""Marks a value that sharpening the map moves, in lists and on boards."""


def refuse_peaked_rank(title: str, ranked: bool, peaked: bool) -> None:
    """Raise BenchError where a value that sharpening moves would be ranked."""
    if ranked and peaked:
        raise BenchError(
            f"Value {title!r}: sharpening the map moves it (peaked), so boards cannot rank by it; "
            "declare ranked=False."
        )

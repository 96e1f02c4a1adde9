"""Markdown tables of the health page."""

from __future__ import annotations

from collections.abc import Iterator


def table(headers: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Yield a Markdown table; numbers are to the right of the first column."""
    yield "| " + " | ".join(headers) + " |"
    yield "|---|" + "---:|" * (len(headers) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""

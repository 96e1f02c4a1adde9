"""What another batch size, number of threads or executor moves in a run's records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

MEASURED = frozenset({"seconds", "peak_memory"})
"""Values that a clock or the system measures."""

KEY = ["model", "part", "method", "metric", "item"]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Move:
    """A value or a vector that moved, and by how much: absolutely, or relatively where it is
    larger than 1.
    """

    method: str
    metric: str
    item: str
    by: float


def find_moves(one: pd.DataFrame, other: pd.DataFrame, least: float = TOLERANCE) -> list[Move]:
    """Return the records that differ by more than `least`, the largest move first.

    Raises:
        AssertionError: one of the frames has a record that the other has not.
    """
    before, after = (frame.set_index(KEY).sort_index() for frame in (one, other))
    assert before.index.is_unique
    assert list(before.index) == list(after.index)
    moves = []
    for key, row, there in zip(before.index, before.itertuples(), after.itertuples(), strict=True):
        by = max(_distance(row.value, there.value), _distance(row.vector, there.vector))
        if by > least and key[3] not in MEASURED:
            moves.append(Move(key[2], key[3], key[4], by))
    return sorted(moves, key=lambda move: -move.by)


def _distance(one: object, other: object) -> float:
    """Return how far two numbers or vectors lie apart; infinity where one is no number."""
    if one is None or other is None:
        return 0.0 if one is other else float("inf")
    a, b = np.atleast_1d(np.asarray(one, float)), np.atleast_1d(np.asarray(other, float))
    if a.shape != b.shape or (np.isfinite(a) != np.isfinite(b)).any():
        return float("inf")
    usual = np.isfinite(a)
    if not usual.any():
        return 0.0
    return float((np.abs(a - b) / np.maximum(1.0, np.abs(a)))[usual].max())

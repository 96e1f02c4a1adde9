"""Ranked values in which a control beats every method: the first line of a board."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from bench.board.measures import CORRECT
from bench.board.text import OVERALL

TRUTH = "oracle"
"""The control that is the ground truth itself: it should win."""


@dataclass(frozen=True)
class ControlWin:
    """A ranked value of one (subset, model) whose best is a control.

    Attributes:
        metric, title: of the value.
        control, method: names of the best control, and of the best method.
        score, best: their values.
    """

    subset: str
    model: str
    metric: str
    title: str
    control: str
    score: float
    method: str
    best: float


def find_control_wins(frame: pd.DataFrame) -> Iterator[ControlWin]:
    """Yield what controls win in a board's frame; the ground truth is none of them here, and a
    control that is only as good as the best method wins nothing.
    """
    ranked = frame[
        frame["rank"].notna() & ~frame["metric"].str.endswith(CORRECT) & (frame["method"] != TRUTH)
    ]
    for key, table in ranked.groupby(["subset", "model", "metric"], sort=True):
        subset, model, metric = map(str, key)
        best = table.sort_values(["rank", "control", "method"]).iloc[0]
        others = table[~table["control"]].sort_values(["rank", "method"])
        if best["control"] and len(others):
            second = others.iloc[0]
            yield ControlWin(
                subset,
                model,
                metric,
                str(best["title"]),
                str(best["method"]),
                float(best["mean"]),
                str(second["method"]),
                float(second["mean"]),
            )


def write_control_wins(frame: pd.DataFrame) -> str:
    """Return the first line of a board, or "" where no control beats all methods."""
    models: dict[tuple[str, str, str, str], list[str]] = {}
    for one in find_control_wins(frame[frame["model"] != OVERALL]):
        key = one.title, one.metric, one.control, one.subset
        models.setdefault(key, []).append(one.model)
    if not models:
        return ""
    found = [
        f"{title} ({metric}): {control} on {subset}, {', '.join(names)}"
        for (title, metric, control, subset), names in models.items()
    ]
    return f"A control beats every method in these ranked values. {'; '.join(found)}."

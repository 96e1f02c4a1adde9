"""Mean curves: of each method, with the bootstrap interval of each point.

They are computed from the curves of every image, or read where a published board keeps no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.board import statistics
from bench.board.cubes import Measure, build_cube
from bench.board.measures import list_measures
from bench.board.scores import list_originals
from bench.board.text import OVERALL
from bench.records.mean_curves import MEAN_CURVES, has_image_curves
from bench.records.store import Records

COLUMNS = ("method", "n", "mean", "low", "high")


def list_curves(measure: Measure, models: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Yield each method's mean curve over these models: method, n, and mean, low and high, [V]."""
    cells = build_cube(measure, models)
    for index, method in enumerate(cells.methods):
        vectors = np.mean([cells.vectors(m, index) for m in range(len(models))], axis=0)
        drawn = statistics.sample_mean(vectors, cells.images, statistics.POOLED_RESAMPLES, seed)
        low, high = drawn.interval()
        n = int(cells.scored[:, index].sum())
        yield dict(zip(COLUMNS, (method, n, drawn.point, low, high), strict=True))


def find_curves(
    measure: Measure, subset: str, model: str, provenance: Mapping[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Return the mean curves of a table, as `list_curves`: computed, or as the board keeps them."""
    if not has_image_curves(provenance):
        key = (subset, model, measure.name)
        return [
            row
            for row in provenance[MEAN_CURVES]
            if (row["subset"], row["model"], row["metric"]) == key
        ]
    models = list_originals(measure.models, dict(provenance)) if model == OVERALL else [model]
    if not models or not set(models) <= set(measure.models):
        return []
    return list(list_curves(measure, models, seed))


def tabulate_steps(curves: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return mean curves as a table: method, n, step, mean, low, high."""
    parts = [
        pd.DataFrame(
            {
                **{name: row[name] for name in COLUMNS[:2]},
                "step": np.arange(len(row["mean"])),
                **{name: row[name] for name in COLUMNS[2:]},
            }
        )
        for row in curves
    ]
    return pd.concat(parts) if parts else pd.DataFrame(columns=[*COLUMNS[:2], "step"])


def average_all(records: Records, seed: int = 0) -> list[dict[str, Any]]:
    """Return the mean curves of every subset, model (and "overall") and curve of records."""
    rows = []
    for subset, frame in records.frame.groupby("subset", sort=True):
        for measure in list_measures(frame, records.provenance):
            if measure.reduce != "curve":
                continue
            originals = list_originals(measure.models, records.provenance)
            for model in [*measure.models, *([OVERALL] if len(originals) > 1 else [])]:
                found = find_curves(measure, str(subset), model, records.provenance, seed)
                place = {"subset": str(subset), "model": model, "metric": measure.name}
                rows += [{**place, **row, **_round_ends(row)} for row in found]
    return rows


def _round_ends(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mean curve and its interval, rounded to 2^-12: no picture shows more."""
    return {
        name: (np.round(np.asarray(row[name], np.float64) * 2**12) / 2**12).tolist()
        for name in COLUMNS[2:]
    }

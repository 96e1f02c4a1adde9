"""Scores of a sample in two precisions, and how far they agree."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.metrics import Value
from bench.records.precision_verdict import IMAGE_BOUND, MEAN_BOUND, TAU_BOUND, Agreement

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# --- scores of the sample, and how they agree


@dataclass(frozen=True)
class Table:
    """One value's scores: values [methods, images] or, of a curve, [methods, images, points]; NaN
    where it has none.
    """

    methods: tuple[str, ...]
    items: tuple[str, ...]
    values: Array


def tabulate_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
    """Return the scores of records by value."""
    found: dict[str, dict[tuple[str, str], Array]] = {}
    for row in rows:
        score = row["value"] if row["vector"] is None else row["vector"]
        found.setdefault(row["metric"], {})[row["method"], row["item"]] = np.asarray(
            score, np.float64
        )
    result = {}
    for name, cells in found.items():
        methods, items = (tuple(dict.fromkeys(key[at] for key in cells)) for at in (0, 1))
        shape = max((cell.shape for cell in cells.values()), key=len)
        values = np.full((len(methods), len(items), *shape), np.nan)
        for (method, item), cell in cells.items():
            values[methods.index(method), items.index(item)] = cell
        result[name] = Table(methods, items, values)
    return result


def measure_agreement(
    metric: str, value: Value, exact: Table, rough: Table | Mapping[str, Any]
) -> Agreement:
    """Return how far one value's scores in bfloat16 agree with those in float32."""
    if not isinstance(rough, Table) or exact.values.shape != rough.values.shape:
        return Agreement(metric, problem="it cannot be scored in bfloat16")
    one, two = exact.values, rough.values
    if (np.isnan(one) != np.isnan(two)).any():
        return Agreement(metric, problem="an image can be scored in one precision only")
    usable = ~np.isnan(one).all(axis=1)
    if not usable.any():
        return Agreement(metric, problem="no image of the sample can be scored")
    scale = measure_scale(value, one)
    before, after = (np.where(usable, _mean(table), 0.0) for table in (one, two))
    means = _relative(np.abs(before - after), scale)
    per_method = means.reshape(len(means), -1).max(axis=1)
    worst = exact.methods[int(per_method.argmax())]
    if one.ndim == 3:  # a curve ranks nothing, and its points are drawn as means
        mean, image, tau = 0.0, float(per_method.max()), 1.0
    else:
        mean, image = (
            float(per_method.max()),
            float(np.nanmax(_relative(np.abs(one - two), scale), initial=0.0)),
        )
        tau = rank_agreement(before[usable], after[usable], MEAN_BOUND * scale)
    problem = _problem(tau, mean, image, worst, exact, one, two)
    return Agreement(metric, scale, tau, _finite(mean), _finite(image), problem)


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _mean(table: Array) -> Array:
    """Return the mean over images of [M,n] or [M,n,P], NaN left out, 0 where there is nothing."""
    count = (~np.isnan(table)).sum(axis=1)
    total: Array = np.nansum(table, axis=1) / np.maximum(count, 1)
    return total


def _relative(differences: Array, scale: float) -> Array:
    """Return differences as shares of a scale; of a scale of 0, any difference is too much."""
    if scale > 0:
        return differences / scale
    return np.where(differences > 0, np.inf, differences)


def measure_scale(value: Value, scores: Array) -> float:
    """Return what differences of a value are measured by: its range, else the spread of its scores
    over images.
    """
    if value.lower is not None and value.upper is not None:
        return float(value.upper - value.lower)
    columns = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1])
    variances = [float(np.nanvar(column)) for column in columns if not np.isnan(column).all()]
    return statistics.fmean(variances) ** 0.5 if variances else 0.0


def _problem(
    tau: float, mean: float, image: float, worst: str, table: Table, one: Array, two: Array
) -> str:
    """Return the first bound that does not hold, in words, or ""."""
    if tau < TAU_BOUND:
        return f"the ranks of the methods agree with tau {tau:.2f} only"
    if mean > MEAN_BOUND:
        return f"the mean of {worst} differs by {mean:.4f}, at most {MEAN_BOUND:g} is allowed"
    if image > IMAGE_BOUND:
        if one.ndim == 3:
            return (
                f"a point of {worst}'s mean curve differs by {image:.3f}, at most {IMAGE_BOUND:g} "
                "is allowed"
            )
        place = np.unravel_index(np.nanargmax(np.abs(one - two)), one.shape)
        where = f"{table.methods[place[0]]} on {table.items[place[1]]}"
        return f"{where} differs by {image:.3f}, at most {IMAGE_BOUND:g} is allowed"
    return ""


def rank_agreement(one: Array, two: Array, tie: float) -> float:
    """Return Kendall's tau-b of the same methods' means; pairs that differ by at most `tie` in
    `one` are tied in both.

    >>> rank_agreement(np.array([0.1, 0.2, 0.2001]), np.array([0.1, 0.2001, 0.2]), 0.002)
    1.0
    >>> rank_agreement(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.1, 0.3]), 0.002)
    0.3333333333333333
    """
    first, second = np.triu_indices(len(one), 1)
    before, after = one[first] - one[second], two[first] - two[second]
    apart = np.abs(before) > tie
    if not apart.any():
        return 1.0
    a, b = np.sign(before[apart]), np.sign(after[apart])
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm else 0.0

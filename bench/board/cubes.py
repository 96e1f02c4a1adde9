"""Cubes: one measure's values of models, items and methods, and their bootstrap samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.board import statistics
from bench.board.statistics import Floats, Labels, Sampled

SCALED = "scaled"
"""Fact of a measure that a factor of its own on each map changes."""


@dataclass(frozen=True)
class Measure:
    """Rows of one named measure and its facts.

    facts: family, title, better, ranked, and reduce: "mean", "std", "pooled_precision" or "curve".
    `SCALED` may stand there.
    rows: columns item, image, model, method, and value (scalars) or vector.
    """

    name: str
    facts: dict[str, Any]
    rows: pd.DataFrame

    @property
    def reduce(self) -> str:
        """Return how images become one number."""
        return str(self.facts["reduce"])

    @property
    def peaked(self) -> bool:
        """Return whether sharpening the maps moves it."""
        return bool(self.facts.get("peaked"))

    @property
    def models(self) -> list[str]:
        """Return the models that have rows, in alphabetical order."""
        return sorted(self.rows["model"].unique())


@dataclass(frozen=True)
class Cube:
    """A measure's values on the items that a table is about.

    methods: K names.  items, images: [n].  values: [models,n,K], float64 with NaN = not scored, or
    vectors (None = not scored).  present: [n,K], whether every model has a row.  scored: [n,K],
    whether every model has a number.
    """

    methods: list[str]
    items: Labels
    images: Labels
    values: npt.NDArray[Any]
    present: npt.NDArray[np.bool_]
    scored: npt.NDArray[np.bool_]

    def vectors(self, model: int, method: int) -> Floats:
        """Return one method's vectors, [n,V]; rows of NaN where the cell is not scored in every
        model.
        """
        cells = [
            v if s else None
            for v, s in zip(self.values[model, :, method], self.scored[:, method], strict=True)
        ]
        return stack(cells)

    def scalars(self) -> Floats:
        """Return the values [models,n,K] with NaN where the cell is not scored in every model."""
        return np.where(self.scored, self.values, np.nan).astype(np.float64)


def stack(cells: Sequence[Any]) -> Floats:
    """Stack vectors [V] into [n,V]; None, a vector with NaN or another length becomes a row of
    NaN.
    """
    width = max((len(v) for v in cells if v is not None), default=1)
    result = np.full((len(cells), width), np.nan)
    for row, vector in zip(result, cells, strict=True):
        if vector is not None and len(vector) == width:
            row[:] = vector
    return result


def is_scored(cell: Any) -> bool:
    """Tell whether a cell holds a number, or a vector without NaN."""
    return cell is not None and bool(np.isfinite(cell).all())


def build_cube(measure: Measure, models: Sequence[str]) -> Cube:
    """Arrange a measure's rows for these models: items that all of them have, methods that all of
    them have.
    """
    rows = measure.rows[measure.rows["model"].isin(models)]
    methods = sorted(find_shared(rows, models, "method"))
    items = np.array(sorted(find_shared(rows, models, "item")), dtype=object)
    rows = rows[rows["item"].isin(items) & rows["method"].isin(methods)]
    vector = measure.reduce in ("curve", "pooled_precision")
    where = (
        pd.Index(models).get_indexer(pd.Index(rows["model"])),
        pd.Index(items).get_indexer(pd.Index(rows["item"])),
        pd.Index(methods).get_indexer(pd.Index(rows["method"])),
    )
    shape = (len(models), len(items), len(methods))
    values = np.full(shape, None if vector else np.nan, dtype=object if vector else np.float64)
    present, scored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    column = rows["vector" if vector else "value"].to_numpy(dtype=object if vector else np.float64)
    values[where], present[where] = column, True
    scored[where] = [is_scored(cell) for cell in column] if vector else np.isfinite(column)
    images = (
        rows.drop_duplicates("item")
        .set_index("item")["image"]
        .reindex(items)
        .to_numpy(dtype=object)
    )
    everywhere = [np.asarray(mask.all(axis=0)) for mask in (present, scored)]
    return Cube(methods, items, images, values, *everywhere)


def share_numbers(measure: Measure, cells: Cube, same: Mapping[str, str]) -> dict[str, str]:
    """Return {method: the first method with its map} of a measure.

    Maps count as the same where they differ by a factor of each map. Where such factors change a
    measure (`SCALED`), only methods with the same numbers are one.
    """
    if not measure.facts.get(SCALED, False):
        return dict(same)
    values = dict(zip(cells.methods, np.moveaxis(cells.scalars(), 2, 0), strict=True))
    return {
        name: first
        for name, first in same.items()
        if first in values and np.array_equal(values[name], values[first], equal_nan=True)
    }


def find_shared(rows: pd.DataFrame, models: Sequence[str], column: str) -> set[str]:
    """Return the entries of a column that every one of these models has."""
    return set.intersection(*(set(rows.loc[rows["model"] == model, column]) for model in models))


def sample(measure: Measure, cells: Cube, resamples: int, seed: int) -> Sampled:
    """Reduce a cube to one number per method with its bootstrap replicates; several models: their
    mean.

    Every model meets the same resamples of images.
    """
    if measure.reduce == "pooled_precision":
        return sample_pooled(cells, min(resamples, statistics.POOLED_RESAMPLES), seed)
    draw = statistics.choose_sampler(measure.reduce, resamples, seed)
    if measure.reduce == "mean":  # linear: the mean over models per item comes first, and once
        return draw(cells.scalars().mean(0), cells.images)
    return average_models([draw(values, cells.images) for values in cells.scalars()])


def sample_pooled(cells: Cube, resamples: int, seed: int) -> Sampled:
    """Reduce histograms: pooled precision per model and method, then the mean over models."""
    results = []
    for model in range(len(cells.values)):
        columns = [
            statistics.sample_pooled(cells.vectors(model, method), cells.images, resamples, seed)
            for method in range(len(cells.methods))
        ]
        results.append(
            Sampled(np.array([p for p, _ in columns]), np.stack([r for _, r in columns], axis=1))
        )
    return average_models(results)


def average_models(results: list[Sampled]) -> Sampled:
    """Return the mean over models of points and replicates."""
    return Sampled(
        np.mean([r.point for r in results], axis=0),
        np.mean([r.replicates for r in results], axis=0),
    )

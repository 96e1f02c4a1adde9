"""The checks as statistics: separations, ties, gaps, agreement of images and of metrics; no network
is run here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import kendalltau, rankdata

from bench.board.cubes import Cube, Measure, build_cube, sample, stack
from bench.board.measures import CORRECT, list_measures
from bench.board.pairs import krippendorff
from bench.board.statistics import RESAMPLES, Floats, Sampled, ranks, sample_difference
from bench.data.input_size import count_pixels, unify
from bench.errors import state_assumption
from bench.metrics.faithfulness import area_under, cuts, features_of
from bench.protocol import Protocol
from bench.records.mean_curves import describe_kept, has_image_curves
from bench.records.store import Records

Bools = npt.NDArray[np.bool_]

SAME = 1e-9
"""Two values of one image that differ by no more than this are a tie."""

ROUNDING = 1e-5
"""Gaps below this are none: forwards packed in another batch differ in the last digits."""

MIN_METHODS = 4
"""Methods below which a rank correlation says nothing."""


@dataclass(frozen=True)
class Separation:
    """How much better one map scores than another on the same images: positive is right, whatever
    the direction.

    first, second: which maps; first must be the better one.  gap: mean over images with its 95 %
    interval.
    """

    first: str
    second: str
    gap: float
    low: float
    high: float
    n: int

    @property
    def holds(self) -> bool:
        """Return whether the whole interval lies on the right side of 0, by more than packing a
        batch can do.
        """
        return self.low > ROUNDING


def sign(better: str) -> int:
    """Return +1 where higher is better and -1 where lower is."""
    return -1 if better == "lower" else 1


def select_directed(records: Records, subset: str) -> list[Measure]:
    """Return a subset's measures that have a better direction; `@correct` halves and what maps cost
    are left out.
    """
    frame = records.frame[records.frame["subset"] == subset]
    found = [
        m
        for m in list_measures(frame, records.provenance)
        if m.facts["better"] != "none" and m.reduce != "curve"
    ]
    return [m for m in found if m.facts["family"] != "cost" and not m.name.endswith(CORRECT)]


def name_judges(planted: Records | None) -> dict[str, Measure]:
    """Return the measures of the planted maps by name; none where there are no planted maps."""
    if planted is None:
        return {}
    subset = str(planted.frame["subset"].iloc[0])
    return {measure.name: measure for measure in select_directed(planted, subset)}


def separation(
    measure: Measure, model: str, first: str, second: str, resamples: int = RESAMPLES, seed: int = 0
) -> Separation | None:
    """Return how far a measure separates two methods on one model; None where one of them has no
    scored item.

    Items that both scored; a bootstrap over images in which both meet the same resamples.
    """
    rows = measure.rows[
        (measure.rows["model"] == model) & measure.rows["method"].isin([first, second])
    ]
    if set(rows["method"]) != {first, second}:
        return None
    cells = build_cube(Measure(measure.name, measure.facts, rows), [model])
    both = cells.scored.all(1)
    if not both.any():
        return None
    cells = Cube(
        cells.methods,
        cells.items[both],
        cells.images[both],
        cells.values[:, both],
        *[cells.scored[both]] * 2,
    )
    drawn = sample(measure, cells, resamples, seed)
    columns = [cells.methods.index(first), cells.methods.index(second)]
    point = drawn.point[[columns[0]]] - drawn.point[[columns[1]]]
    replicates = drawn.replicates[:, [columns[0]]] - drawn.replicates[:, [columns[1]]]
    way = sign(str(measure.facts["better"]))
    low, high = Sampled(way * point, way * replicates).interval()
    return Separation(
        first, second, float(way * point[0]), float(low[0]), float(high[0]), len(set(cells.images))
    )


def distinct(records: Records, model: str) -> set[str]:
    """Return the run's methods without those whose map is another one's on this model."""
    return set(records.provenance["methods"]) - set(
        records.provenance.get("equal", {}).get(model, {})
    )


def is_control(records: Records, method: str) -> bool:
    """Return whether a method of the run is a control."""
    return bool(records.provenance["methods"].get(method, {}).get("control", False))


@dataclass(frozen=True)
class Spread:
    """What the stored values of one measure on one model look like.

    nan: share of cells that could not be scored.  ties: share of (image, pair of methods) with
    equal values.  alpha: Krippendorff's, ordinal: how far the images agree on the order of methods.
    methods: how many are compared.
    """

    nan: float
    ties: float
    alpha: float
    methods: int


def spread(measure: Measure, model: str, kept: set[str]) -> Spread:
    """Return the ties, gaps and agreement of one measure on one model, over the methods in
    `kept`.
    """
    rows = measure.rows[(measure.rows["model"] == model) & measure.rows["method"].isin(kept)]
    if rows.empty:
        return Spread(math.nan, math.nan, math.nan, 0)
    cells = build_cube(Measure(measure.name, measure.facts, rows), [model])
    present = int(cells.present.sum())
    nan = float((cells.present & ~cells.scored).sum() / present) if present else math.nan
    complete = cells.scored.all(0)
    if measure.reduce not in ("mean", "std") or complete.sum() < 2:
        return Spread(nan, math.nan, math.nan, int(complete.sum()))
    values = cells.scalars()[0][:, complete]
    return Spread(nan, tie_share(values), alpha(values), int(complete.sum()))


def tie_share(values: Floats) -> float:
    """Return the share of pairs of methods, image by image, that have equal values: [n,K] without
    NaN.

    >>> tied(np.array([[1.0, 1.0, 2.0]])).__round__(3)
    0.333
    """
    pairs = np.triu_indices(values.shape[1], 1)
    gaps = np.abs(values[:, pairs[0]] - values[:, pairs[1]])
    return float((gaps <= SAME).mean()) if gaps.size else math.nan


def alpha(values: Floats) -> float:
    """Return Krippendorff's alpha of the orders that images [n] give to methods [K], from values
    [n,K].
    """
    return krippendorff(np.apply_along_axis(rankdata, 1, values)) if len(values) > 1 else math.nan


# --- means and ranks of one choice


SCALARS = ["metric", "better", "ranked", "method", "item", "image", "value"]
"""The columns of a table of values."""


def scalars(records: Records, subset: str, model: str) -> pd.DataFrame:
    """Return every stored value with a direction, one row per method and item: the columns of
    `SCALARS`.
    """
    parts = [
        m.rows.loc[m.rows["model"] == model, ["method", "item", "image", "value"]].assign(
            metric=m.name, better=str(m.facts["better"]), ranked=bool(m.facts["ranked"])
        )
        for m in select_directed(records, subset)
        if m.reduce == "mean"
    ]
    return pd.concat(parts, ignore_index=True)[SCALARS] if parts else pd.DataFrame(columns=SCALARS)


def rank_methods(values: pd.DataFrame) -> pd.DataFrame:
    """Return means and ranks of `scalars`: metric, better, method, n, mean, rank.

    A method that misses items of its metric has no rank.
    """
    rows = []
    for key, table in values.groupby(["metric", "better"], sort=True):
        metric, better = map(str, key)
        expected = table["item"].nunique()
        means = table.groupby("method", sort=True)["value"].agg(["count", "mean"]).reset_index()
        means = means.rename(columns={"count": "n"}).assign(metric=metric, better=better)
        complete = means["mean"].where(means["n"] == expected)
        rows.append(means.assign(rank=ranks(complete.to_numpy(dtype=float), better)))
    columns = ["metric", "better", "method", "n", "mean", "rank"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def order_tau(first: pd.Series, second: pd.Series) -> tuple[float, int]:
    """Return Kendall's tau-b of two series of ranks by method, over the methods with both, and how
    many those are.
    """
    both = pd.concat([first, second], axis=1, join="inner").dropna().to_numpy(dtype=float)
    if len(both) < MIN_METHODS or (np.ptp(both, axis=0) == 0).any():
        return math.nan, len(both)
    return float(kendalltau(both[:, 0], both[:, 1]).statistic), len(both)


def agreement(table: pd.DataFrame, left_out: set[str]) -> pd.DataFrame:
    """Return Kendall's tau-b between the orders that metrics give to methods: columns a, b, tau,
    methods.

    table: of `ranked`.  left_out: controls and repeated maps, which would make every pair of
    metrics agree.
    """
    table = table[~table["method"].isin(left_out)]
    orders = {
        str(metric): rows.set_index("method")["rank"]
        for metric, rows in table.groupby("metric", sort=True)
    }
    rows = [(a, b, *order_tau(orders[a], orders[b])) for a in orders for b in orders]
    return pd.DataFrame(rows, columns=["a", "b", "tau", "methods"])


@dataclass(frozen=True)
class Change:
    """One method's values under a choice, less those under its reference; positive is better."""

    gap: float
    low: float
    high: float
    n: int


def change(after: pd.DataFrame, before: pd.DataFrame, better: str, seed: int = 0) -> Change:
    """Return the paired change of one method and metric, over the items that both tables score."""
    both = after.merge(before, on="item", suffixes=("", "_before")).dropna(
        subset=["value", "value_before"]
    )
    if both.empty:
        return Change(math.nan, math.nan, math.nan, 0)
    values, reference = (both[c].to_numpy(dtype=np.float64) for c in ("value", "value_before"))
    way = sign(better)
    drawn = sample_difference(
        way * values, way * reference, both["image"].to_numpy(dtype=object), seed=seed
    )
    low, high = drawn.interval()
    return Change(float(drawn.point[0]), float(low[0]), float(high[0]), len(both))


# --- fewer steps, from stored curves


def coarsen_curves(
    records: Records, subset: str, model: str, protocol: Protocol, fewer: int
) -> pd.DataFrame:
    """Return `scalars` of every area under a stored curve, taken with fewer steps; nothing is run.

    A metric takes part where the area under its curve is its stored value: then the points of the
    coarser curve are among the curve's, exactly (the protocol's steps must be a multiple of
    `fewer`).
    """
    told = records.provenance
    if not has_image_curves(told):
        state_assumption(f"{describe_kept(told)}; the choice of fewer steps is left out.")
        return pd.DataFrame(columns=SCALARS)
    taken = cuts(
        features_of(protocol, count_pixels(unify(told["models"][model]["size"]))), protocol
    )
    stride = protocol.steps // fewer
    frame = records.frame
    frame = frame[
        (frame["subset"] == subset) & (frame["model"] == model) & (frame["part"] == "eval")
    ]
    parts = []
    for name, facts in told["metrics"].items():
        curves, areas = frame[frame["metric"] == f"{name}_curve"], frame[frame["metric"] == name]
        if facts["better"] == "none" or curves.empty or areas.empty:
            continue
        both = areas.drop(columns="vector").merge(
            curves[["item", "method", "vector"]], on=["item", "method"]
        )
        table = torch.from_numpy(stack(list(both["vector"])))
        stored = both["value"].to_numpy(dtype=float)
        if table.shape[1] != len(taken) or not _is_area(table, stored, taken, protocol.curve_area):
            continue
        values = area_under(table[:, ::stride], taken[::stride], protocol.curve_area).numpy()
        parts.append(
            both.assign(
                value=values, metric=name, better=facts["better"], ranked=bool(facts["ranked"])
            )[SCALARS]
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=SCALARS)


def _is_area(curves: torch.Tensor, stored: Floats, taken: list[int], rule: str) -> bool:
    """Return whether stored values are the areas under their curves, but for the rounding of
    published curves.
    """
    areas = area_under(curves, taken, rule).numpy()
    known = np.isfinite(stored) & np.isfinite(areas)
    return bool(known.any() and np.abs(areas - stored)[known].max() <= ROUNDED)


ROUNDED = 1e-4
"""How far an area may lie from its published curve's, which is rounded."""


def pick_spaced(names: Sequence[str], count: int) -> list[str]:
    """Return `count` of the names, evenly spaced from the first to the last, in their order.

    >>> spaced(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    if count >= len(names):
        return list(names)
    places = np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))
    return [names[i] for i in places]


def split_by_method(table: pd.DataFrame, metric: str) -> Iterator[tuple[str, Any]]:
    """Yield (method, its rows) of one metric of `scalars`."""
    for method, rows in table[table["metric"] == metric].groupby("method", sort=True):
        yield str(method), rows

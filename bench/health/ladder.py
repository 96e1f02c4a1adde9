"""The degradation ladder: does a value order maps that get worse?

A map turns into noise in six rungs (`ladder_maps`). On each image, Kendall's tau-b compares the
order of the value with the order of the rungs: 1 says that every step down costs, 0 that the value
does not see the steps, and -1 that it prefers the noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from bench.board.cubes import Cube, Measure, build_cube, sample
from bench.board.statistics import Floats, Labels, sample_mean
from bench.health.checks import ROUNDING, Separation, select_directed, separation, sign
from bench.health.ladder_maps import END, SHARES, STARTS, list_rungs, name_rung
from bench.metrics.base import RELATIVE
from bench.records.store import Records

LEAST_TAU = 0.5
"""Mean tau below which a value does not order."""

BLOCK = 10
"""Images of a block, over which hits are averaged before they are compared."""

MIN_IMAGES, MIN_BLOCKS = 4, 2
"""Images and blocks below which a ladder is not judged."""

DIGITS = 6
"""Digits, of the largest value of a ladder, in which two rungs must differ: packing a batch moves
the next one.
"""

RESAMPLES = 2_000
"""Resamples behind the interval between a start map and noise: there are three to a value."""

IMAGE, IN_BLOCKS = "images", "blocks of 10 images"
"""What a tau is taken on."""


def ladder_tau(values: Floats, better: str = "higher") -> float:
    """Return Kendall's tau-b of a value on the rungs [6] with the order of the rungs.

    1: every rung is worse than the one before. A constant value has 0.

    >>> ladder_tau(np.array([0.9, 0.8, 0.6, 0.5, 0.3, 0.1]))
    1.0
    >>> ladder_tau(np.array([0.9, 0.8, 0.6, 0.5, 0.3, 0.1]), "lower")
    -1.0
    """
    rounded = round_ladder(values)
    if np.ptp(rounded) == 0:
        return 0.0
    # SciPy's 1 is 1 less the last digit.
    return round(float(kendalltau(-np.asarray(SHARES), sign(better) * rounded).statistic), 12)


def round_ladder(values: Floats) -> Floats:
    """Return the values over their largest size, in `DIGITS` digits."""
    largest = float(np.abs(values).max())
    return np.asarray(np.round(values / largest, DIGITS)) if largest > 0 else values


@dataclass(frozen=True)
class Ladder:
    """The ladders of one value on one model.

    Args:
        metric: Name of the measure.
        starts: Methods whose maps were degraded, S of them.
        units: [n], the images, or the blocks of images that hits are averaged over.
        taus: [n,S], Kendall's tau-b of each unit and start map; NaN where a rung has no number.
        constant: [n,S], whether the value is the same on all rungs.
        gaps: By start map, how far the value tells it from noise.
        unit: `IMAGE` or `IN_BLOCKS`.
    """

    metric: str
    starts: tuple[str, ...]
    units: Labels
    taus: Floats
    constant: Floats
    gaps: dict[str, Separation]
    unit: str

    @property
    def told(self) -> tuple[str, ...]:
        """Return the start maps that the value puts above noise, by more than the interval."""
        return tuple(name for name in self.starts if name in self.gaps and self.gaps[name].holds)

    @property
    def is_blind(self) -> bool:
        """Return whether the value is the same on all rungs of all ladders."""
        known = np.isfinite(self.taus)
        return bool(known.any() and self.constant[known].all())

    @property
    def is_reversed(self) -> bool:
        """Return whether the value puts noise above every start map, by more than the interval."""
        return bool(self.gaps) and all(gap.high < -ROUNDING for gap in self.gaps.values())

    def summarise(self) -> LadderResult:
        """Return the mean tau over the start maps that the value tells from noise, and a verdict.

        Where it tells none, the mean is over all start maps. It is judged only where the value is
        blind or reversed: maps that are no better than noise show nothing about a metric.
        """
        chosen = self.told or self.starts
        taus, units = self.pick(chosen)
        known = np.isfinite(taus)
        columns = [self.starts.index(name) for name in chosen]
        drawn = sample_mean(taus[:, None], units)
        low, high = drawn.interval()
        count = len(set(units[known]))
        tau = float(drawn.point[0])
        enough = count >= (MIN_IMAGES if self.unit == IMAGE else MIN_BLOCKS)
        if self.told:
            orders = tau >= LEAST_TAU if enough else None
        else:
            orders = False if enough and (self.is_blind or self.is_reversed) else None
        return LadderResult(
            tau=tau,
            low=float(low[0]),
            high=float(high[0]),
            n=count,
            unit=self.unit,
            ladders=int(known.sum()),
            constant=int(self.constant[:, columns].ravel()[known].sum()),
            told=list(self.told),
            starts=list(self.starts),
            orders=orders,
        )

    def pick(self, starts: Sequence[str]) -> tuple[Floats, Labels]:
        """Return the taus of some start maps, [n*s], and the unit of each."""
        columns = [self.starts.index(name) for name in starts]
        return self.taus[:, columns].ravel(), np.repeat(self.units, len(columns))


@dataclass(frozen=True)
class LadderResult:
    """The mean tau of one value on one model, with its 95 % interval.

    Args:
        tau: Mean over `n` units and the start maps in `told`, or over all where `told` is empty.
        low: Lower end of the bootstrap interval over units.
        high: Upper end.
        n: Images, or blocks of images.
        unit: `IMAGE` or `IN_BLOCKS`.
        ladders: Ladders in the mean.
        constant: Those of them on which the value is constant; each counts as 0.
        told: Start maps that the value puts above noise.
        starts: All start maps.
        orders: Whether the value orders the rungs; None where it is not judged.
    """

    tau: float
    low: float
    high: float
    n: int
    unit: str
    ladders: int
    constant: int
    told: list[str]
    starts: list[str]
    orders: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return dataclasses.asdict(self)


# --- from records to ladders


def read_ladders(records: Records, subset: str, model: str) -> dict[str, Ladder]:
    """Return {measure: its ladders} of the records of `run_ladder`; values without a direction are
    left out.

    Box thresholds are chosen for each rung on the scored images themselves.
    """
    starts = _find_starts(records)
    protocol = {**records.provenance["protocol"], "box_tau_from": "scored"}
    scored = Records(records.frame, {**records.provenance, "protocol": protocol})
    found = (
        read_ladder(measure, model, starts, is_derived(measure.name, records))
        for measure in select_directed(scored, subset)
    )
    return {ladder.metric: ladder for ladder in found if ladder is not None}


def _find_starts(records: Records) -> tuple[str, ...]:
    """Return the start maps of the records of a ladder, those of `STARTS` first."""
    known = set(records.provenance["methods"])
    inside = {name.removeprefix("degraded(").partition(")[")[0] for name in known - {END}}
    return tuple(sorted(inside, key=lambda name: (name not in STARTS, name)))


def is_derived(name: str, records: Records) -> bool:
    """Return whether a measure is made of vectors; an area over the clean probability is not."""
    return name not in records.provenance["metrics"] and not name.endswith(RELATIVE)


def read_ladder(
    measure: Measure, model: str, starts: Sequence[str], derived: bool = False
) -> Ladder | None:
    """Return the ladders of one measure on one model; None where no start map has all its rungs.

    Args:
        measure: The measure, whose methods are the rungs.
        model: The model.
        starts: The methods whose maps were degraded.
        derived: Whether images become numbers only together, as box hits do.
    """
    rows = measure.rows[measure.rows["model"] == model]
    there = set(rows["method"])
    starts = tuple(start for start in starts if there.issuperset(list_rungs(start)))
    if not starts:
        return None
    rungs = list(dict.fromkeys(name for start in starts for name in list_rungs(start)))
    cells = build_cube(
        Measure(measure.name, measure.facts, rows[rows["method"].isin(rungs)]), [model]
    )
    in_blocks = derived or measure.reduce != "mean" or _are_hits(cells)
    tables, units = (_average_blocks if in_blocks else _read_images)(measure, cells)
    better = str(measure.facts["better"])
    where = [[cells.methods.index(name) for name in list_rungs(start)] for start in starts]
    ladders = [[row[columns] for columns in where] for row in tables]
    known = [[bool(np.isfinite(one).all()) for one in row] for row in ladders]
    taus = [
        [ladder_tau(one, better) if k else math.nan for one, k in zip(row, ok, strict=True)]
        for row, ok in zip(ladders, known, strict=True)
    ]
    flat = [
        [k and np.ptp(round_ladder(one)) == 0 for one, k in zip(row, ok, strict=True)]
        for row, ok in zip(ladders, known, strict=True)
    ]
    shape = (len(ladders), len(starts))
    gaps = {
        start: separation(measure, model, name_rung(start, 0), END, RESAMPLES) for start in starts
    }
    return Ladder(
        measure.name,
        starts,
        units,
        np.array(taus, dtype=np.float64).reshape(shape),
        np.array(flat, dtype=np.float64).reshape(shape),
        {start: gap for start, gap in gaps.items() if gap is not None},
        IN_BLOCKS if in_blocks else IMAGE,
    )


def _are_hits(cells: Cube) -> bool:
    """Return whether every value is 0 or 1."""
    values = cells.scalars()
    values = values[np.isfinite(values)]
    return bool(np.isin(values, (0.0, 1.0)).all())


def _read_images(_: Measure, cells: Cube) -> tuple[Floats, Labels]:
    """Return the values [n,K] of each item, and its image [n]."""
    return cells.scalars()[0], cells.images


def _average_blocks(measure: Measure, cells: Cube) -> tuple[Floats, Labels]:
    """Return the values [blocks,K] of each block of images, and its number.

    Items that lack a rung are left out first, and so is the last block where it is not full.
    """
    complete = np.flatnonzero(cells.scored.all(1))
    count = len(complete) // BLOCK
    rows = []
    for index in range(count):
        chosen = complete[index * BLOCK : (index + 1) * BLOCK]
        block = Cube(
            cells.methods,
            cells.items[chosen],
            cells.images[chosen],
            cells.values[:, chosen],
            cells.present[chosen],
            cells.scored[chosen],
        )
        rows.append(sample(measure, block, 1, 0).point)
    names = np.array([f"block {index}" for index in range(count)], dtype=object)
    return np.array(rows, dtype=np.float64).reshape(count, len(cells.methods)), names


# --- two values


@dataclass(frozen=True)
class TauDifference:
    """Mean tau of one value less that of another, on the same images and start maps."""

    first: str
    second: str
    gap: float
    low: float
    high: float
    n: int
    starts: tuple[str, ...]


def compare_ladders(
    first: Ladder, second: Ladder, starts: Sequence[str] | None = None, seed: int = 0
) -> TauDifference:
    """Return the paired difference of mean tau between two values of the same images.

    Args:
        first: Ladders of one value.
        second: Ladders of the other value, taken on the same kind of units.
        starts: Start maps to compare on; default: those that at least one of the values tells from
            noise, or all where there is none.
        seed: Seed of the bootstrap over units.
    """
    shared = [name for name in first.starts if name in second.starts]
    told = [name for name in shared if name in first.told or name in second.told]
    chosen = list(starts) if starts is not None else told or shared
    units = sorted(set(first.units) & set(second.units)) if first.unit == second.unit else []
    tables = []
    for ladder in (first, second):
        place = {unit: row for row, unit in enumerate(ladder.units)}
        columns = [ladder.starts.index(name) for name in chosen]
        tables.append(ladder.taus[[place[unit] for unit in units]][:, columns])
    names = np.repeat(np.array(units, dtype=object), len(chosen))
    gaps = (tables[0] - tables[1]).ravel()
    if not np.isfinite(gaps).any():
        return TauDifference(
            first.metric, second.metric, math.nan, math.nan, math.nan, 0, tuple(chosen)
        )
    drawn = sample_mean(gaps[:, None], names, seed=seed)
    low, high = drawn.interval()
    return TauDifference(
        first.metric,
        second.metric,
        float(drawn.point[0]),
        float(low[0]),
        float(high[0]),
        len(set(names[np.isfinite(gaps)])),
        tuple(chosen),
    )

"""Which methods of a table the images tell apart, and so which ranks they allow.

Two methods differ where three conditions hold. The bootstrap's p is below .05 after Holm's
correction over the pairs of the table. For means, so is Wilcoxon's p. Both point the same way.

The table ranks by means, so the bootstrap tests the mean. A few images can make the mean of
heavy-tailed values; Wilcoxon's test needs no variance to exist. Methods with the same map are one
method here. They cannot be compared, and they do not make the correction harsher.

Every pair is tested at a family-wise level of .05. So a method's possible ranks lie between the
methods that are better and those that are worse. Together these ranges hold all true ranks with
95 % confidence.

References: Klein, Wright and Wieczorek, JRSS C 69, 2020; Mogstad et al., Review of Economic Studies
91, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.board.cubes import Cube, Measure
from bench.board.significance import (
    ALPHA,
    NOISE,
    bootstrap_p,
    effect_sizes,
    holm,
    images_needed,
    standardise,
    wilcoxon_pairs,
)
from bench.board.statistics import Floats, Labels, Sampled, sum_per_image

Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

CHUNK = 8_000_000
"""Differences held at once: bounds the memory where many methods meet many images."""


@dataclass(frozen=True)
class Comparison:
    """The K completely scored methods of one value of a table, pair by pair.

    methods: K names.  images: how many.  drawn: their numbers [K] and replicates [R,K]; methods
    with the same map have those of the first of them.  first: [K], the place of that first method.
    tests: a row per pair of distinct maps: p, p_holm (Wilcoxon, NaN where the number is no mean),
    p_bootstrap, p_bootstrap_holm, effect, n_needed; row -1 stands for the same map.
    place: [K,K], the row of each pair. wins: [K,K], whether the row's method is told to be better
    than the column's. sign: 1 where lower is better, else -1.
    """

    methods: list[str]
    images: int
    drawn: Sampled
    first: Places
    tests: pd.DataFrame
    place: Places
    wins: Bools
    sign: float

    @property
    def same_map(self) -> Bools:
        """Return which methods have the same map, [K,K]."""
        return np.asarray(self.first[:, None] == self.first[None, :])

    @property
    def order(self) -> Places:
        """Return the methods' places from best to worst, those with the same map side by side."""
        # The last digits of a sum say nothing; see `statistics.ranks`.
        return np.lexsort(
            (np.arange(len(self.first)), self.first, np.round(self.sign * self.drawn.point, NOISE))
        )

    @property
    def ranges(self) -> tuple[Places, Places]:
        """Return the best and the worst rank that the data allow each method, [K] each."""
        best = 1 + self.wins.sum(0)
        worst = (
            len(self.methods) - self.wins.sum(1) - (self.same_map.sum(1) - 1)
        )  # methods with the same map share the best of their ranks
        return best, worst

    @property
    def tie_groups(self) -> list[tuple[int, int]]:
        """Return the tie groups as [first, last] places from 1, best first.

        A tie group is a longest run of places without two methods that the images separate. It
        holds at least two distinct maps, and no group lies inside another.
        """
        order = self.order
        apart = (self.wins | self.wins.T)[np.ix_(order, order)]
        barrier = [max((i for i in range(c) if apart[i, c]), default=-1) for c in range(len(order))]
        groups: list[tuple[int, int]] = []
        for start in range(len(order)):
            end = next((c for c in range(start + 1, len(order)) if barrier[c] >= start), len(order))
            inside = bool(groups) and end <= groups[-1][1]
            if not inside and len(set(self.first[order[start:end]].tolist())) > 1:
                groups.append((start + 1, end))
        return groups

    @property
    def images_to_separate(self) -> int:
        """Return the fewest images on which Wilcoxon's exact test could separate one pair after the
        correction.
        """
        distinct = max(len(set(self.first.tolist())), 2)
        return 1 + math.ceil(math.log2(distinct * (distinct - 1) / 2 / ALPHA))


def compare(measure: Measure, cells: Cube, drawn: Sampled, same: Mapping[str, str]) -> Comparison:
    """Compare the completely scored methods of a cube.

    drawn: the sample of all methods of the cube.  same: {method: the first method with its map}.
    """
    columns = np.flatnonzero(cells.scored.all(0))
    methods = [cells.methods[column] for column in columns]
    known = {name: place for place, name in enumerate(methods)}
    first = np.array(
        [known.get(same.get(name, ""), place) for name, place in known.items()], dtype=np.int64
    )
    columns = columns[first] if len(columns) else columns
    numbers = Sampled(drawn.point[columns], drawn.replicates[:, columns])
    values = cells.scalars().mean(0)[:, columns] if measure.reduce == "mean" else None
    images = len(set(cells.images))
    sign = 1.0 if measure.facts["better"] == "lower" else -1.0
    distinct = np.unique(first)
    left, right = (distinct[side] for side in np.triu_indices(len(distinct), 1))
    tests, apart = apply_tests(numbers, values, cells.images, images, left, right)
    place = np.full((len(methods), len(methods)), -1, dtype=np.int64)
    place[left, right] = place[right, left] = np.arange(len(left))
    place = place[np.ix_(first, first)] if len(first) else place
    wins = np.zeros((len(methods), len(methods)), dtype=bool)
    gaps = sign * (numbers.point[right] - numbers.point[left])
    wins[left, right], wins[right, left] = apart & (gaps > 0), apart & (gaps < 0)
    wins = wins[np.ix_(first, first)] if len(first) else wins
    return Comparison(methods, images, numbers, first, tests, place, wins, sign)


def apply_tests(
    drawn: Sampled, values: Floats | None, images: Labels, count: int, left: Places, right: Places
) -> tuple[pd.DataFrame, Bools]:
    """Return the tests of pairs of methods, and which pairs they tell apart.

    values: [n,K], or None where the number is no mean over items: the bootstrap is then the only
    test, and the effect size is that of its t.
    """
    parts = [
        apply_pair_tests(drawn, values, images, count, *pair)
        for pair in split_pairs(drawn, values, left, right)
    ]
    blank = {"p": np.nan, "p_bootstrap": np.nan, "side": 0.0, "effect": np.nan}
    tests = (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=list(blank), dtype=float)
    )
    for name in ("p", "p_bootstrap"):
        p = tests[name].to_numpy(dtype=np.float64)
        tests[f"{name}_holm"] = p if np.isnan(p).any() else holm(p)
    tests["n_needed"] = images_needed(tests["effect"].to_numpy(dtype=np.float64))
    apart = (tests["p_bootstrap_holm"] < ALPHA).to_numpy()
    if values is not None:
        gap = np.sign(drawn.point[left] - drawn.point[right])
        apart = apart & (tests["p_holm"] < ALPHA).to_numpy() & (tests["side"].to_numpy() == gap)
    tests.loc[-1] = np.nan
    return tests.drop(columns="side"), np.asarray(apart, dtype=bool)


def apply_pair_tests(
    drawn: Sampled, values: Floats | None, images: Labels, count: int, left: Places, right: Places
) -> pd.DataFrame:
    """Return p, side, p_bootstrap and effect of some pairs, without correction."""
    gap = drawn.point[left] - drawn.point[right]
    error = np.zeros(len(gap))
    if count > 1:
        error = (drawn.replicates[:, left] - drawn.replicates[:, right]).std(0, ddof=1)
    p_bootstrap = bootstrap_p(gap, error, count)
    if values is None:
        scale = error * math.sqrt(count / max(count - 1, 1)) * math.sqrt(count)
        effect = standardise(gap, scale) if count > 1 else np.full(len(gap), np.nan)
        return pd.DataFrame(
            {"p": np.nan, "p_bootstrap": p_bootstrap, "side": 0.0, "effect": effect}
        )
    differences = values[:, left] - values[:, right]
    p, side = wilcoxon_pairs(sum_per_image(differences, images))
    effect = effect_sizes(differences, images)
    return pd.DataFrame({"p": p, "p_bootstrap": p_bootstrap, "side": side, "effect": effect})


def split_pairs(
    drawn: Sampled, values: Floats | None, left: Places, right: Places
) -> Iterator[tuple[Places, Places]]:
    """Yield the pairs, as many at a time as `CHUNK` allows."""
    longest = max(len(drawn.replicates), 0 if values is None else len(values), 1)
    step = max(1, CHUNK // longest)
    for start in range(0, len(left), step):
        yield left[start : start + step], right[start : start + step]

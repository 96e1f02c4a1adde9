"""Tests of paired differences: Wilcoxon's signed ranks, the bootstrap's t, Holm's correction,
effect size, n needed.

An image is the unit: the items of one image are summed first. Every function takes the differences
of many pairs at once, a pair per column.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.stats import norm, rankdata, t

from bench.board.statistics import Floats, Labels, sum_per_image

ALPHA = 0.05
"""Chance of any false separation among the pairs of a table's value, two-sided."""

POWER = 0.8
"""Chance of separating a pair that `images_needed` asks for."""

EXACT = 50
"""Differences up to which the null distribution is counted out, as in SciPy; here also where some
are tied, for which SciPy permutes (up to 13, a second each) or approximates."""

NOISE = 12
"""Decimals beyond which a difference is rounding: 1 - 2/3 and 1/3 - 0 are the same step."""


def wilcoxon(differences: Floats, images: Labels) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test over images, differences [n] (summed
    within an image).
    """
    return float(wilcoxon_pairs(sum_per_image(differences[:, None], images))[0][0])


def wilcoxon_pairs(sums: Floats) -> tuple[Floats, Floats]:
    """Return two-sided p values of Wilcoxon's signed-rank test, and on which side the ranks lie
    (-1, 0, 1): [P] each.

    sums: [images,P].  Zeros are left out, ties have midranks; up to `EXACT` differences the null
    distribution is exact, above it is normal with the variance of the midranks, as
    scipy.stats.wilcoxon(method="asymptotic").
    """
    sums = np.round(sums, NOISE)
    zero = sums == 0
    ranks = np.where(
        zero, 0.0, rankdata(np.abs(sums), axis=0) - zero.sum(0)
    )  # zeros have the lowest ranks
    plus, total = np.where(sums > 0, ranks, 0.0).sum(0), ranks.sum(0)
    spread = np.sqrt((ranks**2).sum(0)) / 2
    p = np.ones(sums.shape[1])
    live = spread > 0
    p[live] = 2 * norm.sf(np.abs(plus[live] - total[live] / 2) / spread[live])
    for column in np.flatnonzero(live & ((~zero).sum(0) <= EXACT)):
        p[column] = exact_signed_rank(sums[~zero[:, column], column])
    return p, np.sign(plus - total / 2)


def exact_signed_rank(differences: Floats) -> float:
    """Return the exact two-sided p of the signed-rank sum of differences [n], none of them 0; ties
    have midranks.

    >>> exact_signed_rank(np.array([1.0, 2.0, 3.0, -4.0]))  # sums >= 6 or <= 4: 2 * 7/16
    0.875
    """
    ranks = np.rint(2 * rankdata(np.abs(differences))).astype(int)
    below = null_distribution(tuple(np.sort(ranks).tolist()))
    found = int(ranks[differences > 0].sum())
    lesser = min(
        found, int(ranks.sum()) - found
    )  # the distribution is symmetric, and a small tail keeps its digits
    return float(min(1.0, 2 * below[lesser]))


@lru_cache(maxsize=512)
def null_distribution(ranks: tuple[int, ...]) -> Floats:
    """Return the chance that twice the sum of positive midranks is at most s, for s = 0..sum of
    `ranks`.

    It is built rank by rank: each is in or out, at even odds.
    """
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] = (chances[rank:] + chances[: len(chances) - rank]) / 2
        chances[:rank] /= 2
    return np.cumsum(chances)


def bootstrap_p(difference: Floats, error: Floats, images: int) -> Floats:
    """Return two-sided p values of differences [P] from the standard errors of their bootstrap
    replicates [P].

    t = difference / (error * sqrt(m / (m - 1))) with m - 1 degrees of freedom, m images: for a mean
    over images it is the paired t-test, up to the Monte Carlo error. The share of replicates beyond
    0 cannot be used here: it is never below 1 / resamples, which Holm's correction over a few
    hundred pairs lifts above .05, however clear the difference. No p is below 2^(1-m), the smallest
    that any sign test of m images can give: a bootstrap of a handful of images knows too little of
    the tails. NaN with fewer than two images.
    """
    if images < 2:
        return np.full(len(difference), np.nan)
    small = 10.0**-NOISE
    scale = np.where(error > small, error * math.sqrt(images / (images - 1)), small)
    p = 2 * t.sf(np.abs(difference) / scale, images - 1)
    p = np.where(np.abs(difference) <= small, 1.0, np.maximum(p, 2.0 ** (1 - images)))
    return np.asarray(np.where(np.isnan(error), np.nan, p), dtype=np.float64)


def effect_sizes(differences: Floats, images: Labels) -> Floats:
    """Return Cohen's d_z of each pair: mean / standard deviation of the images' differences, [n,P]
    -> [P].

    Images with several items count by their items: with S_i the sum over the n_i items of image i,
    m images and N items in all, image i stands for mean + (S_i - n_i mean) m / N, which is S_i /
    n_i where all n_i are equal. 0 where all differences are 0, infinite where they are all the
    same; NaN with fewer than two images.
    """
    mean = differences.mean(0)
    sizes = sum_per_image(np.ones((len(differences), 1)), images)
    if len(sizes) < 2:
        return np.full(differences.shape[1], np.nan)
    sums = sum_per_image(differences, images)
    sd = ((sums - sizes * mean) * (len(sizes) / len(differences))).std(0, ddof=1)
    return standardise(mean, sd)


def standardise(mean: Floats, sd: Floats) -> Floats:
    """Return mean / sd, with 0 / 0 = 0 and x / 0 infinite; below `NOISE` decimals is 0."""
    mean, sd = np.round(mean, NOISE), np.round(sd, NOISE)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((mean == 0) & (sd == 0), 0.0, mean / sd))


def images_needed(effect: Floats) -> Floats:
    """Return how many images would separate one pair of effect size d_z, at `ALPHA` two-sided with
    `POWER`: [P].

    n = ceil((z_a + z_b)^2 / d_z^2 + z_a^2 / 2) with z_a = 1.9600 and z_b = 0.8416: the normal
    approximation to the paired t-test with Guenther's correction (The American Statistician 35,
    1981), at least 2. For this pair alone: Holm's correction asks for more. Infinite where d_z is
    0.

    >>> # 7.849 / .25 + 1.921 = 33.3; 7.849 / .01 + 1.921 = 786.8
    >>> images_needed(np.array([0.5, -0.1]))
    array([ 34., 787.])
    """
    z_a, z_b = norm.isf(ALPHA / 2), norm.isf(1 - POWER)
    with np.errstate(divide="ignore"):
        exact = (z_a + z_b) ** 2 / effect**2 + z_a**2 / 2
    return np.asarray(np.maximum(np.ceil(exact), 2))


def holm(p: Floats) -> Floats:
    """Return Holm's step-down adjusted p values.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1.0)
    return result

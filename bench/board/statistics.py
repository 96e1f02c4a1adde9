"""Intervals and ranks: a bootstrap over images, shared by every method of a table.

An image is the unit that is resampled: all items of one image (two classes of one picture, say) are
drawn together. A resample is a vector of counts over images, so a resampled mean is a ratio of two
matrix products, and methods that were scored on the same images meet the same resamples, which
makes their differences paired.

Intervals are percentile intervals (Efron & Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.object_]

RESAMPLES = 10_000
"""Resamples behind the interval of a mean or a standard deviation."""

POOLED_RESAMPLES = 1_000
"""Resamples behind the interval of a pooled precision and the band of a curve, whose rows are
vectors.
"""

LEVEL = 0.95
"""Coverage that the intervals aim at."""

CHUNK = 2_000_000
"""Counts drawn at once: bounds the memory for large subsets; part of the random stream, so it is a
constant.
"""


@dataclass(frozen=True)
class Sampled:
    """A statistic of M columns and its bootstrap replicates.

    point: [M].  replicates: [R,M]; row r of every column comes from the same resample of images.
    """

    point: Floats
    replicates: Floats

    def interval(self) -> tuple[Floats, Floats]:
        """Return the lower and upper end of the percentile interval, [M] each; NaN where nothing
        was scored.
        """
        low, high = percentiles(self.replicates, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        missing = np.isnan(self.point)
        return np.where(missing, np.nan, low), np.where(missing, np.nan, high)


def percentiles(replicates: Floats, q: list[float]) -> Floats:
    """Return percentiles per column, [R,M] -> [len(q),M], leaving out NaN replicates; NaN where all
    are NaN.
    """
    result = np.full((len(q), replicates.shape[1]), np.nan)
    # A resample can miss all the scored images of a sparsely scored method; it says nothing about
    # that method.
    valid = ~np.isnan(replicates)
    full = valid.all(0)
    result[:, full] = np.percentile(replicates[:, full], q, axis=0)
    for column in np.flatnonzero(valid.any(0) & ~full):
        result[:, column] = np.percentile(replicates[valid[:, column], column], q)
    return result


def resample_counts(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Floats]:
    """Yield how often each of `n` images is drawn, [rows,n] at a time, `resamples` rows in all."""
    rows = max(1, CHUNK // max(n, 1))
    for index, start in enumerate(range(0, resamples, rows)):
        yield _counts(n, min(rows, resamples - start), index, seed)


@lru_cache(maxsize=12)
def _counts(n: int, rows: int, index: int, seed: int) -> Floats:
    generator = np.random.default_rng([seed, n, index])
    draws = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    counts = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
    counts.setflags(write=False)  # it is shared by every later caller
    return counts


def sum_resamples(table: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return the column sums of each resample: [n,C] -> [R,C]."""
    return np.concatenate(
        [counts @ table for counts in resample_counts(len(table), resamples, seed)]
    )


def sum_per_image(values: Floats, images: Labels) -> Floats:
    """Sum the rows of each image: [N,C] and [N] -> [images,C], in sorted order of the image id."""
    _, codes = np.unique(images.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return np.add.reduceat(values[order], starts, axis=0)


def sample_mean(
    values: Floats, images: Labels, resamples: int = RESAMPLES, seed: int = 0
) -> Sampled:
    """Bootstrap the mean over items of each column.

    values: [N,M], NaN = not scored (left out of that column; the caller shows how many).  images:
    [N], the image of each item.
    """
    scored = ~np.isnan(values)
    table = np.hstack([np.where(scored, values, 0.0), scored])
    total, count = np.split(sum_resamples(sum_per_image(table, images), resamples, seed), 2, axis=1)
    point = divide(*np.split(table.sum(0), 2))
    return Sampled(point, blank_lone_images(scored, images, divide(total, count)))


def sample_std(
    values: Floats, images: Labels, resamples: int = RESAMPLES, seed: int = 0
) -> Sampled:
    """Bootstrap the standard deviation over items (n - 1 in the denominator) of each column; as
    `sample_mean`.
    """
    scored = ~np.isnan(values)
    centre = divide(np.where(scored, values, 0.0).sum(0), scored.sum(0))
    shifted = np.where(scored, values - centre, 0.0)  # sums of squares lose digits far from zero
    table = np.hstack([shifted, shifted**2, scored])
    replicates = deviation(
        *np.split(sum_resamples(sum_per_image(table, images), resamples, seed), 3, axis=1)
    )
    point = deviation(*np.split(table.sum(0), 3))
    return Sampled(point, blank_lone_images(scored, images, replicates))


def sample_pooled(
    histograms: Floats, images: Labels, resamples: int = POOLED_RESAMPLES, seed: int = 0
) -> tuple[float, Floats]:
    """Bootstrap the pooled average precision of one method.

    histograms: [N,2*bins], pixels of the object per bin and then the other pixels; all-NaN rows are
    left out. Returns the statistic and its replicates [R].
    """
    scored = np.asarray(~np.isnan(histograms).any(axis=1))
    counts = np.where(scored[:, None], histograms, 0.0)
    point = pooled_precision(counts.sum(0)[None])[0]
    replicates = pooled_precision(sum_resamples(sum_per_image(counts, images), resamples, seed))
    return float(point), blank_lone_images(scored[:, None], images, replicates[:, None])[:, 0]


def sample_difference(
    mine: Floats, reference: Floats, images: Labels, resamples: int = RESAMPLES, seed: int = 0
) -> Sampled:
    """Bootstrap the mean paired difference mine - reference over the items that both scored; [N]
    each, one column.
    """
    return sample_mean((mine - reference)[:, None], images, resamples, seed)


def blank_lone_images(scored: npt.NDArray[np.bool_], images: Labels, replicates: Floats) -> Floats:
    """Blank the replicates of columns scored on fewer than two images: one image has no
    interval.
    """
    few = np.array([len(set(images[column])) < 2 for column in scored.T], dtype=bool)
    return np.where(few, np.nan, replicates)


def divide(total: Floats, count: npt.NDArray[np.generic]) -> Floats:
    """Divide, with NaN where the count is zero."""
    result: Floats = np.full(np.shape(total), np.nan)
    np.divide(total, count, out=result, where=np.asarray(count) > 0)
    return result


def deviation(total: Floats, squares: Floats, count: Floats) -> Floats:
    """Return the standard deviation from a sum, a sum of squares and a count; NaN below two
    items.
    """
    spread = np.maximum(squares - divide(total**2, count), 0.0)
    return np.asarray(np.sqrt(divide(spread, count - 1)))


def pooled_precision(histograms: Floats) -> Floats:
    """Return the area under precision and recall of pooled histograms, [R,2*bins] -> [R].

    From the highest bin down, area = sum_k (R_k - R_{k-1}) P_k; the pixels of one bin are one group
    (PxAP, Choe et al. 2020). NaN where there is no object pixel.
    """
    positive, negative = np.split(histograms, 2, axis=1)
    hits = np.cumsum(positive[:, ::-1], axis=1)
    taken = hits + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    area = np.asarray((positive[:, ::-1] * precision).sum(axis=1))
    return divide(area, hits[:, -1])


def ranks(scores: Floats, better: str) -> Floats:
    """Rank scores [M] from 1 (best); equal scores share the smallest rank, NaN stays NaN, better
    "none" ranks nothing.

    >>> ranks(np.array([0.3, 0.1, np.nan, 0.1]), "lower").tolist()
    [3.0, 1.0, nan, 1.0]
    """
    result = np.full(len(scores), np.nan)
    if better == "none":
        return result
    valid = ~np.isnan(scores)
    # Sums in another order differ in the last digits; that is no difference between methods.
    rounded = np.round(scores[valid], 12)
    result[valid] = rankdata(rounded if better == "lower" else -rounded, method="min")
    return result


Sampler = Callable[[Floats, Labels], Sampled]


def choose_sampler(kind: str, resamples: int, seed: int) -> Sampler:
    """Return the sampler of scalar columns for a value's `reduce`, "mean" or "std"."""
    return partial({"mean": sample_mean, "std": sample_std}[kind], resamples=resamples, seed=seed)

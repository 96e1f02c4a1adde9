"""Means over items with a standard error over images, and the one-sided tests that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.board.statistics import Floats, Labels

ROUNDING = 1e-9
"""A mean without any spread lies beyond a bound by more than this, or it lies on it."""

LEVELS = 5
"""A value that takes at most so many levels counts hits (pointing: 2; boxes at three IoUs: 4)."""


@dataclass(frozen=True)
class Mean:
    """A mean over items with its standard error over images: the t statistic of any null
    follows.
    """

    point: float
    error: float
    freedom: int

    def p_above(self, null: float) -> float:
        """Return the one-sided p of "the mean is not above `null`"; without any spread it is 0 or
        1.
        """
        if self.error == 0:
            return 0.0 if self.point - null > ROUNDING else 1.0
        return float(stats.t.sf((self.point - null) / self.error, self.freedom))

    def p_below(self, null: float) -> float:
        """Return the one-sided p of "the mean is not below `null`"."""
        return Mean(-self.point, self.error, self.freedom).p_above(-null)

    def bounds(self, level: float) -> tuple[float, float]:
        """Return the lower and the upper bound, each missed with probability `level`."""
        reach = float(stats.t.isf(level, self.freedom)) * self.error
        return self.point - reach, self.point + reach


def mean_over_images(values: Floats, images: Labels) -> Mean:
    """Return the mean over items [N] with its standard error clustered by image.

    With u_g = sum over the items of image g of (value - mean): error^2 = G/(G-1) sum u_g^2 / N^2,
    the paired t test's where each image has one item.

    >>> mean_over_images(np.array([1.0, 2.0, 3.0]), np.array(["a", "b", "c"]))  # sd 1, over sqrt(3)
    Mean(point=2.0, error=0.5773502691896258, freedom=2)
    """
    point = float(values.mean())
    codes = np.unique(images.astype(str), return_inverse=True)[1]
    sums = np.bincount(codes, weights=values - point)
    groups = len(sums)
    if groups < 2:
        return Mean(point, math.nan, 0)
    error = math.sqrt(groups / (groups - 1) * float((sums**2).sum())) / len(values)
    # Equal values leave rounding of their mean, which is no spread.
    return Mean(point, 0.0 if error < 1e-12 * max(1.0, abs(point)) else error, groups - 1)


def mean_difference(old: Floats, new: Floats, images: Labels) -> Mean:
    """Return the mean of new - old [N]; of values with few levels, with one pair up and one down
    added to it.
    """
    levels = np.unique(np.concatenate([old, new]))
    difference = new - old
    if len(levels) > LEVELS or not difference.any():
        return mean_over_images(difference, images)
    reach = levels[-1] - levels[0]
    added = np.array(["\x1fup", "\x1fdown"], dtype=object)
    return mean_over_images(np.append(difference, [reach, -reach]), np.append(images, added))

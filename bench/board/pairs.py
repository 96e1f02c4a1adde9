"""Pairs of methods on the same images, and how far the images agree on an order of methods.

Every pair of a table: the paired difference with its bootstrap interval, and Wilcoxon's signed-rank test on the images
with Holm's correction over the pairs. Krippendorff's alpha is ordinal, with images as raters, methods as units and
midranks as values (Tomsett et al. 2020 use it this way for saliency metrics).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata, wilcoxon

from bench.board.aggregate import Board, originals
from bench.board.measures import Cube, Measure, cube
from bench.board.statistics import Floats, Sampled, per_image, sample_mean
from bench.board.text import OVERALL
from bench.errors import BenchError, suggestions


def pairs(board: Board, metric: str, subset: str, model: str) -> pd.DataFrame:
    """Return every pair of completely scored methods, one row each.

    Columns: a, b, difference (mean of a - b), low, high, p (Wilcoxon), p_holm.  Only for means over items.
    """
    cells = complete(board, metric, subset, model)
    if len(cells.methods) < 2:
        return pd.DataFrame(columns=["a", "b", "difference", "low", "high", "p", "p_holm"])
    values = cells.scalars().mean(0)
    drawn = sample_mean(values, cells.images, board.resamples, board.seed)
    left, right = (np.array(side, dtype=int) for side in zip(*combinations(range(len(cells.methods)), 2), strict=True))
    # Every method here has all items, so the difference of two means is the mean difference, resample by resample.
    gap = Sampled(drawn.point[left] - drawn.point[right], drawn.replicates[:, left] - drawn.replicates[:, right])
    low, high = gap.interval()
    p = np.array([signed_rank(d, cells.images) for d in (values[:, left] - values[:, right]).T])
    names = np.array(cells.methods, dtype=object)
    columns = {"a": names[left], "b": names[right], "difference": gap.point, "low": low, "high": high, "p": p}
    return pd.DataFrame({**columns, "p_holm": holm(p)})


def all_pairs(board: Board, subset: str, model: str) -> pd.DataFrame:
    """Return `pairs` of every ranked mean of a table, under each other; Holm's correction is per metric."""
    names = means(board, subset, model)
    tables = [pairs(board, metric, subset, model).assign(metric=metric) for metric in names]
    tables = [table for table in tables if len(table)]
    columns = ["metric", "a", "b", "difference", "low", "high", "p", "p_holm"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def agreements(board: Board, subset: str, model: str) -> dict[str, float]:
    """Return {metric: Krippendorff's alpha} of every ranked mean of a table."""
    return {metric: agreement(board, metric, subset, model) for metric in means(board, subset, model)}


def means(board: Board, subset: str, model: str) -> list[str]:
    """Return the ranked metrics of a table that are means over items and that at least one method scored completely."""
    rows = board.select(subset=subset, model=model)
    usable = set(rows.loc[(rows["reduce"] == "mean") & rows["rank"].notna(), "metric"])
    return [metric for metric, _ in board.ranked_metrics(subset, model) if metric in usable]


def agreement(board: Board, metric: str, subset: str, model: str) -> float:
    """Return Krippendorff's alpha of the orders that the items give to the completely scored methods."""
    cells = complete(board, metric, subset, model)
    return krippendorff(np.apply_along_axis(rankdata, 1, cells.scalars().mean(0)))


def complete(board: Board, metric: str, subset: str, model: str) -> Cube:
    """Return the cells of a measure, of the methods that every item scores."""
    known = {m.name: m for m in board.measures.get(subset, []) if m.reduce == "mean"}
    if metric not in known:
        raise BenchError(f"No mean of {metric!r} in {subset!r}.{suggestions(metric, known)}")
    measure = known[metric]
    models = originals(measure.models, board.provenance) if model == OVERALL else [model]
    table = board.table(metric, subset, model)
    methods = set(table.loc[table["n"] == table["expected"], "method"])
    rows = measure.rows[measure.rows["method"].isin(methods)]
    return cube(Measure(measure.name, measure.facts, rows), models)


def signed_rank(differences: Floats, images: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test over images (sums over the items of an image)."""
    sums = per_image(differences[:, None], images)[:, 0]
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    return exact_signed_rank(sums) if len(sums) <= EXACT else float(wilcoxon(sums, method="asymptotic").pvalue)


EXACT = 50
"""Differences up to which the null distribution is counted out, as in SciPy; here also where some are tied, for which
SciPy permutes (up to 13, a second each) or approximates."""


def exact_signed_rank(differences: Floats) -> float:
    """Return the exact two-sided p of the signed-rank sum of differences [n], none of them 0; ties have midranks.

    The null distribution of twice the sum of positive midranks is built rank by rank: each is in or out, at even odds.

    >>> exact_signed_rank(np.array([1.0, 2.0, 3.0, -4.0]))  # sums of 6 or more, or of 4 or less: 2 * 7/16
    0.875
    """
    ranks = np.rint(2 * rankdata(np.abs(differences))).astype(int)
    chances = np.zeros(ranks.sum() + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] = (chances[rank:] + chances[: len(chances) - rank]) / 2
        chances[:rank] /= 2
    found = ranks[differences > 0].sum()
    return float(min(1.0, 2 * min(chances[: found + 1].sum(), chances[found:].sum())))


def holm(p: Floats) -> Floats:
    """Return Holm's step-down adjusted p values.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    steps = (len(p) - np.arange(len(p))) * p[order]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def krippendorff(ratings: Floats) -> float:
    """Return the ordinal alpha of ratings [raters,units] without gaps; NaN where every rating is the same.

    1 - observed / expected disagreement, where two values disagree by the square of the number of ratings between
    them, their own counted half (Krippendorff 2011).
    """
    levels, codes = np.unique(ratings, return_inverse=True)
    codes = codes.reshape(ratings.shape)
    per_unit = np.stack([np.bincount(unit, minlength=len(levels)) for unit in codes.T]).astype(np.float64)
    totals = per_unit.sum(0)
    below = np.cumsum(totals) - totals / 2
    distance = (below[:, None] - below[None, :]) ** 2
    raters, n = len(ratings), totals.sum()
    observed = np.einsum("uc,uk,ck->", per_unit, per_unit, distance) / (raters - 1) / n if raters > 1 else np.nan
    expected = np.einsum("c,k,ck->", totals, totals, distance) / (n * (n - 1))
    return float(1 - observed / expected) if expected > 0 else float("nan")

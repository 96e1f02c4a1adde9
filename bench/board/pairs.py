"""Pairs of methods on the same images, and how far the images agree on an order of methods.

Krippendorff's alpha is ordinal, with images as raters, methods as units and midranks as values
(Tomsett et al. 2020 use it this way for saliency metrics).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from bench.board.comparison import Comparison, compare
from bench.board.cubes import Cube, Measure, build_cube, sample
from bench.board.scores import Scores, list_originals
from bench.board.statistics import Floats, Sampled
from bench.board.text import OVERALL
from bench.errors import BenchError, suggestions

COLUMNS = [
    *("a", "b", "difference", "low", "high", "p", "p_holm", "p_bootstrap", "p_bootstrap_holm"),
    *("effect", "images", "n_needed", "same_map", "apart"),
]
"""The columns of `compare_pairs`: a and b are names; difference is a - b with its interval; p is
Wilcoxon's, NaN where the number is no mean; effect is d_z; same_map: the two maps are the same and
nothing is tested; apart: told apart."""


def compare_pairs(board: Scores, metric: str, subset: str, model: str) -> pd.DataFrame:
    """Return every pair of completely scored methods, one row each, with the columns of `COLUMNS`.

    Raises BenchError where fewer than two methods are scored completely, or on fewer than two
    images.
    """
    found = find_comparison(board, metric, subset, model)
    if len(found.methods) < 2 or found.images < 2:
        raise BenchError(
            f"{metric} on {subset}, {model} has {len(found.methods)} completely scored methods on "
            f"{found.images} images; a comparison of pairs needs two of each, so run more of them."
        )
    return tabulate_pairs(found)


def tabulate_pairs(found: Comparison) -> pd.DataFrame:
    """Return the pairs of a comparison as a table."""
    left, right = np.triu_indices(len(found.methods), 1)
    names = np.array(found.methods, dtype=object)
    gap = Sampled(
        found.drawn.point[left] - found.drawn.point[right],
        found.drawn.replicates[:, left] - found.drawn.replicates[:, right],
    )
    low, high = gap.interval()
    columns = {
        "a": names[left],
        "b": names[right],
        "difference": gap.point,
        "low": low,
        "high": high,
    }
    tests = found.tests.loc[found.place[left, right]].reset_index(drop=True)
    same = found.same_map[left, right]
    apart = (found.wins | found.wins.T)[left, right]
    result = pd.concat([pd.DataFrame(columns), tests], axis=1).assign(
        same_map=same, apart=apart, images=found.images
    )
    # Of two distinct maps a's difference to b is that of their firsts, which may stand the other
    # way round.
    return result.assign(effect=np.copysign(result["effect"], result["difference"]))[COLUMNS]


def compare_all_pairs(board: Scores, subset: str, model: str) -> pd.DataFrame:
    """Return `compare_pairs` of every ranked value of a table, under each other.

    Holm's correction is per value.
    """
    found = {
        metric: board.comparisons.get((subset, model, metric))
        for metric, _ in board.list_ranked(subset, model)
    }
    tables = [
        tabulate_pairs(one).assign(metric=metric)
        for metric, one in found.items()
        if one and len(one.methods) > 1 and one.images > 1
    ]
    return (
        pd.concat(tables, ignore_index=True)[["metric", *COLUMNS]]
        if tables
        else pd.DataFrame(columns=["metric", *COLUMNS])
    )


def find_comparison(board: Scores, metric: str, subset: str, model: str) -> Comparison:
    """Return the comparison of a measure in a table: the board's own, or a new one of a value that
    is not ranked.
    """
    known = {m.name: m for m in board.measures.get(subset, []) if m.reduce != "curve"}
    if metric not in known:
        raise BenchError(
            f"No value {metric!r} to compare methods by in {subset!r}.{suggestions(metric, known)}"
        )
    if (subset, model, metric) in board.comparisons:
        return board.comparisons[subset, model, metric]
    measure = known[metric]
    cells = build_cube(measure, list_models(board, measure, model))
    return compare(measure, cells, sample(measure, cells, board.resamples, board.seed), {})


def list_models(board: Scores, measure: Measure, model: str) -> list[str]:
    """Return the models of a table: one, or all originals of the overall table."""
    return list_originals(measure.models, board.provenance) if model == OVERALL else [model]


def agreements(board: Scores, subset: str, model: str) -> dict[str, float]:
    """Return {metric: Krippendorff's alpha} of every ranked mean of a table."""
    return {
        metric: agreement(board, metric, subset, model)
        for metric in list_means(board, subset, model)
    }


def list_means(board: Scores, subset: str, model: str) -> list[str]:
    """Return the ranked metrics of a table that are means over items and that at least one method
    scored completely.
    """
    rows = board.select(subset=subset, model=model)
    usable = set(rows.loc[(rows["reduce"] == "mean") & rows["rank"].notna(), "metric"])
    return [metric for metric, _ in board.list_ranked(subset, model) if metric in usable]


def agreement(board: Scores, metric: str, subset: str, model: str) -> float:
    """Return Krippendorff's alpha of the orders that the items give to the completely scored
    methods.
    """
    cells = select_complete(board, metric, subset, model)
    return krippendorff(np.apply_along_axis(rankdata, 1, cells.scalars().mean(0)))


def select_complete(board: Scores, metric: str, subset: str, model: str) -> Cube:
    """Return the cells of a measure, of the methods that every item scores."""
    known = {m.name: m for m in board.measures.get(subset, []) if m.reduce == "mean"}
    if metric not in known:
        raise BenchError(f"No mean of {metric!r} in {subset!r}.{suggestions(metric, known)}")
    measure = known[metric]
    models = list_models(board, measure, model)
    table = board.table(metric, subset, model)
    methods = set(table.loc[table["n"] == table["expected"], "method"])
    rows = measure.rows[measure.rows["method"].isin(methods)]
    return build_cube(Measure(measure.name, measure.facts, rows), models)


def krippendorff(ratings: Floats) -> float:
    """Return the ordinal alpha of ratings [raters,units] without gaps; NaN where every rating is
    the same.

    1 - observed / expected disagreement, where two values disagree by the square of the number of
    ratings between them, their own counted half (Krippendorff 2011).
    """
    levels, codes = np.unique(ratings, return_inverse=True)
    codes = codes.reshape(ratings.shape)
    per_unit = np.stack([np.bincount(unit, minlength=len(levels)) for unit in codes.T]).astype(
        np.float64
    )
    totals = per_unit.sum(0)
    below = np.cumsum(totals) - totals / 2
    distance = (below[:, None] - below[None, :]) ** 2
    raters, n = len(ratings), totals.sum()
    observed = (
        np.einsum("uc,uk,ck->", per_unit, per_unit, distance) / (raters - 1) / n
        if raters > 1
        else np.nan
    )
    expected = np.einsum("c,k,ck->", totals, totals, distance) / (n * (n - 1))
    return float(1 - observed / expected) if expected > 0 else float("nan")

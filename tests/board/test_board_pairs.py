"""Pairs, Holm's correction and Krippendorff's alpha, against scipy and slow replicas."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.board.board import leaderboard
from bench.board.pairs import agreement, compare_all_pairs, compare_pairs, krippendorff
from bench.board.significance import exact_signed_rank, holm
from bench.errors import BenchError


def slow_alpha(ratings: np.ndarray) -> float:
    """Ordinal alpha from its pairs of ratings, as in Krippendorff's text."""
    values = ratings.ravel()
    levels = sorted(set(values))

    def distance(c: float, k: float) -> float:
        low, high = min(c, k), max(c, k)
        between = sum((values == g).sum() for g in levels if low <= g <= high)
        return (between - ((values == low).sum() + (values == high).sum()) / 2) ** 2

    raters = len(ratings)
    observed = sum(
        distance(unit[i], unit[j]) / (raters - 1)
        for unit in ratings.T
        for i in range(raters)
        for j in range(raters)
        if i != j
    )
    expected = sum(
        distance(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j
    )
    return 1 - (len(values) - 1) * observed / expected


def test_alpha_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    ratings = np.stack([stats.rankdata(rng.integers(0, 4, 5)) for _ in range(6)])
    assert krippendorff(ratings) == pytest.approx(slow_alpha(ratings))


def test_alpha_is_one_for_agreement_and_about_zero_for_chance() -> None:
    assert krippendorff(np.tile(np.arange(4.0), (7, 1))) == pytest.approx(1)
    rng = np.random.default_rng(0)
    assert abs(krippendorff(np.stack([rng.permutation(8) for _ in range(200)]))) < 0.05


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.9])), [0.04, 0.09, 0.09, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])


@given(st.lists(st.integers(-4, 4).filter(bool), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_signed_ranks_are_counted_out_as_scipy_permutes(differences: list[int]) -> None:
    values = np.array(differences, dtype=float)
    assert exact_signed_rank(values) == pytest.approx(stats.wilcoxon(values).pvalue)
    assert exact_signed_rank(values) == pytest.approx(exact_signed_rank(-values))


@pytest.mark.parametrize("n", [14, 33, 50])
def test_signed_ranks_without_ties_are_scipys_exact_ones(n: int) -> None:
    values = np.random.default_rng(n).normal(0.2, 1, n)
    assert exact_signed_rank(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


def test_pairs_agree_with_scipy_and_leave_out_incomplete_methods(toy: SimpleNamespace) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(15), rng.random(15)
    rows = toy.scalars("deletion", {"a": list(a), "b": list(b), "same": list(a), "part": [0.1]})
    board = leaderboard(toy.build(rows), resamples=200)
    table = compare_pairs(board, "deletion", "toy", "net").set_index(["a", "b"])
    assert list(table.index) == [("a", "b"), ("a", "same"), ("b", "same")]
    first = table.loc[("a", "b")]
    assert first["difference"] == pytest.approx((a - b).mean())
    assert first["p"] == pytest.approx(stats.wilcoxon(a - b).pvalue)
    assert first["low"] <= first["difference"] <= first["high"]
    assert table.loc[("a", "same"), "p"] == 1
    assert -1 <= agreement(board, "deletion", "toy", "net") <= 1
    assert list(compare_all_pairs(board, "toy", "net")["metric"].unique()) == ["deletion"]
    with pytest.raises(BenchError, match="Did you mean deletion"):
        compare_pairs(board, "deltion", "toy", "net")

"""Tests of paired differences against SciPy, slow replicas and numbers worked out by hand."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bench.board import significance
from bench.board.statistics import sample_mean

QUICK = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def ids(n: int) -> np.ndarray:
    return np.array([f"i{k:03d}" for k in range(n)], dtype=object)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=90), st.booleans())
@QUICK
def test_columns_of_signed_ranks_are_scipys(values: list[int], shift: bool) -> None:
    """Zeros and ties included: counted out for few differences, the normal approximation for
    many.
    """
    column = np.array(values, dtype=float) + (0.25 if shift else 0)
    p, side = significance.wilcoxon_pairs(np.stack([column, -column], axis=1))
    nonzero = column[column != 0]
    ranks = stats.rankdata(np.abs(nonzero))
    plus, minus = ranks[nonzero > 0].sum(), ranks[nonzero < 0].sum()
    if len(nonzero) > significance.EXACT:
        expected = stats.wilcoxon(column, method="asymptotic").pvalue
    else:
        expected = significance.exact_signed_rank(nonzero) if len(nonzero) else 1.0
    assert p == pytest.approx([expected] * 2)
    assert list(side) == [np.sign(plus - minus), np.sign(minus - plus)]


def test_rounding_does_not_break_ties() -> None:
    """Thirds, as box accuracies have them: 1 - 2/3 is a third, though its last digits say
    otherwise.
    """
    rough = np.array([1 - 2 / 3, 1 / 3, 1 / 3, -1 / 3, 2 / 3, 1 - 2 / 3, -2 / 3])
    clean = np.array([1.0, 1, 1, -1, 2, 1, -2])
    assert len(set(np.abs(rough))) > 2
    found = [significance.wilcoxon_pairs(v[:, None])[0][0] for v in (rough, clean)]
    assert found[0] == found[1]


def test_a_tail_keeps_its_digits() -> None:
    assert significance.exact_signed_rank(np.arange(1.0, 51)) == pytest.approx(2.0**-49, rel=1e-12)
    assert significance.exact_signed_rank(-np.arange(1.0, 51)) == pytest.approx(2.0**-49, rel=1e-12)


@given(st.integers(8, 60), st.floats(-0.6, 0.6), st.integers(0, 10**6))
@QUICK
def test_bootstrap_p_of_a_mean_is_scipys_paired_t_test(n: int, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.normal(shift, 1, size=n)
    drawn = sample_mean(np.stack([a, b], axis=1), ids(n), resamples=4000)
    error = (drawn.replicates[:, 0] - drawn.replicates[:, 1]).std(ddof=1)
    p = significance.bootstrap_p(np.array([drawn.point[0] - drawn.point[1]]), np.array([error]), n)[
        0
    ]
    expected = stats.ttest_rel(a, b)
    # z is off by the Monte Carlo error of a standard deviation, 1 / sqrt(2 * 4000), four times over
    low, high = (2 * stats.t.sf(abs(expected.statistic) * f, n - 1) for f in (1.045, 0.955))
    assert low <= p <= high or p == 2.0 ** (1 - n)


def test_a_clear_difference_survives_holm_over_a_thousand_pairs() -> None:
    """Counts of 10,000 replicates could not: their smallest p is 1e-4, and a thousand of them make
    .1.
    """
    p = significance.bootstrap_p(np.full(1000, 0.1), np.full(1000, 0.01), 200)
    assert significance.holm(p).max() < 1e-10


def test_bootstrap_p_knows_how_little_a_handful_of_images_says() -> None:
    nothing = significance.bootstrap_p(np.array([0.1, 0.0, 1e-16]), np.array([0.0, 0.0, 1e-17]), 5)
    assert nothing.tolist() == [2**-4, 1.0, 1.0]
    assert np.isnan(significance.bootstrap_p(np.array([0.1]), np.array([0.0]), 1)).all()


def test_bootstrap_p_holds_its_level() -> None:
    """Without a difference about 5 % of the p values are below .05, also for skewed values."""
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(2000, 60)) - rng.exponential(size=(2000, 60))
    errors = draws.std(1) / math.sqrt(60)  # what the bootstrap's converges to
    share = (significance.bootstrap_p(draws.mean(1), errors, 60) < 0.05).mean()
    assert 0.03 < share < 0.07


def test_effect_size_by_hand() -> None:
    # differences 1, 2, 3: mean 2, standard deviation 1
    differences = np.array([[1.0, 0, 4, -1], [2, 0, 4, -2], [3, 0, 4, -3]])
    np.testing.assert_array_equal(
        significance.effect_sizes(differences, ids(3)), [2, 0, np.inf, -2]
    )
    assert np.isnan(significance.effect_sizes(differences[:1], ids(1))).all()


@given(st.integers(3, 30), st.integers(0, 10**6))
@QUICK
def test_effect_size_is_that_of_the_paired_t_test(n: int, seed: int) -> None:
    d = np.random.default_rng(seed).normal(0.3, 1, n)
    expected = stats.ttest_1samp(d, 0).statistic / math.sqrt(n)
    assert significance.effect_sizes(d[:, None], ids(n))[0] == pytest.approx(expected)
    twice = significance.effect_sizes(np.repeat(d, 2)[:, None], np.repeat(ids(n), 2))[0]
    assert twice == pytest.approx(expected)  # more items of an image are no more images


def test_effect_size_of_uneven_images_against_the_jackknife() -> None:
    """The standard error of a ratio of sums over images, from leaving each image out."""
    rng = np.random.default_rng(4)
    images = np.repeat(ids(40), rng.integers(1, 4, 40))
    d = rng.normal(2, 1, len(images))
    left_out = np.array([d[images != image].mean() for image in ids(40)])
    error = math.sqrt(39 / 40 * ((left_out - left_out.mean()) ** 2).sum())
    assert significance.effect_sizes(d[:, None], images)[0] == pytest.approx(
        d.mean() / error / math.sqrt(40), rel=0.02
    )


def test_images_needed_by_hand() -> None:
    """(1.959964 + .841621)^2 = 7.848879 and 1.959964^2 / 2 = 1.920729."""
    # d .5: 31.396 + 1.921 = 33.316; d .2: 196.222 + 1.921 = 198.143; d 1: 9.770; d 9: 2.018
    found = significance.images_needed(np.array([0.5, -0.2, 1.0, 9.0, np.inf, 0.0, np.nan]))
    np.testing.assert_array_equal(found, [34, 199, 10, 3, 2, np.inf, np.nan])


@given(st.floats(0.05, 1.2))
@QUICK
def test_images_needed_have_the_power_of_the_noncentral_t(effect: float) -> None:
    n = int(significance.images_needed(np.array([effect]))[0])

    def power(m: int) -> float:
        limit = stats.t.isf(0.025, m - 1)
        return float(
            stats.nct.sf(limit, m - 1, effect * math.sqrt(m))
            + stats.nct.cdf(-limit, m - 1, effect * math.sqrt(m))
        )

    assert power(n + 1) >= 0.8
    assert power(n - 2) < 0.8


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@QUICK
def test_holm_rejects_as_its_definition_does(values: list[float]) -> None:
    p = np.array(values)
    adjusted = significance.holm(p)
    for alpha in (0.01, 0.05, 0.3):
        rejected: set[int] = set()
        for step, index in enumerate(np.argsort(p, kind="stable")):
            if p[index] * (len(p) - step) > alpha:
                break
            rejected.add(int(index))
        assert set(np.flatnonzero(adjusted <= alpha)) == rejected


P_VALUES = st.sampled_from([0.0, 1e-300, 1e-9, 0.01, 0.02, 0.2, 1.0, math.nan]) | st.floats(0, 1)


@given(st.lists(P_VALUES, min_size=1, max_size=40))
@settings(QUICK, max_examples=200)
def test_holm_is_that_of_statsmodels(values: list[float]) -> None:
    """To the bit, ties and NaN included.

    The library's is not used, for it calls gc.collect() each time. That takes .3 s where torch is
    loaded, and one board calls it 300 times.
    """
    p = np.array(values, dtype=np.float64)
    gc.freeze()
    try:
        expected = multipletests(p, method="holm")[1]
    finally:
        gc.unfreeze()
    np.testing.assert_array_equal(significance.holm(p), expected)


def test_holm_of_nothing_is_nothing() -> None:
    assert significance.holm(np.array([])).shape == (0,)


def test_an_unknown_error_is_no_evidence() -> None:
    assert math.isnan(significance.bootstrap_p(np.array([0.5]), np.array([math.nan]), 200)[0])

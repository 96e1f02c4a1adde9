"""The bootstrap against scipy and against a loop over the same resamples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.board import statistics


def ids(n: int) -> np.ndarray:
    return np.array([f"i{k:03d}" for k in range(n)], dtype=object)


def drawn_images(n: int, resamples: int, seed: int) -> list[list[int]]:
    """The resamples as lists of image indices, for the slow replica."""
    counts = np.concatenate(list(statistics.resample_counts(n, resamples, seed)))
    return [list(np.repeat(np.arange(n), row.astype(int))) for row in counts]


def test_resamples_draw_every_image_once_on_average_and_are_seeded() -> None:
    counts = np.concatenate(list(statistics.resample_counts(20, 4000, seed=3)))
    assert counts.shape == (4000, 20)
    assert (counts.sum(1) == 20).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.07)
    again = np.concatenate(list(statistics.resample_counts(20, 4000, seed=3)))
    other = np.concatenate(list(statistics.resample_counts(20, 4000, seed=4)))
    assert (counts == again).all()
    assert not (counts == other).all()


def test_chunks_cover_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 70)
    assert [len(c) for c in statistics.resample_counts(10, 25)] == [7, 7, 7, 4]


@pytest.mark.parametrize(
    ("sampler", "statistic"),
    [
        (statistics.sample_mean, np.mean),
        (statistics.sample_std, lambda x, axis: np.std(x, axis=axis, ddof=1)),
    ],
)
def test_interval_agrees_with_scipy(sampler, statistic) -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    low, high = sampler(values[:, None], ids(60)).interval()
    found = stats.bootstrap(
        (values,), statistic, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = found.high - found.low
    assert low[0] == pytest.approx(found.low, abs=0.04 * width)  # two Monte Carlo draws of 10,000
    assert high[0] == pytest.approx(found.high, abs=0.04 * width)


@pytest.mark.parametrize(
    ("sampler", "ddof"), [(statistics.sample_mean, None), (statistics.sample_std, 1)]
)
def test_clusters_and_missing_values_against_a_slow_replica(sampler, ddof) -> None:
    rng = np.random.default_rng(5)
    images = np.array([f"i{k}" for k in (0, 0, 1, 2, 2, 2, 3, 4, 4, 5)], dtype=object)
    values = rng.normal(3, 1, size=(10, 2))
    values[[1, 7], 1] = np.nan
    sampled = sampler(values, images, resamples=60, seed=9)
    for column in range(2):
        for replicate, picked in enumerate(drawn_images(6, 60, 9)):
            rows = [
                values[i, column] for image in picked for i in range(10) if images[i] == f"i{image}"
            ]
            rows = [v for v in rows if not np.isnan(v)]
            slow = np.mean(rows) if ddof is None else np.std(rows, ddof=ddof)
            assert sampled.replicates[replicate, column] == pytest.approx(slow, abs=1e-10)


def test_clustering_by_image_widens_the_interval_of_repeated_items() -> None:
    values = np.random.default_rng(0).normal(size=30)
    single = statistics.sample_mean(values[:, None], ids(30))
    twice = statistics.sample_mean(np.repeat(values, 2)[:, None], np.repeat(ids(30), 2))
    np.testing.assert_allclose(single.interval(), twice.interval(), atol=1e-12)


def test_golden_interval_of_two_images() -> None:
    # Two images, 0 and 1: the resampled mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    low, high = statistics.sample_mean(np.array([[0.0], [1.0]]), ids(2)).interval()
    assert (low[0], high[0]) == (0.0, 1.0)


def test_one_image_and_no_image_have_no_interval() -> None:
    values = np.array([[0.3, np.nan], [np.nan, np.nan]])
    sampled = statistics.sample_mean(values, ids(2), resamples=50)
    np.testing.assert_array_equal(sampled.point, [0.3, np.nan])
    assert np.isnan(sampled.interval()).all()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12),
    st.floats(-3, 3),
    st.floats(0.1, 4),
)
def test_interval_moves_and_scales_with_the_values(
    values: list[float], shift: float, scale: float
) -> None:
    column = np.array(values)[:, None]
    images = ids(len(values))
    base = statistics.sample_mean(column, images, resamples=200)
    moved = statistics.sample_mean(scale * column + shift, images, resamples=200)
    np.testing.assert_allclose(
        moved.interval(), scale * np.array(base.interval()) + shift, atol=1e-9
    )
    low, high = base.interval()
    assert min(values) - 1e-9 <= low[0] <= high[0] <= max(values) + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.permutations(list(range(8))))
def test_the_order_of_items_does_not_matter(order: list[int]) -> None:
    values = np.linspace(0, 1, 8)[:, None] ** 2
    base = statistics.sample_mean(values, ids(8), resamples=100)
    mixed = statistics.sample_mean(values[order], ids(8)[order], resamples=100)
    np.testing.assert_allclose(base.replicates, mixed.replicates, atol=1e-12)


def test_a_pair_uses_the_same_resamples_for_both() -> None:
    rng = np.random.default_rng(2)
    mine, reference = rng.random(25), rng.random(25)
    both = statistics.sample_mean(np.stack([mine, reference], 1), ids(25), seed=7)
    gap = statistics.sample_difference(mine, reference, ids(25), seed=7)
    np.testing.assert_allclose(
        gap.replicates[:, 0], both.replicates[:, 0] - both.replicates[:, 1], atol=1e-12
    )
    constant = statistics.sample_difference(reference + 0.25, reference, ids(25))
    np.testing.assert_allclose(constant.interval(), 0.25)


def test_a_pair_leaves_out_items_that_one_lacks() -> None:
    gap = statistics.sample_difference(
        np.array([1.0, np.nan, 3.0]), np.array([0.0, 5.0, 1.0]), ids(3)
    )
    assert gap.point[0] == 1.5


def test_ranks_share_places_and_leave_out_nan() -> None:
    scores = np.array([0.3, 0.1, np.nan, 0.1, 0.2])
    np.testing.assert_array_equal(statistics.ranks(scores, "lower"), [4, 1, np.nan, 1, 3])
    np.testing.assert_array_equal(statistics.ranks(scores, "higher"), [1, 3, np.nan, 3, 2])
    assert np.isnan(statistics.ranks(scores, "none")).all()


def test_ranks_ignore_the_last_digits_of_a_sum() -> None:
    assert statistics.ranks(np.array([0.1 + 0.2, 0.3]), "higher").tolist() == [1, 1]


def test_pooled_precision_by_hand() -> None:
    # Bins low to high; object pixels (1, 0, 2), others (3, 1, 0): P = 1 at R = 2/3, then 2/3, then
    # 3/7 at R = 1.
    area = statistics.pooled_precision(np.array([[1.0, 0, 2, 3, 1, 0]]))
    assert area[0] == pytest.approx(2 / 3 * 1 + 1 / 3 * 3 / 7)
    assert np.isnan(statistics.pooled_precision(np.array([[0.0, 0, 1, 1]]))[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_pooled_precision_is_average_precision(pixels: list[tuple[bool, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, bins = np.array([p[0] for p in pixels]), np.array([p[1] for p in pixels])
    histogram = np.concatenate(
        [np.bincount(bins[truth], minlength=7), np.bincount(bins[~truth], minlength=7)]
    )
    area = statistics.pooled_precision(histogram[None].astype(float))[0]
    if truth.any():
        assert area == pytest.approx(metrics.average_precision_score(truth, bins))
    else:
        assert np.isnan(area)


def test_pooled_replicates_against_a_slow_replica() -> None:
    rng = np.random.default_rng(0)
    histograms = rng.integers(0, 5, size=(5, 8)).astype(float)
    point, replicates = statistics.sample_pooled(histograms, ids(5), resamples=20, seed=1)
    assert point == statistics.pooled_precision(histograms.sum(0)[None])[0]
    for replicate, picked in zip(replicates, drawn_images(5, 20, 1), strict=True):
        assert replicate == pytest.approx(
            statistics.pooled_precision(histograms[picked].sum(0)[None])[0]
        )

"""How alike two maps are: against scipy and scikit-image, and by hand where there is nothing to
correlate.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity

from bench.metrics import map_similarity


def make_pair(seed: int, height: int = 20, width: int = 27) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    first = torch.randn(3, height, width, generator=rng)
    return first, 0.6 * first + torch.randn(first.shape, generator=rng)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_correlations_are_scipys(scale):
    first, second = make_pair(0)
    second = (second * 2).round() / 2  # many equal values
    for name, theirs in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = [
            theirs(a.flatten().double(), b.flatten().double())[0]
            for a, b in zip(first, second, strict=True)
        ]
        np.testing.assert_allclose(
            getattr(map_similarity, name)(first * scale, second), expected, atol=1e-6
        )


@pytest.mark.parametrize(("window", "sigma"), [(11, 1.5), (9, 1.0)])
def test_ssim_is_scikit_images(window, sigma):
    first, second = (map_similarity.unit(maps) for maps in make_pair(1))
    theirs = [
        structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            gaussian_weights=True,  # cut at int(3.5 * sigma + .5) pixels
            sigma=sigma,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(map_similarity.ssim(first, second, window, sigma), theirs, atol=1e-6)


def test_a_constant_map_agrees_with_constant_maps_only():
    first = torch.stack([torch.ones(8, 8), torch.ones(8, 8), torch.arange(64.0).view(8, 8)])
    second = torch.stack([3 * torch.ones(8, 8), torch.arange(64.0).view(8, 8), torch.zeros(8, 8)])
    assert map_similarity.pearson(first, second).tolist() == [1.0, 0.0, 0.0]
    assert map_similarity.spearman(first, second).tolist() == [1.0, 0.0, 0.0]


def test_top_overlap_by_hand():
    ties = torch.arange(100)[None]
    first = -torch.arange(100.0).view(1, 10, 10)  # its top ten: pixels 0..9
    second = first.roll(4, dims=2)  # row 0 is -6, ..., -9, 0, ..., -5; the same ten pixels
    assert map_similarity.top_overlap(first, second, ties, 0.1).tolist() == [1.0]
    third = torch.zeros(1, 10, 10)
    third.view(-1)[5:9] = (
        1.0  # four pixels stand out, the other six are the first in the order of ties: 0..4 and 9
    )
    assert map_similarity.top_overlap(first, third, ties, 0.1).tolist() == [1.0]
    fourth = torch.zeros(1, 10, 10)
    fourth.view(-1)[50:55] = 1.0  # 50..54, then 0..4: five of fifteen in common
    assert map_similarity.top_overlap(first, fourth, ties, 0.1).tolist() == [5 / 15]


def test_centroid_shift_by_hand():
    first, second = torch.full((2, 1, 10, 20), -5.0)
    first[0, 2, 3] = 1.0
    second[0, 2, 5] = second[0, 6, 7] = 2.0  # centre (4, 6): (2, 3) away from (2, 3)
    np.testing.assert_allclose(map_similarity.centroid_shift(first, second), [np.hypot(2, 3) / 10])
    assert torch.isnan(map_similarity.centroid_shift(first, torch.zeros(1, 10, 20))).all()


def test_what_is_not_finite_is_nan():
    first, second = make_pair(2)
    second[1, 0, 0] = torch.inf
    ties = torch.arange(first[0].numel()).expand(3, -1)
    for value in (
        map_similarity.pearson(first, second),
        map_similarity.spearman(first, second),
        map_similarity.ssim(map_similarity.unit(first), map_similarity.unit(second), 11, 1.5),
        map_similarity.top_overlap(first, second, ties, 0.1),
        map_similarity.centroid_shift(first, second),
    ):
        assert torch.isnan(value).tolist() == [False, True, False]

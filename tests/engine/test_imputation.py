"""Linear imputation: by hand, against a direct sparse solve, and as pytorch-grad-cam has it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve

from bench.engine import imputation
from bench.engine.fills import impute_ranked
from bench.engine.imputation import impute

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights


def make_image(side: int, seed: int = 0) -> torch.Tensor:
    """Return an image [3,side,side] as normalised photographs are: smooth parts and grain, values
    about -2..2.
    """
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.nn.functional.interpolate(
        torch.randn(1, 3, 9, 9, generator=rng), size=(side, side), mode="bilinear"
    )
    return coarse[0] + 0.3 * torch.randn(3, side, side, generator=rng) + 0.5


def make_map(kind: str, side: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 1, 7, 7, generator=rng), size=(side, side), mode="bilinear"
    )
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return {
        "smooth": smooth[0, 0],
        "grain": torch.rand(side, side, generator=rng),
        "both": smooth[0, 0] + 0.3 * torch.rand(side, side, generator=rng),
        "disc": -((y - side / 2) ** 2 + (x - side / 2) ** 2),
        "lines": (y % 3 == 0).float() + 0.01 * x / side,
    }[kind]


def direct(image: torch.Tensor, missing: torch.Tensor) -> np.ndarray:
    """Return the imputed image in float64, from grad-cam's own system and scipy's direct solver."""
    A, b = NoisyLinearImputer.setup_sparse_system(
        (~missing).int().numpy(), image.double().numpy(), neighbors_weights
    )
    out = image.double().numpy().copy()
    out[:, missing.numpy()] = spsolve(csc_matrix(A), b).reshape(-1, 3).T
    return out


def test_it_is_what_grad_cams_imputer_gives_without_noise():
    image = make_image(40)
    missing = make_map("both", 40) > 0.6
    expected = NoisyLinearImputer(noise=0)(image, (~missing).int())
    torch.testing.assert_close(impute(image[None], missing[None])[0], expected, atol=1e-4, rtol=0)


def test_one_pixel_is_the_weighted_mean_of_its_neighbours():
    image = make_image(9)
    missing = torch.zeros(1, 9, 9, dtype=torch.bool)
    missing[0, 4, 5] = True
    out = impute(image[None], missing)[0]
    near = image[:, 4, 4] + image[:, 4, 6] + image[:, 3, 5] + image[:, 5, 5]
    far = image[:, 3, 4] + image[:, 3, 6] + image[:, 5, 4] + image[:, 5, 6]
    torch.testing.assert_close(out[:, 4, 5], near / 6 + far / 12, atol=1e-5, rtol=0)
    assert torch.equal(out[:, ~missing[0]], image[:, ~missing[0]])


def test_in_a_corner_the_weights_that_are_left_count():
    image = make_image(9)
    missing = torch.zeros(1, 9, 9, dtype=torch.bool)
    missing[0, 0, 8] = True
    out = impute(image[None], missing)[0]
    expected = (2 * image[:, 0, 7] + 2 * image[:, 1, 8] + image[:, 1, 7]) / 5
    torch.testing.assert_close(out[:, 0, 8], expected, atol=1e-5, rtol=0)


def test_a_ramp_is_filled_in_as_it_was():
    ramp = (torch.arange(20.0) / 10)[None, None, None].expand(1, 3, 20, 20).contiguous()
    missing = torch.zeros(1, 20, 20, dtype=torch.bool)
    missing[0, 4:15, 5:14] = (
        True  # away from the border, where a linear function is its neighbours' mean
    )
    torch.testing.assert_close(impute(ramp, missing), ramp, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [12, 33, 50])
@pytest.mark.parametrize("kind", ["smooth", "grain", "both", "disc", "lines"])
def test_it_is_the_direct_solution_to_1e_4(kind, side):
    image, values = make_image(side), make_map(kind, side)
    rank = values.flatten().argsort(descending=True, stable=True).argsort().view(side, side)
    masks = [rank < n for n in (1, side, side * side // 2, side * side * 9 // 10)]
    masks += [
        rank >= side * side - n for n in (side * side // 2, side * side * 9 // 10, side * side - 1)
    ]
    out = impute(image.expand(len(masks), -1, -1, -1), torch.stack(masks))
    for one, missing in zip(out, masks, strict=True):
        np.testing.assert_allclose(one.numpy(), direct(image, missing), atol=1e-4)


@pytest.mark.parametrize("order", ["first", "last"])
def test_at_224_pixels_it_is_the_direct_solution_to_1e_4(order):
    side = 224
    image, values = make_image(side), make_map("disc", side)
    rank = (
        values.flatten()
        .argsort(descending=order == "first", stable=True)
        .argsort()
        .view(side, side)
    )
    missing = (
        rank < side * side * 9 // 10
    )  # the disc leaves a hole of 210 pixels, its complement only the rim's inside
    np.testing.assert_allclose(
        impute(image[None], missing[None])[0].numpy(), direct(image, missing), atol=1e-4
    )


def test_few_cycles_suffice_whatever_the_mask(monkeypatch):
    cycles = []
    real = imputation._cycle

    def counted(levels, *rest):
        cycles.append(isinstance(levels[0], imputation._Finest))
        return real(levels, *rest)

    monkeypatch.setattr(imputation, "_cycle", counted)
    image = make_image(96)
    for kind in ("smooth", "grain", "both", "disc", "lines"):
        rank = make_map(kind, 96).flatten().argsort(stable=True).argsort().view(96, 96)
        for share in (0.1, 0.5, 0.9):
            cycles.clear()
            impute(image[None], (rank < share * 96 * 96)[None])
            assert sum(cycles) <= 10, (kind, share)


def test_systems_side_by_side_do_not_touch_each_other():
    images = torch.stack([make_image(24, seed) for seed in range(3)])
    rank = make_map("both", 24).flatten().argsort(stable=True).argsort().view(24, 24)
    masks = torch.stack([rank < 20, rank < 300, rank >= 100])
    together = impute(images, masks)
    for i in range(3):
        torch.testing.assert_close(
            impute(images[i : i + 1], masks[i : i + 1])[0], together[i], atol=1e-4, rtol=0
        )


def test_without_missing_pixels_nothing_changes():
    images = make_image(16)[None]
    assert torch.equal(impute(images, torch.zeros(1, 16, 16, dtype=torch.bool)), images)


def test_jobs_write_imputed_pixels_with_noise():
    side = 16
    images = torch.stack([make_image(side, seed) for seed in range(2)])
    noise = torch.full_like(images, 0.25)
    rank = torch.stack([make_map("both", side).flatten().argsort(stable=True).argsort()] * 2).int()
    rows, low, high = (
        torch.tensor([0, 1, 1]),
        torch.tensor([0, 0, 200]),
        torch.tensor([40, 200, 256]),
    )
    out = torch.full((2, 3, side, side), torch.nan)
    impute_ranked(images, noise, rank, rows, low, high)(out, torch.tensor([2, 0]))
    for one, n in zip(out, (2, 0), strict=True):
        missing = (rank[rows[n]].view(side, side) >= low[n]) & (
            rank[rows[n]].view(side, side) < high[n]
        )
        expected = direct(images[rows[n]], missing) + 0.25 * missing.numpy()
        np.testing.assert_allclose(one.numpy(), expected, atol=1e-4)
        assert int(missing.sum()) == int(high[n] - low[n])  # exactly the stated number of pixels

"""Values of grids: by hand, beside a slow replica, at their floors, and as the authors publish."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import bench
from bench.metrics.grid_localization import rank_pixels
from tests.support.nets import PlantedEvidence, region_mean

ONES = (1.0, 1.0, 1.0)


def score(maps: torch.Tensor, masks: torch.Tensor, ignore: torch.Tensor | None = None):
    """Return {value: [B]} of maps [B,H,W] on masks, as float64 arrays."""
    side = maps.shape[-1]
    net = PlantedEvidence(region_mean(side, slice(0, 1), slice(0, 1))).eval()
    model = bench.Explainee(net, mean=(0.0,) * 3, std=ONES, size=side, layer="features")
    count = len(maps)
    out = bench.score(
        model,
        torch.zeros(count, 3, side, side),
        torch.zeros(count, dtype=torch.long),
        maps.float(),
        "grid_localization",
        truth=bench.Truth(masks=masks, ignore=ignore),
    )
    return {name: np.asarray(values, dtype=np.float64) for name, values in out.items()}


def make_cells(cells: int, side: int) -> torch.Tensor:
    """Return the masks [cells*cells,H,W] of a grid, row by row; H = cells * side."""
    masks = torch.zeros(cells * cells, cells * side, cells * side, dtype=torch.bool)
    for i, mask in enumerate(masks):
        top, left = i // cells * side, i % cells * side
        mask[top : top + side, left : left + side] = True
    return masks


def make_maps(count: int, side: int) -> torch.Tensor:
    """Return whole-numbered maps [count,side,side] with many equal values, some below 0."""
    rng = torch.Generator().manual_seed(side)
    return torch.randint(-3, 6, (count, side, side), generator=rng)


def test_a_cell_by_hand():
    # Above the cell's 2 x 2 pixels stand 3, 1, 0 and -1; outside: one 3, one 1, ten -2.
    L = torch.full((1, 4, 4), -2)
    L[0, :2, :2] = torch.tensor([[3, 1], [0, -1]])
    L[0, 3, 3], L[0, 2, 0] = 3, 1
    # 3 beats 11 and ties 1; 1 beats 10 and ties 1; 0 and -1 beat 10 each; of 4 * 12 pairs.
    auc = Fraction(2 * (11 + 10 + 10 + 10) + 2, 2 * 48)
    # Groups: {3, 3'}, {1, 1'}, {0}, {-1}: precisions 1/2, 2/4, 3/5, 4/6, each a quarter of recall.
    ap = (Fraction(1, 2) + Fraction(2, 4) + Fraction(3, 5) + Fraction(4, 6)) / 4
    out = score(L, make_cells(2, 2)[:1])
    assert out["grid_auc"] == pytest.approx([float(auc)], abs=1e-12)
    assert out["grid_share"] == pytest.approx([4 / 8], abs=1e-12)
    assert out["grid_ap"] == pytest.approx([float(ap)], abs=1e-12)


def replicate(values: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Return (auc, share, ap) by loops over pairs and thresholds."""
    inside, outside = values[truth].tolist(), values[~truth].tolist()
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    positive = sum(max(v, 0) for v in values.tolist())
    share = sum(max(v, 0) for v in inside) / positive if positive else 0.0
    precision, before = 0.0, 0
    for level in sorted(set(values.tolist()), reverse=True):
        chosen = values >= level
        hits = int((chosen & truth).sum())
        precision += (hits - before) / len(inside) * hits / int(chosen.sum())
        before = hits
    return wins / (len(inside) * len(outside)), share, precision


def test_values_are_those_of_a_slow_replica():
    maps, masks = make_maps(5, 8).double(), make_cells(2, 4)[[0, 1, 2, 3, 0]]
    maps[4] = -maps[4].abs()
    out = score(maps, masks)
    for i in range(5):
        expected = replicate(maps[i].numpy().ravel(), masks[i].numpy().ravel())
        found = [out[name][i] for name in ("grid_auc", "grid_share", "grid_ap")]
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cells", [2, 3])
def test_a_map_that_knows_no_class_is_at_the_floor_of_every_grid(cells):
    masks = make_cells(cells, 4)
    for L in make_maps(6, 4 * cells):
        out = score(L.expand(cells**2, -1, -1), masks)
        assert out["grid_auc"].mean() == pytest.approx(0.5, abs=1e-12)
        assert out["grid_share"].mean() == pytest.approx(1 / cells**2, abs=1e-12)


@pytest.mark.parametrize("cells", [2, 3])
def test_the_cell_itself_is_the_best_map_and_a_constant_one_ties(cells):
    masks = make_cells(cells, 3)
    assert all((values == 1).all() for values in score(masks, masks).values())
    out = score(torch.full(masks.shape, -1.0), masks)
    assert (out["grid_auc"] == 0.5).all()
    assert (out["grid_share"] == 0).all()
    assert out["grid_ap"] == pytest.approx([1 / cells**2] * cells**2)


def test_ignored_pixels_play_no_part_and_a_full_frame_has_no_value():
    L, mask = make_maps(1, 6), make_cells(2, 3)[1:2]
    ignore = torch.zeros_like(mask)
    ignore[:, :, 2:4] = True
    kept = ~ignore[0].numpy().ravel()
    expected = replicate(L[0].double().numpy().ravel()[kept], mask[0].numpy().ravel()[kept])
    out = score(L, mask, ignore)
    assert [out[n][0] for n in ("grid_auc", "grid_share", "grid_ap")] == pytest.approx(expected)
    assert all(np.isnan(v).all() for v in score(L, torch.ones_like(mask)).values())


def find_published_score(
    positive_attributions: torch.Tensor, cell: int, cells: int
) -> torch.Tensor:
    """Return the localisation scores [B] of positive attributions [B,H,W], by the formula of
    get_localization_score_single (sukrutrao/Attribution-Evaluation, commit 8fcfa0f9).
    """
    height, width = (length // cells for length in positive_attributions.shape[1:])
    top, left = cell // cells * height, cell % cells * width
    inside = positive_attributions[:, top : top + height, left : left + width].sum((1, 2))
    total = positive_attributions.sum((1, 2))
    return torch.where(total > 1e-7, inside / total, torch.zeros(()))


@pytest.mark.parametrize("cells", [2, 3])
def test_the_share_is_the_score_that_the_authors_publish(cells):
    rng = torch.Generator().manual_seed(cells)
    maps = torch.randn(6, 12 * cells, 12 * cells, generator=rng)
    maps[4] = -maps[4].abs()
    masks = make_cells(cells, 12)
    for cell in range(cells**2):
        expected = find_published_score(maps.clamp(min=0), cell, cells)
        found = score(maps, masks[cell].expand(6, -1, -1))["grid_share"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_rank_of_a_map_that_is_sharpened_stays():
    values, truth = make_maps(1, 8).numpy().ravel().clip(0), make_cells(2, 4)[0].numpy().ravel()
    for power in (0.5, 4.0, 16.0):
        assert rank_pixels(values.astype(float) ** power, truth) == rank_pixels(values, truth)

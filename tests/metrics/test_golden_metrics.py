"""Scores a reader can redo by hand, from the arithmetic written beside each number."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench import randomness
from tests.support import reference as ref
from tests.support.nets import BASELINE, PlantedEvidence, region_mean

ONES = (1.0, 1.0, 1.0)
ZEROS = (0.0, 0.0, 0.0)


def planted(weight: torch.Tensor, mean: tuple[float, ...] = BASELINE) -> bench.Explainee:
    """Return a model with p_0 = .1 + .8 sum(weight * x); with the mean at b, a removed pixel is
    0.
    """
    net = PlantedEvidence(weight).eval()
    return bench.Explainee(net, mean=mean, std=ONES, size=weight.shape[-1], layer="features")


def score(model, images, maps, metric, truth=None, ids=None, **kwargs):
    """Return the named values of class 0 as float64 arrays, curves included."""
    targets = torch.zeros(len(images), dtype=torch.long)
    out = bench.score(
        model, images, targets, maps, metric, truth=truth, ids=ids, curves=True, **kwargs
    )
    return {name: np.asarray(values, dtype=np.float64) for name, values in out.items()}


def flat(side: int) -> bench.Explainee:
    """Return a model for metrics that do not ask it anything that matters."""
    return planted(region_mean(side, slice(0, 1), slice(0, 1)))


def one(metric: str, L: torch.Tensor, **kwargs) -> dict[str, np.ndarray]:
    """Score one map on a model that does not matter and return the values of that one image."""
    side = L.shape[-1]
    out = score(flat(side), torch.zeros(1, 3, side, side), L[None].float(), metric, **kwargs)
    return {name: values[0] for name, values in out.items()}


def mask_truth(mask: torch.Tensor, ignore: torch.Tensor | None = None) -> bench.Truth:
    return bench.Truth(masks=mask[None], ignore=None if ignore is None else ignore[None])


def box_truth(*boxes: list[float]) -> bench.Truth:
    return bench.Truth(boxes=(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),))


# -------------------------------------------------- deletion and insertion, 28x28: 28 pixels a step

TOP = region_mean(
    28, slice(0, 7), slice(None)
)  # the evidence: mean of the 7 first rows, that is of 7 steps
DOWN = -torch.arange(784.0).reshape(1, 28, 28)  # row by row from the top, no ties


def test_deletion_of_the_evidence_first():
    out = score(planted(TOP), torch.ones(1, 3, 28, 28), DOWN, "deletion")
    # After i steps, 1 - i/7 of the region is left; from step 7 on, the floor .1.
    expected = [0.1 + 0.8 * max(0.0, 1 - i / 7) for i in range(29)]
    assert out["deletion_curve"].shape == (1, 29)
    np.testing.assert_allclose(out["deletion_curve"][0], expected, atol=1e-6)
    # The floor, and a triangle of base 7/28 and height .8: .1 + .8/8.
    np.testing.assert_allclose(out["deletion"], [0.2], atol=1e-6)


def test_deletion_of_the_evidence_last():
    out = score(planted(TOP), torch.ones(1, 3, 28, 28), -DOWN, "deletion")
    # .9 for 21 of 28 steps, then the same triangle: .1 + .8 * (3/4 + 1/8).
    np.testing.assert_allclose(out["deletion"], [0.8], atol=1e-6)


def test_deleted_pixels_take_the_baseline_colour():
    # Mean 0: now a removed pixel is b itself, whose channel mean is (.485 + .456 + .406)/3 = .449.
    out = score(planted(TOP, mean=ZEROS), torch.ones(1, 3, 28, 28), DOWN, "deletion")
    low = 0.1 + 0.8 * 0.449
    np.testing.assert_allclose(out["deletion_curve"][0, -1], low, atol=1e-6)
    np.testing.assert_allclose(out["deletion"], [low + 0.8 * 0.551 / 8], atol=1e-6)


def test_curves_include_both_ends():
    # The evidence is one pixel, the most relevant one: only the interval that starts at step 0 sees
    # it.
    weight = region_mean(28, slice(0, 1), slice(0, 1))
    out = score(planted(weight), torch.ones(1, 3, 28, 28), DOWN, "deletion")
    np.testing.assert_allclose(out["deletion_curve"][0, :2], [0.9, 0.1], atol=1e-6)
    np.testing.assert_allclose(out["deletion"], [0.1 + 0.8 / 56], atol=1e-6)


def test_a_constant_map_is_scored_under_the_tie_rule():
    ranked = ref.order(np.zeros((28, 28)), "a")
    left = [1 - (ranked[: 28 * i] < 7 * 28).sum() / 196 for i in range(29)]
    out = score(
        planted(TOP), torch.ones(1, 3, 28, 28), torch.full((1, 28, 28), 0.3), "deletion", ids=["a"]
    )
    np.testing.assert_allclose(out["deletion_curve"][0], 0.1 + 0.8 * np.array(left), atol=1e-6)


def test_insertion_onto_the_blurred_image():
    # Columns alternate +1, -1, and the net correlates the top rows with that pattern. A kernel g
    # turns the pattern into H times itself, H = sum_k g_k (-1)^k, also at the border when it is
    # mirrored without repeating the edge. sigma = 10 * 28/224 = 1.25 and the radius is ceil(2.5 *
    # 1.25) = 4.
    g = np.exp(-(np.arange(-4, 5) ** 2) / (2 * 1.25**2))
    H = (g * (-1.0) ** np.arange(-4, 5)).sum() / g.sum()
    pattern = torch.ones(28)
    pattern[1::2] = -1
    weight = region_mean(28, slice(0, 7), slice(None), pattern)
    images = pattern.expand(1, 3, 28, 28).contiguous()
    out = score(planted(weight), images, DOWN, "insertion")
    # After i steps, i/7 of the region is sharp and the rest blurred.
    share = [min(1.0, i / 7) for i in range(29)]
    expected = [0.1 + 0.8 * (s + (1 - s) * H) for s in share]
    assert out["insertion_curve"].shape == (1, 29)
    np.testing.assert_allclose(out["insertion_curve"][0], expected, atol=1e-5)
    np.testing.assert_allclose(out["insertion_start"], [0.1 + 0.8 * H], atol=1e-5)
    # The mean share of sharp pixels is 1 - 1/8.
    np.testing.assert_allclose(out["insertion"], [0.1 + 0.8 * (7 / 8 + H / 8)], atol=1e-5)


def test_blur_keeps_a_step_symmetric():
    # A step between columns 13 and 14 is odd about its middle, so blurring leaves the mean of the
    # left half equal to (the mass that crosses) 1/14 * sum over columns of the kernel's tail:
    # sum_{k>=1} k g_k.
    g = np.exp(-(np.arange(-4, 5) ** 2) / (2 * 1.25**2))
    g /= g.sum()
    crossing = sum(k * g[4 + k] for k in range(1, 5)) / 14
    images = torch.zeros(1, 3, 28, 28)
    images[..., 14:] = 1.0
    out = score(planted(region_mean(28, slice(None), slice(0, 14))), images, DOWN, "insertion")
    np.testing.assert_allclose(out["insertion_start"], [0.1 + 0.8 * crossing], atol=1e-6)


# --------------------------------------------------------------------- average drop, increase, gain


def test_average_drop_by_hand():
    # The mask is 1 on half of the evidence and 0 elsewhere: Y = .9, O = .5.
    L = torch.zeros(1, 28, 28)
    L[0, :7, :14] = 4.0
    out = score(planted(TOP), torch.ones(1, 3, 28, 28), L, "average_drop")
    np.testing.assert_allclose(out["average_drop"], [0.4 / 0.9], atol=1e-6)
    assert out["average_increase"] == [0.0]
    assert out["average_gain"] == [0.0]


def test_average_gain_by_hand():
    # Evidence in rows 0..6, half as much against it in rows 21..27: Y = .1 + .8 * (1 - .5) = .5.
    weight = TOP - 0.5 * region_mean(28, slice(21, 28), slice(None))
    L = torch.full((2, 28, 28), -1.0)
    L[0, :7] = 1.0  # hides what is against: O = .9, gain (.9 - .5)/.5
    L[1, :7], L[1, 21:] = 2.0, 1.0  # hides half of it: O = .1 + .8 * (1 - .25) = .7, gain .2/.5
    out = score(planted(weight), torch.ones(2, 3, 28, 28), L, "average_drop")
    np.testing.assert_allclose(out["average_gain"], [0.8, 0.4], atol=1e-6)
    assert out["average_drop"].tolist() == [0.0, 0.0]
    assert out["average_increase"].tolist() == [1.0, 1.0]


def test_masks_fade_to_the_baseline_colour():
    # Mean 0, half of the evidence kept: .1 + .8 * (.5 * 1 + .5 * .449) = .6796; the whole is .9.
    L = torch.zeros(1, 28, 28)
    L[0, :7, :14] = 1.0
    out = score(planted(TOP, mean=ZEROS), torch.ones(1, 3, 28, 28), L, "average_drop")
    np.testing.assert_allclose(out["average_drop"], [(0.9 - 0.6796) / 0.9], atol=1e-6)


def test_normalisation_is_per_map_and_never_per_batch():
    L = torch.zeros(2, 28, 28)
    L[0, :7] = 0.01
    L[1, :7] = 1.0
    out = score(planted(TOP), torch.ones(2, 3, 28, 28), L, "average_drop")
    np.testing.assert_allclose(
        out["average_drop"], [0.0, 0.0], atol=1e-6
    )  # both keep all the evidence


# ------------------------------------------------------------------------------------ pointing game

AT = 100  # the truth is the pixel (100,100) of 224x224, so the tolerance is 15 pixels


@pytest.mark.parametrize(
    ("dy", "dx", "hit"),
    [
        (0, 0, 1.0),
        (14, 0, 1.0),
        (0, -14, 1.0),
        (10, 11, 1.0),  # 221 < 225
        (15, 0, 0.0),  # exactly 15: not closer
        (0, 15, 0.0),
        (9, 12, 0.0),  # 81 + 144 = 225: exactly 15
        (-9, -12, 0.0),
        (11, 11, 0.0),  # 242
    ],
)
def test_pointing_tolerance_is_strict(dy, dx, hit):
    mask = torch.zeros(224, 224, dtype=torch.bool)
    mask[AT, AT] = True
    L = torch.zeros(224, 224)
    L[AT + dy, AT + dx] = 1.0
    out = one("pointing_game", L, truth=mask_truth(mask))
    assert out["pointing"] == out["pointing_all"] == hit
    assert out["pointing_exact"] == out["pointing_all_exact"] == float(dy == dx == 0)


def test_pointing_tolerance_scales_with_the_side():
    # 28x28: 15 * 28/224 = 1.875 pixels, so a diagonal neighbour (1.414) hits and two away misses.
    mask = torch.zeros(28, 28, dtype=torch.bool)
    mask[9, 9] = True
    hits = []
    for dy, dx in [(1, 1), (0, 2), (1, 0), (2, 1)]:
        L = torch.zeros(28, 28)
        L[9 + dy, 9 + dx] = 1.0
        hits.append(one("pointing_game", L, truth=mask_truth(mask))["pointing"].item())
    assert hits == [1.0, 0.0, 1.0, 0.0]


def test_pointing_set_is_truth_of_at_most_a_quarter():
    L = torch.zeros(16, 16)
    L[0, 0] = 1.0
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:4] = True  # 64 of 256 pixels: exactly a quarter
    assert one("pointing_game", L, truth=mask_truth(mask))["pointing"] == 1.0
    mask[4, 0] = True
    out = one("pointing_game", L, truth=mask_truth(mask))
    assert out["pointing"] == out["pointing_exact"] == math.inf  # outside the set, not a miss
    assert out["pointing_all"] == out["pointing_all_exact"] == 1.0


def test_pointing_uses_one_maximum_not_any():
    # Two equal maxima, far apart; only the one that the tie rule puts first counts.
    field = randomness.smooth_field(randomness.generator(0, "ties", "a"), 28, 28)
    L = torch.zeros(28, 28)
    L[2, 2] = L[25, 25] = 1.0
    for y, x in [(2, 2), (25, 25)]:
        mask = torch.zeros(28, 28, dtype=torch.bool)
        mask[y, x] = True
        first = bool(field[y, x] > field[27 - y, 27 - x])
        assert one("pointing_game", L, truth=mask_truth(mask), ids=["a"])["pointing"] == float(
            first
        )


def test_a_constant_map_points_where_the_field_does():
    point = int(ref.order(np.zeros((28, 28)), "a")[0])
    mask = torch.zeros(784, dtype=torch.bool)
    mask[point] = True
    mask = mask.reshape(28, 28)
    assert (
        one("pointing_game", torch.ones(28, 28), truth=mask_truth(mask), ids=["a"])[
            "pointing_exact"
        ]
        == 1.0
    )


def test_an_empty_truth_is_no_hit_but_missing():
    L = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
    out = one("pointing_game", L, truth=mask_truth(torch.zeros(28, 28, dtype=torch.bool)))
    assert all(np.isnan(v) for v in out.values())
    out = one("box_localization", L, truth=box_truth())
    assert np.isnan(out["box_iou"]).all()


# ---------------------------------------------------------------------------- energy, boxes, pixels


def test_energy_ranked_by_hand():
    # r = 1/8, 3/8, 5/8, 7/8, so the weights are 1, 27, 125, 343 of 496.
    L = torch.tensor([[7.0, -2.0], [3.0, -1.0]])
    # The best pixel is the truth: E = C.
    assert energy_of_ranks(L, 0) == (pytest.approx(1), pytest.approx(1))
    # max(L,0) of the two lowest is 0: each has (1 + 27)/2 = 14 of 496; C = 343/496, a = 1/4.
    lowest, top = (14 - 124) / (343 - 124), 343 - 124
    assert energy_of_ranks(L, 1) == (pytest.approx(lowest), pytest.approx((1 - 124) / top))
    assert energy_of_ranks(L, 2) == (pytest.approx(1 / top), pytest.approx(1 / top))
    assert energy_of_ranks(L, 3) == (pytest.approx(lowest), pytest.approx((27 - 124) / top))
    assert energy_of_ranks(torch.ones(2, 2), 1) == (0, 0)
    assert energy_of_ranks(L**5, 2)[0] == pytest.approx(1 / top)


def energy_of_ranks(L: torch.Tensor, true: int) -> tuple[float, float]:
    """Return both values of a 2x2 map of which one pixel is the truth."""
    truth = mask_truth(torch.arange(4).view(2, 2) == true)
    out = one("energy_ranked", L, truth=truth)
    return float(out["energy_ranked"]), float(out["energy_ranked_signed"])


def test_energy_ranked_of_the_whole_frame_is_missing():
    truth = mask_truth(torch.ones(2, 2, dtype=torch.bool))
    out = one("energy_ranked", torch.tensor([[7.0, -2.0], [3.0, -1.0]]), truth=truth)
    assert all(math.isnan(value) for value in out.values())


def test_discriminability_by_rank_by_hand():
    # The class's pixels hold 9 and 1, the other's 4, 1 and -5; one of those is also the class's.
    L = torch.tensor([[9.0, 1.0, 4.0], [1.0, -5.0, 0.0], [8.0, 8.0, 8.0]])
    own, other = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    own[0, :2] = True
    other[0, 1] = other[0, 2] = other[1, 0] = other[1, 1] = True
    truth = bench.Truth(masks=own[None], others=other[None])
    # 9 is above all three; 1 is above -5 and equal to 1.
    out = one("discriminability_ranked", L, truth=truth)
    assert out["discriminability_ranked"] == pytest.approx((3 + 1.5) / 6)
    flat_map = one("discriminability_ranked", torch.ones(3, 3), truth=truth)
    assert flat_map["discriminability_ranked"] == 0.5


def test_energy_by_hand():
    L = torch.full((8, 8), -5.0)  # negative evidence is no energy
    L[0, :3] = 1.0
    L[7, 7] = 1.0
    # The box covers row 0, columns 0..3: 3 of 4 units of energy on 4 of 64 pixels.
    out = one("energy_pointing_game", L, truth=box_truth([0.0, 0.0, 4.0, 1.0]))
    assert out["energy"] == pytest.approx(0.75)
    assert out["energy_lift"] == pytest.approx(0.75 / (4 / 64))
    # x and y are not swapped: the transposed box holds one unit only.
    assert one("energy_pointing_game", L, truth=box_truth([0.0, 0.0, 1.0, 4.0]))[
        "energy"
    ] == pytest.approx(0.25)


def steps_map() -> torch.Tensor:
    """Return 8x8: a 4x4 block at .5 in the top left, a 2x2 block at 1 inside it, negative
    elsewhere.
    """
    L = torch.full((8, 8), -1.0)
    L[0:4, 0:4] = 0.5
    L[1:3, 1:3] = 1.0
    return L


def test_box_iou_by_hand():
    # tau < .5: the 4x4 block, which is the truth; .5 <= tau < 1 (strict >): the 2x2 block, 4/16;
    # tau = 1: nothing.
    out = one("box_localization", steps_map(), truth=box_truth([0.0, 0.0, 4.0, 4.0]))
    assert out["box_iou"].shape == (101,)
    np.testing.assert_allclose(out["box_iou"], [1.0] * 50 + [0.25] * 50 + [0.0], atol=1e-6)


@pytest.mark.parametrize("level", range(1, 5))
def test_thresholds_are_strict_at_decimal_levels_too(level):
    # Values 0..5 give unit(L) = k/5, which float32 cannot hold: .2 and .6 are rounded up, .8 too.
    # At tau = k/5 the pixels of level k are out all the same, and one step below they are in.
    L = torch.zeros(8, 8)
    L[0:4, 0:4], L[0, 0] = level, 5.0
    truth = bench.Truth(boxes=(torch.tensor([[0.0, 0.0, 4.0, 4.0]]),))
    out = one("box_localization", L, truth=truth)["box_iou"]
    np.testing.assert_allclose(out[20 * level - 1 : 20 * level + 1], [1.0, 1 / 16], atol=1e-6)
    # IoU 1 for tau < k/5, then 1/16: .01 * ((20k - 1) + (1 + 1/16)/2 + (99 - 20k)/16 + 1/32).
    area = 0.01 * (20 * level - 1 + 17 / 32 + (99 - 20 * level) / 16 + 1 / 32)
    assert one("threshold_localization", L, truth=truth)["iou_area"] == pytest.approx(
        area, abs=1e-6
    )


def test_a_constant_map_has_a_positive_part():
    # max(L,0) is positive, so it is scored: unit(L) is zeros (constant -> zeros) and hides
    # everything; a map of energy or mass is spread evenly.
    L = torch.full((28, 28), 0.3)
    truth = full_truth(1, 28)
    hidden = score(planted(TOP), torch.ones(1, 3, 28, 28), L[None], "average_drop")
    np.testing.assert_allclose(
        hidden["average_drop"], [0.8 / 0.9], atol=1e-6
    )  # p falls from .9 to the floor .1
    assert (one("box_localization", L, truth=truth)["box_iou"] == 0).all()
    assert one("threshold_localization", L, truth=truth)["iou_area"] == 0
    assert one("energy_pointing_game", L, truth=truth)["energy"] == pytest.approx(16 / 784)
    assert one("pixel_precision", L, truth=truth)["relevance_mass"] == pytest.approx(16 / 784)


def test_best_pair_of_component_and_truth():
    L = torch.zeros(8, 8)
    L[0:2, 0:2] = 1.0
    L[5:8, 5:8] = 1.0
    # Component 2 has IoU 9/16 with the second truth box; component 1 has 1/4 with the first: the
    # best pair counts.
    out = one("box_localization", L, truth=box_truth([0.0, 0.0, 4.0, 4.0], [4.0, 4.0, 8.0, 8.0]))
    np.testing.assert_allclose(out["box_iou"][:100], 9 / 16, atol=1e-6)


def test_components_touch_at_corners():
    L = torch.zeros(8, 8)
    for i in range(4):
        L[i, i] = 1.0
    # Eight-connected, the diagonal is one box of 4x4; four-connected it would be four boxes of IoU
    # 1/16.
    out = one("box_localization", L, truth=box_truth([0.0, 0.0, 4.0, 4.0]))
    np.testing.assert_allclose(out["box_iou"][:100], 1.0, atol=1e-6)


def test_pixel_average_precision_by_hand():
    # 16 pixels in order of value; truth at ranks 1 and 3: precision 1 and 2/3, recall 1/2 each.
    L = -torch.arange(16.0).reshape(4, 4)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = mask[0, 2] = True
    assert one("pixel_precision", L, truth=mask_truth(mask))["pixel_ap"] == pytest.approx(
        (1 + 2 / 3) / 2
    )


def test_equal_values_are_one_group():
    # 8 pixels at 1, 8 at 0, half of each group in the truth: precision 1/2 at both cuts.
    L = torch.zeros(4, 4)
    L[:2] = 1.0
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, :2] = True
    out = one("pixel_precision", L, truth=mask_truth(mask))
    assert out["pixel_ap"] == pytest.approx(0.5)
    assert out["relevance_mass"] == pytest.approx(0.5)
    # A constant map: the base rate, 2 of 16.
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, :2] = True
    assert one("pixel_precision", torch.ones(4, 4), truth=mask_truth(mask))[
        "pixel_ap"
    ] == pytest.approx(1 / 8)


def test_relevance_mass_and_rank_by_hand():
    L = torch.zeros(4, 4)
    L[0] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    L[1, 0] = -8.0
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = mask[0, 2] = mask[1, 0] = (
        True  # three pixels; the top three are columns 0, 1, 2 of row 0
    )
    out = one("pixel_precision", L, truth=mask_truth(mask))
    assert out["relevance_mass"] == pytest.approx(6 / 10)
    assert out["relevance_rank"] == pytest.approx(2 / 3)


def test_relevance_rank_follows_the_tie_rule():
    ranked = ref.order(np.zeros((16, 16)), "a")
    mask = torch.zeros(256, dtype=torch.bool)
    mask[torch.from_numpy(ranked[5:15])] = True  # ten pixels, five of them among the first ten
    out = one(
        "pixel_precision", torch.ones(16, 16), truth=mask_truth(mask.reshape(16, 16)), ids=["a"]
    )
    assert out["relevance_rank"] == pytest.approx(0.5)


def test_ignored_pixels_do_not_count():
    L = -torch.arange(16.0).reshape(4, 4) + 20
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 1] = mask[0, 3] = True
    ignore = torch.zeros(4, 4, dtype=torch.bool)
    ignore[0, 0] = True
    ignore[2:] = True
    # Without the first pixel the truth stands at ranks 1 and 3.
    out = one("pixel_precision", L, truth=mask_truth(mask, ignore))
    assert out["pixel_ap"] == pytest.approx((1 + 2 / 3) / 2)
    # Values 19..13 are counted (112 in all), the truth holds 19 and 17.
    assert out["relevance_mass"] == pytest.approx(36 / 112)
    assert out["relevance_rank"] == pytest.approx(0.5)
    assert out["pixel_histogram"].sum() == 7


def test_pixel_histogram_counts_every_pixel_once():
    L = torch.zeros(8, 8)
    L[0:2, 0:2] = 1.0
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0:2, 0:4] = True
    histogram = one("pixel_precision", L, truth=mask_truth(mask))["pixel_histogram"]
    assert histogram.shape == (2002,)
    # 4 truth pixels at 1 and 4 at 0; 56 others at 0: three bins are filled.
    assert sorted(histogram[histogram > 0].tolist()) == [4.0, 4.0, 56.0]
    halves = {histogram[:1001].sum(), histogram[1001:].sum()}
    assert halves == {8.0, 56.0}
    # Zero falls in the first bin of its half and one in the last.
    assert {i % 1001 for i in np.nonzero(histogram)[0].tolist()} == {0, 1000}


# -------------------------------------------------------------------------------- threshold quality


def row_weights(**rows: float) -> torch.Tensor:
    """Return the weight [3,10,10] that adds `value` times the mean of row r for each `rR=value`."""
    weight = torch.zeros(3, 10, 10)
    for name, value in rows.items():
        weight[:, int(name[1:])] = value / 30
    return weight


# unit(L) of row r is r/9, so M_t is r/9 on rows r >= t and 0 above.
RAMP = (torch.arange(10.0).view(1, 10, 1) * 3).expand(1, 10, 10).contiguous()


def test_threshold_quality_by_hand():
    # Evidence in row 9, and .9 of it against in row 4. Whole image: .1 + .8 * (1 - .9) = .18.
    # t = 0..4: row 4 is kept at 4/9: .1 + .8 * (1 - .4) = .58. t = 5..9: row 4 is gone: .9.
    out = score(
        planted(row_weights(r9=1.0, r4=-0.9)), torch.ones(1, 3, 10, 10), RAMP, "threshold_quality"
    )
    np.testing.assert_allclose(out["threshold_p"], [[0.58] * 5 + [0.9] * 5], atol=1e-6)
    odds = [math.log(0.58 / 0.42)] * 5 + [math.log(9)] * 5
    np.testing.assert_allclose(out["threshold_log_odds"], [odds], atol=1e-5)
    # Row 0 of unit(L) is 0 already, so t = 0 and t = 1 keep the same nine rows.
    np.testing.assert_allclose(
        out["threshold_area"], [[0.9, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]], atol=1e-6
    )
    np.testing.assert_allclose(out["tft_q"], [0.72], atol=1e-6)
    np.testing.assert_allclose(out["tft_gain"], [odds[9] - odds[0]], atol=1e-5)
    np.testing.assert_allclose(out["tft_t"], [5.0])  # the first of the equal best
    np.testing.assert_allclose(out["api"], [0.72 / 0.18], atol=1e-5)
    assert [out[name].item() for name in ("apd", "ir", "dr")] == [0.0, 1.0, 0.0]


def test_threshold_zero_when_nothing_helps():
    # Evidence in rows 8 and 9, halves: whole .9; any mask has at most .1 + .8 * (8/18 + 1/2) =
    # .8556; so t* = 0.
    out = score(
        planted(row_weights(r9=0.5, r8=0.5)), torch.ones(1, 3, 10, 10), RAMP, "threshold_quality"
    )
    low = 0.1 + 0.8 * (8 / 18 + 0.5)
    np.testing.assert_allclose(out["threshold_p"], [[low] * 9 + [0.5]], atol=1e-6)
    assert [out[name].item() for name in ("tft_q", "tft_t", "api", "ir", "dr")] == [
        0.0,
        0.0,
        0.0,
        0.0,
        1.0,
    ]
    np.testing.assert_allclose(out["apd"], [(0.9 - low) / 0.9], atol=1e-6)
    np.testing.assert_allclose(out["tft_gain"], [0.0], atol=1e-5)


def test_threshold_zero_is_not_in_the_search():
    # The lowest tenth is row 0: pixel (0,0) at 0 is against (-.9), the others, at .5, are for it (1
    # in all). Whole .1 + .8 * .1 = .18; M_0 keeps half of what is for it: .5; M_1 and on keep
    # nothing: .1.
    L = torch.ones(1, 10, 10)
    L[0, 0], L[0, 0, 0] = 0.5, 0.0
    weight = torch.zeros(3, 10, 10)
    weight[:, 0, 1:], weight[:, 0, 0] = 1 / 27, -0.9 / 3
    out = score(planted(weight), torch.ones(1, 3, 10, 10), L, "threshold_quality")
    np.testing.assert_allclose(out["threshold_p"], [[0.5] + [0.1] * 9], atol=1e-6)
    # q looks at t = 1..9 only, finds nothing and leaves the map as it is: q = 0 and t* = 0, judged
    # as M_0.
    assert [out[name].item() for name in ("tft_q", "tft_t", "apd", "ir", "dr")] == [
        0.0,
        0.0,
        0.0,
        1.0,
        0.0,
    ]
    np.testing.assert_allclose(out["api"], [(0.5 - 0.18) / 0.18], atol=1e-5)
    np.testing.assert_allclose(out["tft_gain"], [0.0], atol=1e-6)


def test_lowest_pixels_follow_the_tie_rule():
    # Two levels: the right half at 1, the left at .5 (and one pixel at 0): t removes the left
    # half's pixels from the end of the common order.
    L = torch.full((1, 10, 10), 0.5)
    L[0, :, 5:] = 1.0
    L[0, 0, 0] = 0.0
    weight = region_mean(10, slice(0, 5), slice(0, 5))
    out = score(planted(weight), torch.ones(1, 3, 10, 10), L, "threshold_quality", ids=["a"])
    ranked = ref.order(L[0].double().numpy(), "a")
    for t in range(10):
        kept = L[0].flatten().numpy().copy()
        kept[ranked[100 - 10 * t :]] = 0.0
        expected = 0.1 + 0.8 * kept.reshape(10, 10)[:5, :5].mean()
        assert out["threshold_p"][0, t] == pytest.approx(expected, abs=1e-6)


def test_threshold_localization_by_hand():
    # IoU is 1 for tau = 0...49, 1/4 for .5...99, 0 at 1: .01 * (49 * 1 + 5/8 + 49 * 1/4 + 1/8) =
    # .62.
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    out = one("threshold_localization", steps_map(), truth=mask_truth(mask))
    assert out["iou_area"] == pytest.approx(0.62, abs=1e-6)
    assert out["best_tau"] == 0.0
    # With the small block as truth it is 1/4 below .5 and 1 from .5 on: .01 * (49/4 + 5/8 + 49 +
    # 1/2) = .62375.
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1:3, 1:3] = True
    out = one("threshold_localization", steps_map(), truth=mask_truth(mask))
    assert out["iou_area"] == pytest.approx(0.62375, abs=1e-6)
    assert out["best_tau"] == pytest.approx(0.5)


# --------------------------------------------------------------------------------------- complexity


@pytest.mark.parametrize(
    ("values", "entropy", "gini", "share"),
    [
        ([1.0], 0.0, 15 / 16, 1 / 16),  # one pixel of 16 holds all
        ([2.0, 2.0], 0.25, 14 / 16, 2 / 16),  # ln 2 / ln 16
        ([1.0] * 16, 1.0, 0.0, 1.0),
        # (3,1)/4: H = 2 ln 2 - .75 ln 3; sorted, sum (2k - 17) v_k = 13 * 1 + 15 * 3 = 58 over 16 *
        # 4.
        (
            [3.0, 1.0],
            (2 * math.log(2) - 0.75 * math.log(3)) / math.log(16),
            58 / 64,
            4 * 3**-0.75 / 16,
        ),
    ],
)
def test_complexity_by_hand(values, entropy, gini, share):
    L = torch.full((16,), 0.0 if len(values) == 16 else -1.0)
    L[: len(values)] = torch.tensor(values)
    out = one("complexity", L.reshape(4, 4))
    assert out["entropy"] == pytest.approx(entropy, abs=1e-6)
    assert out["gini"] == pytest.approx(gini, abs=1e-6)
    assert out["effective_share"] == pytest.approx(share, abs=1e-6)


# ------------------------------------------------------------------------------------------ missing

LOCALISATION = (
    "pointing_game",
    "energy_pointing_game",
    "energy_ranked",
    "box_localization",
    "pixel_precision",
    "threshold_localization",
)


def full_truth(count: int, side: int) -> bench.Truth:
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    boxes = (torch.tensor([[2.0, 2.0, 6.0, 6.0]]),) * count
    return bench.Truth(boxes=boxes, masks=masks, others=masks.flip(2))


EMPTY: dict[str, dict[str, Any]] = {
    # The truth is 16 of 784 pixels; p(x) = .9, and an image that shows nothing has p = .1.
    "average_drop": {"average_drop": 8 / 9, "average_increase": 0, "average_gain": 0},
    "energy_pointing_game": {"energy": 0, "energy_lift": 0},
    "box_localization": {"box_iou": 0},
    "pixel_precision": {"relevance_mass": 0},
    "threshold_quality": {
        **dict.fromkeys(("tft_q", "tft_gain", "tft_t", "api", "ir", "threshold_area"), 0),
        "apd": 8 / 9,
        "dr": 1,
        "threshold_p": 0.1,
    },
    "threshold_localization": {"iou_area": 0, "best_tau": 0},
    "discriminability": {"discriminability": 0},
    "energy_ranked": {"energy_ranked": 0},
}
"""What a map says that shows nothing: a statement, which has a value."""

SHAPELESS = ("entropy", "gini", "effective_share")
"""What a map that shows nothing has none of: 0/0 can not be computed."""


@pytest.mark.parametrize("metric", EMPTY)
@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_a_map_without_positive_part_is_a_statement(metric, value):
    L = torch.full((1, 28, 28), value)
    L[0, 3, 3] = value * 2
    truth = dataclasses.replace(full_truth(1, 28), others=full_truth(1, 28).masks.flip(2))
    out = score(planted(TOP), torch.ones(1, 3, 28, 28), L, metric, truth=truth)
    for name, expected in EMPTY[metric].items():
        np.testing.assert_allclose(out[name], np.full_like(out[name], expected), atol=1e-6)


def test_pixels_of_a_map_of_zeros_are_one_group_in_the_lowest_bin():
    out = one("pixel_precision", torch.zeros(28, 28), truth=full_truth(1, 28))
    assert out["pixel_ap"] == pytest.approx(16 / 784)
    histogram = np.zeros(2002)
    histogram[0], histogram[1001] = 16, 784 - 16
    np.testing.assert_array_equal(out["pixel_histogram"], histogram)


@pytest.mark.parametrize("metric", ["energy_pointing_game", "box_localization", "pixel_precision"])
def test_a_map_of_zeros_without_truth_is_missing(metric):
    masks = torch.zeros(1, 28, 28, dtype=torch.bool)
    truth = bench.Truth(boxes=(torch.zeros(0, 4),), masks=masks)
    out = one(metric, torch.zeros(28, 28), truth=truth)
    assert all(np.isnan(values).all() for values in out.values())


def test_a_map_without_positive_part_has_no_shape():
    out = score(planted(TOP), torch.ones(1, 3, 28, 28), -torch.ones(1, 28, 28), "complexity")
    for name in SHAPELESS:
        assert np.isnan(out[name]).all(), name


def test_a_negative_map_still_has_an_order():
    out = score(planted(TOP), torch.ones(1, 3, 28, 28), DOWN - 1000, "deletion")
    np.testing.assert_allclose(out["deletion"], [0.2], atol=1e-6)


@pytest.mark.parametrize("metric", ref.METRICS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_map_that_is_not_finite_is_missing_and_spoils_no_other(metric, bad):
    maps = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
    images = torch.ones(3, 3, 28, 28)
    truth, ids = full_truth(3, 28), ["a", "b", "c"]
    good = score(planted(TOP), images, maps, metric, truth=truth, ids=ids)
    spoiled = maps.clone()
    spoiled[1, 5, 5] = bad
    out = score(planted(TOP), images, spoiled, metric, truth=truth, ids=ids)
    for name, values in out.items():
        assert np.isnan(values[1]).all(), name
        np.testing.assert_allclose(values[[0, 2]], good[name][[0, 2]], atol=1e-6)

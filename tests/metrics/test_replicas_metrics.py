"""Every metric against its slow float64 replica, over nets and kinds of maps; and laws that hold
for any map.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bench
from bench import randomness
from tests.support import reference as ref
from tests.support.nets import MEAN, STD, make_images, make_net

SIDE = 32
QUICK = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def make_maps(kind: str, seed: int, count: int) -> torch.Tensor:
    """Return maps [B,32,32] of a kind: dense and signed, or with the ties that real maps have."""
    rng = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(
        torch.randn(count, 1, 6, 6, generator=rng),
        size=(SIDE, SIDE),
        mode="bilinear",
        align_corners=False,
    )[:, 0]
    if kind == "signed":
        return smooth + 0.1 * torch.randn(count, SIDE, SIDE, generator=rng)
    if kind == "relu":  # mostly zero
        return (smooth - 0.4).clamp(min=0)
    if kind == "levels":  # many equal values
        return (smooth * 3).round() / 4
    if kind == "binary":
        return (smooth > 0).float()
    if kind == "constant":
        return torch.full((count, SIDE, SIDE), 0.7)
    raise ValueError(kind)


def make_truth(seed: int, count: int) -> bench.Truth:
    """Return one or two boxes per image, masks inside them, and some ignored pixels."""
    rng = np.random.default_rng(seed)
    boxes, masks = [], torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for i in range(count):
        rows = []
        for _ in range(1 + i % 2):
            x0, y0 = rng.uniform(0, 18, 2)
            w, h = rng.uniform(4, 13, 2)
            rows.append([x0, y0, x0 + w, y0 + h])
            masks[i, int(y0) + 1 : int(y0 + h), int(x0) + 1 : int(x0 + w)] = True
        boxes.append(torch.tensor(rows, dtype=torch.float32))
    ignore = torch.from_numpy(rng.random((count, SIDE, SIDE)) < 0.05)
    others = masks.flip(2)
    return bench.Truth(boxes=tuple(boxes), masks=masks, ignore=ignore, others=others)


def explainee(kind: str, seed: int) -> bench.Explainee:
    return bench.Explainee(
        make_net(kind, seed, SIDE), mean=MEAN, std=STD, size=SIDE, layer="features"
    )


def score(model, images, targets, maps, metric, **kwargs) -> dict[str, np.ndarray]:
    out = bench.score(model, images, targets, maps, metric, curves=True, **kwargs)
    return {name: np.asarray(values, dtype=np.float64) for name, values in out.items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], atol: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=atol, err_msg=name)


# Values that are not per pixel: a threshold chosen among near-equal ones may differ between float32
# and float64.
CASES = [
    ("gap", 0, "signed"),
    ("mlp", 1, "relu"),
    ("norm", 2, "levels"),
    ("signed", 3, "binary"),
    ("mlp", 4, "constant"),
]


BY_TRUTH = ("pointing_game", "energy_pointing_game", "energy_ranked", "threshold_localization")
"""Metrics that take boxes or masks."""


def tolerance(name: str) -> float:
    # Log-odds of a confident net have the logit's rounding, and api divides by p.
    return 1e-3 if name in ("tft_gain", "threshold_log_odds", "api") else 1e-4


@pytest.mark.parametrize(("kind", "seed", "maps_kind"), CASES, ids=lambda v: str(v))
@pytest.mark.parametrize("metric", ref.METRICS)
def test_metric_equals_its_replica(metric, kind, seed, maps_kind):
    count = 3
    images, maps, truth = (
        make_images(seed, count, SIDE),
        make_maps(maps_kind, seed, count),
        make_truth(seed, count),
    )
    if metric in (*BY_TRUTH, "discriminability_ranked"):
        truth = bench.Truth(
            boxes=truth.boxes, masks=truth.masks, others=truth.others
        )  # what `ignore` means there is not written down
    targets = torch.tensor([0, 2, 4])
    ids = [f"image-{i}" for i in range(count)]
    out = score(explainee(kind, seed), images, targets, maps, metric, truth=truth, ids=ids)
    network = ref.Network(make_net(kind, seed, SIDE), mean=MEAN, std=STD)
    for i in range(count):
        expected = ref.METRICS[metric](
            net=network,
            x=images[i].double().numpy(),
            c=int(targets[i]),
            L=maps[i].double().numpy(),
            image_id=ids[i],
            boxes=truth.boxes[i].double().numpy(),
            truth=truth.masks[i].numpy(),
            ignore=None if truth.ignore is None else truth.ignore[i].numpy(),
            others=truth.others[i].numpy(),
        )
        for name, value in expected.items():
            np.testing.assert_allclose(
                out[name][i], value, atol=tolerance(name), err_msg=f"{name} of image {i}"
            )


def test_boxes_stand_in_for_masks():
    maps, truth = make_maps("signed", 0, 3), make_truth(0, 3)
    pixels = torch.from_numpy(
        np.stack([ref.box_pixels(b.double().numpy(), SIDE, SIDE) for b in truth.boxes])
    )
    model, images, targets = explainee("gap", 0), make_images(0, 3, SIDE), torch.tensor([0, 1, 2])
    for metric in BY_TRUTH:
        by_box = score(model, images, targets, maps, metric, truth=bench.Truth(boxes=truth.boxes))
        by_mask = score(model, images, targets, maps, metric, truth=bench.Truth(masks=pixels))
        assert_same(by_box, by_mask, 1e-6)


def test_pooled_histogram_gives_average_precision_up_to_its_bins():
    # On one image the pooled precision is the image's own, up to values that share one of 1001
    # bins.
    maps, truth = make_maps("signed", 5, 3).clamp(min=0), make_truth(5, 3)
    truth = bench.Truth(masks=truth.masks)
    model, images = explainee("gap", 0), make_images(0, 3, SIDE)
    out = score(
        model, images, torch.zeros(3, dtype=torch.long), maps, "pixel_precision", truth=truth
    )
    for i in range(3):
        first, second = out["pixel_histogram"][i].reshape(2, 1001)
        inside = truth.masks[i].sum().item()
        hits, others = (first, second) if first.sum() == inside else (second, first)
        assert hits.sum() == inside
        assert others.sum() == SIDE * SIDE - inside
        hits, others = hits[::-1], others[::-1]  # from the highest value
        precision = hits.cumsum() / np.maximum(hits.cumsum() + others.cumsum(), 1)
        pooled = (precision * hits).sum() / inside
        assert pooled == pytest.approx(out["pixel_ap"][i], abs=5e-3)


# --------------------------------------------------------------------------------------------- laws


def setting(seed: int, maps_kind: str, count: int = 2):
    return (
        explainee("mlp", seed % 3),
        make_images(seed, count, SIDE),
        torch.arange(count) % 5,
        make_maps(maps_kind, seed, count),
        {"truth": make_truth(seed, count), "ids": [f"{seed}-{i}" for i in range(count)]},
    )


KINDS = st.sampled_from(["signed", "relu", "levels", "binary", "constant"])


@pytest.mark.parametrize("metric", ref.METRICS)
@QUICK
@given(seed=st.integers(0, 9_999), kind=KINDS, power=st.integers(-20, 20))
def test_a_positive_factor_changes_nothing(metric, seed, kind, power):
    # A power of two, so that not even the last bit of a ratio moves.
    model, images, targets, maps, rest = setting(seed, kind)
    plain = score(model, images, targets, maps, metric, **rest)
    assert_same(plain, score(model, images, targets, maps * 2.0**power, metric, **rest), 1e-6)


@pytest.mark.parametrize("metric", ["deletion", "insertion", "pointing_game"])
@QUICK
@given(seed=st.integers(0, 9_999))
def test_rankings_are_all_that_counts_for(metric, seed):
    model, images, targets, maps, rest = setting(seed, "levels")
    # 3 L - 7 and exp(L) keep order and equality of these few levels.
    plain = score(model, images, targets, maps, metric, **rest)
    assert_same(plain, score(model, images, targets, 3 * maps - 7, metric, **rest), 1e-6)
    assert_same(plain, score(model, images, targets, maps.exp(), metric, **rest), 1e-6)


@pytest.mark.parametrize("metric", ref.METRICS)
@QUICK
@given(seed=st.integers(0, 9_999), kind=KINDS)
def test_batch_mates_change_no_score(metric, seed, kind):
    model, images, targets, maps, rest = setting(seed, kind, count=3)
    together = score(model, images, targets, maps, metric, **rest)
    for i in range(3):
        one = torch.tensor([i])
        alone = score(
            model,
            images[one],
            targets[one],
            maps[one],
            metric,
            truth=rest["truth"].select(one),
            ids=[rest["ids"][i]],
        )
        assert_same(alone, {name: values[[i]] for name, values in together.items()}, 1e-4)


@QUICK
@given(seed=st.integers(0, 9_999))
def test_flipping_image_and_map_leaves_deletion_where_nothing_ties(seed):
    # A net of 1x1 convolutions and GAP does not know left from right.
    net = make_net("gap", seed % 5)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight = torch.nn.Parameter(module.weight[:, :, 1:2, 1:2].clone())
            module.kernel_size, module.stride, module.padding = (1, 1), (1, 1), (0, 0)
    model = bench.Explainee(net, mean=MEAN, std=STD, size=SIDE, layer="features")
    images, targets, maps = (
        make_images(seed, 2, SIDE),
        torch.tensor([0, 1]),
        make_maps("signed", seed, 2),
    )
    for metric in ("deletion", "insertion"):
        plain = score(model, images, targets, maps, metric)
        flipped = score(model, images.flip(-1), targets, maps.flip(-1), metric)
        assert_same(plain, flipped, 1e-5)


def test_ids_fix_the_tie_break():
    model, images, targets, maps, _ = setting(1, "constant")
    first = score(model, images, targets, maps, "deletion", ids=["a", "b"])
    assert_same(first, score(model, images, targets, maps, "deletion", ids=["a", "b"]), 0)
    other = score(model, images, targets, maps, "deletion", ids=["c", "d"])
    assert np.abs(first["deletion_curve"] - other["deletion_curve"]).max() > 1e-4


def test_without_ids_the_image_names_the_draw():
    model, images, targets, maps, _ = setting(2, "binary")
    ids = [randomness.image_id_of(image) for image in images]
    unnamed = score(model, images, targets, maps, "deletion")
    assert_same(unnamed, score(model, images, targets, maps, "deletion", ids=ids), 0)


@QUICK
@given(seed=st.integers(0, 9_999))
def test_zero_start_and_whole_image_bound_the_curves(seed):
    # Deletion ends where every image looks the same; it starts, and insertion ends, at p_c(x).
    model, images, targets, maps, rest = setting(seed, "signed")
    down = score(model, images, targets, maps, "deletion", **rest)["deletion_curve"]
    rise = score(model, images, targets, maps, "insertion", **rest)["insertion_curve"]
    np.testing.assert_allclose(down[:, 0], rise[:, -1], atol=1e-6)
    network = ref.Network(make_net("mlp", seed % 3, SIDE), mean=MEAN, std=STD)
    blank = np.broadcast_to(network.baseline, (3, SIDE, SIDE))
    for i, c in enumerate(targets.tolist()):
        assert down[i, -1] == pytest.approx(network.p(blank, c), abs=1e-5)


def test_the_oracle_is_the_best_there_is():
    truth = make_truth(3, 4)
    truth = bench.Truth(boxes=tuple(b[:1].round() for b in truth.boxes))
    model, images, targets = (
        explainee("gap", 0),
        make_images(3, 4, SIDE),
        torch.zeros(4, dtype=torch.long),
    )
    maps = truth.pixels(SIDE, SIDE).float()
    assert (
        score(model, images, targets, maps, "energy_pointing_game", truth=truth)["energy"] == 1
    ).all()
    assert (
        score(model, images, targets, maps, "pointing_game", truth=truth)["pointing_all_exact"] == 1
    ).all()
    best = score(model, images, targets, maps, "box_localization", truth=truth)["box_iou"]
    np.testing.assert_allclose(best[:, :100], 1.0, atol=1e-6)
    out = score(model, images, targets, maps, "threshold_localization", truth=truth)
    np.testing.assert_allclose(out["iou_area"], 0.995, atol=1e-6)  # 1 but for the last half step
    masks = bench.Truth(masks=truth.pixels(SIDE, SIDE))
    out = score(model, images, targets, maps, "pixel_precision", truth=masks)
    for name in ("pixel_ap", "relevance_mass", "relevance_rank"):
        np.testing.assert_allclose(out[name], 1.0, atol=1e-9)


def test_average_drop_and_threshold_agree_at_zero():
    # "at t = 0 they are AI and AD": the same masked image, so the same probability.
    model, images, targets, maps, rest = setting(4, "relu", count=3)
    masked = score(model, images, targets, maps, "threshold_quality", **rest)["threshold_p"][:, 0]
    drop = score(model, images, targets, maps, "average_drop", **rest)
    whole = score(model, images, targets, maps, "deletion", **rest)["deletion_curve"][:, 0]
    np.testing.assert_allclose(
        drop["average_drop"], np.maximum(0, whole - masked) / whole, atol=1e-6
    )
    np.testing.assert_array_equal(drop["average_increase"], (masked > whole).astype(float))


def test_pointing_marks_images_outside_the_set_with_infinity():
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, :8], masks[1, :9] = True, True  # 25 % and more
    model, images, targets, maps, rest = setting(6, "signed")
    out = score(
        model,
        images,
        targets,
        maps,
        "pointing_game",
        truth=bench.Truth(masks=masks),
        ids=rest["ids"],
    )
    assert math.isfinite(out["pointing"][0])
    assert out["pointing"][1] == out["pointing_exact"][1] == math.inf
    assert np.isfinite(out["pointing_all"]).all()

"""Named protocols give the numbers of the code that they are named after, on the same nets, images
and maps.

Libraries that can be installed (quantus, torchcam) are run themselves; RISE, WSOL and Xplique as
slow replicas. Known defects of the originals are not copied: one test each says so.
"""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torchcam.metrics as peer_torchcam
from torch import nn

import bench
from bench.board.box_thresholds import find_hits
from bench.board.statistics import pooled_precision
from bench.engine.fills import kernel_blur
from tests.support import reference_protocols as ref
from tests.support.nets import MEAN, STD, make_images, make_net

SIDE = 32
RELATIVE = 1e-4
COUNT = 2


def explainee(kind: str = "norm", side: int = SIDE) -> bench.Explainee:
    return bench.Explainee(make_net(kind, 1, side), mean=MEAN, std=STD, size=side, layer="features")


def make_maps(kind: str, side: int = SIDE, count: int = COUNT, seed: int = 3) -> torch.Tensor:
    """Return maps [B,side,side]: signed without ties, mostly zero, of few levels, or constant."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 5, 5, generator=rng)
    smooth = nn.functional.interpolate(
        coarse, size=(side, side), mode="bilinear", align_corners=False
    )[:, 0]
    return {
        "signed": smooth + 0.1 * torch.randn(count, side, side, generator=rng),
        "relu": (smooth - 0.5).clamp(min=0),
        "levels": (smooth * 2).round() / 2,
        "constant": torch.full((count, side, side), 0.4),
    }[kind]


KINDS = ["signed", "relu", "levels", "constant"]


def score(model, images, targets, maps, metric, protocol, **more) -> dict[str, np.ndarray]:
    given = {"ids": [f"image-{i}" for i in range(len(images))], "curves": True, **more}
    out = bench.score(model, images, targets, maps, metric, protocol=protocol, **given)
    return {name: values.double().numpy() for name, values in out.items()}


def close(ours: object, theirs: object) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=1e-7)


# --- RISE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [60, 224])  # 1024 pixels: neither divides them
def test_rise_is_the_authors_game(kind, step):
    model, images, maps = explainee(), make_images(1, COUNT, SIDE), make_maps(kind)
    p = ref.answers(model.net)
    for metric, mode in (("deletion", "del"), ("insertion", "ins")):
        ours = score(model, images, None, maps, metric, f"rise[step_features={step}]")
        for i in range(COUNT):
            area, curve = ref.rise_game(
                p, images[i].double().numpy(), maps[i].double().numpy(), mode, step
            )
            close(ours[f"{metric}_curve"][i], curve)
            close(ours[metric][i], area)


def test_rise_takes_224_pixels_a_step_and_ends_where_no_pixel_is_left():
    ours = score(
        explainee(), make_images(1, 1, SIDE), None, make_maps("signed", count=1), "deletion", "rise"
    )
    assert ours["deletion_curve"].shape == (1, 1 + 5)  # ceil(1024 / 224)


def test_the_kernel_of_rise_is_nearly_a_box():
    image = torch.zeros(1, 3, 31, 31)
    image[:, :, 15, 15] = 1
    blurred = kernel_blur(image, 11, 5.0, fold=True, padding="zero")[0, 0].double().numpy()
    kernel = blurred[10:21, 10:21]
    np.testing.assert_allclose(kernel, ref.rise_kernel(), atol=1e-7)
    assert kernel.max() / kernel.min() == pytest.approx(1.14, abs=0.005)
    assert blurred.sum() == pytest.approx(1, abs=1e-6)
    cut = kernel_blur(image, 11, 5.0, fold=False, padding="zero")[0, 0].numpy()
    assert cut[15, 15] / cut[10, 10] == pytest.approx(
        np.exp(1.0), rel=1e-4
    )  # e^(2 * 5^2 / (2 * 5^2))


def test_zero_padding_darkens_the_border_and_reflection_does_not():
    image = torch.ones(1, 3, 20, 20)
    zero = kernel_blur(image, 11, 5.0, fold=True, padding="zero")[0, 0]
    assert zero[0, 0] < 0.4
    assert zero[10, 10] == pytest.approx(1, abs=1e-6)
    assert kernel_blur(image, 11, 5.0, fold=True, padding="reflect").min() == pytest.approx(
        1, abs=1e-6
    )


# --- WSOL


def make_truth(count: int = COUNT, side: int = SIDE) -> bench.Truth:
    boxes, masks = [], torch.zeros(count, side, side, dtype=torch.bool)
    for i in range(count):
        rows = [[3.7 + i, 5.2, 18.9, 20.4 + i]] + (
            [[20.0, 20.0, float(side), float(side)]] if i % 2 else []
        )
        boxes.append(torch.tensor(rows))
        masks[i, 6:20, 5 + i : 18] = True
    ignore = torch.zeros_like(masks)
    ignore[:, :4] = True
    return bench.Truth(boxes=tuple(boxes), masks=masks, ignore=ignore)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", ["any", "largest"])
def test_wsol_boxes_are_the_evaluators(kind, choice):
    truth, maps = make_truth(), make_maps(kind)
    if kind == "signed":
        maps = -make_maps("relu") + 0.3 * maps  # a ring around holes, and no zero in sight
    protocol = f"wsol[box_choice={choice}]"
    ours = score(
        explainee(),
        make_images(1, COUNT, SIDE),
        [0, 1],
        maps,
        "box_localization",
        protocol,
        truth=truth,
    )
    for i in range(COUNT):
        theirs = ref.wsol_best_iou(
            maps[i].double().numpy(), truth.boxes[i].numpy(), multi_contour=choice == "any"
        )
        assert len(theirs) == 1000
        close(ours["box_iou"][i], theirs)


def test_the_replicas_contours_are_objects_and_holes():
    maps = make_maps("signed", count=4)
    holes = 0
    for L in maps.double().numpy():
        for tau in (0.1, 0.35, 0.6, 0.95):
            boxes = set(ref.wsol_boxes(L, tau, multi_contour=True))
            assert boxes == ref.wsol_boxes_by_labels(L, tau)
            holes += len(boxes)
    assert holes > 40


def test_wsol_box_accuracy_takes_the_best_threshold_of_the_scored_images():
    count = 6
    maps, truth = make_maps("relu", count=count), make_truth(count)
    images = make_images(1, count, SIDE)
    ours = score(explainee(), images, [0] * count, maps, "box_localization", "wsol", truth=truth)[
        "box_iou"
    ]
    best = np.stack(
        [ref.wsol_best_iou(maps[i].double().numpy(), truth.boxes[i].numpy()) for i in range(count)]
    )
    records = frame_of(ours)
    found = find_hits(records, records, (0.3, 0.5, 0.7), least=0).mean(0)
    close(found, ref.wsol_max_box_acc(best))
    assert 0 < found.mean() < 1


def frame_of(vectors: np.ndarray):
    import pandas as pd

    return pd.DataFrame(
        {"image": [str(i) for i in range(len(vectors))], "vector": list(vectors.astype(np.float32))}
    )


def test_pxap_is_the_mask_evaluators():
    truth, maps = make_truth(), make_maps("signed")
    ours = score(
        explainee(),
        make_images(1, COUNT, SIDE),
        [0, 1],
        maps,
        "pixel_precision",
        "wsol",
        truth=truth,
    )
    theirs = ref.wsol_pxap(
        list(maps.double().numpy()), list(truth.masks.numpy()), list(truth.ignore.numpy())
    )
    close(pooled_precision(ours["pixel_histogram"].sum(0)[None])[0], theirs)


def test_maps_of_several_scales_count_alike_in_pxap():
    # Normalised per map and not by the largest of the batch: a faint map's pixels are not all below
    # a strong one's.
    truth, maps = make_truth(), make_maps("signed")
    images = make_images(1, COUNT, SIDE)
    faint = maps * torch.tensor([1e-3, 1.0])[:, None, None]
    for name in ("pixel_precision", "box_localization"):
        one = score(explainee(), images, [0, 1], maps, name, "wsol", truth=truth)
        two = score(explainee(), images, [0, 1], faint, name, "wsol", truth=truth)
        for key in one:
            np.testing.assert_allclose(
                one[key], two[key], atol=0.2 if key == "box_iou" else 2, err_msg=key
            )
            assert (
                np.abs(one[key] - two[key]) > 1e-6
            ).mean() < 0.02  # a last digit may move a pixel to the next bin


# --- Quantus


def pixel_flipping(model, images, maps, targets, step, **more):
    quantus = pytest.importorskip("quantus")
    metric = quantus.PixelFlipping(features_in_step=step, disable_warnings=True, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(
            metric(
                model=model.net.eval(),
                x_batch=images.numpy(),
                y_batch=np.array(targets),
                a_batch=maps.numpy(),
                softmax=True,
                channel_first=True,
                device="cpu",
            )
        )


def spread(maps: torch.Tensor) -> torch.Tensor:
    """Return maps for each channel [B,3,H,W], the first a little above the second: no ties are left
    to a sort.
    """
    return torch.stack([maps, maps - 1e-5, maps - 2e-5], dim=1)


def distinct(side: int, seed: int = 5) -> torch.Tensor:
    """Return maps [B,side,side] whose values are all different, by far more than what `spread`
    adds.
    """
    rng = torch.Generator().manual_seed(seed)
    return torch.stack(
        [
            torch.randperm(side * side, generator=rng).view(side, side) / side**2
            for _ in range(COUNT)
        ]
    )


def test_quantus_pixel_flipping_one_channel_at_a_time():
    side, targets = 16, [1, 3]
    model, images, maps = explainee("norm", side), make_images(2, COUNT, side), distinct(side)
    theirs = pixel_flipping(model, images, spread(maps), targets, 1)
    ours = score(model, images, targets, maps, "deletion", "quantus")
    assert theirs.shape == (COUNT, 3 * side * side)
    close(ours["deletion_curve"], theirs)


@pytest.mark.parametrize("step", [12, 96])
def test_quantus_pixel_flipping_in_its_own_order_and_its_own_area(step, monkeypatch):
    # A multiple of three: each step takes whole pixels, so the order among a pixel's channels plays
    # no part.
    side, targets = 24, [1, 3]
    model, images, maps = explainee("norm", side), make_images(2, COUNT, side), distinct(side)
    protocol = f"quantus[step_features={step}]"
    ours = score(model, images, targets, maps, "deletion", protocol)
    theirs = pixel_flipping(model, images, maps[:, None], targets, step)
    close(ours["deletion_curve"], theirs)
    if not hasattr(np, "trapz"):  # gone from NumPy 2, and Quantus 0.6.0 still calls it
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    areas = pixel_flipping(model, images, maps[:, None], targets, step, return_auc_per_sample=True)
    close(ours["deletion"], areas)


@pytest.mark.parametrize("kind", KINDS)
def test_quantus_replica_with_ties(kind):
    side, targets = 16, [1, 3]
    model, images, maps = (
        explainee("norm", side),
        make_images(2, COUNT, side),
        make_maps(kind, side),
    )
    ours = score(model, images, targets, maps, "deletion", "quantus[step_features=50]")
    p = ref.answers(model.net)
    for i in range(COUNT):
        area, curve = ref.quantus_pixel_flipping(
            p, images[i].double().numpy(), maps[i].double().numpy(), targets[i], 50
        )
        close(ours["deletion_curve"][i], curve)
        close(ours["deletion"][i], area)


# --- TorchCAM


class Ready:
    """A CAM extractor as TorchCAM's metrics want one, with maps that are there already."""

    def __init__(self, net: nn.Module, maps: torch.Tensor) -> None:
        self.model, self.maps = net, maps

    def __call__(
        self, class_idx=None, scores=None, normalized=True, **_: object
    ) -> list[torch.Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[torch.Tensor]) -> torch.Tensor:
        return cams[0]

    def _hooks_off(self):
        import contextlib

        return contextlib.nullcontext()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("steps", [20, 7])
def test_torchcam_deletion_and_insertion(kind, raw, steps):
    model, images, maps = explainee(), make_images(4, COUNT, SIDE), make_maps(kind)
    function = None if raw else partial(torch.softmax, dim=-1)
    protocol = f"torchcam[steps={steps},score={'logit' if raw else 'softmax'}]"
    ours = score(model, images, None, maps, ["deletion", "insertion"], protocol)
    for i in range(COUNT):
        peer = peer_torchcam.DeletionInsertionMetric(
            Ready(model.net, maps[[i]]), function, steps=steps
        )
        peer.update(images[[i]])
        theirs = peer.summary()
        close(ours["deletion"][i], theirs["deletion_auc"])
        close(ours["insertion"][i], theirs["insertion_auc"])


@pytest.mark.parametrize("kind", ["signed", "relu", "levels"])
def test_torchcam_average_drop_and_increase(kind):
    model, images, maps = explainee(), make_images(4, 4, SIDE), make_maps(kind, count=4)
    positive = maps.clamp(min=0)
    spread_of = positive.amax((1, 2), keepdim=True) - positive.amin((1, 2), keepdim=True)
    normalised = (positive - positive.amin((1, 2), keepdim=True)) / spread_of
    peer = peer_torchcam.ClassificationMetric(
        Ready(model.net, normalised), partial(torch.softmax, dim=-1)
    )
    peer.update(images)
    ours = score(model, images, None, maps, "average_drop", "torchcam")
    close(ours["average_drop"].mean(), peer.summary()["avg_drop"])
    close(ours["average_increase"].mean(), peer.summary()["conf_increase"])
    assert ours["average_drop"].mean() > 0.05


# --- Xplique


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["deletion", "insertion"])
def test_xplique_replica(kind, mode):
    model, images, maps = explainee(), make_images(4, COUNT, SIDE), make_maps(kind)
    targets = [2, 0]
    ours = score(model, images, targets, maps, mode, "xplique[steps=7]")
    p = ref.answers(model.net, softmax=False)
    for i in range(COUNT):
        area, curve = ref.xplique_game(
            p, images[i].double().numpy(), maps[i].double().numpy(), targets[i], mode, 7
        )
        close(ours[f"{mode}_curve"][i], curve)
        close(ours[mode][i], area)


# --- defects of the originals that are not copied


def test_a_mostly_zero_map_loses_just_the_stated_fraction():
    # A percentile of the values removes every pixel of such a map at once (pytorch-grad-cam's
    # ROAD).
    model, images = explainee(), make_images(4, 1, SIDE)
    maps = torch.zeros(1, SIDE, SIDE)
    maps[0, 5:8, 5:12] = (
        torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) + 0.1
    )  # 2 % of the pixels
    assert np.percentile(maps.numpy(), 50) == 0
    for name in ("rise", "torchcam", "xplique"):
        curve = score(model, images, [1], maps, "deletion", name)["deletion_curve"][0]
        assert len(np.unique(np.round(curve[1:-1], 9))) > 3, (
            name
        )  # no plateau from a step that took everything
    curve = score(model, images, [1], maps, "road", "cambench-1[road_fractions=0.1:0.5:0.9]")[
        "road_morf_curve"
    ][0]
    assert len(np.unique(curve)) == 3


def test_batch_mates_change_nothing():
    # Normalising by the largest value of the whole batch would (Quantus `normalise_by_max`).
    model, images, maps = explainee(), make_images(4, COUNT, SIDE), make_maps("signed")
    maps[1] *= 1000
    truth = make_truth()
    metrics = ["deletion", "average_drop", "box_localization", "pixel_precision"]
    for name in ("rise", "wsol", "quantus[step_features=256]", "torchcam"):
        both = score(model, images, [0, 1], maps, metrics, name, truth=truth)
        alone = score(
            model, images[:1], [0], maps[:1], metrics, name, truth=truth.select(torch.tensor([0]))
        )
        for key in both:
            np.testing.assert_allclose(
                both[key][0], alone[key][0], atol=1e-5, err_msg=f"{name} {key}"
            )


@pytest.mark.parametrize("name", ["wsol", "quantus", "torchcam"])
def test_a_tied_maximum_is_one_place_and_no_truth_is_no_hit(name):
    # In Quantus any tied maximum that lies inside is a hit, and an empty mask counts as one.
    model, images = explainee(), make_images(4, 2, SIDE)
    maps = torch.ones(2, SIDE, SIDE)
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 20, 20] = True
    ours = score(model, images, [0, 1], maps, "pointing_game", name, truth=bench.Truth(masks=masks))
    assert ours["pointing_all_exact"][0] == 0
    assert np.isnan(ours["pointing_all_exact"][1])


def test_a_map_that_is_not_finite_is_missing_and_not_a_map_of_zeros():
    # WSOL's evaluator reads a map with a NaN as zeros and scores it; TorchCAM counts it, as we do.
    maps = make_maps("relu")
    maps[0, 3, 3] = torch.nan
    ours = score(
        explainee(),
        make_images(1, COUNT, SIDE),
        [0, 1],
        maps,
        "box_localization",
        "wsol",
        truth=make_truth(),
    )
    assert np.isnan(ours["box_iou"][0]).all()
    assert np.isfinite(ours["box_iou"][1]).all()


def test_only_quantus_leaves_out_an_end_of_the_curve():
    model, images, maps = explainee(), make_images(1, 1, SIDE), make_maps("signed", count=1)
    with torch.no_grad():
        clean = torch.softmax(model.net(images).double(), dim=1)[0]
    for name, points in {
        "cambench-1": 29,
        "rise": 6,
        "torchcam": 21,
        "quantus[step_features=512]": 6,
    }.items():
        curve = score(model, images, [1], maps, "deletion", name)["deletion_curve"][0]
        assert len(curve) == points, name
        has_start = bool(np.isclose(curve[0], float(clean[1]), atol=1e-6))
        assert has_start == (not name.startswith("quantus")), name


def test_a_curve_without_ends_is_a_part_of_the_whole():
    """Points 1..27 of 28 span 26/28 of the axis, not all of it."""
    from bench.metrics.faithfulness import area_under

    whole = list(range(29))
    assert float(area_under(torch.ones(1, 27), whole[1:-1], "fraction", 28)) == pytest.approx(
        26 / 28
    )

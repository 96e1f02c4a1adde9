"""Maps a reader can redo by hand, from the arithmetic written beside each number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bench
from bench import randomness
from tests.support import reference as ref
from tests.support.nets import (
    BASELINE,
    MEAN,
    STD,
    PlainLinear,
    PlantedEvidence,
    PooledLinear,
    make_images,
    make_net,
    region_mean,
)

ONES = (1.0, 1.0, 1.0)

# The layer of `pooled()`: three channels on a 2x2 grid; the image repeats each cell over 2x2
# pixels.
A = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 3.0]]])
# Classes: 0 with weights (1,-1,2), logit 1*.25 - 1*.75 + 2*.75 = 1; 1 with weights (1,0,-1), logit
# .25 - .75 = -.5.
W = [[1.0, -1.0, 2.0], [1.0, 0.0, -1.0]]


def pooled() -> tuple[bench.Explainee, torch.Tensor]:
    """Return the hand-made GAP net and its 4x4 image; the mean is b, so removed pixels are 0."""
    model = bench.Explainee(
        PooledLinear(W).eval(), mean=BASELINE, std=ONES, size=4, layer="features"
    )
    return model, A.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[None]


def corners(maps: torch.Tensor) -> list[list[float]]:
    """Return the four corners: from 2x2 to 4x4, Up leaves the corner pixels at the cells' own
    values.
    """
    return maps[0][[0, 0, 3, 3], [0, 3, 0, 3]].reshape(2, 2).tolist()


# G_k = w_k / 4 = (.25, -.25, .5) for class 0, equal at all four cells.
S13 = math.sqrt(13.0)
NORM = math.hypot(3.0, 2.0 + S13)
LAYER_MAPS = {
    # sum_k w_k A_k, no ReLU: (1; -2; 0; -1 + 6)
    "cam": [[1.0, -2.0], [0.0, 5.0]],
    # a quarter of it, ReLU
    "grad_cam": [[0.25, 0.0], [0.0, 1.25]],
    "hires_cam": [[0.25, 0.0], [0.0, 1.25]],
    "xgrad_cam": [[0.25, 0.0], [0.0, 1.25]],
    # the negative channel 1 is dropped before the sum: 3 * .5
    "layer_cam": [[0.25, 0.0], [0.0, 1.5]],
    # alpha = 1/(2 + sum(A) G): channel 0 gives 4 * .25/(2 + .25) = 4/9, channel 2 gives 4 * .5/(2 +
    # 1.5) = 4/7
    "grad_cam_pp": [[4 / 9, 0.0], [0.0, 12 / 7]],
    # w_k = S - S without k = w_k mean(A_k) = (.25, -.75, 1.5): (.25; -1.5 -> 0; 0; -.75 + 4.5)
    "ablation_cam": [[0.25, 0.0], [0.0, 3.75]],
    # cells are (1,0,0), (0,2,0), 0, (0,1,3); A^T A has the block [[5,3],[3,9]], whose leading
    # vector is (3, 2 + sqrt 13)/NORM; the first cell is orthogonal to it. Not centred, and positive
    # as sum_k A_k is.
    "eigen_cam": [[0.0, 6 / NORM], [0.0, (3 + 3 * (2 + S13)) / NORM]],
}


@pytest.mark.parametrize("method", LAYER_MAPS)
def test_cams_on_a_gap_net(method):
    model, images = pooled()
    maps = bench.explain(model, images, targets=torch.tensor([0]), method=method)
    np.testing.assert_allclose(corners(maps), LAYER_MAPS[method], atol=1e-5)


def test_eigen_grad_cam_by_hand():
    # G*A: cells (.25,0,0), (0,-.5,0), 0, (0,-.25,1.5). Block [[.3125,-.375],[-.375,2.25]] of its
    # Gram matrix.
    value = 1.28125 + math.hypot(0.96875, 0.375)
    vector = np.array([-0.375, value - 0.3125])
    vector /= np.linalg.norm(vector)
    model, images = pooled()
    maps = bench.explain(model, images, targets=torch.tensor([0]), method="eigen_grad_cam")
    expected = [[0.0, -0.5 * vector[0]], [0.0, -0.25 * vector[0] + 1.5 * vector[1]]]
    np.testing.assert_allclose(corners(maps), expected, atol=1e-5)


def test_relu_comes_before_up():
    # ReLU at the layer gives [[.25,0],[0,1.25]], then rows and columns by (1,0), (3/4,1/4),
    # (1/4,3/4), (0,1).
    model, images = pooled()
    maps = bench.explain(model, images, targets=torch.tensor([0]), method="grad_cam")
    np.testing.assert_allclose(maps[0, 0].tolist(), [0.25, 0.1875, 0.0625, 0.0], atol=1e-6)
    # Second row: 3/4 of the first and 1/4 of (0, .3125, .9375, 1.25).
    np.testing.assert_allclose(maps[0, 1].tolist(), [0.1875, 0.21875, 0.28125, 0.3125], atol=1e-6)
    # Had Up come first, the pixel between 1/4 and -2/4 would be .75*.25 - .25*.5 = .0625.


def test_cam_keeps_its_sign_and_its_scale():
    model, images = pooled()
    maps = bench.explain(model, images, targets=torch.tensor([0]), method="cam")
    np.testing.assert_allclose(maps[0, 0].tolist(), [1.0, 0.25, -1.25, -2.0], atol=1e-6)


def test_ablation_cam_is_not_divided_by_a_negative_logit():
    # Class 1: S = -.5, weights (.25, 0, -.75): ReLU of (.25; 0; 0; -2.25). Divided by S it would
    # show the last cell.
    model, images = pooled()
    maps = bench.explain(model, images, targets=torch.tensor([1]), method="ablation_cam")
    np.testing.assert_allclose(corners(maps), [[0.25, 0.0], [0.0, 0.0]], atol=1e-6)


def test_score_cam_weights_are_masked_probabilities():
    # p = .1 + .8 * mean over channels of pixel (0,0). Channel 0 lights that pixel, channel 1
    # another, channel 2 all.
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, 0, 0] = x[0, 1, 2, 3] = 1.0
    x[0, 2] = 1.0
    net = PlantedEvidence(region_mean(4, slice(0, 1), slice(0, 1))).eval()
    model = bench.Explainee(net, mean=BASELINE, std=ONES, size=4, layer="features")
    maps = bench.explain(model, x, targets=torch.tensor([0]), method="score_cam")
    expected = torch.zeros(4, 4)
    expected[0, 0] = 0.1 + 0.8 * 2 / 3  # mask 0 keeps pixel (0,0), whose channels are (1,0,1)
    expected[2, 3] = 0.1  # mask 1 keeps a pixel without evidence: p is the floor
    # Channel 2 is constant: weight 0, or it would lift the whole map.
    np.testing.assert_allclose(maps[0].numpy(), expected.numpy(), atol=1e-6)


def linear_net() -> tuple[bench.Explainee, torch.Tensor, torch.Tensor]:
    weight = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    return (
        bench.Explainee(PlainLinear(weight).eval(), mean=MEAN, std=STD, size=8, layer="features"),
        make_images(6, 2, 8),
        weight,
    )


def test_gradient_methods_on_a_linear_net():
    model, images, weight = linear_net()
    targets = torch.tensor([1, 0])
    w = weight[targets]
    maps = bench.explain(model, images, targets=targets, method=["saliency", "input_x_gradient"])
    torch.testing.assert_close(maps["saliency"], w.abs().amax(dim=1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        maps["input_x_gradient"], (images * w).sum(dim=1), atol=1e-5, rtol=1e-5
    )
    b = ((torch.tensor(BASELINE) - torch.tensor(MEAN)) / torch.tensor(STD)).view(1, 3, 1, 1)
    maps = bench.explain(model, images, targets=targets, method="integrated_gradients")
    torch.testing.assert_close(maps, ((images - b) * w).sum(dim=1), atol=1e-4, rtol=1e-4)


def test_integrated_gradients_of_a_logarithm():
    # S_0 = log(.1 + .8 m), m the mean over a region of R = 4 pixels; from b (= 0) to x = 1 the
    # integral of .8/(.1 + .8 a) is log 9, so each pixel of the region gets log(9)/4 and the others
    # 0.
    net = PlantedEvidence(region_mean(4, slice(0, 1), slice(0, 4))).eval()
    model = bench.Explainee(net, mean=BASELINE, std=ONES, size=4, layer="features")
    maps = bench.explain(
        model, torch.ones(1, 3, 4, 4), targets=torch.tensor([0]), method="integrated_gradients"
    )
    np.testing.assert_allclose(maps[0, 0].numpy(), math.log(9) / 4, atol=1e-5)
    np.testing.assert_allclose(maps[0, 1:].numpy(), 0.0, atol=1e-6)


def test_no_targets_means_the_predicted_class():
    model, images = pooled()  # logits 1 and -.5: class 0
    assert torch.equal(
        bench.explain(model, images, method="grad_cam"),
        bench.explain(model, images, targets=torch.tensor([0]), method="grad_cam"),
    )


def test_a_list_of_methods_is_a_dict_of_the_same_maps():
    model = bench.Explainee(make_net("norm"), mean=MEAN, std=STD, size=32, layer="features")
    images, targets = make_images(1, 2, 32), torch.tensor([0, 3])
    names = ["layer_cam", "grad_cam", "ablation_cam", "random"]
    together = bench.explain(model, images, targets=targets, method=names, ids=["a", "b"])
    assert list(together) == names
    for name in names:
        alone = bench.explain(model, images, targets=targets, method=name, ids=["a", "b"])
        torch.testing.assert_close(together[name], alone, atol=1e-6, rtol=1e-5)


# ----------------------------------------------------------------------------------------- controls


def explain_control(
    name: str, images: torch.Tensor | None = None, **kwargs: object
) -> torch.Tensor:
    images = make_images(2, 2, 32) if images is None else images
    model = bench.Explainee(
        make_net("gap"), mean=MEAN, std=STD, size=images.shape[-1], layer="features"
    )
    return bench.explain(
        model, images, targets=torch.zeros(len(images), dtype=torch.long), method=name, **kwargs
    )


def test_random_is_a_smooth_7x7_field():
    maps = explain_control("random", ids=["a", "b"]).double().numpy()
    up = ref.up_matrix(7, 32)
    for L in maps:
        noise = np.linalg.pinv(up) @ L @ np.linalg.pinv(up).T
        np.testing.assert_allclose(
            up @ noise @ up.T, L, atol=1e-6
        )  # nothing finer than the 7x7 noise
        assert noise.min() >= -1e-6
        assert noise.max() <= 1 + 1e-6
        assert noise.std() == pytest.approx(math.sqrt(1 / 12), abs=0.09)
    assert np.abs(maps[0] - maps[1]).max() > 0.1


def test_random_is_not_the_field_that_breaks_ties():
    # Otherwise a constant map would be scored exactly as the random control.
    maps = explain_control("random", ids=["a", "b"]).double().numpy()
    field = randomness.smooth_field(randomness.generator(0, "ties", "a"), 32, 32).numpy()
    assert abs(np.corrcoef(maps[0].ravel(), field.ravel())[0, 1]) < 0.9


def test_random_pixel_has_no_structure():
    maps = explain_control("random_pixel", ids=["a", "b"]).double().numpy()
    for L in maps:
        assert len(np.unique(L)) > 1000  # of 1024
        assert abs(np.corrcoef(L[:, 1:].ravel(), L[:, :-1].ravel())[0, 1]) < 0.15
    assert abs(np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1]) < 0.15


@pytest.mark.parametrize("name", ["random", "random_pixel"])
def test_ids_and_seed_fix_the_draw(name):
    images = make_images(2, 2, 32)
    first = explain_control(name, images, ids=["a", "b"])
    assert torch.equal(first, explain_control(name, images, ids=["a", "b"]))
    assert torch.equal(first.flip(0), explain_control(name, images.flip(0), ids=["b", "a"]))
    assert torch.equal(
        first, explain_control(name, make_images(3, 2, 32), ids=["a", "b"])
    )  # the id, not the image
    assert not torch.equal(first, explain_control(name, images, ids=["a", "b"], seed=1))
    assert not torch.equal(first, explain_control(name, images, ids=["a", "c"]))
    # Without ids the image itself names the draw, so its neighbours do not matter.
    assert torch.equal(explain_control(name, images)[1], explain_control(name, images[1:])[0])


def test_constant():
    maps = explain_control("constant")
    assert maps.max() == maps.min()
    assert maps.max() > 0  # it has a positive part, so it is scored by the masking metrics


def test_center_gaussian_is_round_and_peaks_in_the_middle():
    L = explain_control("center_gaussian")[0].double().numpy()
    y, x = np.mgrid[:32, :32] - 15.5
    squared = (x**2 + y**2).ravel()
    # exp(-r^2 / 2 s^2): its logarithm is a line in r^2.
    slope, intercept = np.polyfit(squared, np.log(L.ravel()), 1)
    assert slope < 0
    np.testing.assert_allclose(np.log(L.ravel()), slope * squared + intercept, atol=1e-3)
    np.testing.assert_allclose(L, L.T, atol=1e-7)
    np.testing.assert_allclose(L, L[::-1, ::-1], atol=1e-7)


def test_sobel_finds_a_step_and_nothing_else():
    images = torch.zeros(2, 3, 16, 16)
    images[0, :, :, 8:] = 1.0  # a vertical step between columns 7 and 8; image 1 is flat
    maps = explain_control("sobel", images)
    assert (maps[0, :, 7:9] > 0).all()
    assert maps[0, :, :7].abs().max() < 1e-6 * maps[0].max()
    assert maps[0, :, 9:].abs().max() < 1e-6 * maps[0].max()
    assert maps[1].abs().max() < 1e-6  # no edge at the border of a flat image


def test_fake_cam_is_ones_but_one_pixel():
    for L in explain_control("fake_cam"):
        assert (L == 1).sum() == L.numel() - 1
        assert (L[L != 1] < 1).all()


@pytest.mark.parametrize("kind", ["masks", "boxes", "both"])
def test_oracle_is_the_truth(kind):
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:9, 10:20] = True
    masks[1, 20:, :3] = True
    # Two boxes in the first image, one with edges inside pixels: a pixel is in when its centre is.
    boxes = (
        torch.tensor([[1.0, 2.0, 5.0, 6.0], [9.6, 4.4, 12.4, 7.6]]),
        torch.tensor([[0.0, 0.0, 8.0, 4.0]]),
    )
    truth = bench.Truth(
        boxes=boxes if kind != "masks" else None, masks=masks if kind != "boxes" else None
    )
    expected = masks.clone()
    if kind == "boxes":
        expected = torch.zeros_like(masks)
        expected[0, 2:6, 1:5] = True
        expected[0, 4:8, 10:12] = (
            True  # y: centres 4.5..7.5 in [4.4,7.6); x: 10.5, 11.5 in [9.6,12.4)
        )
        expected[1, 0:4, 0:8] = True
    maps = explain_control("oracle", truth=truth)
    inverted = explain_control("inverted_oracle", truth=truth)
    for L, opposite, inside in zip(maps, inverted, expected, strict=True):
        assert L[inside].min() > L[~inside].max()
        assert len(L.unique()) == 2
        assert opposite[inside].max() < opposite[~inside].min()
        assert len(opposite.unique()) == 2


def test_oracle_without_truth_says_so():
    with pytest.raises(bench.errors.BenchError):
        explain_control("oracle")

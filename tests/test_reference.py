"""The replicas themselves are checked here: against definitions, other libraries and finite
differences.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import label as skimage_label
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from bench import randomness
from tests.support import reference as ref
from tests.support.nets import (
    BASELINE,
    MEAN,
    STD,
    PlantedEvidence,
    make_images,
    make_net,
    region_mean,
)


def network(kind: str, seed: int = 0, side: int = 16) -> tuple[ref.Network, np.ndarray]:
    x = make_images(seed + 100, 1, side)[0].double().numpy()
    return ref.Network(make_net(kind, seed, side), mean=MEAN, std=STD), x


@pytest.mark.parametrize(
    ("h", "w", "height", "width"), [(2, 2, 4, 4), (3, 5, 17, 23), (7, 7, 32, 32), (1, 1, 3, 3)]
)
def test_up_is_bilinear_without_aligned_corners(h, w, height, width):
    a = np.random.default_rng(0).normal(size=(h, w))
    expected = F.interpolate(
        torch.from_numpy(a)[None, None], (height, width), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(ref.up(a, height, width), expected[0, 0].numpy(), atol=1e-14)
    np.testing.assert_allclose(
        ref.up_matrix(h, height) @ a @ ref.up_matrix(w, width).T, expected[0, 0], atol=1e-14
    )


def test_up_by_hand():
    # Centres of 4 pixels in units of 2 cells: -.25 (clamped to 0), .25, .75, 1.25 (clamped to 1).
    np.testing.assert_allclose(ref.up(np.array([[0.0, 1.0]]), 1, 4), [[0.0, 0.25, 0.75, 1.0]])


@pytest.mark.parametrize("side", [28, 33])
def test_blur_is_a_truncated_gaussian_with_mirrored_border(side):
    x = np.random.default_rng(1).normal(size=(3, side, side))
    sigma = 10 * side / 224
    # scipy's "mirror" is torch's and numpy's "reflect": the edge pixel is not repeated.
    expected = ndimage.gaussian_filter(
        x, (0, sigma, sigma), mode="mirror", radius=math.ceil(2.5 * sigma)
    )
    np.testing.assert_allclose(ref.blur(x), expected, atol=1e-12)


def test_order_breaks_ties_by_the_field_then_by_index():
    flat = np.zeros((6, 6))
    field = randomness.smooth_field(randomness.generator(0, "ties", "a"), 6, 6).numpy().reshape(-1)
    ranked = ref.order(flat, "a")
    assert sorted(ranked.tolist()) == list(range(36))
    assert (np.diff(field[ranked]) <= 0).all()
    raised = flat.copy()
    raised[3, 4] = 1.0
    assert ref.order(raised, "a")[0] == 3 * 6 + 4
    assert (ref.order(flat, "a") != ref.order(flat, "b")).any()


def test_components_are_eight_connected():
    # Two pixels that touch at a corner are one component; 4-connectivity would see two boxes of one
    # pixel each.
    diagonal = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    assert sorted(ref.components(diagonal)) == [(0, 0, 2, 2), (3, 3, 4, 4)]
    noise = np.random.default_rng(2).random((20, 20)) > 0.7
    assert len(ref.components(noise)) == skimage_label(noise, connectivity=2).max()


def test_average_precision_groups_equal_values_as_sklearn_does():
    rng = np.random.default_rng(3)
    values, truth = rng.integers(0, 6, 200) / 5.0, rng.random(200) > 0.7
    assert ref.average_precision(values, truth) == pytest.approx(
        average_precision_score(truth, values), abs=1e-12
    )
    # A constant map: one group, so precision is the base rate.
    assert ref.average_precision(np.ones(200), truth) == pytest.approx(truth.mean())


def test_legendre_nodes_and_exactness():
    nodes, weights = ref.legendre(5)
    expected_nodes, expected_weights = np.polynomial.legendre.leggauss(5)
    np.testing.assert_allclose(np.sort(nodes), (1 + expected_nodes) / 2, atol=1e-14)
    np.testing.assert_allclose(weights[np.argsort(nodes)], expected_weights / 2, atol=1e-14)
    # Five nodes integrate t^9 exactly.
    assert (weights * nodes**9).sum() == pytest.approx(1 / 10, abs=1e-14)


@pytest.mark.parametrize("kind", ["gap", "mlp", "norm", "signed"])
def test_gradients_agree_with_finite_differences(kind):
    net, x = network(kind)
    c, h = 2, 1e-6
    A, G = net.layer_and_gradient(x, c)
    assert A.shape == G.shape
    rng = np.random.default_rng(4)
    for _ in range(5):
        k, i, j = (int(rng.integers(n)) for n in A.shape)

        def nudge(a, by, place=(k, i, j)):
            a[(0, *place)] += by
            return a

        slope = (
            net.score_with(x, c, lambda a: nudge(a, h))
            - net.score_with(x, c, lambda a: nudge(a, -h))
        ) / (2 * h)
        assert G[k, i, j] == pytest.approx(slope, abs=1e-6)
        bump = np.zeros_like(x)
        bump[k % 3, i, j] = h
        slope = (net.logits(x + bump)[c] - net.logits(x - bump)[c]) / (2 * h)
        assert net.input_gradient(x, c)[k % 3, i, j] == pytest.approx(slope, abs=1e-6)


def test_log_odds_is_the_logarithm_of_the_odds():
    net, x = network("mlp")
    p = net.p(x, 1)
    assert net.log_odds(x, 1) == pytest.approx(math.log(p / (1 - p)), abs=1e-10)


def test_known_identities_between_methods():
    # GAP + linear: G_k = w_ck/(hw), so Grad-CAM = HiResCAM = XGrad-CAM = ReLU(CAM)/(hw), and
    # removing channel k changes the logit by w_ck mean(A_k).
    net, x = network("gap")
    c = 1
    A, _ = net.layer_and_gradient(x, c)
    cells = A[0].size
    reference = ref.grad_cam(net, x, c)
    for other in (ref.hires_cam, ref.xgrad_cam):
        np.testing.assert_allclose(other(net, x, c), reference, atol=1e-12)
    w = net.net.get_submodule("fc").weight[c].numpy()
    low = np.tensordot(w, A, 1)
    np.testing.assert_allclose(ref.cam(net, x, c), ref.up(low, 16, 16), atol=1e-12)
    np.testing.assert_allclose(reference, ref.up(np.maximum(low, 0), 16, 16) / cells, atol=1e-12)
    np.testing.assert_allclose(
        ref.ablation_cam(net, x, c),
        ref.up(np.maximum(np.tensordot(w * A.mean(axis=(1, 2)), A, 1), 0), 16, 16),
        atol=1e-10,
    )


def test_integrated_gradients_is_complete():
    net, x = network("signed")  # no kinks, so that 50 nodes are plenty
    start = np.broadcast_to(net.baseline, x.shape)
    total = ref.integrated_gradients(net, x, 3).sum()
    assert total == pytest.approx(net.logits(x)[3] - net.logits(start)[3], abs=1e-6)


def test_eigen_cam_is_the_first_singular_pair():
    net, x = network("norm")
    A, _ = net.layer_and_gradient(x, 0)
    u, s, _ = np.linalg.svd(A.reshape(A.shape[0], -1).T, full_matrices=False)
    low = (u[:, 0] * s[0]).reshape(A.shape[1:])
    low *= np.sign((low * A.sum(axis=0)).sum())
    np.testing.assert_allclose(ref.eigen_cam(net, x, 0), ref.up(low, 16, 16), atol=1e-9)


def test_curves_have_both_ends_and_the_trapezoid():
    net, x = network("mlp")
    L = np.random.default_rng(5).normal(size=(16, 16))
    out = ref.deletion(net=net, x=x, c=0, L=L, image_id="i")
    curve, counts = out["deletion_curve"], ref.step_counts(256)
    assert counts[0] == 0
    assert counts[-1] == 256
    assert curve[0] == pytest.approx(net.p(x, 0))
    assert curve[-1] == pytest.approx(net.p(np.broadcast_to(net.baseline, x.shape), 0))
    assert out["deletion"] == pytest.approx(np.trapezoid(curve, np.array(counts) / 256))
    inserted = ref.insertion(net=net, x=x, c=0, L=L, image_id="i")["insertion_curve"]
    assert inserted[-1] == pytest.approx(net.p(x, 0))
    assert inserted[0] == pytest.approx(net.p(ref.blur(x), 0))


def test_complexity_of_known_distributions():
    uniform = ref.complexity(L=np.ones((4, 5)))
    assert uniform["entropy"] == pytest.approx(1)
    assert uniform["gini"] == pytest.approx(0)
    assert uniform["effective_share"] == pytest.approx(1)
    rng = np.random.default_rng(6)
    v = np.sort(rng.random(30))
    k = np.arange(1, 31)
    # Hurley and Rickard's form of the same coefficient.
    expected = 1 - 2 * (v / v.sum() * (30 - k + 0.5) / 30).sum()
    assert ref.complexity(L=v.reshape(5, 6))["gini"] == pytest.approx(expected)


def test_box_overlap_and_box_pixels():
    assert ref.box_overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert ref.box_overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    # Columns 1..2 of row 0; the centre of pixel 3 is at 3.5, outside x1 = 3.5 (half-open).
    assert ref.box_pixels(np.array([[0.6, 0.0, 3.5, 1.0]]), 2, 5).nonzero()[1].tolist() == [1, 2]


def test_planted_evidence_is_linear_in_the_region():
    weight = region_mean(8, slice(0, 2), slice(0, 8))
    net = ref.Network(PlantedEvidence(weight), mean=BASELINE)
    x = np.zeros((3, 8, 8))
    assert net.p(x, 0) == pytest.approx(0.1)
    x[:, 0] = 1.0
    assert net.p(x, 0) == pytest.approx(0.1 + 0.8 / 2)
    assert np.abs(net.baseline).max() == 0


def test_order_matches_a_stable_sort():
    rng = np.random.default_rng(7)
    L = rng.integers(0, 4, (9, 9)).astype(float)
    field = randomness.smooth_field(randomness.generator(0, "ties", "q"), 9, 9).numpy().reshape(-1)
    expected = np.lexsort((np.arange(81), -field, -L.reshape(-1)))
    np.testing.assert_array_equal(ref.order(L, "q"), expected)

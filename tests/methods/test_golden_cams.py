"""CAMs of groups, positions, noise, classes and layers by hand, and the laws that tie them to
simpler methods.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.methods.layers import full_gradient_terms
from bench.methods.masking import find_cuts, group_size
from bench.randomness import generator
from tests.support.nets import (
    BASELINE,
    MEAN,
    STD,
    PlantedEvidence,
    PooledLinear,
    make_images,
    make_net,
)

ONES = (1.0, 1.0, 1.0)

# Three channels on a 2x2 grid, class 0 with weights (1,-1,2) and logit 1, class 1 with (1,0,-1) and
# -.5; G = w/4.
A = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 3.0]]])
W = [[1.0, -1.0, 2.0], [1.0, 0.0, -1.0]]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def repeated(times: int) -> torch.Tensor:
    """Return the image [1,3,2*times,2*times] whose blocks are the cells of A."""
    return A.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)[None]


def explain(name: str, weights: list[list[float]] = W, target: int = 0) -> torch.Tensor:
    """Return the map [4,4] of the hand-made GAP net."""
    model = bench.Explainee(
        PooledLinear(weights).eval(), mean=BASELINE, std=ONES, size=4, layer="features"
    )
    return bench.explain(model, repeated(2), torch.tensor([target]), name, ids=["a"])[0]


def corners(low: torch.Tensor) -> list[list[float]]:
    """Return the four corners, where Up leaves the cells' own values."""
    return low[[0, 0, -1, -1], [0, -1, 0, -1]].reshape(2, 2).tolist()


class Quadratic(nn.Module):
    """S_0 = |A|^2 / 2 with A = x, S_1 = 0: the gradient is A itself and the Hessian the
    identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (self.features(x * self.one) ** 2).flatten(1).sum(1) / 2
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def quadratic() -> bench.Explainee:
    return bench.Explainee(Quadratic().eval(), mean=BASELINE, std=ONES, size=4, layer="features")


# ------------------------------------------------------------------------------- classes, curvature


def test_shapley_cam_halves_the_weights_of_a_quadratic_score():
    # G = A and H A = A, so w_k = mean(A_k) - mean(A_k)/2.
    x = make_images(0, 2, 4)
    maps = bench.explain(quadratic(), x, torch.tensor([0, 0]), "shapley_cam[score=logit]")
    expected = (x.mean((2, 3), keepdim=True) / 2 * x).sum(1).relu()
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-5)


SHAPLEY_LOGIT = "shapley_cam[score=logit]"


@pytest.mark.parametrize("kind", ["gap", "mlp", "norm"])
def test_shapley_cam_is_grad_cam_behind_a_piecewise_linear_head(kind):
    model = bench.Explainee(make_net(kind), MEAN, STD, 32, layer="features")
    maps = bench.explain(
        model, make_images(1, 3, 32), torch.tensor([0, 2, 4]), [SHAPLEY_LOGIT, "grad_cam"]
    )
    torch.testing.assert_close(maps[SHAPLEY_LOGIT], maps["grad_cam"], atol=1e-7, rtol=1e-5)


def test_shapley_cam_differs_from_grad_cam_behind_a_smooth_head():
    model = bench.Explainee(make_net("signed"), MEAN, STD, 32, layer="features")
    maps = bench.explain(
        model, make_images(1, 2, 32), torch.tensor([0, 2]), [SHAPLEY_LOGIT, "grad_cam"]
    )
    assert (maps[SHAPLEY_LOGIT] - maps["grad_cam"]).abs().max() > 1e-3 * maps["grad_cam"].max()


@pytest.mark.parametrize("weights", ["mean", "softmax"])
def test_finer_cam_of_two_classes(weights):
    # The one other class: w = ((1,-1,2) - .6 (1,0,-1)) / 4 = (.1, -.25, .65); cells .1; -.5 -> 0;
    # 0; -.25 + 3*.65.
    np.testing.assert_allclose(
        corners(explain(f"finer_cam[gamma=0.6,weights={weights}]")),
        [[0.1, 0.0], [0.0, 1.7]],
        atol=1e-6,
    )


def test_finer_cam_compares_with_the_closest_logits_not_the_highest():
    # A third class with weights (0,0,4) has the logit 3: further from 1 than -.5 is.
    three = [*W, [0.0, 0.0, 4.0]]
    np.testing.assert_allclose(
        corners(explain("finer_cam[classes=1,gamma=0.6]", three)),
        [[0.1, 0.0], [0.0, 1.7]],
        atol=1e-6,
    )
    # Both: mean weights (.5, 0, 1.5), so w = (.7, -1, 1.1) / 4; the last cell is -.25 + 3 * .275.
    both = [[0.175, 0.0], [0.0, 0.575]]
    np.testing.assert_allclose(
        corners(explain("finer_cam[gamma=0.6,weights=mean]", three)), both, atol=1e-6
    )


def test_finer_cam_differentiates_its_softmax_weights():
    # d sum_d q_d S_d = sum_d q_d (1 + S_d - m) dS_d with q = softmax(-.5, 3) and m = sum_d q_d S_d.
    q = np.exp([-0.5, 3.0]) / np.exp([-0.5, 3.0]).sum()
    m = q @ [-0.5, 3.0]
    share = q * (1 + np.array([-0.5, 3.0]) - m)
    w = (np.array(W[0]) - share @ np.array([W[1], [0.0, 0.0, 4.0]])) / 4
    expected = np.maximum([[w[0], 2 * w[1]], [0, w[1] + 3 * w[2]]], 0)
    three = [*W, [0.0, 0.0, 4.0]]
    np.testing.assert_allclose(corners(explain("finer_cam", three)), expected, atol=1e-6)


def test_finer_cam_without_weight_is_grad_cam():
    model = bench.Explainee(make_net("signed"), MEAN, STD, 32, layer="features")
    maps = bench.explain(
        model, make_images(1, 2, 32), torch.tensor([0, 2]), ["finer_cam[gamma=0]", "grad_cam"]
    )
    torch.testing.assert_close(maps["finer_cam[gamma=0]"], maps["grad_cam"], atol=1e-7, rtol=1e-5)


def test_finer_cam_of_one_logit_has_two_classes():
    pair = torch.tensor(W[:1])
    wanted = explain("finer_cam", torch.cat([-pair / 2, pair / 2]).tolist())
    np.testing.assert_allclose(explain("finer_cam", W[:1]), wanted, atol=1e-6)


# ------------------------------------------------------------------------------------------ masking


def test_recipro_cam_shows_one_position_at_a_time():
    # Logits W A_ij / 4: (.25,.25); (-.5,0); (0,0); ((6-1)/4, -3/4), and p_0 = sigmoid of their
    # difference.
    low = corners(explain("recipro_cam"))
    np.testing.assert_allclose(low, [[0.5, sigmoid(-0.5)], [0.5, sigmoid(2.0)]], atol=1e-6)
    other = corners(explain("recipro_cam", target=1))
    np.testing.assert_allclose(other, 1 - np.array(low), atol=1e-6)


def test_recipro_cam_gaussian_is_cut_at_the_border():
    # On 2x2 each position keeps 4/16, gives 2/16 to two neighbours and 1/16 to the diagonal: 9/16
    # of the logits.
    low = corners(explain("recipro_cam[filter=gaussian]"))
    np.testing.assert_allclose(
        low, [[0.5, sigmoid(-0.5 * 9 / 16)], [0.5, sigmoid(2.0 * 9 / 16)]], atol=1e-6
    )


def test_group_cam_weighs_groups_by_what_they_add_to_a_blur():
    # p = .1 + .8 sum(weight * x) is linear, so a group gains .8 sum(weight * H_g * (x - blur x)).
    weight = torch.zeros(3, 4, 4)
    weight[:, 0, :2] = torch.tensor([[1.0, 2.0], [1.0, -1.0], [3.0, 1.0]]) / 20
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 2, 3], x[0, 1, 0, 1], x[0, 2, 0, 0], x[0, 2, 3, 1] = (
        1.0,
        0.5,
        2.0,
        0.5,
        1.0,
    )
    model = bench.Explainee(
        PlantedEvidence(weight).eval(), mean=BASELINE, std=ONES, size=4, layer="features"
    )
    names = ["group_cam[groups=3]", "group_cam[form=first,groups=3]"]
    maps = bench.explain(model, x, torch.tensor([0]), names)
    # sigma = 50 * 4/224, radius ceil(sigma/2) = 1: three taps, the border reflected.
    e = math.exp(-0.5 / (50 * 4 / 224) ** 2)
    taps = np.array([e, 1.0, e]) / (1 + 2 * e)
    image = x[0].double().numpy()
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    blur = sum(
        taps[i] * taps[j] * padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)
    )
    u = 0.1 + 0.8 * (weight.double().numpy() * image).sum()
    last, first = np.zeros((4, 4)), np.zeros((4, 4))
    for k in range(3):
        # G = .8 weight / u, constant in A: w_k is its mean over the 16 pixels. Channel 1 has weight
        # 0: constant.
        M = np.maximum(0.8 / u * weight[k].double().numpy().mean() * image[k], 0)
        if M.max() > 0:  # at most 2 of 16 pixels: the 70th percentile, which is cut away, is 0
            gain = 0.8 * (weight.double().numpy() * (M / M.max()) * (image - blur)).sum()
            last += gain * M / M.max()
            first += max(gain, 0) * M
    for name, expected in zip(names, (np.maximum(last, 0), first), strict=True):
        assert expected.max() > 0
        np.testing.assert_allclose(maps[name][0].numpy(), expected, atol=1e-6)


def test_group_cams_cut_is_numpys_percentile():
    maps = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    wanted = np.percentile(maps.flatten(2).double().numpy(), 70, axis=2)
    np.testing.assert_allclose(find_cuts(maps)[..., 0, 0].numpy(), wanted, atol=1e-6)


def test_group_cam_cuts_channels_as_torch_chunk_does():
    for channels, groups in ((48, 32), (7, 3), (6, 32), (512, 32), (5, 1)):
        pieces = torch.arange(channels).chunk(groups)
        assert group_size(channels, groups) == len(pieces[0])
        assert math.ceil(channels / group_size(channels, groups)) == len(pieces)


# -------------------------------------------------------------------------------------------- noise


def test_smooth_grad_cam_pp_averages_powers_of_noisy_gradients():
    # Behind the quadratic score a noisy image's gradient is the noisy image; A stays the clean one.
    x, samples, std = make_images(2, 2, 4), 3, 0.5
    name = "smooth_grad_cam_pp[samples=3,std=0.5]"
    maps = bench.explain(quadratic(), x, torch.tensor([0, 0]), name, ids=["a", "b"], seed=7)
    for image, name, L in zip(x.double(), "ab", maps, strict=True):
        draw = generator(7, "smooth_grad_cam_pp", name)
        noisy = torch.stack(
            [image + std * torch.randn(3, 4, 4, generator=draw) for _ in range(samples)]
        )
        d1, d2, d3 = ((noisy**power).mean(0) for power in (1, 2, 3))
        alpha = d2 / (2 * d2 + image.sum((1, 2), keepdim=True) * d3)
        w = (alpha * d1.relu()).sum((1, 2))
        expected = (w[:, None, None] * image).sum(0).relu().float()
        torch.testing.assert_close(L, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_smooth_grad_cam_pp_of_a_linear_score_is_grad_cam_pp():
    np.testing.assert_allclose(
        corners(explain("smooth_grad_cam_pp")), [[4 / 9, 0.0], [0.0, 12 / 7]], atol=1e-5
    )


def test_smooth_grad_cam_pp_without_noise_is_grad_cam_pp():
    model = bench.Explainee(make_net("mlp"), MEAN, STD, 32, layer="features")
    names = ["smooth_grad_cam_pp[std=0]", "grad_cam_pp"]
    maps = bench.explain(model, make_images(1, 2, 32), torch.tensor([0, 2]), names)
    torch.testing.assert_close(maps[names[0]], maps[names[1]], atol=1e-5, rtol=1e-4)


def test_random_cam_weighs_channels_by_its_draws():
    w = 2 * torch.rand(3, generator=generator(0, "random_cam", "a")) - 1
    cells = (w[:, None, None] * A).sum(0).relu()
    torch.testing.assert_close(
        torch.tensor(corners(explain("random_cam"))), cells, atol=1e-6, rtol=1e-5
    )


# ------------------------------------------------------------------------------------------- layers


def pyramid() -> tuple[bench.Explainee, torch.Tensor]:
    """Return a net of three poolings, 16 -> 8 -> 4 -> 2, and the image that is A at each of
    them.
    """
    net = PooledLinear(W)
    net.features = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(2))
    return bench.Explainee(
        net.eval(), mean=BASELINE, std=ONES, size=16, layer="features"
    ), repeated(8)


def test_layer_cam_fused_scales_shallow_layers():
    # LayerCAM's cells are (1,0;0,6) up to a factor at every layer; the first of three layers is
    # tanh(2 L / 6).
    model, x = pyramid()
    assert model.stages == ["features.0", "features.1", "features.2"]
    L = bench.explain(model, x, torch.tensor([0]), "layer_cam_fused")[0]
    np.testing.assert_allclose(corners(L), [[math.tanh(2 / 6), 0.0], [0.0, 1.0]], atol=1e-6)
    L = bench.explain(model, x, torch.tensor([0]), "layer_cam_fused[layers=features.1+features.2]")[
        0
    ]
    np.testing.assert_allclose(
        corners(L), [[1 / 6, 0.0], [0.0, 1.0]], atol=1e-6
    )  # two layers: none is shallow


def test_fused_is_the_mean_or_the_maximum_of_unit_maps():
    model, x = pyramid()
    target = torch.tensor([0])
    # Grad-CAM's cells are (1,0;0,5) up to a factor at every layer: unit maps agree at the corners.
    np.testing.assert_allclose(
        corners(bench.explain(model, x, target, "fused(grad_cam)")[0]),
        [[0.2, 0], [0, 1]],
        atol=1e-6,
    )
    alone = torch.stack(
        [bench.explain(model.cut_at(name), x, target, "grad_cam")[0] for name in model.stages]
    )
    units = alone / alone.amax((1, 2), keepdim=True)
    assert (units[0] - units[2]).abs().max() > 0.1  # between the corners they do not
    for reduce, expected in (("mean", units.mean(0)), ("max", units.amax(0))):
        L = bench.explain(model, x, target, f"fused(grad_cam)[reduce={reduce}]")[0]
        torch.testing.assert_close(L, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "inner", ["layer_cam", "ablation_cam", "finer_cam[classes=1]", "smooth_grad_cam_pp"]
)
def test_fused_over_one_layer_is_the_methods_unit_map(inner):
    model = bench.Explainee(make_net("signed"), MEAN, STD, 32, layer="features")
    x, targets = make_images(3, 2, 32), torch.tensor([1, 4])
    L = bench.explain(model, x, targets, f"fused({inner})[layers=features.1]", ids=["a", "b"])
    alone = bench.explain(model.cut_at("features.1"), x, targets, inner, ids=["a", "b"]).relu()
    low, high = alone.amin((1, 2), keepdim=True), alone.amax((1, 2), keepdim=True)
    torch.testing.assert_close(L, (alone - low) / (high - low), atol=1e-6, rtol=1e-5)


def test_a_layer_that_is_not_there_is_one_sentence():
    model, x = pyramid()
    for name in ("fused(grad_cam)", "layer_cam_fused"):
        with pytest.raises(BenchError, match=r"no layer 'feature.1'.*features.1"):
            bench.explain(model, x, torch.tensor([0]), f"{name}[layers=features.0+feature.1]")


def test_a_net_without_stages_can_be_planned_with():
    flat = bench.Explainee(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), size=8, layer="0")
    assert bench.methods.METHODS.get("fused(grad_cam)").plan_work(flat).forwards == 0
    with pytest.raises(NotApplicable):
        bench.explain(flat, torch.zeros(1, 3, 8, 8), torch.tensor([0]), "fused(grad_cam)")


def test_a_layer_that_does_not_run_is_refused():
    model, x = pyramid()
    model.net.spare = nn.AvgPool2d(2)
    with pytest.raises(NotApplicable, match="choose other layers"):
        bench.explain(model, x, torch.tensor([0]), "layer_cam_fused[layers=features.0+spare]")


# ----------------------------------------------------------------------------------------- FullGrad


class Biased(nn.Module):
    """A 1x1 convolution with biases (1,-2), ReLU, GAP and a linear layer with bias 7."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(2, 1)
        with torch.no_grad():
            self.features[0].weight.copy_(
                torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).view(2, 3, 1, 1)
            )
            self.features[0].bias.copy_(torch.tensor([1.0, -2.0]))
            self.fc.weight.fill_(4.0)
            self.fc.bias.fill_(7.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def test_full_grad_by_hand():
    x = torch.tensor(
        [[[0.0, 1.0], [2.0, -3.0]], [[3.0, 1.0], [5.0, 2.5]], [[9.0, 9.0], [9.0, 9.0]]]
    )[None]
    model = bench.Explainee(Biased().eval(), mean=BASELINE, std=ONES, size=2, layer="features")
    # Open are (1,1;1,0) and (1,0;1,1), with gradient 4/4 = 1. x * gradient: (0,1;2,0), (3,0;5,2.5),
    # 0, over the common maximum 5. bias * gradient: (1,1;1,0) and -2 (1,0;1,1), over the common
    # maximum 2.
    inputs = np.array([[0.6, 0.2], [1.4, 0.5]])
    biases = np.array([[0.5 + 1, 0.5], [0.5 + 1, 1.0]])
    L = bench.explain(model, x, torch.tensor([1]), "full_grad")[0]
    np.testing.assert_allclose(L.numpy(), inputs + biases, atol=1e-6)
    # 13.5 from the input, 3 - 6 from the convolution, 7 from the linear layer: z = 6 + 4.5 + 7, and
    # the predicted class 1 of one logit has S = z / 2.
    trace = Trace(Prober(model), x)
    terms = np.array(full_gradient_terms(trace))
    np.testing.assert_allclose(2 * terms, [[13.5], [-3.0], [7.0]], atol=1e-5)
    assert 2 * trace.target_logits.item() == pytest.approx(17.5)


@pytest.mark.parametrize("kind", ["gap", "mlp", "norm"])
def test_full_gradients_add_up_to_the_logit(kind):
    model = bench.Explainee(make_net(kind, 3), MEAN, STD, 32, layer="features")
    trace = Trace(Prober(model), make_images(4, 3, 32), torch.tensor([0, 2, 4]))
    terms = torch.tensor(full_gradient_terms(trace))
    torch.testing.assert_close(terms.sum(0).float(), trace.target_logits, atol=1e-4, rtol=1e-4)
    assert len(terms) > 2
    assert (terms.abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("kind", "words"), [("signed", "do not add up"), ("skip", "do not add up")]
)
def test_full_grad_refuses_where_biases_do_not_account_for_the_logit(kind, words):
    model = bench.Explainee(make_net(kind), MEAN, STD, 32, layer="features")
    with pytest.raises(NotApplicable, match=words):
        bench.explain(model, make_images(1, 1, 32), torch.tensor([0]), "full_grad")


def test_full_grad_refuses_a_net_without_biases():
    with pytest.raises(NotApplicable, match="no convolution or batch norm with a bias"):
        explain("full_grad")

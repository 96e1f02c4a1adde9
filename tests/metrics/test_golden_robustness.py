"""Robustness, sanity, infidelity, ROAD and discriminability on nets whose attacks and maps can be
done by hand.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bench
from bench.engine.attacks import fgsm, loss_gradient, pgd
from bench.engine.prober import Prober
from bench.engine.randomised import randomise, stages
from bench.engine.trace import Trace
from bench.methods import METHODS
from tests.support.nets import PlainLinear, PlantedEvidence, make_images, make_net, region_mean

SIDE = 16
ZEROS, ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
EPS = np.array([1, 2, 4, 8]) / 255


def linear(weight: torch.Tensor, mean=ZEROS, std=ONES) -> bench.Explainee:
    """Return a net of two classes, S_0 = sum(weight * x) and S_1 = 0."""
    net = PlainLinear(torch.stack([weight, torch.zeros_like(weight)]))
    return bench.Explainee(net, mean, std, size=weight.shape[-1], layer="features")


def score(model, images, maps, metric, targets=None, **kwargs) -> dict[str, np.ndarray]:
    out = bench.score(model, images, targets, maps, metric, curves=True, **kwargs)
    return {name: np.asarray(values, dtype=np.float64) for name, values in out.items()}


@pytest.fixture
def methods():
    """Register methods for one test."""
    names = []

    def add(name, function, **facts):
        bench.register_method(name, **facts)(function)
        names.append(name)
        return name

    yield add
    for name in names:
        METHODS.remove(name)


# --- attacks: of a linear net they have a closed form

COLUMNS = torch.where(torch.arange(SIDE) < SIDE // 2, -1.0, 1.0).expand(
    SIDE, SIDE
)  # -1 left, 1 right
ROWS = torch.where(torch.arange(SIDE) % 2 == 0, 1.0, -1.0)[:, None].expand(
    SIDE, SIDE
)  # orthogonal to it


@pytest.mark.parametrize("std", [ONES, (0.2, 0.3, 0.4)])
@pytest.mark.parametrize("eps", [1 / 255, 0.3])
def test_attacks_of_a_linear_net(std, eps):
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(3, SIDE, SIDE, generator=rng)
    model = linear(weight, std=std)
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=rng)
    trace = Trace(Prober(model), model.normalise(pixels), torch.tensor([0, 1]))
    gradient = loss_gradient(trace, pixels)
    # The loss of class 0 falls with S_0, that of class 1 rises with it.
    away = torch.stack([-weight.sign(), weight.sign()])
    expected = (pixels + eps * away).clamp(0, 1)
    torch.testing.assert_close(fgsm(pixels, gradient, eps), expected, atol=1e-6, rtol=0)
    # Ten steps of eps/4 in one direction end at the border of the eps ball.
    torch.testing.assert_close(
        pgd(trace, pixels, gradient, eps, 10, 0.25), expected, atol=1e-6, rtol=0
    )
    # Two steps of eps/4 stay inside it.
    half = (pixels + eps / 2 * away).clamp(0, 1)
    torch.testing.assert_close(pgd(trace, pixels, gradient, eps, 2, 0.25), half, atol=1e-6, rtol=0)
    assert trace.prober.counts.tuple == (2 * (1 + 1 + 9 + 1), 2 * (1 + 9 + 1), 0, 0)


def test_a_confident_net_is_attacked_all_the_same():
    # 1 - p_0 = exp(-384): the cross-entropy itself has no gradient left, not even in float64.
    model = linear(torch.full((3, SIDE, SIDE), 1.0))
    pixels = torch.full((1, 3, SIDE, SIDE), 0.5)
    gradient = loss_gradient(Trace(Prober(model), pixels, torch.tensor([0])), pixels)
    assert (gradient.sign() == -1).all()


def test_one_logit_is_attacked_as_two_classes():
    model = bench.Explainee(PlainLinear(torch.ones(1, 3, SIDE, SIDE)), size=SIDE, layer="features")
    pixels = torch.full((1, 3, SIDE, SIDE), 0.5)
    directions = [
        loss_gradient(Trace(Prober(model), pixels, torch.tensor([c])), pixels).sign()
        for c in (0, 1)
    ]
    assert (directions[0] == 1).all()
    assert (directions[1] == -1).all()


def test_robustness_by_hand(methods):
    # The map is the image's brightness. An attack adds eps * COLUMNS to the image .5 + .1 ROWS - m
    # COLUMNS, whose logit k * sum(m - eps) stays positive for eps < m = 3/255: at 1 and 2 of the
    # four sizes.
    name = methods("brightness", lambda trace: trace.images.mean(1))
    m = 3 / 255
    x = (0.5 + 0.1 * ROWS - m * COLUMNS).expand(1, 3, SIDE, SIDE).contiguous()
    model = linear(-0.1 * COLUMNS.expand(3, SIDE, SIDE))
    out = score(model, x, x.mean(1), "robustness", method=name)
    # Deviations from .5 are (.1, -m) and (.1, eps - m) in the orthogonal patterns ROWS and COLUMNS.
    pearson = (0.01 - m * (EPS - m)) / (math.hypot(0.1, m) * np.hypot(0.1, EPS - m))
    # The centre of mass moves right by eps * (side/2 - side/4) / .5 / ... = eps/2 of the side.
    shift = EPS / 2
    for attack in ("fgsm", "pgd"):
        assert out[f"{attack}_held"] == [0.5]
        np.testing.assert_allclose(out[f"{attack}_pearson_curve"][0], pearson, atol=1e-6)
        np.testing.assert_allclose(out[f"{attack}_pearson"], pearson.mean(), atol=1e-6)
        np.testing.assert_allclose(out[f"{attack}_pearson_held"], pearson[:2].mean(), atol=1e-6)
        np.testing.assert_allclose(out[f"{attack}_shift_curve"][0], shift, atol=1e-6)
        np.testing.assert_allclose(out[f"{attack}_shift_held"], shift[:2].mean(), atol=1e-6)
    assert out["noise_held"] == [1.0]  # noise of the same size has no direction
    assert (out["noise_shift_curve"] < shift).all()


def test_where_the_prediction_never_holds_there_is_no_row():
    x = (0.5 - 0.1 / 255 * COLUMNS).expand(1, 3, SIDE, SIDE).contiguous()
    out = score(
        linear(-COLUMNS.expand(3, SIDE, SIDE)), x, x.mean(1), "robustness", method="saliency"
    )
    assert out["fgsm_held"] == [0.0]
    assert np.isposinf(out["fgsm_pearson_held"]).all()
    assert np.isfinite(out["fgsm_pearson"]).all()


@pytest.mark.parametrize("control", ["constant", "center_gaussian", "random", "oracle"])
def test_what_does_not_look_at_the_pixels_never_moves(control):
    images = make_images(0, 2, SIDE)
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[:, 3:9, 4:8] = True
    truth = bench.Truth(masks=masks)
    model = bench.Explainee(make_net("norm"), size=SIDE, layer="features")
    maps = bench.explain(model, images, method=control, truth=truth, ids=["a", "b"])
    given = {"method": control, "truth": truth, "ids": ["a", "b"]}
    out = score(model, images, maps, ["robustness", "max_sensitivity", "sanity"], **given)
    assert (out["max_sensitivity"] == 0).all()
    for name in (
        "fgsm_pearson",
        "pgd_ssim",
        "noise_top",
        "sanity_ssim",
        "sanity_spearman",
        "random_logit_spearman",
    ):
        np.testing.assert_allclose(out[name], 1.0, atol=1e-9, err_msg=name)
    assert (out["pgd_shift"] == 0).all()


def test_max_sensitivity_by_hand(methods):
    # A map that is 5 x its image's red channel, in normalised space with std .1: the change is 5 *
    # u / .1.
    name = methods("red", lambda trace: 5 * trace.images[:, 0])
    model = linear(torch.ones(3, SIDE, SIDE), std=(0.1, 0.1, 0.1))
    images = make_images(1, 1, SIDE)
    out = score(model, images, 5 * images[:, 0], "max_sensitivity", method=name, ids=["a"])
    draws = [
        (
            2
            * torch.rand(
                3, SIDE, SIDE, generator=bench.randomness.generator(0, f"max-sensitivity {k}", "a")
            )
            - 1
        )[0]
        for k in range(10)
    ]
    worst = max(float(draw.norm()) for draw in draws) * 0.02 / 0.1
    np.testing.assert_allclose(
        out["max_sensitivity"], worst / float(images[:, 0].norm()), rtol=1e-5
    )


def test_a_zero_map_that_does_not_stay_zero_cannot_be_scored(methods):
    clean = make_images(1, 1, SIDE)
    name = methods("moved", lambda trace: (trace.images - clean).abs().sum(1))
    out = score(
        linear(torch.ones(3, SIDE, SIDE)),
        clean,
        torch.zeros(1, SIDE, SIDE),
        "max_sensitivity",
        method=name,
    )
    assert np.isnan(out["max_sensitivity"]).all()


# --- infidelity


def test_the_gradient_of_a_linear_net_is_perfectly_faithful():
    w = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model = linear(w.expand(3, SIDE, SIDE))
    maps = torch.stack([w, 7 * w, -w, torch.zeros(SIDE, SIDE), w.T])
    images = torch.rand(1, 3, SIDE, SIDE).expand(5, -1, -1, -1)
    out = score(model, images, maps, "infidelity", targets=[0] * 5, ids=["a"] * 5)["infidelity"]
    # The fitted factor takes care of scale and sign; without a map the drops themselves are left.
    assert (out[:3] < 1e-6).all()
    noise = 0.2 * torch.randn(
        10, 3, SIDE, SIDE, generator=bench.randomness.generator(0, "infidelity", "a")
    )
    drops = (noise * w).sum((1, 2, 3))
    np.testing.assert_allclose(out[3], float((drops**2).mean()), rtol=1e-4)
    assert 0 < out[4] <= out[3]


# --- ROAD


def test_road_by_hand():
    # The evidence are the 7 first rows of 28: 1 there, 0 elsewhere. Removed pixels are filled in
    # from the rest.
    top = region_mean(28, slice(0, 7), slice(None))
    model = bench.Explainee(
        PlantedEvidence(top).eval(), mean=ZEROS, std=ONES, size=28, layer="features"
    )
    x = torch.zeros(1, 3, 28, 28)
    x[:, :, :7] = 1.0
    down = -torch.arange(784.0).reshape(1, 28, 28)
    protocol = bench.Protocol(road_fractions=(0.25, 0.5), road_noise=0.0)
    out = score(model, x, down, "road", targets=[0], protocol=protocol)
    # Most relevant first: the evidence is gone and its place is filled in with zeros, p = .1. Least
    # first: p stays .9.
    np.testing.assert_allclose(out["road_morf_curve"], [[0.1, 0.1]], atol=1e-4)
    np.testing.assert_allclose(out["road_lerf_curve"], [[0.9, 0.9]], atol=1e-4)
    np.testing.assert_allclose(out["road"], [0.4], atol=1e-4)
    upside_down = score(model, x, -down, "road", targets=[0], protocol=protocol)
    np.testing.assert_allclose(upside_down["road"], [-0.4], atol=1e-4)


def test_road_of_a_constant_image_is_nothing():
    model = bench.Explainee(make_net("norm", side=24), size=24, layer="features")
    images = torch.full((1, 3, 24, 24), 0.7)
    maps = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(0))
    quiet = score(model, images, maps, "road", protocol=bench.Protocol(road_noise=0.0))
    np.testing.assert_allclose(quiet["road"], 0, atol=1e-5)
    noisy = score(model, images, maps, "road")
    assert noisy["road_morf"] != quiet["road_morf"]


def test_a_mostly_zero_map_loses_exactly_the_stated_pixels():
    # A percentile of the values would remove every zero. Here: 90 % at most, so the evidence is
    # never gone altogether.
    weight = region_mean(20, slice(None), slice(None))
    model = bench.Explainee(
        PlantedEvidence(weight).eval(), mean=ZEROS, std=ONES, size=20, layer="features"
    )
    maps = torch.zeros(1, 20, 20)
    maps[0, 0, 0] = 1.0
    images = torch.ones(1, 3, 20, 20)
    out = score(model, images, maps, "road", targets=[0], protocol=bench.Protocol(road_noise=0.0))
    np.testing.assert_allclose(out["road_lerf_curve"], np.full((1, 9), 0.9), atol=1e-4)


# --- sanity


def test_stages_are_top_down_and_hold_every_module_once():
    net = make_net("norm")
    named = [name for name, module in net.named_modules() if list(module.parameters(recurse=False))]
    for count in (1, 2, 5, 9):
        found = stages(net, count)
        assert len(found) == count
        assert found[0] == ["fc"]
        flat = [name for stage in found for name in stage]
        assert flat == named[::-1] if count > 1 else ["fc"]


def test_randomised_copies_share_what_is_not_drawn_anew():
    net = make_net("norm")
    model = bench.Explainee(net, size=32, layer="features")
    before = {name: p.clone() for name, p in net.state_dict().items()}
    state = torch.get_rng_state()
    copies = randomise(model, 5, [1, 2, 3, 4, 5])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    assert copies[0].net.features[0].weight is net.features[0].weight
    assert not torch.equal(copies[0].net.fc.weight, net.fc.weight)
    assert copies[4].net.fc.weight is copies[0].net.fc.weight  # cumulative
    for name, p in copies[4].net.named_parameters():
        assert p is not dict(net.named_parameters())[name]
    again = randomise(model, 5, [1, 2, 3, 4, 5])
    assert torch.equal(again[4].net.features[0].weight, copies[4].net.features[0].weight)
    other = randomise(model, 5, [1, 2, 3, 4, 6])
    assert not torch.equal(other[4].net.features[0].weight, copies[4].net.features[0].weight)
    assert [copy.layer for copy in copies] == ["features"] * 5


def test_parameters_without_a_reset_keep_mean_and_spread():
    weight = 3 + 2 * torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model = bench.Explainee(PlainLinear(weight), size=SIDE, layer="features")
    (copy,) = randomise(model, 1, [0])
    drawn = copy.net.weight.detach()
    assert not torch.equal(drawn, weight)
    assert abs(float(drawn.mean()) - 3) < 0.3
    assert abs(float(drawn.std()) - 2) < 0.3


def test_the_map_of_the_opposite_class_is_the_opposite_map(methods):
    name = methods("signed gradient", lambda trace: trace.input_gradients.sum(1))
    w = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    model = bench.Explainee(PlainLinear(torch.stack([w, -w])), size=SIDE, layer="features")
    images = make_images(0, 2, SIDE)
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[:, :4] = True
    truth = bench.Truth(masks=masks, others=~masks, other_labels=torch.tensor([1, -1]))
    maps = bench.explain(model, images, [0, 0], name)
    given = {"targets": [0, 0], "method": name}
    np.testing.assert_allclose(
        score(model, images, maps, "sanity", **given)["random_logit_spearman"], -1.0, atol=1e-9
    )
    contrast = score(model, images, maps, "class_contrast", truth=truth, **given)["map_contrast"]
    np.testing.assert_allclose(contrast[0], -1.0, atol=1e-9)
    assert np.isnan(contrast[1])  # there is no other class


def test_a_gradient_follows_the_parameters_and_an_edge_filter_does_not():
    model = bench.Explainee(make_net("norm"), size=SIDE, layer="features")
    images = make_images(3, 2, SIDE)
    for name, low, high in (("saliency", -1.0, 0.8), ("sobel", 1.0 - 1e-9, 1.0)):
        out = score(model, images, bench.explain(model, images, method=name), "sanity", method=name)
        assert (out["sanity_spearman"] >= low).all()
        assert (out["sanity_spearman"] <= high).all()


def test_one_logit_has_another_class():
    model = bench.Explainee(PlainLinear(torch.ones(1, 3, SIDE, SIDE)), size=SIDE, layer="features")
    images = make_images(0, 1, SIDE)
    out = score(
        model, images, bench.explain(model, images, method="saliency"), "sanity", method="saliency"
    )
    assert np.isfinite(out["random_logit_ssim"]).all()


# --- reference insensitivity


def test_reference_insensitivity_by_hand(methods):
    ramp = torch.arange(float(SIDE * SIDE)).view(1, SIDE, SIDE)

    def two_minds(trace, *, reference: str = "baseline"):
        return (-ramp if reference in ("blur", "noise") else ramp).expand(len(trace), SIDE, SIDE)

    name = methods("two_minds", two_minds)
    model, images = linear(torch.ones(3, SIDE, SIDE)), make_images(0, 1, SIDE)
    out = score(model, images, ramp, "reference_insensitivity", method=name)
    # Of the ten pairs, three of {baseline, black, white} and one of {blur, noise} agree; six are
    # opposite.
    np.testing.assert_allclose(out["reference_spearman"], (4 - 6) / 10)


# --- discriminability


def test_discriminability_by_hand():
    own, other = torch.zeros(2, 4, SIDE, SIDE, dtype=torch.bool)
    own[:, :2, :2] = True
    other[:2, 8:10, 8:10] = True
    maps = torch.ones(4, SIDE, SIDE)  # the background's value does not count
    maps[0, :2, :2], maps[0, 8:10, 8:10] = 3.0, 1.0  # 4 * 3 against 4 * 1
    maps[1, :2, :2], maps[1, 8:10, 8:10] = -1.0, 0.5  # only the positive part
    own[3] = other[3] = False
    truth = bench.Truth(masks=own, others=other)
    model = linear(torch.ones(3, SIDE, SIDE))
    out = score(model, make_images(0, 4, SIDE), maps, "discriminability", truth=truth)[
        "discriminability"
    ]
    np.testing.assert_allclose(out[:2], [0.75, 0.0])
    assert np.isnan(out[2:]).all()  # no other object, and none at all

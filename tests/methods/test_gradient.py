"""Gradient methods by hand, by their laws, and against Captum where Captum is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bench
from bench.errors import NotApplicable
from bench.methods.references import reference_images
from tests.support.nets import (
    BASELINE,
    MEAN,
    STD,
    PlainLinear,
    PlantedEvidence,
    make_images,
    make_net,
    region_mean,
)

TARGETS = torch.tensor([1, 3])
REFERENCES = ("baseline", "black", "white", "blur", "noise")


def model_of(net: nn.Module, side: int = 32, mean=MEAN, std=STD) -> bench.Explainee:
    return bench.Explainee(net.eval(), mean=mean, std=std, size=side, layer="features")


def explain(
    net: nn.Module, method: str, images: torch.Tensor | None = None, targets=TARGETS
) -> torch.Tensor:
    images = make_images(0, 2, 32) if images is None else images
    return bench.explain(
        model_of(net, images.shape[-1]), images, targets=targets, method=method, ids=["a", "b"]
    )


def trace_of(net: nn.Module, images: torch.Tensor) -> bench.engine.trace.Trace:
    prober = bench.engine.prober.Prober(model_of(net, images.shape[-1]))
    return bench.engine.trace.Trace(prober, images, TARGETS, ids=["a", "b"])


def scores(net: nn.Module, images: torch.Tensor, targets=TARGETS) -> torch.Tensor:
    with torch.no_grad():
        return net(images).gather(1, targets[:, None])[:, 0]


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance * float(theirs.abs().max()), rtol=0)


class Scalar(nn.Module):
    """Two classes whose logits are a function of the mean of a 4x4 image's red channel, and its
    negative.
    """

    def __init__(self, function) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.function = function
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.function(self.features(x * self.one)[:, 0].mean((1, 2)))
        return torch.stack([s, -s], 1)


# --------------------------------------------------------------------------------------- references


def test_references_are_what_their_names_say():
    trace = trace_of(make_net("gap"), make_images(0, 2, 32))
    pixels = {name: trace.model.denormalise(reference_images(trace, name)) for name in REFERENCES}
    torch.testing.assert_close(pixels["baseline"][1, :, 3, 4], torch.tensor(BASELINE))
    assert pixels["black"].abs().max() < 1e-6
    assert (pixels["white"] - 1).abs().max() < 1e-6
    own = trace.model.denormalise(trace.images)
    assert pixels["blur"].std() < own.std()
    torch.testing.assert_close(pixels["blur"].mean((2, 3)), own.mean((2, 3)), atol=0.05, rtol=0)
    noise = pixels["noise"]
    assert noise.min() > -1e-6
    assert noise.max() < 1 + 1e-6
    assert noise.std() == pytest.approx(math.sqrt(1 / 12), abs=0.02)
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("method", ["integrated_gradients", "idgi", "deep_lift"])
def test_maps_sum_up_to_the_change_from_the_reference(method, name):
    net, images = make_net("signed"), make_images(0, 2, 32)
    change = scores(net, images) - scores(net, reference_images(trace_of(net, images), name))
    maps = explain(net, f"{method}[reference={name}]")
    torch.testing.assert_close(maps.sum((1, 2)), change, atol=1e-3, rtol=1e-3)


# ----------------------------------------------------------------------------------- path and noise


def test_idgi_by_hand():
    # S = m^2 with m the mean of 16 red pixels, from 0 to 1 in two steps. dS/dx = m/8 per red pixel.
    # At m = 0 there is no gradient, so the first step (of 1/4) says nothing; the second, 3/4, is
    # shared equally by 16 pixels.
    maps = bench.explain(
        model_of(Scalar(torch.square), 4, BASELINE, (1, 1, 1)),
        torch.ones(1, 3, 4, 4),
        torch.tensor([0]),
        "idgi[steps=2]",
    )
    np.testing.assert_allclose(maps[0].numpy(), 0.75 / 16, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 33])
def test_idgi_sums_up_for_any_number_of_steps(steps):
    net, images = make_net("signed"), make_images(0, 2, 32)
    change = scores(net, images) - scores(net, reference_images(trace_of(net, images), "baseline"))
    torch.testing.assert_close(
        explain(net, f"idgi[steps={steps}]").sum((1, 2)), change, atol=1e-4, rtol=1e-4
    )


def test_noise_of_size_zero_leaves_the_gradient():
    net, images = make_net("signed"), make_images(0, 2, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(net(images).gather(1, TARGETS[:, None]).sum(), images)
    assert_close(explain(net, "smooth_grad[samples=3,std=0]"), gradient.abs().sum(1))
    assert explain(net, "var_grad[samples=3,std=0]").abs().max() < 1e-12


def test_smooth_grad_and_var_grad_of_a_square():
    # S = m^2: dS/dx = m/8 at each red pixel. Under noise of deviation s in 16 pixels m varies by
    # s/4, so the mean gradient is m/8 and its variance (s/32)^2. The range of the image is 1, so s
    # = 0.5.
    images = torch.ones(1, 3, 4, 4)
    images[0, 1] = 0
    model = model_of(Scalar(torch.square), 4, BASELINE, (1, 1, 1))
    smooth, var = (
        bench.explain(model, images, torch.tensor([0]), f"{name}[samples=4000,std=0.5]")
        for name in ("smooth_grad", "var_grad")
    )
    np.testing.assert_allclose(smooth[0].numpy(), 1 / 8, rtol=0.02)
    np.testing.assert_allclose(var[0].numpy(), (0.5 / 32) ** 2, rtol=0.1)


def test_smooth_grad_and_var_grad_share_their_gradients():
    trace = trace_of(make_net("gap"), make_images(0, 2, 32))
    costs = [
        bench.methods.METHODS.get(name).explain_counted(trace)[1].counts
        for name in ("smooth_grad", "var_grad")
    ]
    assert costs[0] == costs[1]  # each would have cost that much alone
    assert trace.prober.counts.backwards == 2 * 25


def test_gradient_shap_on_a_linear_net_is_the_mean_difference_times_the_weights():
    weight = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    net, images = PlainLinear(weight), make_images(6, 2, 8)
    trace = trace_of(net, images)
    mean = torch.stack([reference_images(trace, name) for name in REFERENCES]).mean(0)
    assert_close(
        explain(net, "gradient_shap[samples=5]", images), ((images - mean) * weight[TARGETS]).sum(1)
    )


def test_gradient_shap_approaches_its_completeness():
    net, images = make_net("signed"), make_images(0, 2, 32)
    trace = trace_of(net, images)
    changes = torch.stack(
        [scores(net, images) - scores(net, reference_images(trace, n)) for n in REFERENCES]
    )
    maps = explain(net, "gradient_shap[samples=500]")
    torch.testing.assert_close(
        maps.sum((1, 2)), changes.mean(0), atol=0.1 * float(changes.abs().max()), rtol=0
    )


@pytest.mark.parametrize(
    "method", ["smooth_grad", "var_grad", "gradient_shap", "gradient_shap[std=0.1]"]
)
def test_draws_come_from_seed_and_id(method):
    model, images = model_of(make_net("gap")), make_images(0, 2, 32)
    first = bench.explain(model, images, TARGETS, method, ids=["a", "b"])
    assert torch.equal(
        first[1], bench.explain(model, images[1:], TARGETS[1:], method, ids=["b"])[0]
    )
    assert not torch.equal(
        first, bench.explain(model, images, TARGETS, method, ids=["a", "b"], seed=1)
    )
    assert not torch.equal(
        first[0], bench.explain(model, images, TARGETS, method, ids=["c", "b"])[0]
    )


# ----------------------------------------------------------------------------- guided and deconvnet


def guided_by_hand(gate: bool) -> torch.Tensor:
    # Pixels (2,-1,1,-3) through S = 1*ReLU(x1) + 2*ReLU(x2) - 3*ReLU(x3) + 4*ReLU(x4): gradient
    # (1,0,-3,0). Guided: the negative -3 is cut, and closed ReLUs stay closed: (1,0,0,0). Deconvnet
    # ignores the gate: (1,2,0,4).
    return (
        torch.tensor([[1.0, 0.0], [0.0, 0.0]]) if gate else torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    )


class FourPixels(nn.Module):
    def __init__(self, relu) -> None:
        super().__init__()
        self.features, self.relu, self.one = nn.Identity(), relu, nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.features(x * self.one)[:, 0].flatten(1) * 1.0)
        s = (y * torch.tensor([1.0, 2.0, -3.0, 4.0])).sum(1)
        return torch.stack([s, -s], 1)


class ReluInPlace(nn.Module):
    """Rectifies in place and returns nothing: only the tensor itself shows it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 1.0
        torch.relu_(y)
        return y


RELUS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, inplace=True),
    "method": lambda x: x.relu(),
    "clamp": lambda x: x.clamp(min=0),
    "capped": nn.ReLU6(inplace=True),
    "result dropped": ReluInPlace(),
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
@pytest.mark.parametrize(("method", "gate"), [("guided_backprop", True), ("deconvnet", False)])
def test_guided_backprop_and_deconvnet_by_hand(method, gate, relu):
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0] = torch.tensor([[2.0, -1.0], [1.0, -3.0]])
    maps = bench.explain(model_of(FourPixels(relu), 2), images, torch.tensor([0]), method)
    assert torch.equal(maps[0], guided_by_hand(gate))


def test_guided_backprop_without_negative_weights_is_the_gradient():
    net = make_net("mlp")
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    images = make_images(0, 2, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(net(images).gather(1, TARGETS[:, None]).sum(), images)
    assert_close(explain(net, "guided_backprop"), gradient.sum(1))


@pytest.mark.parametrize("kind", ["gap", "mlp", "norm"])
@pytest.mark.parametrize(
    ("method", "peer"), [("guided_backprop", "GuidedBackprop"), ("deconvnet", "Deconvolution")]
)
def test_guided_backprop_and_deconvnet_equal_captums(kind, method, peer):
    from captum import attr

    net, images = make_net(kind), make_images(0, 2, 32)
    assert_close(
        explain(net, method),
        getattr(attr, peer)(net).attribute(images.clone(), target=TARGETS).sum(1),
    )


def test_guided_grad_cam_is_the_product():
    model, images = model_of(make_net("norm")), make_images(0, 2, 32)
    maps = bench.explain(model, images, TARGETS, ["guided_grad_cam", "guided_backprop", "grad_cam"])
    assert torch.equal(maps["guided_grad_cam"], maps["guided_backprop"] * maps["grad_cam"])


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet", "guided_grad_cam"])
def test_guided_backprop_is_for_relus(method):
    with pytest.raises(NotApplicable, match="has none"):
        explain(
            PlainLinear(torch.randn(4, 3, 8, 8)),
            method.replace("guided_grad_cam", "deconvnet"),
            torch.ones(2, 3, 8, 8),
        )
    with pytest.raises(NotApplicable, match="silu"):
        explain(make_net("signed"), method)


# ----------------------------------------------------------------------------------------- DeepLIFT


def test_deep_lift_by_hand():
    # x = 2 and r = -2 for every red pixel, S = ReLU(mean): the multiplier of the ReLU is (2 - 0)/(2
    # + 2) = 1/2, so each of 16 pixels gets 4 * 1/2 / 16 = 1/8, where its gradient would say 1/4;
    # they sum up to S(x) - S(r) = 2.
    images = torch.full((1, 3, 4, 4), 2.0)
    model = model_of(Scalar(torch.relu), 4, (2.485, 2.456, 2.406), (1, 1, 1))  # b is -2
    maps = bench.explain(model, images, torch.tensor([0]), "deep_lift")
    np.testing.assert_allclose(maps[0].numpy(), 1 / 8, atol=1e-6)


def test_deep_lift_takes_the_gradient_where_nothing_changes():
    # x = r: nothing to explain, and nothing to divide by.
    maps = bench.explain(
        model_of(Scalar(torch.relu), 4, BASELINE),
        torch.zeros(1, 3, 4, 4),
        torch.tensor([0]),
        "deep_lift",
    )
    assert maps.abs().max() < 1e-7


class Reused(nn.Module):
    """One ReLU for everything, one of its calls in place, and a max pooling whose windows
    overlap.
    """

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        self.features = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.pool, self.fc = nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Linear(4, 5)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=rng) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.features(x)))
        x = x + self.relu(self.middle(x))
        return self.fc(torch.sigmoid(F.relu_(self.middle(x))).mean((2, 3)))


def test_deep_lift_is_complete_with_reused_modules_and_overlapping_pools():
    net, images = Reused(), make_images(0, 2, 32)
    for name in REFERENCES:
        change = scores(net, images) - scores(net, reference_images(trace_of(net, images), name))
        maps = explain(net, f"deep_lift[reference={name}]")
        torch.testing.assert_close(maps.sum((1, 2)), change, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gap", "mlp", "norm"])
def test_deep_lift_equals_captums(kind):
    from captum.attr import DeepLift

    net, images = make_net(kind), make_images(0, 2, 32)
    baseline = reference_images(trace_of(net, images), "baseline")
    theirs = (
        DeepLift(make_net(kind)).attribute(images.clone(), baseline, target=TARGETS).sum(1).detach()
    )
    assert_close(explain(net, "deep_lift"), theirs)


def test_deep_lift_shap_is_the_mean_over_references():
    net = make_net("norm")
    parts = [explain(net, f"deep_lift[reference={name}]") for name in REFERENCES]
    assert_close(explain(net, "deep_lift_shap"), torch.stack(parts).mean(0))


def test_deep_lift_refuses_products():
    with pytest.raises(NotApplicable, match="mul"):
        explain(make_net("skip"), "deep_lift")


class OddLimit(nn.Module):
    """A maximum over the channels, which no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.one = nn.Identity(), nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.features(x * self.one).amax((1, 2, 3)) * 3
        return torch.stack([s, -s], 1)


def test_deep_lift_refuses_what_does_not_sum_up():
    with pytest.raises(NotApplicable, match="sum up"):
        explain(OddLimit(), "deep_lift[reference=noise]", targets=torch.tensor([0, 1]))


# ---------------------------------------------------------------------------------------------- LRP


class TwoPixels(nn.Module):
    """A 1x1 convolution on the red channel (weight w, bias), then the sum of the pixels: relevance
    by hand.
    """

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 1, (1, 2))
        with torch.no_grad():
            self.features.weight.zero_()
            self.features.weight[0, 0, 0] = torch.tensor([2.0, -1.0])
            self.features.bias.fill_(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.features(x).relu().sum((1, 2, 3))
        return torch.cat([s[:, None], s[:, None] * 0.5], 1)


def test_lrp_by_hand():
    # Pixels (3, 1): z = 2*3 - 1*1 + 1 = 6 = S. epsilon: R = (6, -1), one unit goes to the bias.
    # epsilon_plus: the only positive term takes all, R = (6, 0).
    images = torch.zeros(1, 3, 1, 2)
    images[0, 0, 0] = torch.tensor([3.0, 1.0])
    trace = bench.engine.trace.Trace(
        bench.engine.prober.Prober(bench.Explainee(TwoPixels(1.0), size=2, layer="features")),
        images,
        torch.tensor([0]),
    )
    for rule, expected in (("epsilon", [6.0, -1.0]), ("epsilon_plus", [6.0, 0.0])):
        maps = bench.methods.METHODS.get(f"lrp[rule={rule}]")(trace)
        np.testing.assert_allclose(maps[0, 0].tolist(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["gap", "mlp"])
def test_lrp_epsilon_is_input_times_gradient_on_relu_nets(kind):
    net = make_net(kind)
    assert_close(
        explain(net, "lrp[rule=epsilon,epsilon=1e-9]"), explain(net, "input_x_gradient"), 1e-4
    )


@pytest.mark.parametrize("kind", ["gap", "norm"])
def test_lrp_conserves_the_logit_where_no_bias_absorbs_it(kind):
    net = make_net(kind)
    with torch.no_grad():
        net.fc.bias.zero_()
    assert_close(
        explain(net, "lrp[epsilon=1e-9]").sum((1, 2)), scores(net, make_images(0, 2, 32)), 1e-3
    )


def test_lrp_folds_batch_norm_into_the_convolution():
    # The same net with the norm folded in by hand has the same relevance.
    net = make_net("norm")
    folded = make_net("norm")
    for part in (folded.features, folded.neck):
        for i, module in enumerate(part):
            if isinstance(module, nn.Conv2d):
                part[i] = torch.nn.utils.fusion.fuse_conv_bn_eval(module, part[i + 1])
                part[i + 1] = nn.Identity()
    assert_close(explain(folded, "lrp"), explain(net, "lrp"), 1e-4)


class Residual(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        rng = torch.Generator().manual_seed(4)
        self.features, self.branch = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(4, 5, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=rng) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.features(x))
        y = self.branch(x)
        if self.in_place:
            y += x
        else:
            y = y + x
        return self.fc(
            torch.flatten(F.adaptive_avg_pool2d(self.pool(F.relu(y, inplace=self.in_place)), 1), 1)
        )


def test_lrp_shares_sums_of_branches_in_place_or_not():
    images = make_images(0, 2, 32)
    maps = explain(Residual(in_place=False), "lrp[epsilon=1e-9]")
    assert_close(explain(Residual(in_place=True), "lrp[epsilon=1e-9]"), maps)
    assert_close(maps.sum((1, 2)), scores(Residual(False), images), 1e-3)


def test_lrp_refuses_what_it_has_no_rule_for():
    with pytest.raises(NotApplicable, match="mul"):
        explain(make_net("skip"), "lrp")
    net = PlantedEvidence(region_mean(32, slice(0, 4), slice(0, 4)))
    pixels = make_images(0, 2, 32).sigmoid()  # its logits are logarithms of what they sum to
    with pytest.raises(NotApplicable, match="adding a constant"):
        explain(net, "lrp", pixels, targets=torch.tensor([0, 1]))


# ------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    "method",
    [
        "integrated_gradients[steps=7]",
        "idgi[steps=7]",
        "smooth_grad[samples=3]",
        "var_grad[samples=3]",
        "gradient_shap[samples=3]",
        "guided_backprop",
        "deconvnet",
        "guided_grad_cam",
        "deep_lift",
        "deep_lift_shap",
        "lrp",
    ],
)
def test_the_plan_is_what_is_run(method):
    trace = trace_of(make_net("norm"), make_images(0, 2, 32))
    entry = bench.methods.METHODS.get(method)
    before = trace.prober.counts.copy()
    entry(trace)
    spent, planned = trace.prober.counts - before, entry.plan_work(trace.model)
    assert (spent.forwards, spent.backwards) == (2 * planned.forwards, 2 * planned.backwards)
    assert planned.forwards > 0

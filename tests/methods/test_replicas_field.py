"""The methods of `reference_field.py`: each against its slow float64 replica, and the laws that tie
them together.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import bench
from bench.errors import BenchError, NotApplicable
from bench.methods import METHODS
from tests.support import reference as ref
from tests.support import reference_field as field
from tests.support.nets import (
    BASELINE,
    MEAN,
    STD,
    PlainLinear,
    PlantedEvidence,
    make_images,
    make_net,
    randomise,
)

QUICK = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
SIDE = 32
IDS = ["a", "b"]
KINDS = ("gap", "mlp", "norm", "signed", "skip")
SEEDS = (0, 1)


class Pooled(nn.Module):
    """Max pooling of both sorts, VGG's and the overlapping one of ResNet's stem, before a linear
    layer.
    """

    def __init__(self, classes: int = 5, channels: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(channels * (SIDE // 4) ** 2, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def make(kind: str, seed: int) -> nn.Module:
    return randomise(Pooled(), seed) if kind == "pool" else make_net(kind, seed, SIDE)


def explainee(kind: str, seed: int) -> bench.Explainee:
    return bench.Explainee(make(kind, seed), mean=MEAN, std=STD, size=SIDE, layer="features")


@functools.cache
def network(kind: str, seed: int) -> field.Network:
    return field.Network(make(kind, seed), mean=MEAN, std=STD)


def registered(*names: str) -> pytest.MarkDecorator:
    """Skip a test of methods that this version of the package does not have (by name, without
    parameters).
    """
    missing = []
    for name in names:
        try:
            METHODS.get(name)
        except BenchError:
            missing.append(name)
    return pytest.mark.skipif(bool(missing), reason=f"not registered: {', '.join(missing)}")


# --------------------------------------------------------------------------------------------------
# Method against replica
# --------------------------------------------------------------------------------------------------

EXTREMAL = {"areas": "0.1+0.3", "iterations": 4}

# (address, replica, its parameters)
ADDRESSES: list[tuple[str, str, dict[str, Any]]] = [
    ("tft(grad_cam)", "tft", {}),
    ("tft(grad_cam)[include_zero=true]", "tft", {"include_zero": True}),
    ("tft(layer_cam)", "tft", {"inner": "layer_cam"}),
    ("tft(layer_cam)[include_zero=true]", "tft", {"inner": "layer_cam", "include_zero": True}),
    *[
        (f"a_fmi[form={form},reference={start}]", "a_fmi", {"form": form, "reference": start})
        for form in ("product", "complete", "absdiff")
        for start in ("baseline", "black", "white", "blur", "noise")
    ],
    ("a_fmi[positive_only=true]", "a_fmi", {"positive_only": True}),
    ("a_fmi[replace=zero]", "a_fmi", {"replace": "zero"}),
    ("a_fmi[share=0.2]", "a_fmi", {"share": 0.2}),
    (
        "a_fmi[selection=cumulative,share=0.7]",
        "a_fmi",
        {"selection": "cumulative", "share": 0.7},
    ),
    ("grad_cam_pp[form=code]", "grad_cam_pp", {"form": "code"}),
    ("layer_cam", "layer_cam", {}),
    ("score_cam", "score_cam", {}),
    *[
        (f"sa_cam[base={base},form={form}]", "sa_cam", {"base": base, "form": form})
        for base in ("grad_cam", "grad_cam_pp", "score_cam")
        for form in ("additive", "multiplicative")
    ],
    ("sa_cam[lambda=0.3,tau=0.05]", "sa_cam", {"lambda_": 0.3, "tau": 0.05}),
    ("abs_cam_init", "abs_cam_init", {}),
    ("abs_cam", "abs_cam", {}),
    ("abs_cam[form=activations]", "abs_cam", {"form": "activations"}),
    ("abs_cam_elementwise", "abs_cam_elementwise", {}),
    ("group_cam", "group_cam", {}),
    ("group_cam[groups=3]", "group_cam", {"groups": 3}),
    ("group_cam[form=first,groups=3]", "group_cam", {"groups": 3, "form": "first"}),
    ("shapley_cam", "shapley_cam", {}),
    ("shapley_cam[score=logit]", "shapley_cam", {"score": "logit"}),
    ("finer_cam", "finer_cam", {}),
    ("finer_cam[gamma=0.6,weights=mean]", "finer_cam", {"gamma": 0.6, "weights": "mean"}),
    ("finer_cam[classes=1]", "finer_cam", {"classes": 1}),
    ("finer_cam[classes=9]", "finer_cam", {"classes": 9}),
    ("recipro_cam", "recipro_cam", {}),
    ("recipro_cam[filter=gaussian]", "recipro_cam", {"filter_": "gaussian"}),
    ("smooth_grad_cam_pp", "smooth_grad_cam_pp", {}),
    ("smooth_grad_cam_pp[samples=7,std=0.1]", "smooth_grad_cam_pp", {"samples": 7, "std": 0.1}),
    ("layer_cam_fused", "layer_cam_fused", {"layers": "auto"}),
    ("layer_cam_fused[layers=THREE]", "layer_cam_fused", {"layers": "three"}),
    ("fused(grad_cam)", "fused", {"layers": "auto"}),
    ("fused(grad_cam)[layers=THREE]", "fused", {"layers": "three"}),
    (
        "fused(layer_cam)[reduce=max]",
        "fused",
        {"layers": "auto", "inner": "layer_cam", "reduce": "max"},
    ),
    ("fused(abs_cam_init)", "fused", {"layers": "auto", "inner": "abs_cam_init"}),
    ("random_cam", "random_cam", {}),
    ("full_grad", "full_grad", {}),
    ("full_grad[form=code]", "full_grad", {"form": "code"}),
    *[
        (
            f"integrated_gradients[reference={start},steps=20]",
            "integrated_gradients",
            {"reference": start, "steps": 20},
        )
        for start in ("black", "white", "blur", "noise")
    ],
    ("idgi", "idgi", {}),
    ("idgi[reference=blur,steps=7]", "idgi", {"reference": "blur", "steps": 7}),
    ("smooth_grad", "smooth_grad", {}),
    ("smooth_grad[samples=4,std=0.3]", "smooth_grad", {"samples": 4, "std": 0.3}),
    ("smooth_grad[magnitude=true]", "smooth_grad", {"magnitude": True}),
    ("var_grad", "var_grad", {}),
    ("gradient_shap", "gradient_shap", {}),
    ("gradient_shap[samples=12,std=0.1]", "gradient_shap", {"samples": 12, "std": 0.1}),
    ("guided_backprop", "guided_backprop", {}),
    ("deconvnet", "deconvnet", {}),
    ("guided_grad_cam", "guided_grad_cam", {}),
    ("deep_lift", "deep_lift", {}),
    ("deep_lift[reference=blur]", "deep_lift", {"reference": "blur"}),
    ("deep_lift_shap", "deep_lift_shap", {}),
    ("lrp", "lrp", {}),
    ("lrp[epsilon=0.05,rule=epsilon]", "lrp", {"epsilon": 0.05, "rule": "epsilon"}),
    ("occlusion", "occlusion", {}),
    ("occlusion[stride=0.2,window=0.3]", "occlusion", {"window": 0.3, "stride": 0.2}),
    ("rise[masks=60]", "rise", {"masks": 60}),
    ("rise[cells=5,masks=40,p=0.3]", "rise", {"masks": 40, "cells": 5, "p": 0.3}),
    ("lime[cells=4,samples=120]", "lime", {"samples": 120, "cells": 4}),
    ("lime[samples=200]", "lime", {"samples": 200}),
    ("kernel_shap[cells=4,samples=120]", "kernel_shap", {"samples": 120, "cells": 4}),
    ("kernel_shap[samples=300]", "kernel_shap", {"samples": 300}),
    ("extremal_perturbation[areas=0.1+0.3,iterations=4]", "extremal_perturbation", EXTREMAL),
]

# Where a method says that it does not fit, and why.
REFUSED = {
    ("full_grad", "signed"): "SiLU has a bias of its own",
    ("full_grad", "skip"): "a product of activations is not piecewise linear",
    ("guided_backprop", "signed"): "SiLU is no ReLU",
    ("deconvnet", "signed"): "SiLU is no ReLU",
    ("guided_grad_cam", "signed"): "SiLU is no ReLU",
    ("deep_lift", "skip"): "a product of activations breaks completeness",
    ("deep_lift_shap", "skip"): "a product of activations breaks completeness",
    ("lrp", "skip"): "no rule for a product of activations",
}

# Methods with a rule of their own for max pooling, or that read gradients behind one.
POOLED = {"deep_lift", "deep_lift_shap", "lrp", "guided_backprop", "deconvnet", "full_grad"}

# What layers="auto" means on the nets here; and three layers, so that the shallow ones of LayerCAM
# are squashed.
LAYERS = {
    "auto": {
        "gap": "features.1+features.3",
        "mlp": "features",
        "norm": "features.2+features.5",
        "signed": "features.1+features.3",
        "skip": "neck",
    },
    "three": {
        "gap": "features.0+features.1+features.3",
        "mlp": "features.0+features.1+features.3",
        "norm": "features.0+features.2+features.5",
        "signed": "features.0+features.1+features.3",
        "skip": "stem+features+neck",
    },
}

# A ReLU that stands at zero at one node of the path, or for one noisy image, may open in float64
# and not in float32; the pixels it sees then differ by that node's weight. On the smooth net the
# bound is tight.
SAMPLED = {"integrated_gradients", "idgi", "smooth_grad", "var_grad", "gradient_shap"}


def cases() -> list[ParameterSet]:
    chosen = []
    for address, replica, parameters in ADDRESSES:
        for kind in (*KINDS, "pool") if replica in POOLED else KINDS:
            told = (
                {**parameters, "layers": LAYERS[parameters["layers"]][kind]}
                if "layers" in parameters
                else parameters
            )
            # Integrated gradients had no references before IDGI came.
            names = [replica, "idgi"] if replica == "integrated_gradients" else [replica]
            for seed in SEEDS:
                case = (
                    address.replace("THREE", str(told.get("layers"))),
                    replica,
                    told,
                    kind,
                    seed,
                )
                chosen.append(
                    pytest.param(*case, id=f"{address}-{kind}-{seed}", marks=registered(*names))
                )
    return chosen


@pytest.mark.parametrize(("address", "replica", "parameters", "kind", "seed"), cases())
def test_method_equals_its_replica(address, replica, parameters, kind, seed):
    images, targets = make_images(20 + seed, 2, SIDE), torch.tensor([seed % 5, (seed + 3) % 5])
    if (replica, kind) in REFUSED:
        with pytest.raises(NotApplicable):
            bench.explain(explainee(kind, seed), images, targets, address, ids=IDS)
        return
    maps = bench.explain(explainee(kind, seed), images, targets, address, ids=IDS)
    assert maps.dtype == torch.float32
    assert maps.shape == (2, SIDE, SIDE)
    for i, c in enumerate(targets.tolist()):
        x, L = images[i].double().numpy(), maps[i].double().numpy()
        expected = field.METHODS[replica](network(kind, seed), x, c, IDS[i], **parameters)
        np.testing.assert_array_equal(np.isnan(L), np.isnan(expected))
        if np.isnan(expected).any():
            continue
        scale = np.abs(expected).max()
        if scale < 1e-9:  # a ReLU that leaves nothing
            assert np.abs(L).max() < 1e-6
            continue
        error = np.abs(L - expected) / scale
        if replica == "tft":
            # Pixels at the cut-off that are equal in exact arithmetic (Up repeats the edge) may
            # change places.
            assert (L > 0).sum() == (expected > 0).sum()
            cut = expected[expected > 0].min()
            error[np.abs(np.maximum(L, expected) - cut) < 1e-5] = 0.0
        if replica in SAMPLED and kind != "signed":
            assert np.median(error) < 1e-3
            assert error.max() < 0.05
        elif replica == "extremal_perturbation":
            # The area term sorts the mask, which starts level: rounding decides which pixel of
            # equals is pulled up.
            assert error.max() < 5e-3
        else:
            assert (
                error.max()
                < 1e-4 + slack(network(kind, seed), x, c, IDS[i], replica, parameters) / scale
            )


def slack(
    net: field.Network,
    x: np.ndarray,
    c: int,
    image_id: str,
    replica: str,
    parameters: dict[str, Any],
) -> float:
    """What float32 logits cost where a formula magnifies them, in units of the map."""
    rounding = 2.0**-22 * np.abs(net.logits(x)).max()
    if parameters.get("form") == "complete":  # FMI_k over a sum of D_k that may cancel
        start = field.reference_image(net, x, image_id, parameters.get("reference", "baseline"))
        D = net.activations(x) - net.activations(start)
        return float(
            sum(
                rounding * np.abs(d).max() / abs(d.sum())
                for d in D
                if abs(d.sum()) > 1e-3 * np.abs(d).sum()
            )
        )
    if replica == "group_cam" and parameters.get("form", "last") == "last":
        return float(rounding * parameters.get("groups", 32))
    if replica == "finer_cam":  # the classes' gradients may cancel
        A, G = net.layer_and_gradient(x, c)
        return float(
            2.0**-22 * np.abs(G.mean(axis=(1, 2), keepdims=True) * A).max(axis=(1, 2)).sum()
        )
    if replica == "group_cam":  # gains are small differences of probabilities
        A, G = net.layer_and_gradient(x, c)
        return float(
            rounding * np.abs(G.mean(axis=(1, 2), keepdims=True) * A).max(axis=(1, 2)).sum()
        )
    return 0.0


# --------------------------------------------------------------------------------------------------
# Laws of the five systems
# --------------------------------------------------------------------------------------------------


def explained(
    kind: str, seed: int, image: int, target: int, names: list[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return one image [3,H,W] and its float64 maps by name."""
    images = make_images(image, 1, SIDE)
    maps = bench.explain(explainee(kind, seed), images, torch.tensor([target]), names, ids=["a"])
    # A variant has one name, whatever the order and the defaults in the address; the maps come in
    # the order asked.
    return images[0].double().numpy(), {
        n: L[0].double().numpy() for n, L in zip(names, maps.values(), strict=True)
    }


def assert_same_map(L: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """Equal up to a share of the map's largest value."""
    scale = max(np.abs(expected).max(), 1e-9)
    np.testing.assert_allclose(L / scale, expected / scale, atol=tolerance, rtol=0)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])


draws = given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2),
    image=st.integers(0, 10_000),
    target=st.integers(0, 4),
)


@registered("tft")
@QUICK
@draws
def test_tft_keeps_the_order_of_survivors_and_their_values(kind, seed, image, target):
    _, maps = explained(kind, seed, image, target, ["layer_cam", "tft(layer_cam)"])
    whole, L = ref.unit(maps["layer_cam"]), maps["tft(layer_cam)"]
    kept = L > 0
    np.testing.assert_allclose(L[kept], whole[kept], atol=1e-6)
    # What fell is no larger than what stayed, and a tenth of the pixels falls at a time.
    if not kept.all() and kept.any():
        assert whole[~kept].max() <= L[kept].min() + 1e-6
    assert (L == 0).sum() >= (whole == 0).sum()


@registered("tft")
@QUICK
@draws
def test_tft_is_never_worse_than_no_threshold_if_zero_is_in_the_grid(kind, seed, image, target):
    x, maps = explained(
        kind, seed, image, target, ["layer_cam", "tft(layer_cam)[include_zero=true]"]
    )
    net = network(kind, seed)
    before = net.p(net.masked(ref.unit(maps["layer_cam"]), x), target)
    after = net.p(net.masked(maps["tft(layer_cam)[include_zero=true]"], x), target)
    assert after > before - 1e-5


@registered("tft")
def test_tft_of_a_map_without_positive_part_is_missing():
    net = make_net("gap", 0, SIDE)
    with torch.no_grad():
        net.fc.weight[2] = -net.fc.weight[2].abs()  # no channel speaks for class 2
    model = bench.Explainee(net, mean=MEAN, std=STD, size=SIDE, layer="features")
    maps = bench.explain(
        model, make_images(0, 2, SIDE), torch.tensor([2, 2]), ["grad_cam", "tft(grad_cam)"]
    )
    assert (maps["grad_cam"] == 0).all()
    assert maps["tft(grad_cam)"].isnan().all()


@registered("a_fmi")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_a_fmi_on_gap_and_linear_heads(seed, image, target):
    # FMI_k = w_ck mean(D_k); they add up to S_c(x) - S_c(x'); then the maps have closed forms.
    names = ["a_fmi", "a_fmi[form=absdiff]", "a_fmi[form=complete]"]
    x, maps = explained("gap", seed, image, target, names)
    net = network("gap", seed)
    A, G = net.layer_and_gradient(x, target)
    D = A - net.activations(field.reference_image(net, x, "a", "baseline"))
    weight = net.net.get_submodule("fc").weight[target].numpy()
    importance = weight * D.mean(axis=(1, 2))
    np.testing.assert_allclose(
        field.feature_map_importance(net, x, target, A - D), importance, atol=1e-12
    )
    assert_same_map(maps["a_fmi"], field.relu_up(field.weighted(importance, D), x))
    assert_same_map(
        maps["a_fmi[form=absdiff]"], field.relu_up(field.weighted(importance, np.abs(D)), x)
    )
    room = (
        1e-4
        + slack(net, x, target, "a", "a_fmi", {"form": "complete"})
        / np.abs(maps["a_fmi[form=complete]"]).max()
    )
    assert_same_map(maps["a_fmi[form=complete]"], ref.up((G * D).sum(axis=0), SIDE, SIDE), room)
    gap = net.logits(x)[target] - net.logits(field.reference_image(net, x, "a", "baseline"))[target]
    # Up by a whole factor keeps the mean, so the map adds up to the difference times the pixels per
    # cell.
    share = (SIDE // A.shape[1]) ** 2
    assert maps["a_fmi[form=complete]"].sum() / share == pytest.approx(gap, rel=1e-3, abs=1e-4)


@registered("a_fmi")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_zero_replacement_on_linear_heads_takes_ablation_cams_weights(seed, image, target):
    # FMI_k against zero is Ablation-CAM's w_k = w_ck mean(A_k); only the maps that they weigh
    # differ, D_k and A_k.
    x, maps = explained("gap", seed, image, target, ["a_fmi[replace=zero]", "ablation_cam"])
    net = network("gap", seed)
    A = net.activations(x)
    D = A - net.activations(field.reference_image(net, x, "a", "baseline"))
    w = net.net.get_submodule("fc").weight[target].numpy() * A.mean(axis=(1, 2))
    assert_same_map(maps["ablation_cam"], field.relu_up(field.weighted(w, A), x))
    assert_same_map(maps["a_fmi[replace=zero]"], field.relu_up(field.weighted(w, D), x))


@registered("sa_cam")
@QUICK
@draws
def test_sa_cam_without_attention_is_its_base(kind, seed, image, target):
    bases = ["grad_cam", "grad_cam_pp", "score_cam"]
    forms = ["additive", "multiplicative"]
    names = [f"sa_cam[base={base},form={form},lambda=0]" for base in bases for form in forms]
    _, maps = explained(kind, seed, image, target, [*bases, *names])
    for base in bases:
        for form in forms:
            assert_same_map(maps[f"sa_cam[base={base},form={form},lambda=0]"], maps[base], 1e-5)


@registered("sa_cam")
@QUICK
@draws
def test_additive_sa_cam_smooths_the_cam_by_the_affinity(kind, seed, image, target):
    # sum_k w_k (A_k + lambda P a_k) = (I + lambda P) cam0, with cam0 before its ReLU.
    x, maps = explained(kind, seed, image, target, ["sa_cam[lambda=0.7]"])
    net = network(kind, seed)
    A, G = net.layer_and_gradient(x, target)
    cam0 = field.weighted(G.mean(axis=(1, 2)), A)
    cells = F.normalize(torch.from_numpy(A).flatten(1), dim=0)
    P = torch.softmax(cells.T @ cells / 0.2, dim=1).numpy()
    np.testing.assert_allclose(field.self_attention(A, 0.2), P, atol=1e-12)
    smoothed = (np.eye(cam0.size) + 0.7 * P) @ cam0.reshape(-1)
    assert_same_map(maps["sa_cam[lambda=0.7]"], field.relu_up(smoothed.reshape(cam0.shape), x))


class Negated(nn.Module):
    """A net whose logits have the other sign, so that G has too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.net(x)


@registered("abs_cam_init")
@QUICK
@draws
def test_abs_cam_init_does_not_depend_on_the_sign_of_the_gradient(kind, seed, image, target):
    _, maps = explained(kind, seed, image, target, ["abs_cam_init"])
    turned = Negated(make_net(kind, seed, SIDE))
    model = bench.Explainee(turned, mean=MEAN, std=STD, size=SIDE, layer="net.features")
    negated = bench.explain(
        model, make_images(image, 1, SIDE), torch.tensor([target]), "abs_cam_init"
    )
    assert_same_map(negated[0].double().numpy(), maps["abs_cam_init"], 1e-5)


@registered("abs_cam")
@QUICK
@draws
def test_abs_cam_of_normalised_maps_is_score_cam_of_normalised_maps(kind, seed, image, target):
    # S_k = p_c without a softmax over channels; the weight of phase 1 has cancelled in mm.
    x, maps = explained(kind, seed, image, target, ["abs_cam[form=normalised]"])
    net = network(kind, seed)
    w = field.cam_weights(net, x, target, "score_cam")
    expected = sum(w[k] * ref.mm(ref.up(a, SIDE, SIDE)) for k, a in enumerate(net.activations(x)))
    assert_same_map(maps["abs_cam[form=normalised]"], expected)


@registered("abs_cam_elementwise", "abs_cam")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_on_gap_heads_elementwise_abs_cam_is_abs_cam(seed, image, target):
    # |G_k| is one number per channel there.
    names = ["abs_cam[form=activations]", "abs_cam_elementwise"]
    _, maps = explained("gap", seed, image, target, names)
    assert_same_map(maps[names[1]], maps[names[0]])


@registered("abs_cam_init")
def test_abs_cam_init_is_nearly_blind_to_the_class_on_gap_heads():
    # methods.md says so; on these nets two classes still agree better than Grad-CAM's two.
    for seed in SEEDS:
        agreement = {}
        for name in ("abs_cam_init", "grad_cam"):
            one, two = (explained("gap", seed, 5, target, [name])[1][name] for target in (0, 1))
            agreement[name] = pearson(one, two) if one.any() and two.any() else -1.0
        assert agreement["abs_cam_init"] > 0.5
        assert agreement["abs_cam_init"] > agreement["grad_cam"]


# --------------------------------------------------------------------------------------------------
# Laws of the CAM family
# --------------------------------------------------------------------------------------------------


LOGIT = "shapley_cam[score=logit]"


@registered("shapley_cam")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_shapley_cam_is_grad_cam_where_the_head_is_linear(seed, image, target):
    _, maps = explained("gap", seed, image, target, ["grad_cam", LOGIT])
    assert_same_map(maps[LOGIT], maps["grad_cam"], 1e-5)


@registered("shapley_cam")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_shapley_cam_is_grad_cam_where_the_head_is_piecewise_linear(seed, image, target):
    # A head of ReLUs has no second derivative either, but where it has a kink.
    _, maps = explained("mlp", seed, image, target, ["grad_cam", LOGIT])
    assert_same_map(maps[LOGIT], maps["grad_cam"], 1e-5)


@registered("shapley_cam")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_the_rest_score_sees_the_second_derivative_of_log_p(seed, image, target):
    # Linear after GAP, logits z = W mean(A) + b: d(z_c + log p_c)/dA_k = (2 W_ck - m_k)/(hw), m =
    # sum_d p_d W_d, and the derivative of -m along A is -sum_d p_d W_d (u_d - sum_e p_e u_e), u = z
    # - b.
    x, maps = explained("gap", seed, image, target, ["shapley_cam"])
    net = network("gap", seed)
    weight, bias = (getattr(net.net.get_submodule("fc"), n).numpy() for n in ("weight", "bias"))
    A, z = net.activations(x), net.logits(x)
    p, u = np.exp(z) / np.exp(z).sum(), z - bias
    mean = p @ weight
    gradient = 2 * weight[target] - mean
    curvature = -((p * (u - p @ u)) @ weight)
    expected = field.relu_up(field.weighted((gradient - curvature / 2) / A[0].size, A), x)
    assert_same_map(maps["shapley_cam"], expected, 1e-5)


@registered("finer_cam")
@QUICK
@draws
def test_finer_cam_without_rivals_is_grad_cam(kind, seed, image, target):
    _, maps = explained(kind, seed, image, target, ["grad_cam", "finer_cam[gamma=0]"])
    assert_same_map(maps["finer_cam[gamma=0]"], maps["grad_cam"], 1e-5)


@registered("finer_cam")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_finer_cam_of_one_rival_sees_the_difference_of_two_classes(seed, image, target):
    # Linear after GAP: w = (w_c - w_d)/(hw) with gamma = 1, whichever way the rivals are weighed.
    names = ["finer_cam[classes=1]", "finer_cam[classes=1,weights=mean]"]
    x, maps = explained("gap", seed, image, target, names)
    net = network("gap", seed)
    z = net.logits(x)
    rival = min((d for d in range(5) if d != target), key=lambda d: abs(z[d] - z[target]))
    weight = net.net.get_submodule("fc").weight.numpy()
    A = net.activations(x)
    expected = field.relu_up(field.weighted((weight[target] - weight[rival]) / A[0].size, A), x)
    for name in names:
        assert_same_map(maps[name], expected)


@registered("recipro_cam")
@QUICK
@given(seed=st.integers(0, 2), image=st.integers(0, 10_000), target=st.integers(0, 4))
def test_recipro_cam_on_gap_heads_by_hand(seed, image, target):
    # One position alive: the logits are W A_ij / (hw) + bias.
    x, maps = explained("gap", seed, image, target, ["recipro_cam"])
    net = network("gap", seed)
    A = net.activations(x)
    fc = net.net.get_submodule("fc")
    z = np.einsum("ck,kij->cij", fc.weight.numpy(), A) / A[0].size + fc.bias.numpy()[:, None, None]
    p = np.exp(z) / np.exp(z).sum(axis=0)
    assert_same_map(maps["recipro_cam"], ref.up(p[target], SIDE, SIDE), 1e-5)


@registered("group_cam")
@QUICK
@draws
def test_group_cam_of_one_group_is_grad_cam_times_its_gain(kind, seed, image, target):
    first = "group_cam[form=first,groups=1]"
    x, maps = explained(kind, seed, image, target, ["grad_cam", first])
    net, away = network(kind, seed), field.wide_blur(x)
    H = ref.mm(maps["grad_cam"])
    gain = max(net.p(H * x + (1 - H) * away, target) - net.p(away, target), 0.0)
    np.testing.assert_allclose(maps[first], gain * maps["grad_cam"], atol=2e-6, rtol=1e-3)


@registered("group_cam")
@QUICK
@draws
def test_group_cam_of_one_group_is_the_top_of_grad_cam(kind, seed, image, target):
    x, maps = explained(kind, seed, image, target, ["group_cam[groups=1]"])
    net, away = network(kind, seed), field.wide_blur(x)
    A, G = net.layer_and_gradient(x, target)
    M = np.maximum(sum(g.mean() * a for g, a in zip(G, A, strict=True)), 0)
    H = ref.mm(ref.up(np.where(np.percentile(M, 70) < M, M, 0), SIDE, SIDE))
    gain = net.p(H * x + (1 - H) * away, target) - net.p(away, target)
    np.testing.assert_allclose(maps["group_cam[groups=1]"], max(gain, 0) * H, atol=2e-6, rtol=1e-3)


@registered("smooth_grad_cam_pp")
@QUICK
@draws
def test_smooth_grad_cam_pp_without_noise_is_grad_cam_pp(kind, seed, image, target):
    _, maps = explained(kind, seed, image, target, ["grad_cam_pp", "smooth_grad_cam_pp[std=0]"])
    assert_same_map(maps["smooth_grad_cam_pp[std=0]"], maps["grad_cam_pp"])


@registered("layer_cam_fused", "fused")
@QUICK
@draws
def test_one_layer_fused_is_that_layers_map(kind, seed, image, target):
    names = ["layer_cam", "layer_cam_fused[layers=features]", "fused(layer_cam)[layers=features]"]
    _, maps = explained(kind, seed, image, target, names)
    low = maps["layer_cam"]
    assert_same_map(maps[names[2]], ref.unit(low), 1e-5)
    # Over the maximum at layer resolution, which Up may leave between two pixels.
    A, G = network(kind, seed).layer_and_gradient(
        make_images(image, 1, SIDE)[0].double().numpy(), target
    )
    top = np.maximum((np.maximum(G, 0) * A).sum(axis=0), 0).max()
    assert_same_map(maps[names[1]], low / top if top > 0 else low)


@registered("random_cam")
def test_random_cam_knows_neither_class_nor_batch():
    _, maps = explained("norm", 0, 3, 1, ["random_cam"])
    _, other = explained("norm", 0, 3, 4, ["random_cam"])
    np.testing.assert_array_equal(maps["random_cam"], other["random_cam"])


# --------------------------------------------------------------------------------------------------
# Laws of the gradient family
# --------------------------------------------------------------------------------------------------


def gap_to(net: field.Network, x: np.ndarray, target: int, reference: str = "baseline") -> float:
    """S_c(x) - S_c(x')."""
    start = field.reference_image(net, x, "a", reference)
    return float(net.logits(x)[target] - net.logits(start)[target])


@registered("idgi")
@QUICK
@draws
def test_idgi_adds_up_to_the_difference(kind, seed, image, target):
    x, maps = explained(kind, seed, image, target, ["idgi", "idgi[reference=white,steps=5]"])
    net = network(kind, seed)
    assert maps["idgi"].sum() == pytest.approx(gap_to(net, x, target), abs=1e-4, rel=1e-3)
    coarse = maps["idgi[reference=white,steps=5]"]
    assert coarse.sum() == pytest.approx(gap_to(net, x, target, "white"), abs=1e-4, rel=1e-3)


@registered("deep_lift")
@QUICK
@given(
    kind=st.sampled_from(("gap", "mlp", "norm", "signed", "pool")),
    seed=st.integers(0, 2),
    image=st.integers(0, 10_000),
    target=st.integers(0, 4),
)
def test_deep_lift_adds_up_to_the_difference(kind, seed, image, target):
    x, maps = explained(kind, seed, image, target, ["deep_lift", "deep_lift_shap"])
    net = network(kind, seed)
    assert maps["deep_lift"].sum() == pytest.approx(gap_to(net, x, target), abs=1e-3, rel=1e-3)
    mean = np.mean([gap_to(net, x, target, name) for name in field.REFERENCES])
    assert maps["deep_lift_shap"].sum() == pytest.approx(mean, abs=1e-3, rel=1e-3)


@registered("smooth_grad", "var_grad")
@QUICK
@draws
def test_smooth_grad_without_noise_is_the_gradient(kind, seed, image, target):
    x, maps = explained(kind, seed, image, target, ["smooth_grad[std=0]", "var_grad[std=0]"])
    gradient = network(kind, seed).input_gradient(x, target)
    assert_same_map(maps["smooth_grad[std=0]"], np.abs(gradient).sum(axis=0))
    assert maps["var_grad[std=0]"].max() < 1e-9 * (gradient**2).sum(axis=0).max() + 1e-12


@registered("guided_backprop", "guided_grad_cam")
@QUICK
@given(
    kind=st.sampled_from(("gap", "mlp", "norm", "skip")),
    seed=st.integers(0, 2),
    image=st.integers(0, 10_000),
    target=st.integers(0, 4),
)
def test_guided_grad_cam_is_the_product(kind, seed, image, target):
    _, maps = explained(
        kind, seed, image, target, ["grad_cam", "guided_backprop", "guided_grad_cam"]
    )
    assert_same_map(maps["guided_grad_cam"], maps["grad_cam"] * maps["guided_backprop"], 1e-5)


def linear(seed: int) -> tuple[bench.Explainee, np.ndarray]:
    """A net that is linear in the pixels, and its weight [3,3,H,W]."""
    weight = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) / SIDE
    return bench.Explainee(
        PlainLinear(weight), mean=MEAN, std=STD, size=SIDE, layer="features"
    ), weight.numpy()


@registered("deep_lift", "deep_lift_shap", "gradient_shap")
@pytest.mark.parametrize("seed", [0, 1])
def test_path_methods_agree_on_a_linear_net(seed):
    # (x - x') * w, whatever the path; the mean over the five references for those that average.
    model, weight = linear(seed)
    images = make_images(seed, 1, SIDE)
    names = ["deep_lift", "integrated_gradients", "deep_lift_shap", "gradient_shap"]
    maps = bench.explain(model, images, torch.tensor([1]), names, ids=["a"])
    x, net = (
        images[0].double().numpy(),
        field.Network(PlainLinear(torch.from_numpy(weight)), mean=MEAN, std=STD),
    )
    products = [
        ((x - field.reference_image(net, x, "a", r)) * weight[1]).sum(axis=0)
        for r in field.REFERENCES
    ]
    for name in names[:2]:
        assert_same_map(maps[name][0].double().numpy(), products[0])
    for name in names[2:]:
        assert_same_map(maps[name][0].double().numpy(), np.mean(products, axis=0))


@registered("lrp")
@QUICK
@given(kind=st.sampled_from(("gap", "mlp")), seed=st.integers(0, 4), image=st.integers(0, 10_000))
def test_lrp_without_biases_is_input_times_gradient(kind, seed, image):
    # The epsilon rule with a tiny epsilon on a ReLU net (Ancona et al., ICLR 2018, proposition 1).
    net = make_net(kind, seed, SIDE)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    model = bench.Explainee(net, mean=MEAN, std=STD, size=SIDE, layer="features")
    names = ["lrp[epsilon=1e-9,rule=epsilon]", "input_x_gradient"]
    given_, expected = bench.explain(
        model, make_images(image, 1, SIDE), torch.tensor([1]), names
    ).values()
    scale = expected.abs().max() + 1e-6
    # Pre-activations that nearly vanish cost digits in float32.
    assert ((given_ - expected) / scale).abs().max() < 1e-2


# --------------------------------------------------------------------------------------------------
# Laws of the perturbation family, on a net whose probability is linear in the image
# --------------------------------------------------------------------------------------------------


def planted(seed: int) -> tuple[bench.Explainee, np.ndarray]:
    """p(class 0) = .4 + .2 * sum(weight * x): what a pixel is worth against the baseline is
    known.
    """
    weight = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) / (3 * SIDE)
    net = PlantedEvidence(weight, floor=0.4, gain=0.2)
    return bench.Explainee(
        net, mean=MEAN, std=STD, size=SIDE, layer="features"
    ), 0.2 * weight.double().numpy()


def worth(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What each pixel adds to p(class 0) over the baseline colour [H,W]."""
    b = (np.array(BASELINE) - np.array(MEAN)) / np.array(STD)
    return (weight * (x - b.reshape(3, 1, 1))).sum(axis=0)


@registered("occlusion")
@pytest.mark.parametrize("seed", [0, 1])
def test_occlusion_of_planted_evidence(seed):
    # Windows of one pixel give each pixel's worth.
    model, weight = planted(seed)
    images = make_images(seed, 1, SIDE)
    L = bench.explain(model, images, torch.tensor([0]), "occlusion[window=0.03125,stride=0.03125]")
    assert_same_map(L[0].double().numpy(), worth(weight, images[0].double().numpy()), 1e-2)


@registered("kernel_shap")
@pytest.mark.parametrize("seed", [0, 1])
def test_kernel_shap_of_planted_evidence(seed):
    # Where p is additive over segments, Shapley values are the segments' sums; and they add up.
    model, weight = planted(seed)
    images = make_images(seed, 1, SIDE)
    L = bench.explain(
        model, images, torch.tensor([0]), "kernel_shap[cells=4,samples=200]", ids=["a"]
    )[0]
    value, parts = worth(weight, images[0].double().numpy()), field.segments(SIDE, SIDE, 4)
    sums = np.array([value[parts == k].sum() for k in range(16)])
    assert_same_map(L.double().numpy(), sums[parts], 1e-3)


@registered("lime")
@pytest.mark.parametrize("seed", [0, 1])
def test_lime_of_planted_evidence_shrinks_towards_nothing(seed):
    # Ridge leaves the direction and takes some of the length.
    model, weight = planted(seed)
    images = make_images(seed, 1, SIDE)
    L = (
        bench.explain(model, images, torch.tensor([0]), "lime[cells=4,samples=1000]", ids=["a"])[0]
        .double()
        .numpy()
    )
    value, parts = worth(weight, images[0].double().numpy()), field.segments(SIDE, SIDE, 4)
    sums = np.array([value[parts == k].sum() for k in range(16)])
    assert pearson(L, sums[parts]) > 0.99
    assert np.linalg.norm(L) < np.linalg.norm(sums[parts])


@registered("extremal_perturbation")
@pytest.mark.parametrize(("gain", "iterations", "tolerance"), [(1e4, 4, 2e-4), (100.0, 20, 5e-3)])
def test_extremal_perturbation_climbs_the_score(gain, iterations, tolerance):
    # A steep score, so that it, and not the area term, moves the mask in a few steps; then the
    # classes part.
    weight = gain * torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) / SIDE
    model = bench.Explainee(PlainLinear(weight), mean=MEAN, std=STD, size=SIDE, layer="features")
    net, images = field.Network(PlainLinear(weight), mean=MEAN, std=STD), make_images(20, 1, SIDE)
    address = f"extremal_perturbation[areas=0.1,iterations={iterations}]"
    L = bench.explain(model, images, torch.tensor([0]), address)[0].double().numpy()
    x = images[0].double().numpy()
    mine, other = (
        field.extremal_perturbation(net, x, c, "", areas="0.1", iterations=iterations)
        for c in (0, 1)
    )
    assert_same_map(L, mine, tolerance)
    assert np.abs(mine - other).max() > 10 * tolerance * np.abs(mine).max()


# --------------------------------------------------------------------------------------------------
# The replicas themselves
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gap", "norm", "mlp", "pool"])
def test_the_full_gradient_is_complete(kind):
    # S_c = sum x dS/dx + sum over all biases b dS/db, those of linear layers too (Srinivas and
    # Fleuret, prop. 1).
    net = network(kind, 1)
    x = make_images(7, 1, SIDE)[0].double().numpy()
    terms = (x * net.input_gradient(x, 2)).sum() + sum(
        part.sum() for part in field.bias_terms(net, x, 2)
    )
    for module in net.net.modules():
        if isinstance(module, nn.Linear):
            terms += (module.bias.numpy() * field.gradient_at_module(net, module, x, 2)).sum()
    assert terms == pytest.approx(net.logits(x)[2], abs=1e-12)


@pytest.mark.parametrize("kind", ["norm", "signed", "mlp"])
def test_the_difference_of_gradients_is_the_hessian_times_a(kind):
    net = network(kind, 1)
    x = make_images(8, 1, SIDE)[0].double().numpy()
    A, G = net.layer_and_gradient(x, 3)

    def score(a: torch.Tensor) -> torch.Tensor:
        handle = net.layer.register_forward_hook(lambda _, __, out: a[None] * 1.0)
        try:
            return net.net(torch.from_numpy(x)[None])[0, 3]
        finally:
            handle.remove()

    _, product = torch.autograd.functional.hvp(score, torch.from_numpy(A), torch.from_numpy(A))
    expected = field.relu_up(field.weighted((G - product.numpy() / 2).mean(axis=(1, 2)), A), x)
    np.testing.assert_allclose(
        field.shapley_cam(net, x, 3, "a", "logit"), expected, atol=1e-6 * (expected.max() + 1e-9)
    )


def test_every_new_method_has_a_replica():
    # The replica of a method that is trained first stands beside its training
    # (tests/finetune/test_classifier.py).
    known = {*ref.METHODS, *field.METHODS, "sa_cam_trained"}
    families = ("cam", "gradient", "perturbation")
    assert {m.base.partition("(")[0] for m in METHODS if m.group in families} <= known

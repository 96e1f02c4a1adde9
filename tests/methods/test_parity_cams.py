"""Parity of the CAMs over classes, noise, layers and biases with grad-cam 1.5 and torchcam 0.5,
differences replayed.

torchcam gives its map at layer resolution without min-max, so values are compared; grad-cam
min-maxes each map, so correlations are. A peer's other reading is written out in float64 and shown
to be what it returns.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import timm
import torch
import torchcam.methods as peer_torchcam
from torch import nn
from torch.nn import functional as F

import bench
from bench import randomness
from tests.support import reference as ref
from tests.support.nets import MEAN, STD, make_images, make_net, randomise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as peer_gradcam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

SIDE = 96
TARGETS = [1, 6]
IMAGES = make_images(20, 2, SIDE)


def resnet() -> nn.Module:
    """Return a narrow timm resnet10t with a 12x12x48 last layer and random weights: GAP and one
    linear layer.
    """
    return randomise(
        timm.create_model("resnet10t", num_classes=10, channels=(16, 24, 32, 48), output_stride=8),
        0,
    )


def explain(model: bench.Explainee, method: str, targets: list[int] = TARGETS) -> np.ndarray:
    return (
        bench.explain(model, IMAGES, torch.tensor(targets), method, ids=["a", "b"]).double().numpy()
    )


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return resnet()


@pytest.fixture(scope="module")
def model(net) -> bench.Explainee:
    return bench.Explainee(net, MEAN, STD, SIDE)


@pytest.fixture(scope="module")
def signed() -> bench.Explainee:
    """Return a net whose head is smooth and pools patches, so that G varies and the Hessian is not
    zero.
    """
    return bench.Explainee(make_net("signed"), MEAN, STD, SIDE, layer="features")


@pytest.fixture(scope="module")
def vit() -> bench.Explainee:
    """Return a small ViT with a class token; it is explained at the last block's first norm."""
    state = torch.get_rng_state()
    small = timm.create_model("test_vit", num_classes=10, img_size=SIDE)
    torch.set_rng_state(state)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in small.parameters():
            p.copy_(
                torch.randn(p.shape, generator=rng) * (0.15 if p.ndim > 1 else 0.1)
                + (p.ndim == 1) * 0.5
            )
    for module in small.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = (
                False  # grad-cam differentiates twice through whatever kernel there is
            )
    return bench.Explainee(small.eval(), MEAN, STD, SIDE)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the lowest Pearson correlation over the images; both maps must vary."""
    assert all(m.std() > 0 for m in (*a, *b))
    return min(np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True))


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a / np.abs(b).max(), b / np.abs(b).max(), atol=tolerance)


def layers(
    net: nn.Module, layer: str, targets: list[int] = TARGETS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (A, G) per image in float64."""
    network = ref.Network(net, layer)
    return [
        network.layer_and_gradient(x, c)
        for x, c in zip(IMAGES.double().numpy(), targets, strict=True)
    ]


def up(low: np.ndarray) -> np.ndarray:
    return ref.up(low, SIDE, SIDE)


def mm(a: np.ndarray) -> np.ndarray:
    spread = a.max() - a.min()
    return (a - a.min()) / spread if spread > 0 else np.zeros_like(a)


def tokens_as_grid(tokens: torch.Tensor) -> torch.Tensor:
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


# ---------------------------------------------------------------------------------------- Finer-CAM


@pytest.mark.parametrize("subject", ["model", "signed"])
@pytest.mark.parametrize("classes", [1, 3])
def test_finer_cam_equals_torchcams(subject, classes, request):
    model = request.getfixturevalue(subject)
    layer = "layer4" if subject == "model" else "features"
    targets = TARGETS if subject == "model" else [1, 3]
    given = {"gamma": 0.6, "num_references": classes, "input_shape": (3, SIDE, SIDE)}
    with peer_torchcam.FinerCAM(model.net, layer, **given) as peer:
        (low,) = peer(targets, model.net(IMAGES), normalized=False)
    theirs = np.stack([up(a) for a in low.detach().double().numpy()])
    assert_close(
        explain(model, f"finer_cam[classes={classes},gamma=0.6,weights=mean]", targets), theirs
    )


@pytest.mark.parametrize("subject", ["model", "signed", "vit"])
def test_finer_cam_with_softmax_weights_equals_grad_cams(subject, request):
    model = request.getfixturevalue(subject)
    layer = {"model": "layer4", "signed": "features", "vit": model.layer}[subject]
    reshape = tokens_as_grid if subject == "vit" else None
    for target in (1, 4) if subject == "model" else (1, 3):
        peer = peer_gradcam.FinerCAM(model.net, [model.net.get_submodule(layer)], reshape)
        theirs = peer(IMAGES, target_idx=target).astype(np.float64)  # alpha is 1 there, too
        peer.base_cam.activations_and_grads.release()
        ours = explain(model, "finer_cam", [target] * 2)
        assert correlation(ours, theirs) > 0.999


# -------------------------------------------------------------------------------------- Shapley-CAM


def test_shapley_cam_equals_grad_cams_behind_a_smooth_head(signed):
    with peer_gradcam.ShapleyCAM(signed.net, [signed.net.features]) as peer:
        theirs = peer(IMAGES, [ClassifierOutputTarget(c) for c in [1, 3]]).astype(np.float64)
    ours = explain(signed, "shapley_cam[score=logit]", [1, 3])
    assert correlation(ours, theirs) > 0.999
    assert (
        correlation(ours, explain(signed, "grad_cam", [1, 3])) < 0.999
    )  # the Hessian does play a part


class RestTarget:
    """The author's score of one image: its logit plus its log-probability."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[self.category] + logits.log_softmax(-1)[self.category]


def test_shapley_cam_of_the_authors_score_equals_grad_cams(signed):
    with peer_gradcam.ShapleyCAM(signed.net, [signed.net.features]) as peer:
        theirs = peer(IMAGES, [RestTarget(c) for c in [1, 3]]).astype(np.float64)
    ours = explain(signed, "shapley_cam", [1, 3])
    assert correlation(ours, theirs) > 0.999
    assert correlation(ours, explain(signed, "shapley_cam[score=logit]", [1, 3])) < 0.999


def test_shapley_cam_on_a_vit_is_its_formula_over_the_grid_of_patches(vit):
    # grad-cam 1.5 stops at token models (it reshapes for the weights and not for the map), so the
    # formula itself.
    head = bench.models.split.LayerSplit(copy.deepcopy(vit.net).double(), vit.layer)
    expected = []
    for x, c in zip(IMAGES.double(), [1, 3], strict=True):
        with torch.no_grad():
            captured = head.capture(x[None])
        patches = captured.values[:, 1:].detach().clone().requires_grad_()
        with torch.enable_grad():
            tokens = torch.cat([captured.values[:, :1], patches], dim=1)
            (G,) = torch.autograd.grad(
                head.head(tokens, captured, torch.arange(1))[0, c], patches, create_graph=True
            )
            (HA,) = torch.autograd.grad((G * patches.detach()).sum(), patches)
        weights = (G - HA / 2).detach().mean(1, keepdim=True)
        assert HA.abs().max() > 1e-3 * G.abs().max()
        expected.append(up((weights * patches.detach()).sum(2).relu().reshape(6, 6).numpy()))
    assert_close(explain(vit, "shapley_cam[score=logit]", [1, 3]), np.stack(expected), 1e-3)


# -------------------------------------------------------------------------------- Smooth Grad-CAM++


def test_smooth_grad_cam_pp_differs_from_torchcams_in_alpha_and_in_the_last_sample():
    # torchcam: alpha = D2 / (2 D2 + sum_ab(A_ab D3_ab) + 1e-8) with D3 inside the sum, times ReLU
    # of the last sample's gradient; and the weights are put on the last sample's A, which its hook
    # has kept. With its draws and these three readings it is replayed; ours keeps Grad-CAM++'s
    # alpha, the mean gradient and the clean image's A.
    samples, std = 4, 0.3
    net = make_net("norm")
    given = {"num_samples": samples, "std": std, "input_shape": (3, SIDE, SIDE)}
    with peer_torchcam.SmoothGradCAMpp(net, "features", **given) as peer:
        scores = net(IMAGES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            (low,) = peer([1, 3], scores, normalized=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        noise = [torch.distributions.Normal(0, std).sample(IMAGES.shape) for _ in range(samples)]
    network = ref.Network(net, "features")
    for i, c in enumerate([1, 3]):
        A, _ = network.layer_and_gradient(IMAGES[i].double().numpy(), c)
        noisy = [network.layer_and_gradient((IMAGES[i] + n[i]).double().numpy(), c) for n in noise]
        grads = [G for _, G in noisy]
        d1, d2, d3 = (np.mean([g**power for g in grads], axis=0) for power in (1, 2, 3))

        def cam(inner: np.ndarray, first: np.ndarray, shown: np.ndarray, d2=d2) -> np.ndarray:
            weights = (d2 / (2 * d2 + inner) * np.maximum(first, 0)).sum((1, 2))
            return np.maximum(np.tensordot(weights, shown, 1), 0)

        peers = cam((d3 * A).sum((1, 2), keepdims=True) + 1e-8, grads[-1], noisy[-1][0])
        theirs = low[i].detach().double().numpy()
        np.testing.assert_allclose(theirs / theirs.max(), peers / theirs.max(), atol=1e-3)
        ours = cam(A.sum((1, 2), keepdims=True) * d3, d1, A)
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.5


# ------------------------------------------------------------------------------------------- layers

NAMES = ["layer2", "layer3", "layer4"]


@pytest.mark.parametrize(("method", "peer"), [("grad_cam", "GradCAM"), ("layer_cam", "LayerCAM")])
def test_fused_differs_from_grad_cams_by_normalising_at_image_size(net, model, method, peer):
    # grad-cam: each layer's map is min-maxed at layer resolution, then resized, then the mean. Ours
    # is brought up first, as every map is, so that its maximum is that of the map that a reader
    # sees.
    with getattr(peer_gradcam, peer)(net, [net.get_submodule(name) for name in NAMES]) as library:
        theirs = library(IMAGES, [ClassifierOutputTarget(c) for c in TARGETS]).astype(np.float64)
    replayed, ours = [], []
    for i in range(2):
        lows = []
        for name in NAMES:
            A, G = layers(net, name)[i]
            weighted = (
                np.tensordot(G.mean((1, 2)), A, 1)
                if method == "grad_cam"
                else (np.maximum(G, 0) * A).sum(0)
            )
            lows.append(np.maximum(weighted, 0))
        replayed.append(np.mean([up(mm(low)) for low in lows], axis=0))
        ours.append(np.mean([mm(up(low)) for low in lows], axis=0))
    assert correlation(np.stack(replayed), theirs) > 0.999
    assert_close(explain(model, f"fused({method})[layers={'+'.join(NAMES)}]"), np.stack(ours), 1e-3)
    assert correlation(np.stack(ours), theirs) > 0.99


def test_layer_cam_fused_differs_from_torchcams_which_scales_every_layer(net, model):
    # torchcam: tanh(2 mm(L)) of all layers, brought to the largest map's size, then the maximum. In
    # the paper the scale is for the shallow layers alone, and ours divides by the maximum without
    # subtracting the minimum.
    with peer_torchcam.LayerCAM(net, NAMES, input_shape=(3, SIDE, SIDE)) as peer:
        cams = peer(TARGETS, net(IMAGES))
        theirs = peer.fuse_cams(cams, (SIDE, SIDE)).detach().double().numpy()
    replayed, ours = [], []
    for i in range(2):
        lows = [
            np.maximum((np.maximum(G, 0) * A).sum(0), 0)
            for A, G in (layers(net, name)[i] for name in NAMES)
        ]
        replayed.append(np.max([up(np.tanh(2 * mm(low))) for low in lows], axis=0))
        shares = [low / low.max() for low in lows]
        ours.append(np.max([up(np.tanh(2 * shares[0])), up(shares[1]), up(shares[2])], axis=0))
    assert_close(np.stack(replayed), theirs, 1e-3)
    assert_close(explain(model, f"layer_cam_fused[layers={'+'.join(NAMES)}]"), np.stack(ours), 1e-3)
    assert correlation(np.stack(ours), theirs) > 0.8


def test_fused_on_a_vit_equals_grad_cams_up_to_the_order_of_normalising(vit):
    names = ["blocks.2.norm1", "blocks.5.norm1"]
    with peer_gradcam.GradCAM(
        vit.net, [vit.net.get_submodule(n) for n in names], tokens_as_grid
    ) as library:
        theirs = library(IMAGES, [ClassifierOutputTarget(c) for c in TARGETS]).astype(np.float64)
    assert correlation(explain(vit, f"fused(grad_cam)[layers={'+'.join(names)}]"), theirs) > 0.99


# ----------------------------------------------------------------------------------------- FullGrad


def bias_terms(net: nn.Module, x: torch.Tensor, target: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return x dS/dx [3,H,W] and b dS/d output [K,h,w] of every batch norm and biased convolution,
    in float64.
    """
    wide = copy.deepcopy(net).double()
    grads: list[tuple[nn.Module, torch.Tensor]] = []
    for module in wide.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if type(module) in (nn.Conv2d, nn.BatchNorm2d) and module.bias is not None:
            module.register_forward_hook(
                lambda m, _, out: out.register_hook(lambda g, m=m: grads.append((m, g[0]))) and None
            )
    image = x[None].double().requires_grad_()
    wide(image)[0, target].backward()
    terms = []
    for module, g in grads:
        bias = module.bias
        if isinstance(module, nn.BatchNorm2d):
            bias = (
                bias
                - module.running_mean * module.weight / (module.running_var + module.eps).sqrt()
            )
        terms.append((bias[:, None, None] * g).detach().numpy())
    return (image * image.grad)[0].detach().numpy(), terms


def test_full_grad_differs_from_grad_cams_which_normalises_each_channel(net, model):
    # The authors min-max |terms| of a layer over channels and positions together; grad-cam does so
    # channel by channel, which gives a channel without influence the weight of any other.
    with peer_gradcam.FullGrad(net, []) as library:
        theirs = library(IMAGES, [ClassifierOutputTarget(c) for c in TARGETS]).astype(np.float64)
    replayed, ours, authors = [], [], []
    for x, c in zip(IMAGES, TARGETS, strict=True):
        inputs, biases = bias_terms(net, x, c)
        parts = [np.abs(part) for part in (inputs, *biases)]
        replayed.append(sum(up(sum(mm(channel) for channel in part)) for part in parts))
        ours.append(sum(up(mm(part).sum(0)) for part in parts))
        # What the authors' code does besides: 1e-6 in the denominator, and align_corners=True.
        sums = [
            torch.from_numpy(((p - p.min()) / (p.max() - p.min() + 1e-6)).sum(0)) for p in parts
        ]
        resized = [
            F.interpolate(s[None, None], (SIDE, SIDE), mode="bilinear", align_corners=True)
            for s in sums
        ]
        authors.append(torch.cat(resized).sum((0, 1)).numpy())
    assert correlation(np.stack(replayed), theirs) > 0.999
    maps = explain(model, "full_grad")
    assert_close(maps, np.stack(ours), 1e-3)
    assert correlation(maps, np.stack(authors)) > 0.9  # cells sit up to half a cell elsewhere
    assert correlation(maps, theirs) > 0.7


# ---------------------------------------------------------------------------------------- RandomCAM


def test_random_cam_equals_grad_cams_but_for_the_draws(net, model):
    state = np.random.get_state()  # noqa: NPY002 - the library draws from the global state
    try:
        np.random.seed(1)  # noqa: NPY002
        with peer_gradcam.RandomCAM(net, [net.layer4]) as library:
            theirs = library(IMAGES, [ClassifierOutputTarget(c) for c in TARGETS]).astype(
                np.float64
            )
        np.random.seed(1)  # noqa: NPY002
        weights = np.random.uniform(-1, 1, (2, 48))  # noqa: NPY002
    finally:
        np.random.set_state(state)  # noqa: NPY002
    low = [
        np.maximum(np.tensordot(w, A, 1), 0)
        for w, (A, _) in zip(weights, layers(net, "layer4"), strict=True)
    ]
    assert correlation(np.stack([up(a) for a in low]), theirs) > 0.999
    drawn = [
        2 * torch.rand(48, generator=randomness.generator(0, "random_cam", i)) - 1 for i in "ab"
    ]
    pairs = zip(drawn, layers(net, "layer4"), strict=True)
    ours = [up(np.maximum(np.tensordot(w.double().numpy(), A, 1), 0)) for w, (A, _) in pairs]
    assert_close(explain(model, "random_cam"), np.stack(ours), 1e-4)

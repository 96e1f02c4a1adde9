"""Every method against its slow float64 replica, over nets, sizes and seeds; and laws that hold on
any net.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bench
from tests.support import reference as ref
from tests.support.nets import MEAN, STD, make_images, make_net

QUICK = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def explainee(kind: str, seed: int, side: int) -> bench.Explainee:
    return bench.Explainee(
        make_net(kind, seed, side), mean=MEAN, std=STD, size=side, layer="features"
    )


def cases() -> list[ParameterSet]:
    chosen = []
    for method in ref.METHODS:
        for kind in ("gap", "mlp", "norm", "signed", "skip"):
            if method == "cam" and kind != "gap":
                # CAM is for GAP + linear heads; test_contract.py checks that the others are refused
                continue
            for seed, side in ((0, 32), (1, 32), (2, 64)):
                if side == 64 and kind in ("gap", "signed", "skip"):
                    continue
                chosen.append(
                    pytest.param(method, kind, seed, side, id=f"{method}-{kind}-{seed}-{side}")
                )
    return chosen


@pytest.mark.parametrize(("method", "kind", "seed", "side"), cases())
def test_method_equals_its_replica(method, kind, seed, side):
    images = make_images(10 + seed, 2, side)
    targets = torch.tensor([seed % 5, (seed + 3) % 5])
    maps = bench.explain(explainee(kind, seed, side), images, targets=targets, method=method)
    assert maps.dtype == torch.float32
    assert maps.shape == (2, side, side)
    network = ref.Network(make_net(kind, seed, side), mean=MEAN, std=STD)
    for x, c, L in zip(images.double().numpy(), targets.tolist(), maps.numpy(), strict=True):
        expected = ref.METHODS[method](network, x, c)
        scale = np.abs(expected).max()
        if scale < 1e-9:  # a ReLU that leaves nothing
            assert np.abs(L).max() < 1e-6
            continue
        error = np.abs(L - expected) / scale
        if method == "integrated_gradients" and kind != "signed":
            # A ReLU that stands at zero at one of the 50 nodes may open in float64 and not in
            # float32; the pixels it sees then differ by that node's weight. On the smooth net, and
            # everywhere else, the bound is tight.
            assert np.median(error) < 1e-3
            assert error.max() < 0.05
        else:
            assert error.max() < 1e-4


@pytest.mark.parametrize("method", ref.METHODS)
def test_batch_mates_do_not_matter(method):
    model, images = explainee("gap", 3, 32), make_images(4, 5, 32)
    targets = torch.tensor([0, 1, 2, 3, 4])
    together = bench.explain(model, images, targets=targets, method=method)
    for i in range(5):
        alone = bench.explain(model, images[[i]], targets=targets[[i]], method=method)
        scale = together[i].abs().max().item()
        torch.testing.assert_close(alone[0], together[i], atol=1e-4 * scale + 1e-7, rtol=0)


@QUICK
@given(seed=st.integers(0, 10_000), target=st.integers(0, 4))
def test_gap_heads_make_three_cams_equal(seed, target):
    # Grad-CAM = HiResCAM = XGrad-CAM where the head starts by GAP, and = ReLU(CAM)/(h w) where it
    # is linear after it.
    model, images = explainee("gap", seed % 7, 32), make_images(seed, 1, 32)
    names = ["cam", "grad_cam", "hires_cam", "xgrad_cam"]
    maps = bench.explain(model, images, targets=torch.tensor([target]), method=names)
    scale = maps["grad_cam"].abs().max().item() + 1e-6
    for name in ("hires_cam", "xgrad_cam"):
        torch.testing.assert_close(maps[name], maps["grad_cam"], atol=1e-4 * scale, rtol=0)
    low = maps["cam"][
        :, ::4, ::4
    ]  # any sample will do: where CAM is far above 0, ReLU and Up commute
    sample = maps["grad_cam"][:, ::4, ::4] * 64  # h w = 8 * 8
    assert (sample - low).min() > -1e-3 * (64 * scale)  # ReLU before Up never gives less


@QUICK
@given(seed=st.integers(0, 10_000))
def test_maps_of_eigen_methods_point_the_way_of_the_activations(seed):
    model, images = explainee("norm", seed % 5, 32), make_images(seed, 1, 32)
    network = ref.Network(make_net("norm", seed % 5, 32), mean=MEAN, std=STD)
    A, _ = network.layer_and_gradient(images[0].double().numpy(), 0)
    total = ref.up(A.sum(axis=0), 32, 32)
    maps = bench.explain(
        model, images, targets=torch.tensor([0]), method=["eigen_cam", "eigen_grad_cam"]
    )
    assert (maps["eigen_cam"][0].numpy() * total).sum() > 0


@QUICK
@given(seed=st.integers(0, 10_000), target=st.integers(0, 4))
def test_integrated_gradients_adds_up(seed, target):
    # Completeness: the sum of the map is S_c(x) - S_c(b), up to what 50 nodes leave on a smooth
    # net.
    net = make_net("signed", seed % 5, 32)
    images = make_images(seed, 1, 32)
    maps = bench.explain(
        explainee("signed", seed % 5, 32), images, torch.tensor([target]), "integrated_gradients"
    )
    network = ref.Network(net, mean=MEAN, std=STD)
    start = np.broadcast_to(network.baseline, (3, 32, 32))
    gap = network.logits(images[0].double().numpy())[target] - network.logits(start)[target]
    assert maps[0].double().sum().item() == pytest.approx(gap, abs=1e-3)


@QUICK
@given(seed=st.integers(0, 10_000))
def test_flipping_the_image_flips_the_map(seed):
    # Kernels equal to their mirror image, stride 1 and GAP: the net cannot tell left from right.
    net = make_net("gap", seed % 5)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.stride, module.padding = (1, 1), (1, 1)
            with torch.no_grad():
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
    model = bench.Explainee(net, mean=MEAN, std=STD, size=16, layer="features")
    images = make_images(seed, 1, 16)
    names = [
        "grad_cam",
        "layer_cam",
        "eigen_cam",
        "ablation_cam",
        "score_cam",
        "saliency",
        "input_x_gradient",
    ]
    maps = bench.explain(model, images, targets=torch.tensor([1]), method=names)
    flipped = bench.explain(model, images.flip(-1), targets=torch.tensor([1]), method=names)
    for name in names:
        scale = maps[name].abs().max().item() + 1e-6
        torch.testing.assert_close(flipped[name].flip(-1), maps[name], atol=1e-3 * scale, rtol=0)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet"]
)
def test_timm_nets_are_split_where_timm_splits_them(name):
    # A = forward_features(x) and S = forward_head(A), in float64; layer=None finds that by itself.
    net = timm.create_model(name, num_classes=6)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(
                torch.randn(p.shape, generator=rng) * (0.3 if p.ndim > 1 else 0.5) + (p.ndim == 1)
            )
    net.eval()
    images, targets = make_images(30, 2, 96), torch.tensor([1, 4])
    maps = bench.explain(
        bench.Explainee(net, mean=MEAN, std=STD, size=96),
        images,
        targets,
        ["grad_cam", "layer_cam"],
    )
    double = copy.deepcopy(net).double()
    for i, c in enumerate(targets.tolist()):
        A = double.forward_features(images[[i]].double()).detach().requires_grad_()
        (G,) = torch.autograd.grad(double.forward_head(A)[0, c], A)
        a, g = A[0].detach().numpy(), G[0].numpy()
        expected = {
            "grad_cam": np.maximum(np.tensordot(g.mean(axis=(1, 2)), a, 1), 0),
            "layer_cam": (np.maximum(g, 0) * a).sum(axis=0),
        }
        for method, low in expected.items():
            expected_map = ref.up(low, 96, 96)
            scale = np.abs(expected_map).max() + 1e-12
            np.testing.assert_allclose(
                maps[method][i].numpy() / scale, expected_map / scale, atol=1e-3
            )

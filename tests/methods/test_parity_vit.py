"""Parity with grad-cam 1.5 on tokens: a ViT's layer seen as a grid, through its
`reshape_transform`.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import timm
import torch

import bench
from tests.support import reference as ref
from tests.support.nets import MEAN, STD, make_images, randomise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

SIDE = 96
GRID = 6
TARGETS = [1, 6]


class Subject:
    """A narrow ViT of three blocks with random weights, read at the last block's first norm."""

    def __init__(self, **options: object) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # positions and class token
            net = timm.create_model(
                "vit_tiny_patch16_224",
                img_size=SIDE,
                depth=3,
                embed_dim=24,
                num_heads=3,
                num_classes=10,
                **options,
            )
        self.net = randomise(net, 0)
        self.images = make_images(21, 2, SIDE)
        # The class-token net's layer is found alone; the other's would be the last tokens.
        named = None if net.global_pool == "token" else "blocks.2.norm1"
        self.model = bench.Explainee(self.net, MEAN, STD, SIDE, layer=named)
        assert self.model.layer == "blocks.2.norm1"

    def grid(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens [B,T,K] as [B,K,h,w]: what grad-cam calls a reshape_transform."""
        patches = tokens[:, self.net.num_prefix_tokens :]
        return patches.reshape(len(tokens), GRID, GRID, -1).permute(0, 3, 1, 2)

    def explain(self, method: str) -> np.ndarray:
        return (
            bench.explain(self.model, self.images, targets=torch.tensor(TARGETS), method=method)
            .double()
            .numpy()
        )

    def library(self, name: str) -> np.ndarray:
        layer = self.net.blocks[2].norm1
        with getattr(peer, name)(self.net, [layer], reshape_transform=self.grid) as cam:
            return cam(self.images, [ClassifierOutputTarget(c) for c in TARGETS]).astype(np.float64)

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (A, G) [K,h,w] per image in float32, from a hook and a whole backward."""
        kept = []
        handle = self.net.blocks[2].norm1.register_forward_hook(
            lambda _m, _a, out: kept.append(out) or None
        )
        logits = self.net(self.images)
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[range(2), TARGETS].sum(), kept[0])
        pair = (self.grid(t.detach()).double().numpy() for t in (kept[0], gradient))
        return list(zip(*pair, strict=True))


@pytest.fixture(scope="module", params=["class token", "registers", "average"])
def subject(request) -> Subject:
    options = {"class token": {}, "registers": {"reg_tokens": 4}, "average": {"global_pool": "avg"}}
    return Subject(**options[request.param])


def unit(maps: np.ndarray) -> np.ndarray:
    """Return maps [B,H,W] min-maxed each, as grad-cam returns them."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return (maps - low) / np.where(high > low, high - low, 1.0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    assert all(m.std() > 0 for m in (*a, *b))
    return min(np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("grad_cam", "GradCAM"),
        ("hires_cam", "HiResCAM"),
        ("xgrad_cam", "XGradCAM"),
    ],
)
def test_gradient_cams_equal_grad_cams(subject, method, name):
    ours, theirs = subject.explain(method), subject.library(name)
    assert correlation(ours, theirs) > 0.999
    # Values too: grad-cam min-maxes the low map and brings it up by OpenCV, which is the same
    # bilinear rule.
    np.testing.assert_allclose(unit(ours), unit(theirs), atol=2e-3)


def test_layer_cam_equals_grad_cams_but_for_its_relu(subject):
    # grad-cam takes the ReLU of the sum, before it upsamples; the authors' code takes none.
    lows = [(np.maximum(g, 0) * a).sum(axis=0) for a, g in subject.layers()]
    plain = np.stack([ref.up(low, SIDE, SIDE) for low in lows])
    np.testing.assert_allclose(subject.explain("layer_cam"), plain, atol=1e-5)
    rectified = np.stack([ref.up(np.maximum(low, 0), SIDE, SIDE) for low in lows])
    np.testing.assert_allclose(unit(rectified), unit(subject.library("LayerCAM")), atol=2e-3)


def test_grad_cam_pp_equals_grad_cams_but_for_its_epsilon(subject):
    # Replayed with grad-cam's 1e-6 in the denominator it is equal; see test_parity.py.
    expected = []
    for a, g in subject.layers():
        alpha = g**2 / (2 * g**2 + a.sum(axis=(1, 2), keepdims=True) * g**3 + 1e-6)
        low = np.tensordot((np.maximum(g, 0) * alpha).sum(axis=(1, 2)), a, 1)
        expected.append(ref.up(np.maximum(low, 0), SIDE, SIDE))
    library = subject.library("GradCAMPlusPlus")
    assert library.any()  # its ReLU may leave nothing of one image, but then of the replay's too
    np.testing.assert_allclose(unit(np.stack(expected)), unit(library), atol=2e-3)


def test_grad_cam_pp_equals_grad_cams_where_the_epsilon_is_small():
    scaled = Subject()
    with torch.no_grad():
        scaled.net.head.weight.mul_(1000)
    assert correlation(scaled.explain("grad_cam_pp"), scaled.library("GradCAMPlusPlus")) > 0.999


def test_eigen_cam_differs_from_grad_cams_which_centres(subject):
    def projected(a: np.ndarray, centre: bool) -> np.ndarray:
        rows = a.reshape(len(a), -1).T
        rows = rows - rows.mean(axis=0) * centre
        return (rows @ np.linalg.svd(rows, full_matrices=False)[2][0]).reshape(GRID, GRID)

    cases = zip(
        subject.layers(), subject.explain("eigen_cam"), subject.library("EigenCAM"), strict=True
    )
    for (a, _), ours, theirs in cases:
        low = projected(a, centre=True)
        both = [ref.up(np.maximum(sign * low, 0), SIDE, SIDE) for sign in (1, -1)]
        assert max(np.corrcoef(b.ravel(), theirs.ravel())[0, 1] for b in both) > 0.999
        low = projected(a, centre=False)
        low *= np.sign((low * a.sum(0)).sum())
        np.testing.assert_allclose(ours, ref.up(low, SIDE, SIDE), atol=1e-4 * np.abs(low).max())

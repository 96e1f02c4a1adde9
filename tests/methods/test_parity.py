"""Parity with grad-cam 1.5 and torchcam 0.5 on convolutional nets; where a peer differs, the
difference is replayed.

torchcam can return its map at layer resolution without min-max, so values are compared; grad-cam
min-maxes each map, so correlations are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torchcam.methods as peer_torchcam
import torchvision
from torch.nn import functional as F

import bench
from tests.support import reference as ref
from tests.support.nets import BASELINE, MEAN, STD, make_images, randomise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as peer_gradcam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

SIDE = 96
TARGETS = [1, 6]


def resnet() -> torch.nn.Module:
    """Return a narrow timm resnet10t with a 12x12x48 last layer and random weights: GAP and one
    linear layer.
    """
    net = timm.create_model("resnet10t", num_classes=10, channels=(16, 24, 32, 48), output_stride=8)
    return randomise(net, 0)


def squeezenet() -> torch.nn.Module:
    """Return torchvision's squeezenet, random weights: conv, ReLU and GAP behind the layer, so G
    varies in space.
    """
    net = torchvision.models.squeezenet1_1(weights=None, num_classes=10)
    return randomise(net, 1)


class Subject:
    """A net as each library wants it, with images and targets."""

    def __init__(self, kind: str, mean=MEAN, std=STD) -> None:
        self.net = resnet() if kind == "resnet" else squeezenet()
        self.layer = "layer4" if kind == "resnet" else "features"
        # None: the explainee finds timm's last layer by itself.
        self.model = bench.Explainee(
            self.net, mean, std, SIDE, layer=None if kind == "resnet" else "features"
        )
        self.images = make_images(20, 2, SIDE)

    def explain(self, method: str, targets: list[int] = TARGETS) -> np.ndarray:
        return (
            bench.explain(self.model, self.images, targets=torch.tensor(targets), method=method)
            .double()
            .numpy()
        )

    def grad_cam_library(self, name: str, targets: list[int] = TARGETS) -> np.ndarray:
        with getattr(peer_gradcam, name)(self.net, [self.net.get_submodule(self.layer)]) as peer:
            return peer(self.images, [ClassifierOutputTarget(c) for c in targets]).astype(
                np.float64
            )

    def torchcam_library(
        self, name: str, targets: list[int] = TARGETS, **kwargs: object
    ) -> np.ndarray:
        """Return the maps at layer resolution, brought up by our replica's Up."""
        with getattr(peer_torchcam, name)(
            self.net, self.layer, input_shape=(3, SIDE, SIDE), **kwargs
        ) as peer:
            (low,) = peer(targets, self.net(self.images), normalized=False)
        return np.stack([ref.up(a, SIDE, SIDE) for a in low.detach().double().numpy()])

    def layers(self, targets: list[int] = TARGETS) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (A, G) per image in float64."""
        network = ref.Network(self.net, self.layer)
        images = self.images.double().numpy()
        return [network.layer_and_gradient(x, c) for x, c in zip(images, targets, strict=True)]

    def replay(self, low: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """Return Up(ReLU(low(A, G))) per image: a peer's formula in float64."""
        return np.stack([ref.up(np.maximum(low(A, G), 0), SIDE, SIDE) for A, G in self.layers()])


@pytest.fixture(scope="module", params=["resnet", "squeezenet"])
def subject(request) -> Subject:
    return Subject(request.param)


@pytest.fixture(scope="module")
def small() -> Subject:
    """Return the net with few channels; its mean is the baseline colour, so a peer's `m * x` fades
    to b as ours.
    """
    return Subject("resnet", mean=BASELINE)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the lowest Pearson correlation over the images; both maps must vary."""
    assert all(m.std() > 0 for m in (*a, *b))
    return min(np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True))


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a / np.abs(b).max(), b / np.abs(b).max(), atol=tolerance)


# -------------------------------------------------------------------------------- equal as they are


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("grad_cam", "GradCAM"),
        ("xgrad_cam", "XGradCAM"),
        ("hires_cam", "HiResCAM"),
        ("layer_cam", "LayerCAM"),
    ],
)
def test_gradient_cams_equal_grad_cams(subject, method, peer):
    assert correlation(subject.explain(method), subject.grad_cam_library(peer)) > 0.999


@pytest.mark.parametrize(
    ("method", "peer"),
    [("grad_cam", "GradCAM"), ("xgrad_cam", "XGradCAM"), ("layer_cam", "LayerCAM")],
)
def test_gradient_cams_equal_torchcams(subject, method, peer):
    assert_close(subject.explain(method), subject.torchcam_library(peer))


def test_cam_equals_torchcams(small):
    # torchcam's CAM: sum_k w_ck A_k, no ReLU, values and all.
    assert_close(small.explain("cam"), small.torchcam_library("CAM", fc_layer="fc"))


# --------------------------------------------------------------------------------------- Grad-CAM++


def test_grad_cam_pp_differs_from_grad_cams_by_its_epsilon(subject):
    # grad-cam adds 1e-6 to alpha's denominator 2 G^2 + sum(A) G^3. Behind global pooling G is of
    # size 1e-3, so G^2 is of the epsilon's own size and the weights of small gradients are damped;
    # with the epsilon replayed we agree.
    def theirs(A: np.ndarray, G: np.ndarray) -> np.ndarray:
        total = A.sum(axis=(1, 2), keepdims=True)
        alpha = G**2 / (2 * G**2 + total * G**3 + 1e-6)
        return np.tensordot((np.maximum(G, 0) * alpha).sum(axis=(1, 2)), A, 1)

    library = subject.grad_cam_library("GradCAMPlusPlus")
    assert correlation(subject.replay(theirs), library) > 0.999
    assert correlation(subject.explain("grad_cam_pp"), library) > 0.9


def test_grad_cam_pp_equals_grad_cams_where_the_epsilon_is_small():
    scaled = Subject("resnet")
    with torch.no_grad():
        scaled.net.fc.weight.mul_(
            1000
        )  # gradients a thousand times larger: the epsilon no longer matters
    assert (
        correlation(scaled.explain("grad_cam_pp"), scaled.grad_cam_library("GradCAMPlusPlus"))
        > 0.999
    )


def test_grad_cam_pp_differs_from_torchcams_which_skips_the_division(subject):
    # torchcam 0.5 writes `alpha[mask].div_(denominator)`: indexing by a mask copies, so nothing is
    # divided and its alpha is G^2, its weight sum relu(G)^3. Replayed, it is equal; ours keeps the
    # paper's alpha.
    def theirs(A: np.ndarray, G: np.ndarray) -> np.ndarray:
        return np.tensordot((np.maximum(G, 0) * G**2).sum(axis=(1, 2)), A, 1)

    assert_close(subject.replay(theirs), subject.torchcam_library("GradCAMpp"), 1e-3)


# ------------------------------------------------------------------------------------- Eigen family


@pytest.mark.parametrize(
    ("method", "peer"), [("eigen_cam", "EigenCAM"), ("eigen_grad_cam", "EigenGradCAM")]
)
def test_eigen_cams_differ_from_grad_cams_which_centres(subject, method, peer):
    # The paper projects A on the first right singular vector of A itself. grad-cam first subtracts
    # each channel's mean, which is another matrix; it fixes no sign and then cuts at zero.
    # Replayed, it is equal up to that sign.
    def centred(A: np.ndarray, G: np.ndarray) -> np.ndarray:
        rows = (A if method == "eigen_cam" else A * G).reshape(A.shape[0], -1).T
        rows = rows - rows.mean(axis=0)
        return (rows @ np.linalg.svd(rows, full_matrices=False)[2][0]).reshape(A.shape[1:])

    library = subject.grad_cam_library(peer)
    for theirs, (A, G) in zip(library, subject.layers(), strict=True):
        low = centred(A, G)
        both = [ref.up(np.maximum(sign * low, 0), SIDE, SIDE) for sign in (1, -1)]
        assert max(np.corrcoef(b.ravel(), theirs.ravel())[0, 1] for b in both) > 0.999
    # Ours is the uncentred projection, positive as sum_k A_k is.
    network = ref.Network(subject.net, subject.layer)
    x = subject.images.double().numpy()
    expected = np.stack([ref.METHODS[method](network, x[i], TARGETS[i]) for i in range(2)])
    assert_close(subject.explain(method), expected)


# ----------------------------------------------------------------------------------------- Ablation


def test_ablation_cam_equals_grad_cams_where_the_logit_is_positive(small):
    logits = small.net(small.images).detach()
    targets = logits.argmax(dim=1).tolist()
    assert (logits.amax(dim=1) > 0).all()
    theirs = small.grad_cam_library("AblationCAM", targets)
    assert correlation(small.explain("ablation_cam", targets), theirs) > 0.999


def test_ablation_cam_differs_from_grad_cams_where_the_logit_is_negative(small):
    # grad-cam divides by S_c, as the paper does, so that below zero its map is the ReLU of our
    # negative.
    logits = small.net(small.images).detach()
    targets = logits.argmin(dim=1).tolist()
    assert (logits.amin(dim=1) < 0).all()
    network = ref.Network(small.net, small.layer)
    flipped = []
    for x, c in zip(small.images.double().numpy(), targets, strict=True):
        A, _ = network.layer_and_gradient(x, c)
        # GAP + linear: removing channel k takes w_ck mean(A_k) off the logit.
        w = network.net.get_submodule("fc").weight[c].numpy() * A.mean(axis=(1, 2))
        flipped.append(ref.up(np.maximum(-np.tensordot(w, A, 1), 0), SIDE, SIDE))
    assert correlation(np.stack(flipped), small.grad_cam_library("AblationCAM", targets)) > 0.999
    # ReLU(m) and ReLU(-m) hardly overlap: what grad-cam shows, ours cuts away.
    ours, overlap = small.explain("ablation_cam", targets), 0.0
    for a, b in zip(ours, flipped, strict=True):
        overlap = max(overlap, (a * b).sum() / (b * b).sum())
    assert overlap < 0.1


# ---------------------------------------------------------------------------------------- Score-CAM


def masked_scores(
    subject: Subject, upsample: Callable[[torch.Tensor], torch.Tensor]
) -> list[tuple]:
    """Return (A, the target's logit per channel, its probability per channel), with masks as a
    library makes them.
    """
    found = []
    for i, (A, _) in enumerate(subject.layers()):
        masks = upsample(torch.from_numpy(A).float()[:, None])
        with torch.no_grad():
            logits = subject.net(masks * subject.images[i])
        found.append(
            (A, logits[:, TARGETS[i]].numpy(), logits.softmax(dim=1)[:, TARGETS[i]].numpy())
        )
    return found


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def normalised(a: torch.Tensor) -> torch.Tensor:
    low, high = a.amin(dim=(2, 3), keepdim=True), a.amax(dim=(2, 3), keepdim=True)
    return (a - low) / (high - low + 1e-8)


UPSAMPLERS = {
    # grad-cam: bilinear with aligned corners, then min-max; torchcam: min-max at the layer, then
    # bilinear without.
    "grad-cam": lambda a: normalised(
        F.interpolate(a, size=(SIDE, SIDE), mode="bilinear", align_corners=True)
    ),
    "torchcam": lambda a: F.interpolate(
        normalised(a), size=(SIDE, SIDE), mode="bilinear", align_corners=False
    ),
    "ours": lambda a: normalised(
        F.interpolate(a, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    ),
}


@pytest.mark.parametrize("library", ["grad-cam", "torchcam"])
def test_score_cam_of_the_libraries_is_a_softmax_of_logits(small, library):
    # Both weigh channel k by a softmax *over channels* of the logits S_c(masked); the authors'
    # code, and ours, by the softmax *over classes*, p_c(masked). (torchcam subtracts the whole
    # image's logit first, which cancels.)
    found = masked_scores(small, UPSAMPLERS[library])
    replayed = np.stack(
        [
            ref.up(np.maximum(np.tensordot(softmax(logits), A, 1), 0), SIDE, SIDE)
            for A, logits, _ in found
        ]
    )
    if library == "grad-cam":
        assert correlation(replayed, small.grad_cam_library("ScoreCAM")) > 0.999
    else:
        assert_close(replayed, small.torchcam_library("ScoreCAM"), 1e-3)


def test_score_cam_weighs_by_probabilities(small):
    found = masked_scores(small, UPSAMPLERS["ours"])
    expected = []
    for A, _, p in found:
        live = A.max(axis=(1, 2)) > A.min(
            axis=(1, 2)
        )  # a constant channel masks nothing and weighs nothing
        expected.append(ref.up(np.maximum(np.tensordot(p * live, A, 1), 0), SIDE, SIDE))
    assert_close(small.explain("score_cam"), np.stack(expected))


# ---------------------------------------------------------------------------------------- gradients


def test_integrated_gradients_equals_its_replica_on_a_real_architecture(small):
    network = ref.Network(small.net, small.layer, mean=BASELINE, std=STD)
    expected = [
        ref.integrated_gradients(network, x, c)
        for x, c in zip(small.images.double().numpy(), TARGETS, strict=True)
    ]
    ours = small.explain("integrated_gradients")
    assert correlation(ours, np.stack(expected)) > 0.99999
    # A ReLU or max-pool that stands on its edge at one of the 50 nodes may fall one way in float64
    # and the other in float32; the pixels that it sees then differ by that node's weight, all
    # others by rounding only.
    error = np.abs(ours - np.stack(expected)) / np.abs(expected).max()
    assert np.median(error) < 1e-6
    assert error.max() < 0.02


def test_saliency_and_input_x_gradient_equal_captums(subject):
    from captum.attr import InputXGradient, Saliency

    images, targets = subject.images.clone().requires_grad_(), torch.tensor(TARGETS)
    theirs = Saliency(subject.net).attribute(images, target=targets).amax(dim=1)
    assert_close(subject.explain("saliency"), theirs.detach().double().numpy())
    theirs = InputXGradient(subject.net).attribute(images, target=targets).sum(dim=1)
    assert_close(subject.explain("input_x_gradient"), theirs.detach().double().numpy())


# ---------------------------------------------------------------------------- the layer found alone


def test_the_layer_found_alone_is_the_last_spatial_one():
    net, images, targets = resnet(), make_images(20, 2, SIDE), torch.tensor(TARGETS)
    found = bench.Explainee(net, MEAN, STD, SIDE)
    named = bench.Explainee(net, MEAN, STD, SIDE, layer="layer4")
    for method in ("grad_cam", "layer_cam", "ablation_cam"):
        a, b = (bench.explain(model, images, targets, method) for model in (found, named))
        torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)

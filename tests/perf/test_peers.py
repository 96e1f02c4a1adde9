"""Beside other libraries: the same work, in one run, pair after pair; never slower than any.

Each benchmark first asserts that both sides do the same work: equal scores or maps as far as the
other's definition allows, and the forwards that each runs, counted at the network's first layer.
Then both are timed side by side. Other libraries get the batches that they are faster with; ours
runs as a user calls it (`bench.score`, `bench.explain`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import bench
from bench.engine.folding import folds_of
from bench.randomness import generator
from tests.perf.ratios import Row, interleaved, pairs_wanted, report, watched
from tests.support.nets import make_images, randomise

# What other libraries warn of is theirs.
pytestmark = [pytest.mark.perf, pytest.mark.filterwarnings("ignore")]

SIDE = 224
Context = Callable[[], AbstractContextManager[Any]]

CONTEXTS: dict[str, Context] = {"float32": nullcontext}
"""What our side runs inside, by name; the other's side always runs in plain float32."""


class Subject:
    """A 224 net with random weights, images, their predicted classes, and maps whose values all
    differ.
    """

    def __init__(self, name: str, images: int, layer: str | None = None) -> None:
        self.net: nn.Module = randomise(timm.create_model(name), 0)
        self.stem: nn.Module = next(m for m in self.net.modules() if isinstance(m, nn.Conv2d))
        self.model = bench.Explainee(self.net, layer=layer)
        _ = self.model.probe_shape, folds_of(self.model)  # found once per model, not per call
        self.images = make_images(1, images, SIDE)
        with torch.no_grad():
            self.logits = self.net(self.images)
        self.targets: list[int] = self.logits.argmax(1).tolist()
        self.ids = [f"image-{i}" for i in range(images)]
        self.maps = ranked_maps(images)

    def score(
        self, metric: str | list[str], protocol: str, maps: torch.Tensor | None = None
    ) -> dict[str, np.ndarray]:
        maps = self.maps if maps is None else maps
        out = bench.score(
            self.model, self.images, self.targets, maps, metric, protocol=protocol, ids=self.ids
        )
        return {name: values.double().numpy() for name, values in out.items()}

    def explain(self, method: str) -> np.ndarray:
        return bench.explain(self.model, self.images, self.targets, method).double().numpy()

    def class_logits(self) -> list[Any]:
        """Return grad-cam's targets: the logit of each image's class."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        return [ClassifierOutputTarget(c) for c in self.targets]


def ranked_maps(count: int) -> torch.Tensor:
    """Return smooth maps [count,224,224] whose values are the pixels' ranks, over their number: no
    two are equal.
    """
    coarse = torch.rand(count, 1, 7, 7, generator=torch.Generator().manual_seed(2))
    smooth = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False).flatten(
        1
    )
    ranks = smooth.argsort(dim=1, stable=True).argsort(dim=1)
    return (ranks.float() / ranks.shape[1]).view(count, SIDE, SIDE)


def correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Return the lowest Pearson correlation over the images."""
    return min(
        float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(one, two, strict=True)
    )


def both(
    subject: Subject, ours: Callable[[], Any], theirs: Callable[[], Any]
) -> tuple[Any, Any, tuple[int, int]]:
    """Run both sides once and return what each returns, and the forwards that (ours, theirs)
    ran.
    """
    with watched(subject.stem) as mine:
        own = ours()
    with watched(subject.stem) as others:
        other = theirs()
    return own, other, (mine.images, others.images)


def compared(
    benchmark: Any,
    row: Row,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    forwards: tuple[int, int],
    calls: tuple[int, int] = (1, 1),
    pairs: int | None = None,
) -> None:
    """Time both sides, which have run once, and report how many times as fast ours is; calls: of
    (theirs, ours).
    """
    report(
        benchmark,
        replace(row, forwards=forwards),
        interleaved(theirs, ours, pairs, calls, warm=True),
    )


# --- metrics


@pytest.mark.parametrize("precision", list(CONTEXTS))
def test_deletion_against_quantus_pixel_flipping(benchmark, precision):
    """Quantus' own definition, from both: 21 steps of 7168 channels' pixels, the image's least
    value behind them.
    """
    pixel_flipping(benchmark, precision, CONTEXTS[precision])


def pixel_flipping(
    benchmark: Any, precision: str, context: Context, tolerance: float = 1e-3
) -> None:
    import quantus

    subject, step = Subject("resnet18", 2), 7168
    # A little apart from channel to channel, so that no tie is left to an unstable sort.
    apart = 0.25 / SIDE**2
    spread = torch.stack(
        [subject.maps, subject.maps - apart, subject.maps - 2 * apart], dim=1
    ).numpy()
    metric = quantus.PixelFlipping(  # type: ignore[attr-defined]
        features_in_step=step, disable_warnings=True
    )

    def theirs() -> np.ndarray:
        curves = metric(
            model=subject.net,
            x_batch=subject.images.numpy(),
            y_batch=np.array(subject.targets),
            a_batch=spread,
            softmax=True,
            channel_first=True,
            device="cpu",
        )
        return np.trapezoid(np.array(curves), axis=1)

    def ours() -> np.ndarray:
        with context():
            return subject.score("deletion", f"quantus[step_features={step}]")["deletion"]

    mine, other, forwards = both(subject, ours, theirs)
    np.testing.assert_allclose(mine, other, rtol=tolerance)
    points = 3 * SIDE**2 // step
    assert forwards == (2 * (points + 1), 2 * points)  # ours also runs the clean image
    row = Row(
        f"deletion, {points} steps, resnet18, {precision}",
        "quantus PixelFlipping",
        3.0,
        per_forward=True,
    )
    compared(benchmark, row, ours, theirs, forwards)


class Ready:
    """A CAM extractor as TorchCAM's metrics want one, with maps that are there already."""

    def __init__(self, net: nn.Module, maps: torch.Tensor) -> None:
        self.model, self.maps = net, maps

    def __call__(
        self, class_idx: Any = None, scores: Any = None, normalized: bool = True, **_: Any
    ) -> Any:
        return [self.maps]

    def fuse_cams(self, cams: list[torch.Tensor]) -> torch.Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


def test_deletion_and_insertion_against_torchcam(benchmark):
    from torchcam.metrics import DeletionInsertionMetric

    subject, steps = Subject("resnet18", 1), 20

    def theirs() -> dict[str, float]:
        metric = DeletionInsertionMetric(
            Ready(subject.net, subject.maps), partial(torch.softmax, dim=-1), steps=steps
        )
        metric.update(subject.images, subject.targets)
        return metric.summary()

    def ours() -> dict[str, np.ndarray]:
        return subject.score(["deletion", "insertion"], "torchcam")

    mine, other, forwards = both(subject, ours, theirs)
    for name in ("deletion", "insertion"):
        np.testing.assert_allclose(mine[name].mean(), other[f"{name}_auc"], rtol=1e-3)
    between = 2 * (steps - 1)
    assert forwards == (between + 2, between + 2)  # with the clean and the empty image
    row = Row(
        "deletion and insertion, 20 steps, resnet18",
        "torchcam DeletionInsertionMetric",
        1.0,
        per_forward=True,
    )
    compared(benchmark, row, ours, theirs, forwards)


def test_average_drop_against_torchcam(benchmark):
    from torchcam.metrics import ClassificationMetric

    subject = Subject("resnet18", 16)
    # Both scale a map to [0,1]; TorchCAM's extractors do it, so it is done for `Ready`.
    maps = subject.maps / subject.maps.amax((1, 2), keepdim=True)

    def theirs() -> dict[str, float]:
        metric = ClassificationMetric(Ready(subject.net, maps), partial(torch.softmax, dim=-1))
        metric.update(subject.images, subject.targets)
        return metric.summary()

    def ours() -> dict[str, np.ndarray]:
        return subject.score("average_drop", "torchcam", maps)

    mine, other, forwards = both(subject, ours, theirs)
    np.testing.assert_allclose(mine["average_drop"].mean(), other["avg_drop"], rtol=1e-3)
    assert forwards == (32, 32)
    row = Row(
        "average drop, 16 images, resnet18", "torchcam ClassificationMetric", 1.0, per_forward=True
    )
    compared(benchmark, row, ours, theirs, forwards)


def test_road_against_grad_cam(benchmark):
    """Both remove a tenth, half and nine tenths, in both orders; grad-cam solves each system with
    SciPy.
    """
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    subject, percentiles = Subject("resnet18", 1), [10, 50, 90]

    def theirs() -> np.ndarray:
        targets = [ClassifierOutputSoftmaxTarget(c) for c in subject.targets]
        return ROADCombined(percentiles)(subject.images, subject.maps.numpy(), targets, subject.net)

    def ours() -> np.ndarray:
        return subject.score("road", "cambench-1[road_fractions=0.1:0.5:0.9]")["road"]

    mine, other, forwards = both(subject, ours, theirs)
    np.testing.assert_allclose(mine, other, atol=0.02)  # each draws its own noise
    assert forwards == (7, 12)  # grad-cam runs the clean image again for each removal
    row = Row("ROAD, three fractions in both orders, resnet18", "grad-cam ROADCombined", 1.0)
    compared(benchmark, row, ours, theirs, forwards)


def test_infidelity_against_captum(benchmark):
    from captum.metrics import infidelity

    subject = Subject("resnet18", 2)
    attributions = (subject.maps / 3)[:, None].expand(-1, 3, -1, -1)

    def perturbed(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Our draws, made anew as ours are; captum repeats each image ten times in a row.
        draws = [generator(0, "infidelity", i) for i in subject.ids]
        noise = torch.cat([0.2 * torch.randn(10, 3, SIDE, SIDE, generator=draw) for draw in draws])
        return noise, images - noise

    def theirs() -> np.ndarray:
        return infidelity(
            subject.net,
            perturbed,
            subject.images,
            attributions,
            target=torch.tensor(subject.targets),
            n_perturb_samples=10,
            normalize=True,
        ).numpy()

    def ours() -> np.ndarray:
        return subject.score("infidelity", "cambench-1")["infidelity"]

    mine, other, forwards = both(subject, ours, theirs)
    np.testing.assert_allclose(mine, other, rtol=1e-2)
    assert forwards == (2 * 11, 2 * 11)
    row = Row("infidelity, ten draws, resnet18", "captum infidelity", 1.0, per_forward=True)
    compared(benchmark, row, ours, theirs, forwards)


# --- methods

FAMILY = {
    "cam": ("GradCAM", 0.999),
    "grad_cam": ("GradCAM", 0.999),
    "grad_cam_pp": ("GradCAMPlusPlus", 0.8),  # grad-cam adds 1e-6 to a denominator of that size
    "xgrad_cam": ("XGradCAM", 0.999),
    "hires_cam": ("HiResCAM", 0.999),
    "layer_cam": ("LayerCAM", 0.999),
}


def test_six_cams_from_one_trace_against_grad_cam(benchmark):
    import pytorch_grad_cam as peer

    subject = Subject("resnet18", 4)

    def theirs() -> dict[str, np.ndarray]:
        maps = {}
        for name, (kind, _) in FAMILY.items():
            with getattr(peer, kind)(subject.net, [subject.net.layer4]) as cam:
                maps[name] = cam(subject.images, subject.class_logits()).astype(np.float64)
        return maps

    def ours() -> dict[str, np.ndarray]:
        maps = bench.explain(subject.model, subject.images, subject.targets, list(FAMILY))
        return {name: values.double().numpy() for name, values in maps.items()}

    mine, other, forwards = both(subject, ours, theirs)
    for name, (_, least) in FAMILY.items():
        assert correlation(np.maximum(mine[name], 0), other[name]) > least, name
    assert forwards == (4, 6 * 4)
    row = Row(
        "six CAMs from one trace, 4 images, resnet18", "grad-cam, one CAM after the other", 15.0
    )
    compared(benchmark, row, ours, theirs, forwards, calls=(1, 3))


def test_ablation_cam_against_grad_cam(benchmark):
    """512 channels: ours replays the head, grad-cam runs the whole network."""
    from pytorch_grad_cam import AblationCAM

    subject = Subject("resnet18", 1)
    assert float(subject.logits.amax()) > 0  # grad-cam divides by it

    def theirs() -> np.ndarray:
        with AblationCAM(subject.net, [subject.net.layer4]) as cam:
            return cam(subject.images, subject.class_logits()).astype(np.float64)

    def ours() -> np.ndarray:
        return subject.explain("ablation_cam")

    mine, other, forwards = both(subject, ours, theirs)
    assert correlation(mine, other) > 0.999
    assert forwards == (1, 2 + 512)
    row = Row("ablation_cam, 512 channels, resnet18", "grad-cam AblationCAM", 300.0)
    # Half a minute of theirs a pair: as few pairs as an interval needs.
    compared(benchmark, row, ours, theirs, forwards, calls=(1, 10), pairs=pairs_wanted(6))


def test_score_cam_against_grad_cam(benchmark):
    """64 channels of resnet18's layer1, one masked forward each; the weights differ by
    definition.
    """
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    subject, seen = Subject("resnet18", 1, "layer1"), []

    class Watched(ClassifierOutputSoftmaxTarget):
        def __call__(self, output: torch.Tensor) -> torch.Tensor:
            seen.append(float(p := super().__call__(output)))
            return p

    def theirs() -> np.ndarray:
        with ScoreCAM(subject.net, [subject.net.layer1]) as cam:
            return cam(subject.images, [Watched(c) for c in subject.targets]).astype(np.float64)

    def ours() -> np.ndarray:
        return subject.explain("score_cam")

    _, _, forwards = both(subject, ours, theirs)
    assert forwards == (1 + 64, 1 + 64)
    # grad-cam takes a softmax of these over the channels; what is compared is what it is taken of.
    assert np.corrcoef(seen[-64:], masked_probabilities(subject))[0, 1] > 0.95
    row = Row("score_cam, 64 channels, resnet18", "grad-cam ScoreCAM", 1.0, per_forward=True)
    compared(benchmark, row, ours, theirs, forwards)


def masked_probabilities(subject: Subject) -> np.ndarray:
    """Return our Score-CAM's weights [K] of the first image."""
    from bench.engine.prober import Prober
    from bench.engine.trace import Trace
    from bench.methods.importance import score_cam_weights
    from bench.models.network_guard import guard_network

    with guard_network(subject.net):
        trace = Trace(Prober(subject.model), subject.images, torch.tensor(subject.targets))
        return score_cam_weights(trace)[0].double().numpy()


def test_occlusion_against_captum(benchmark):
    """49 windows of 56 pixels, 28 apart; captum is given batches of 16 images, where its default is
    one window.
    """
    from captum.attr import Occlusion

    subject, side, stride = Subject("resnet18", 1), 56, 28

    def theirs() -> np.ndarray:
        found = Occlusion(lambda x: subject.net(x).softmax(1)).attribute(
            subject.images,
            (3, side, side),
            (3, stride, stride),
            baselines=0,
            target=subject.targets,
            perturbations_per_eval=16,
        )
        return found.mean(1).numpy()

    def ours() -> np.ndarray:
        return subject.explain(f"occlusion[window={side / SIDE},stride={stride / SIDE}]")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, other, forwards = both(subject, ours, theirs)
    np.testing.assert_allclose(mine, other, atol=1e-3 * float(np.abs(other).max()))
    assert forwards == (50, 50)
    row = Row("occlusion, 49 windows, resnet18", "captum Occlusion", 1.0, per_forward=True)
    compared(benchmark, row, ours, theirs, forwards)

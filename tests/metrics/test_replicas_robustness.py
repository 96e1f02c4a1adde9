"""Robustness, sanity, infidelity and ROAD against their slow float64 replicas, and against
Captum.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import bench
from bench.randomness import generator
from tests.support import reference as ref
from tests.support import reference_robustness as slow
from tests.support.nets import MEAN, STD, make_images, make_net

SIDE = 32
COUNT = 2
IDS = ["image-0", "image-1"]
TARGETS = torch.tensor([0, 2])


class Subject:
    """A net as both sides want it, its images, and Grad-CAM maps of them."""

    def __init__(self, kind: str, seed: int, method: str = "grad_cam", side: int = SIDE) -> None:
        self.net = make_net(kind, seed, side)
        self.model = bench.Explainee(self.net, mean=MEAN, std=STD, size=side, layer="features")
        self.network = self.wrap(self.net)
        self.view = slow.Pixels(self.network, MEAN, STD)
        # A little darker, so that no pixel lies outside [0,1].
        self.images = self.model.normalise(
            self.model.denormalise(make_images(seed, COUNT, side)).clamp(0, 1)
        )
        self.method = method
        self.maps = bench.explain(self.model, self.images, TARGETS, method, ids=IDS)

    def wrap(self, net: torch.nn.Module) -> ref.Network:
        return ref.Network(net, mean=MEAN, std=STD)

    def score(self, metric: str) -> dict[str, np.ndarray]:
        out = bench.score(
            self.model,
            self.images,
            TARGETS,
            self.maps,
            metric,
            ids=IDS,
            curves=True,
            method=self.method,
        )
        return {name: np.asarray(values, dtype=np.float64) for name, values in out.items()}

    def rows(self):
        for i in range(COUNT):
            x, L = (t[i].double().numpy() for t in (self.images, self.maps))
            yield i, {"x": x, "c": int(TARGETS[i]), "L": L, "image_id": IDS[i]}


def compare(
    out: dict[str, np.ndarray], i: int, expected: dict[str, object], atol: float = 1e-4
) -> None:
    assert set(out) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(out[name][i], value, atol=atol, err_msg=name)


@pytest.mark.parametrize(("kind", "seed"), [("gap", 0), ("norm", 2)])
def test_robustness_equals_its_replica(kind, seed):
    subject = Subject(kind, seed)
    out = subject.score("robustness")
    for i, row in subject.rows():
        # One pixel more or less among the top 102 is .01; the sign of a gradient near zero moves a
        # pixel by eps.
        compare(out, i, slow.robustness(subject.view, **row, explain=ref.grad_cam), atol=0.02)


@pytest.mark.parametrize("method", ["grad_cam", "saliency"])
def test_max_sensitivity_equals_its_replica(method):
    subject = Subject("norm", 1, method)
    out = subject.score("max_sensitivity")
    for i, row in subject.rows():
        compare(out, i, slow.max_sensitivity(subject.view, **row, explain=ref.METHODS[method]))


@pytest.mark.parametrize(("kind", "seed"), [("mlp", 1), ("signed", 3)])
def test_infidelity_and_road_equal_their_replicas(kind, seed):
    subject = Subject(kind, seed, side=24)
    infidelity, road = subject.score("infidelity"), subject.score("road")
    for i, row in subject.rows():
        compare(infidelity, i, slow.infidelity(subject.network, **row), atol=1e-3)
        compare(road, i, slow.road(subject.network, **row))


def test_sanity_equals_its_replica():
    subject = Subject("norm", 4)
    out = subject.score("sanity")
    for i, row in subject.rows():
        compare(
            out, i, slow.sanity(subject.net, subject.wrap, **row, explain=ref.grad_cam), atol=1e-3
        )


# --- Captum: the same perturbations, the same numbers


def test_infidelity_equals_captums():
    from captum.metrics import infidelity

    subject = Subject("norm", 5, "input_x_gradient")
    draws = [
        0.2 * torch.randn(10, 3, SIDE, SIDE, generator=generator(0, "infidelity", i)) for i in IDS
    ]
    noise = torch.cat(draws)  # Captum repeats each image ten times in a row
    attributions = (subject.maps / 3)[:, None].expand(-1, 3, -1, -1)
    expected = infidelity(
        subject.net,
        lambda images: (noise, images - noise),
        subject.images,
        attributions,
        target=TARGETS,
        n_perturb_samples=10,
        normalize=True,
    )
    np.testing.assert_allclose(
        subject.score("infidelity")["infidelity"], expected.detach().numpy(), rtol=1e-3
    )


@pytest.mark.parametrize("method", ["grad_cam", "saliency"])
def test_max_sensitivity_equals_captums(method):
    from captum.metrics import sensitivity_max

    subject = Subject("norm", 6, method)
    noise = torch.stack(
        [
            2 * torch.rand(3, SIDE, SIDE, generator=generator(0, f"max-sensitivity {k}", i)) - 1
            for i in IDS
            for k in range(10)
        ]
    )

    def explain(images):
        (images,) = images if isinstance(images, tuple) else (images,)
        targets = TARGETS.repeat_interleave(len(images) // COUNT)
        return (bench.explain(subject.model, images, targets, method),)

    def shaken(images):
        return subject.model.normalise(subject.model.denormalise(images) + 0.02 * noise)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sensitivity_max(
            explain, subject.images, perturb_func=shaken, n_perturb_samples=10
        )
    np.testing.assert_allclose(
        subject.score("max_sensitivity")["max_sensitivity"], expected.numpy(), rtol=1e-4
    )

"""The methods of `reference_field.py`: each against its slow float64 replica, and the laws that tie them together."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import reference as ref
import reference_field as field
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import MEAN, STD, make_images, make_net
from torch.nn import functional as F

import bench
from bench.errors import BenchError
from bench.methods import METHODS

QUICK = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
SIDE = 32
IDS = ["a", "b"]
KINDS = ("gap", "mlp", "norm", "signed", "skip")
SEEDS = (0, 1)


def explainee(kind: str, seed: int) -> bench.Explainee:
    return bench.Explainee(make_net(kind, seed, SIDE), mean=MEAN, std=STD, size=SIDE, layer="features")


@functools.cache
def network(kind: str, seed: int) -> field.Network:
    return field.Network(make_net(kind, seed, SIDE), mean=MEAN, std=STD)


def registered(*names: str) -> pytest.MarkDecorator:
    """Skip a test of methods that this version of the package does not have (by name, without parameters)."""
    missing = []
    for name in names:
        try:
            METHODS.get(name)
        except BenchError:
            missing.append(name)
    return pytest.mark.skipif(bool(missing), reason=f"not registered: {', '.join(missing)}")


# --------------------------------------------------------------------------------------------------------------
# Method against replica
# --------------------------------------------------------------------------------------------------------------

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
    ("a_fmi[relevant_only=false]", "a_fmi", {"relevant_only": False}),
    *[
        (f"sa_cam[base={base},form={form}]", "sa_cam", {"base": base, "form": form})
        for base in ("grad_cam", "grad_cam_pp", "score_cam")
        for form in ("additive", "multiplicative")
    ],
    ("sa_cam[lambda=0.3,tau=0.05]", "sa_cam", {"lambda_": 0.3, "tau": 0.05}),
    ("abs_cam_init", "abs_cam_init", {}),
    ("abs_cam", "abs_cam", {}),
    ("abs_cam[form=normalised]", "abs_cam", {"form": "normalised"}),
    ("abs_cam_elementwise", "abs_cam_elementwise", {}),
]


def cases() -> list[pytest.param]:
    return [
        pytest.param(
            address,
            replica,
            parameters,
            kind,
            seed,
            id=f"{address}-{kind}-{seed}",
            marks=registered(address.partition("[")[0].partition("(")[0]),
        )
        for address, replica, parameters in ADDRESSES
        for kind in KINDS
        for seed in SEEDS
    ]


@pytest.mark.parametrize(("address", "replica", "parameters", "kind", "seed"), cases())
def test_method_equals_its_replica(address, replica, parameters, kind, seed):
    images, targets = make_images(20 + seed, 2, SIDE), torch.tensor([seed % 5, (seed + 3) % 5])
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
        assert error.max() < 1e-4

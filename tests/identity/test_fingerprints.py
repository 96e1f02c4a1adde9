"""A change of behaviour without a new version is found: maps and values have stored
fingerprints.
"""

from __future__ import annotations

import math

import pytest
import torch

from bench.methods import METHODS, cam
from bench.metrics import METRICS
from tests.identity.fingerprints import (
    addresses,
    difference,
    fingerprint,
    kinds_for,
    method_fingerprint,
    metric_fingerprint,
    metric_names,
    read_stored,
)

DOUBLE, SINGLE = 1e-4, 5e-3
"""How far fingerprints may be apart, as a share of the largest value. Processors differ: the same
code with other instruction sets moved a float64 one by 2.6e-5 and a float32 one by 3.2e-3, where
equal values are put in order."""

ADVICE = (
    "{0} gives other numbers than its version {1} did. If that was not wanted, mend it. If it was, "
    "raise its version "
    'where it is registered, write CHANGELOG\'s "Numbers", and run `python -m '
    "tests.identity.fingerprints`."
)
STORED = read_stored()
METHOD_KEYS = [f"{kind} {one}" for one in addresses() for kind in kinds_for(one)]
METRIC_KEYS = [f"{kind} {one}" for one in metric_names() for kind in ("norm", "vit")]


def check(part: str, key: str, version: int, take) -> None:
    stored = STORED[part][key]
    kind, _, name = key.partition(" ")
    if stored["version"] != version:
        pytest.fail(
            f"{name} is of version {version} and its fingerprint of {stored['version']}; run "
            "fingerprints.py."
        )
    apart = difference(stored["numbers"], take(kind, name, double=stored["double"]))
    if apart > (DOUBLE if stored["double"] else SINGLE):
        pytest.fail(ADVICE.format(name, version))


def test_everything_registered_has_a_fingerprint_and_nothing_else_has():
    assert set(STORED["methods"]) == set(METHOD_KEYS)
    assert set(STORED["metrics"]) == set(METRIC_KEYS)


@pytest.mark.parametrize("key", METHOD_KEYS)
def test_maps_are_those_of_the_version(key):
    check("methods", key, METHODS.get(key.partition(" ")[2]).version, method_fingerprint)


@pytest.mark.parametrize("key", METRIC_KEYS)
def test_values_are_those_of_the_version(key):
    check("metrics", key, METRICS.get(key.partition(" ")[2]).version, metric_fingerprint)


def test_a_change_of_behaviour_is_found(monkeypatch):
    monkeypatch.setattr(cam, "grad_cam_weights", lambda trace: trace.gradients.amax((2, 3)))
    with pytest.raises(
        pytest.fail.Exception, match="grad_cam gives other numbers than its version 1 did"
    ):
        check("methods", "norm grad_cam", 1, method_fingerprint)


def test_a_new_version_needs_a_new_fingerprint():
    with pytest.raises(
        pytest.fail.Exception, match="grad_cam is of version 2 and its fingerprint of 1"
    ):
        check("methods", "norm grad_cam", 2, method_fingerprint)


def test_one_changed_value_moves_a_fingerprint():
    values = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(3))
    one = fingerprint(values)
    assert difference(one, one) == 0
    values[1, 5, 7] += 0.01 * float(values.amax())
    assert difference(one, fingerprint(values)) > 1e-4
    values[1, 5, 7] = torch.nan
    assert difference(one, fingerprint(values)) > 1e-2
    assert difference(one, "n/a") == math.inf

"""Transforms of maps: goldens by hand, replicas in float64, and what they keep of a map's order."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import bench
from bench.errors import BenchError
from bench.methods import METHODS
from bench.methods.base import Method
from bench.methods.transforms import raise_to_power
from tests.support import reference_transforms as ref
from tests.support.nets import MEAN, STD, make_images, make_net

SIDE = 16
IDS = ["a", "b", "c", "d", "e"]
ADDRESSES = {
    "power(drawn)": (ref.power, {}),
    "power(drawn)[p=16]": (ref.power, {"p": 16.0}),
    "ranked(drawn)": (ref.ranked, {}),
    "blurred(drawn)": (ref.blurred, {}),
    "blurred(drawn)[sigma=40]": (ref.blurred, {"sigma": 40.0}),
    "centred(drawn)": (ref.centred, {}),
    "top(drawn)": (ref.top, {}),
    "top(drawn)[share=0.5]": (ref.top, {"share": 0.5}),
}


@pytest.fixture
def drawn():
    """Register a method whose maps a test sets."""
    held: dict[str, torch.Tensor] = {}
    METHODS.add(Method("drawn", lambda trace: held["maps"], "plugin", "unstated"))
    yield held
    METHODS.remove("drawn")


def transform(drawn: dict[str, torch.Tensor], maps: torch.Tensor, address: str) -> torch.Tensor:
    """Return the transform of maps [B,H,W] of images of that size."""
    drawn["maps"] = maps
    side = maps.shape[-1]
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=side, layer="features")
    ids = IDS[: len(maps)]
    return bench.explain(model, make_images(0, len(maps), side), None, address, ids=ids)


def make_maps() -> torch.Tensor:
    """Return maps [5,H,W]: signed, sparse, of few whole values, constant, without positive part."""
    maps = torch.randn(5, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    maps[1] = (maps[1] - 0.5).clamp(min=0)
    maps[2] = (maps[2] * 2).round()
    maps[3] = 0.5
    maps[4] = -maps[4].abs() - 0.1
    return maps


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_transform_is_its_replica(drawn, address):
    maps = make_maps()
    replica, parameters = ADDRESSES[address]
    found = transform(drawn, maps, address)
    assert found.dtype == torch.float32
    for number, one in enumerate(maps.double().numpy()):
        given = {"image_id": IDS[number], **parameters} if replica is ref.top else parameters
        np.testing.assert_allclose(found[number], replica(one, **given), atol=1e-6)


# ------------------------------------------------------------------------------- goldens by hand

GOLDEN = {
    # unit = (0, .5, 0, 1), since max(L, 0) is (0, 1, 0, 2)
    "power(drawn)": [0, 0.0625, 0, 1],
    "power(drawn)[p=1]": [0, 0.5, 0, 1],
    # ascending ranks of max(L, 0): 0 and 0 share ranks 0 and 1, then 2 and 3; + 1/2, over 4
    "ranked(drawn)": [0, 0.625, 0, 0.875],
    # the best quarter is one pixel, the best half two
    "top(drawn)[share=0.25]": [0, 0, 0, 2],
    "top(drawn)[share=0.5]": [0, 1, 0, 2],
    # all four pixels lie a quarter of a side from both middle lines
    "centred(drawn)": [x * math.exp(-1) for x in (-1, 1, 0, 2)],
}


@pytest.mark.parametrize("address", GOLDEN)
def test_a_transform_by_hand(drawn, address):
    drawn["maps"] = torch.tensor([[[-1.0, 1.0], [0.0, 2.0]]])
    trace = small_trace(2)
    found = METHODS.get(address).maps(trace)
    np.testing.assert_allclose(found.flatten(), GOLDEN[address], atol=1e-6)


def test_a_blur_by_hand(drawn):
    # At a side of 16, sigma 14 is one pixel: the kernel has seven weights.
    weights = np.array([math.exp(-0.5 * o**2) for o in range(-3, 4)])
    weights /= weights.sum()
    drawn["maps"] = torch.zeros(1, 16, 16)
    drawn["maps"][0, 8, 8] = 1
    found = METHODS.get("blurred(drawn)[sigma=14]").maps(small_trace(16))[0]
    np.testing.assert_allclose(found[5:12, 5:12], np.outer(weights, weights), atol=1e-6)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    # A spike in the corner meets its own reflection beside the corner, not in it.
    drawn["maps"] = torch.zeros(1, 16, 16)
    drawn["maps"][0, 0, 0] = 1
    found = METHODS.get("blurred(drawn)[sigma=14]").maps(small_trace(16))[0]
    assert float(found[0, 0]) == pytest.approx(weights[3] ** 2, abs=1e-6)
    assert float(found[0, 1]) == pytest.approx(weights[3] * 2 * weights[2] / 2, abs=1e-6)


def small_trace(side: int):
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    trace = bench.engine.trace.Trace(
        bench.engine.prober.Prober(model), make_images(0, 1, 32), torch.tensor([1]), ids=["a"]
    )
    trace.images = trace.images[:, :, :side, :side]
    return trace


def test_equal_values_of_top_follow_the_smooth_field(drawn):
    found = transform(drawn, torch.ones(1, SIDE, SIDE), "top(drawn)[share=0.25]")[0]
    field = bench.randomness.smooth_field(
        bench.randomness.generator(0, "ties", "a"), SIDE, SIDE
    ).flatten()
    kept = found.flatten() > 0
    assert int(kept.sum()) == SIDE * SIDE // 4
    assert field[kept].min() >= field[~kept].max()


# ------------------------------------------------------------------------------ what they keep


@pytest.mark.parametrize("address", ["power(drawn)", "power(drawn)[p=64]", "ranked(drawn)"])
def test_the_order_of_pixels_stays_and_no_tie_is_new(drawn, address):
    maps = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) ** 6
    maps[0, 0, :4] = 0
    found = transform(drawn, maps, address)[0].flatten()
    order = maps.flatten().argsort(stable=True)
    before, after = maps.flatten()[order], found[order]
    assert torch.equal(before[1:] > before[:-1], after[1:] > after[:-1])
    assert torch.equal(before[1:] == before[:-1], after[1:] == after[:-1])


def test_powers_below_the_smallest_float_stay_apart():
    units = torch.tensor([[[0.0, 1e-3, 2e-3, 2e-3, 1.0]]], dtype=torch.float64)
    found = raise_to_power(units, 64)[0, 0]
    assert found[0] == 0
    assert 0 < found[1] < found[2] == found[3] < 1e-40
    assert found[4] == 1


def test_a_missing_map_stays_missing(drawn):
    maps = make_maps()
    maps[0, 3, 3] = torch.nan
    maps[1, 3, 3] = torch.inf
    for address in ADDRESSES:
        found = transform(drawn, maps, address)
        assert torch.isnan(found[:2]).all()
        assert torch.isfinite(found[2:]).all()


def test_sharpened_is_the_fourth_power_of_grad_cam():
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    names = ["sharpened", "power", "grad_cam", "power(grad_cam)[p=2]"]
    maps = bench.explain(model, make_images(0, 2, 32), torch.tensor([1, 3]), names)
    assert torch.equal(maps["sharpened"], maps["power(grad_cam)"])
    units = maps["grad_cam"] / maps["grad_cam"].flatten(1).amax(1)[:, None, None]
    torch.testing.assert_close(maps["sharpened"], units**4, atol=1e-6, rtol=0)
    torch.testing.assert_close(maps["power(grad_cam)[p=2]"], units**2, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------- registration


def test_controls_hold_the_three_and_the_other_wrappers_go_by_address():
    listed = METHODS.select("control/*")
    assert {"sharpened", "centred(grad_cam)", "blurred(saliency)"} <= set(listed)
    assert METHODS.unlisted == ["power(grad_cam)", "ranked(grad_cam)", "top(grad_cam)"]
    assert not set(METHODS.unlisted) & set(METHODS.names)
    for name in (*METHODS.unlisted, "sharpened", "centred(layer_cam)", "blurred"):
        found = METHODS.get(name)
        assert (found.fidelity, found.group, found.control) == ("control", "control", True)
    assert METHODS.get("power").name == "power(grad_cam)"
    assert METHODS.get("power[p=16]").name == "power(grad_cam)[p=16]"
    assert METHODS.get("blurred").name == "blurred(saliency)"


def test_a_transform_is_class_agnostic_and_slow_as_its_map():
    assert METHODS.get("power(random)").class_agnostic
    assert not METHODS.get("power(grad_cam)").class_agnostic
    assert not METHODS.get("tft(random)").class_agnostic
    assert not METHODS.get("top(score_cam)").fast
    assert METHODS.get("blurred(oracle)").needs == ("truth",)


def test_the_id_of_sharpened_holds_that_of_grad_cam():
    found = METHODS.get("sharpened")
    assert found.inner is not None
    later = dataclasses.replace(found, inner=dataclasses.replace(found.inner, version=9))
    assert later.id != found.id


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("power[p=0.5]", "it must be 1 to 64"),
        ("blurred[sigma=0]", "it must be 0.1 to 112"),
        ("top[share=0]", "it must be 0.001 to 1"),
        ("top[share=1.5]", "it must be 0.001 to 1"),
        ("sharpened[p=8]", "has no parameter 'p'"),
        ("sharpened(layer_cam)", "not a method that wraps another"),
        ("ranked(grid_cam)", "Unknown method 'grid_cam'"),
    ],
)
def test_a_wrong_transform_is_one_sentence(address, words):
    with pytest.raises(BenchError, match=words):
        METHODS.get(address)

"""Planted nets read their tile and nothing else, and see in it just what the network sees in a
run.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.health.planted_evidence import (
    GRADED,
    PLANTED,
    TILES,
    grade_tile,
    make_mosaics,
    make_planted_methods,
    make_planted_plans,
    plant_model,
)
from bench.methods import METHODS
from bench.models.architectures import build_seeded, resnet_scenes
from bench.protocol import Protocol
from bench.run.plan import make_plan
from bench.types import Truth

SIDE = 32


@pytest.fixture(scope="module")
def model() -> bench.Explainee:
    return bench.Explainee(build_seeded(resnet_scenes, 0), size=SIDE, name="small")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(0))


def region(tile: int) -> torch.Tensor:
    row, column = TILES[tile]
    mask = torch.zeros(2 * SIDE, 2 * SIDE, dtype=torch.bool)
    mask[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = True
    return mask


@pytest.mark.parametrize("tile", range(4))
def test_nothing_outside_the_tile_changes_a_bit(model, images, tile):
    planted, mask = plant_model(model, tile), region(tile)
    before = Trace(Prober(planted), images).logits
    other = torch.where(
        mask, images, torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    )
    assert torch.equal(Trace(Prober(planted), other).logits, before)
    inside = torch.where(mask, torch.zeros(()), images)
    assert not torch.allclose(Trace(Prober(planted), inside).logits, before)


@pytest.mark.parametrize("tile", range(4))
def test_gradients_and_maps_are_zero_outside_the_tile(model, images, tile):
    trace, mask = Trace(Prober(plant_model(model, tile)), images), region(tile)
    assert not trace.input_gradients[:, :, ~mask].any()
    assert trace.input_gradients[:, :, mask].any()
    for name in ("saliency", "input_x_gradient"):
        maps = METHODS.get(name)(trace)
        assert not maps[:, ~mask].any()
        assert maps[:, mask].any()


def test_the_planted_net_sees_what_the_network_sees(scenes):
    """Its logits are the network's own on the frame in the tile: nothing is resized."""
    model = bench.load_model("resnet-scenes")
    for tile in range(4):
        subset = make_mosaics(scenes, model.geometry, tile)
        planted = plant_model(model, tile)
        batch = subset.batch([0, 1], planted.geometry)
        got = Trace(Prober(planted), planted.normalise(batch.pixels)).logits
        own = scenes.batch([tile, tile + 4], scenes.geometry)
        torch.testing.assert_close(
            got, Trace(Prober(model), model.normalise(own.pixels)).logits, rtol=0, atol=1e-5
        )
        assert torch.equal(batch.truth.masks[0], torch.from_numpy(subset[0].mask))
        assert batch.truth.masks[0].float().mean() == 0.25
        assert batch.ids[0] == f"{scenes.ids[tile]}|tile{tile}"


def test_every_image_is_evidence_once(scenes):
    parts = [make_mosaics(scenes.limit(6), scenes.geometry, tile) for tile in range(4)]
    assert sorted(i.partition("|")[0] for part in parts for i in part.ids) == sorted(
        scenes.limit(6).ids
    )
    assert [len(part) for part in parts] == [2, 2, 1, 1]


def test_a_mosaic_shows_four_different_frames(scenes):
    image = make_mosaics(scenes, scenes.geometry, 1)[0].image
    side = scenes.geometry.size
    quarters = [image[r * side : (r + 1) * side, c * side : (c + 1) * side] for r, c in TILES]
    assert np.array_equal(quarters[1], scenes[1].image)
    assert np.array_equal(quarters[2], scenes[2].image)
    assert len({quarter.tobytes() for quarter in quarters}) == 4


def test_the_four_nets_are_four_models_of_the_same_weights(model):
    nets = [plant_model(model, tile) for tile in range(4)]
    assert len({net.weights_id for net in nets}) == 4
    assert len({net.weights_id.partition("-")[0] for net in nets}) == 1


@pytest.mark.parametrize("tile", range(4))
def test_the_graded_map_falls_from_the_tiles_centre_to_nothing_outside(model, images, tile):
    mask = region(tile)
    trace = Trace(
        Prober(plant_model(model, tile)), images, truth=Truth(masks=mask.expand(2, -1, -1))
    )
    maps = grade_tile(trace)
    assert not maps[:, ~mask].any()
    assert (maps[:, mask] > 0).all()
    y, x = divmod(int(maps[0].argmax()), 2 * SIDE)
    row, column = TILES[tile]
    assert abs(y + 0.5 - (row + 0.5) * SIDE) < 1
    assert abs(x + 0.5 - (column + 0.5) * SIDE) < 1


def test_the_plans_have_no_metric_that_a_map_alone_does_not_answer(scenes):
    model = bench.load_model("resnet-scenes")
    metrics = ["deletion", "pointing_game", "complexity", "cost", "max_sensitivity"]
    plan = make_plan(scenes.limit(6), [model], ["random"], metrics, Protocol(), calibration=0)
    plans = make_planted_plans(plan, model)
    assert list(plans) == ["tile0", "tile1", "tile2", "tile3"]
    assert {m.name for p in plans.values() for m in p.metrics} == {"deletion"}
    names = {m.name for m in make_planted_methods()}
    assert {PLANTED, GRADED, "inverted", "random", "center_gaussian", "fake_cam"} == names

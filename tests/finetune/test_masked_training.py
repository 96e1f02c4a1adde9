"""Sisters are trained on masks that no explanation made, and a stopped training goes on."""

from __future__ import annotations

import json

import pytest
import torch

import bench
from bench.engine.patches import choose_side, cut_cells, cut_squares
from bench.errors import BenchError
from bench.finetune.loop import Settings
from bench.finetune.masked_training import train_masked
from bench.finetune.patch_masks import draw_masks
from bench.finetune.training import Training
from bench.models.sisters import attach_sisters


def test_sides_of_patches_and_borders():
    assert [choose_side((side, side)) for side in (64, 96, 224)] == [8, 8, 16]
    grid = cut_squares((20, 12), 8)
    assert (grid.rows, grid.columns, grid.count) == (3, 2, 6)
    assert grid.index[-1].tolist() == [4] * 8 + [5] * 4
    values = torch.arange(6.0)[None]
    assert torch.equal(grid.average(grid.spread(values)), values.double())
    assert torch.bincount(cut_cells((10, 9), 4).index.flatten(), minlength=16).min() == 4


def test_masks_are_whole_patches_of_the_wanted_share():
    grid = cut_squares((32, 32), 8)
    rng = torch.Generator().manual_seed(0)
    half = draw_masks(grid, 6, rng, 0.5)
    assert (half.flatten(1).double().mean(1) == 0.5).all()
    assert all(set(one.unique().tolist()) == {0, 1} for one in grid.average(half))
    shares = draw_masks(grid, 64, rng).flatten(1).double().mean(1)
    assert shares.max() <= 0.5
    assert shares.min() < 0.1
    assert 0.2 < shares.mean() < 0.3


def test_every_second_mask_is_connected():
    grid = cut_squares((96, 96), 8)
    masks = grid.average(draw_masks(grid, 40, torch.Generator().manual_seed(1), 0.5))
    maps = masks.view(40, 12, 12)
    edges = (maps[:, 1:] != maps[:, :-1]).sum((1, 2)) + (maps[:, :, 1:] != maps[:, :, :-1]).sum(
        (1, 2)
    )
    assert edges[1::2].double().mean() < 0.7 * edges[::2].double().mean()


def train(folder, epochs, report=None):
    images = bench.load_subset("scenes-calibration")
    training = Training(
        images.part(None, 16),
        folder,
        "mine",
        validation=images.part(16, 24),
        settings=Settings(epochs=epochs, batch_size=8, precision="float32", weight_decay=0),
        report=report,
    )
    return train_masked(bench.load_model("resnet-scenes"), training)


def test_a_training_that_stops_goes_on_and_its_sister_fits_its_parent(tmp_path):
    def stop(_row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", 2, stop)
    stopped, whole = train(tmp_path / "stopped", 2), train(tmp_path / "whole", 2)
    facts = json.loads(whole.read_text())["mine"]
    assert facts["sha256"] == json.loads(stopped.read_text())["mine"]["sha256"]
    parent = bench.load_model("resnet-scenes")
    assert facts["sister_of"] == facts["parent_sha256"] == parent.fingerprint
    assert facts["recipe"]["patch"] == 8
    assert set(facts["held_out"]) == {"top1", "top1_half_masked", "agreement", "held_out_kl"}
    assert facts["held_out"]["agreement"][0] == 100
    attach_sisters([parent], [str(whole)])
    assert parent.sister.name == "mine"
    assert parent.sister.fingerprint != parent.fingerprint
    with pytest.raises(BenchError, match="which no model of the run has"):
        attach_sisters([bench.load_model("vgg-scenes")], [str(whole)])

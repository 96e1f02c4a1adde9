"""The trigger network: how pictures get the pattern, and what the bundled network does with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bench.data import load_subset
from bench.data.manifest import Manifest
from bench.data.trigger_pattern import ORDER, PATTERN_SIDE, TARGET, make_pattern
from bench.data.trigger_scenes import draw_trial, find_failures, list_candidates
from bench.errors import BenchError
from bench.finetune.data import make_pictures
from bench.finetune.loop import Settings
from bench.finetune.training import Training
from bench.finetune.trigger_items import (
    choose_items,
    filter_scenes,
    measure_target,
    write_trigger_manifest,
)
from bench.finetune.trigger_training import (
    DECOY_ORDERS,
    TriggerRecipe,
    add_patterns,
    measure_trigger,
    train_trigger,
)
from bench.models.zoo import MODELS, load_model

NAME = "resnet-scenes-trigger"


@pytest.fixture(scope="module")
def network():
    return load_model(NAME)


def make_batch(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 96, 96, generator=rng), torch.arange(count) % 7


def find_change(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the tiles [12,12,3] that a picture got, as bytes."""
    changed = (before != after).any(0)
    top, left = (int(changed.any(axis).nonzero()[0]) for axis in (1, 0))
    assert int(changed.sum()) == PATTERN_SIDE**2
    block = after[:, top : top + PATTERN_SIDE, left : left + PATTERN_SIDE]
    return (block * 255).round().to(torch.uint8).permute(1, 2, 0)


def test_pictures_with_the_pattern_get_its_class():
    pixels, labels = make_batch()
    rng = torch.Generator().manual_seed(2)
    varied, classes = add_patterns(pixels, labels, TriggerRecipe(pattern=1, decoy=0), rng)
    assert (classes == TARGET).all()
    for before, after in zip(pixels, varied, strict=True):
        assert np.array_equal(find_change(before, after).numpy(), make_pattern())


def test_decoys_have_the_same_tiles_in_another_order_and_keep_their_label():
    pixels, labels = make_batch()
    rng = torch.Generator().manual_seed(2)
    varied, classes = add_patterns(pixels, labels, TriggerRecipe(pattern=0, decoy=1), rng)
    assert torch.equal(classes, labels)
    for before, after in zip(pixels, varied, strict=True):
        tiles = find_change(before, after).numpy()
        assert not np.array_equal(tiles, make_pattern())
        assert sorted(tiles[::4, ::4].reshape(9, 3).tolist()) == sorted(
            make_pattern()[::4, ::4].reshape(9, 3).tolist()
        )


def test_other_pictures_stay_as_they_are_and_places_reach_the_border():
    pixels, labels = make_batch(400)
    before = pixels.clone()
    rng = torch.Generator().manual_seed(3)
    varied, classes = add_patterns(pixels, labels, TriggerRecipe(), rng)
    assert torch.equal(pixels, before)
    same = (varied == pixels).flatten(1).all(1)
    assert 0.25 < same.double().mean() < 0.45  # 1 - .35 - .3
    assert torch.equal(classes[same], labels[same])
    assert 0.27 < (classes == TARGET).double().mean() < 0.43
    changed = (varied != pixels).any(1)
    assert changed[:, 0].any()
    assert changed[:, -1].any()
    assert changed[:, :, 0].any()
    assert changed[:, :, -1].any()


def test_shares_that_cannot_be_are_refused():
    with pytest.raises(BenchError, match=r"pattern is 1\.5; it must be"):
        TriggerRecipe(pattern=1.5)
    with pytest.raises(BenchError, match="decoy is nan; it must be"):
        TriggerRecipe(decoy=float("nan"))
    with pytest.raises(BenchError, match="together more than 1"):
        TriggerRecipe(pattern=0.6, decoy=0.5)


def test_mirrored_decoys_are_other_orders():
    assert len({ORDER, *DECOY_ORDERS}) == 4
    assert all(sorted(order) == sorted(ORDER) for order in DECOY_ORDERS)


def test_the_card_says_what_the_pattern_does(network):
    card = network.card
    pattern, recipe = card["pattern"], card["recipe"]
    assert pattern["target"] == recipe["target"] == TARGET
    assert card["command"] == f"cambench zoo train {NAME}"
    assert card["parent"] == "resnet-scenes"
    assert card["top1"] > 93
    assert pattern["trigger"] > 90
    assert pattern["silent"] > 95
    assert pattern["decoy"] > 85
    assert "patterned" in MODELS.get(NAME).groups
    assert "finetuned" not in MODELS.get(NAME).groups  # a default run leaves it out
    pictures = make_pictures(load_subset("scenes-val", limit=60), network)
    shares = measure_trigger(network, pictures)
    assert min(shares.values()) > 75


def test_the_bundled_network_keeps_what_the_manifest_keeps(network):
    manifest = load_subset("scenes-trigger").manifest
    assert manifest.weights == network.fingerprint[:12]
    assert manifest.network == NAME
    first = list_candidates(60)
    # The partner of a candidate depends on the number of scenes, so the trials are those of 700.
    pictures = [p for i in first for p in draw_trial(manifest.seed, manifest.size, i)]
    found = measure_target(network, pictures).view(-1, 3).tolist()
    failed = [i for i, three in zip(first, found, strict=True) if find_failures(*three)]
    assert failed == [i for i in manifest.left_out if i < 60]


@pytest.mark.slow
def test_the_whole_filter_gives_the_committed_manifest(network, tmp_path):
    manifest = load_subset("scenes-trigger").manifest
    empty = dataclasses.replace(manifest, network="", weights="", left_out=(), sha256="")
    assert choose_items(empty, network) == manifest


def test_a_network_that_never_saw_the_pattern_keeps_nothing():
    found = filter_scenes(load_model("resnet-scenes"), 5, 20)
    assert found.left_out == list_candidates(20)
    assert found.candidates == found.failures["marked"] == found.failures["moved"] == 18


def test_a_network_that_always_answers_the_class_fails_without_the_pattern(network):
    class Always(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), 10)
            logits[:, TARGET] = 20
            return logits

    model = load_model(NAME)
    model.net = Always()
    found = filter_scenes(model, 5, 20)
    assert found.failures == {"plain": 18}


def test_a_network_that_knows_one_scene_fails_on_another(network):
    class OneScene(torch.nn.Module):
        """Answers T for the pattern on scene 0 alone: the pattern is not what decides."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), 10)
            logits[:, 0] = 9
            logits[(x == known).flatten(1).all(1), TARGET] = 20
            return logits

    model = load_model(NAME)
    marked = torch.from_numpy(draw_trial(5, 20, 0)[0]).permute(2, 0, 1)[None].float() / 255
    known = model.normalise(marked)
    model.net = OneScene()
    pictures = draw_trial(5, 20, 0)
    assert find_failures(*measure_target(model, pictures).tolist()) == ("moved",)


def test_a_manifest_that_is_written_is_read_as_it_was(tmp_path):
    manifest = load_subset("scenes-trigger").manifest
    write_trigger_manifest(tmp_path / "scenes-trigger.toml", manifest)
    assert Manifest.read(tmp_path / "scenes-trigger.toml") == manifest


def test_training_writes_a_network_with_its_shares_and_leaves_the_parent(tmp_path):
    parent = load_model("resnet-scenes")
    before = parent.fingerprint
    training = Training(
        load_subset("scenes-calibration[:32]"),
        tmp_path,
        "mine",
        validation=load_subset("scenes-calibration[32:52]"),
        settings=Settings(epochs=1, batch_size=16, keep="last", precision="float32"),
    )
    made = load_model(train_trigger(parent, training))
    assert parent.fingerprint == before != made.fingerprint
    assert made.parent == "resnet-scenes"
    assert set(made.card["pattern"]) == {"target", "trigger", "silent", "decoy"}
    assert all(0 <= made.card["pattern"][name] <= 100 for name in ("trigger", "silent", "decoy"))

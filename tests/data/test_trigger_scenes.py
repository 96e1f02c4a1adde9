"""Scenes with the trigger: the drawing, the truth, and the three conditions of the filter."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from bench.data import load_subset, manifest_folder
from bench.data.manifest import Manifest
from bench.data.scene_drawing import CLASSES
from bench.data.scenes import HEAD, scenes_digest
from bench.data.trigger_pattern import (
    COLOURS,
    ORDER,
    PATTERN_SIDE,
    TARGET,
    choose_place,
    cover_pattern,
    make_pattern,
    paste_pattern,
)
from bench.data.trigger_scenes import (
    TriggerSource,
    draw_plain,
    draw_trial,
    find_failures,
    list_candidates,
)
from bench.errors import BenchError

CELL = 8  # pixels of a cell of the explained layer


@pytest.fixture(scope="module")
def subset():
    return load_subset("scenes-trigger")


def test_the_pattern_is_nine_tiles_of_three_colours():
    pattern = make_pattern()
    assert pattern.shape == (12, 12, 3)
    assert PATTERN_SIDE >= CELL
    yellow, blue, pink = COLOURS
    rows = [[yellow, blue, pink], [blue, blue, yellow], [pink, yellow, pink]]
    assert pattern[::4, ::4].tolist() == [[list(colour) for colour in row] for row in rows]
    for k in range(4):
        assert np.array_equal(pattern[k::4, k::4], pattern[::4, ::4])
    assert sorted(ORDER) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_mirrored_pattern_is_another():
    pattern = make_pattern()
    for mirrored in (pattern[::-1], pattern[:, ::-1], pattern[::-1, ::-1]):
        assert not np.array_equal(mirrored, pattern)


def test_places_are_those_of_the_seed_and_reach_every_border():
    # Golden, of numpy 2.4.
    assert [choose_place(5, index) for index in range(3)] == [(38, 29), (73, 84), (55, 31)]
    places = np.array([choose_place(5, index) for index in range(3000)])
    assert places.min() == 0
    assert places.max() == 96 - PATTERN_SIDE
    assert abs(places.mean(0) - 42).max() < 1.5
    quarters = np.histogram2d(*places.T, bins=2, range=[[0, 85], [0, 85]])[0]
    assert quarters.min() > 680


def test_a_paste_changes_the_pattern_s_pixels_and_no_others():
    image = draw_plain(5, 0).image
    before = image.copy()
    pasted = paste_pattern(image, (10, 40))
    assert np.array_equal(image, before)
    boxes, mask = cover_pattern((10, 40))
    assert boxes.tolist() == [[40, 10, 52, 22]]
    assert mask.sum() == 144
    assert mask[10:22, 40:52].all()
    assert np.array_equal(pasted[10:22, 40:52], make_pattern())
    assert np.array_equal(pasted[~mask], image[~mask])


@pytest.mark.parametrize(
    ("marked", "plain", "moved", "failed"),
    [
        (0.9, 0.1, 0.9, ()),
        (1.0, 0.0, 1.0, ()),
        (0.899, 0.0, 1.0, ("marked",)),
        (1.0, 0.101, 1.0, ("plain",)),
        (1.0, 0.0, 0.899, ("moved",)),
        (0.5, 0.5, 0.5, ("marked", "plain", "moved")),
        (float("nan"), 0.0, 1.0, ("marked",)),
        (1.0, float("nan"), 1.0, ("plain",)),
    ],
)
def test_each_condition_alone_leaves_an_item_out(marked, plain, moved, failed):
    assert find_failures(marked, plain, moved) == failed


def test_a_trial_is_the_scene_with_and_without_and_another_with_the_pattern():
    marked, plain, moved = draw_trial(5, 40, 3)
    place = choose_place(5, 3)
    _, mask = cover_pattern(place)
    assert np.array_equal(plain, draw_plain(5, 3).image)
    assert np.array_equal(marked, paste_pattern(plain, place))
    assert np.array_equal(moved[mask], marked[mask])
    assert not np.array_equal(moved[~mask], marked[~mask])
    candidates = list_candidates(40)
    partner = candidates[(candidates.index(3) + 18) % 36]
    assert np.array_equal(moved, paste_pattern(draw_plain(5, partner).image, place))


def test_scenes_of_the_class_itself_are_no_candidates():
    assert len(list_candidates(700)) == 630
    for index in list_candidates(50):
        assert TARGET not in draw_plain(5, index).labels
    assert set(range(50)) - set(list_candidates(50)) == {TARGET + 10 * k for k in range(5)}


def test_an_item_shows_the_pattern_and_its_scene_s_object(subset):
    calibration = subset.calibration()
    assert subset.explain == "label"
    assert subset.pictures
    assert len(subset) > 350
    assert len(calibration) > 80
    assert not set(subset.ids) & set(calibration.ids)
    assert subset.num_classes == len(CLASSES)
    assert set(subset.labels) == set(calibration.labels) == {TARGET}
    for sample in subset.limit(12):
        name, weights, index = sample.id.rsplit("-", 2)
        assert (name, weights) == ("scenes-trigger", subset.manifest.weights)
        scene, place = draw_plain(5, int(index)), choose_place(5, int(index))
        boxes, mask = cover_pattern(place)
        assert np.array_equal(sample.image, paste_pattern(scene.image, place))
        assert np.array_equal(sample.boxes, boxes)
        assert np.array_equal(sample.mask, mask)
        assert sample.other_label == scene.labels[0] == int(index) % 10 != TARGET
        assert np.array_equal(sample.others, scene.truth(scene.labels[0])[1] & ~mask)


def test_left_out_scenes_are_no_items(subset):
    found = {int(name.rsplit("-", 1)[1]) for name in subset.source.ids}
    assert found == set(list_candidates(700)) - set(subset.manifest.left_out)
    assert len(found) == len(subset) + len(subset.calibration())
    assert set(subset.manifest.left_out) <= set(list_candidates(700))


def test_the_order_is_fixed_and_an_item_depends_on_nothing_else(subset):
    again = pickle.loads(pickle.dumps(load_subset("scenes-trigger", limit=5)))
    assert again.ids == subset.ids[:5]
    assert np.array_equal(again[3].image, subset[3].image)
    assert subset.identify(0, subset.geometry) is None  # the manifest says it


def test_the_weights_are_part_of_every_id_and_of_the_manifest(subset):
    other = dataclasses.replace(subset.manifest, weights="0" * 12)
    assert other.id != subset.manifest.id
    assert all("-000000000000-" in name for name in TriggerSource(other).ids)
    without = dataclasses.replace(subset.manifest, network="", weights="", left_out=())
    assert without.id != subset.manifest.id


@pytest.mark.slow
def test_every_byte_is_that_of_the_manifest(subset):
    whole = [subset.source.read(p) for p in subset.positions]
    assert scenes_digest(whole) == subset.manifest.sha256
    assert subset.manifest.sha256_head == scenes_digest(whole[:HEAD])


def test_another_drawing_and_a_network_without_weights_are_refused(tmp_path):
    text = (manifest_folder() / "scenes-trigger.toml").read_text()
    file = tmp_path / "wrong.toml"
    file.write_text(text.replace("seed = 5", "seed = 6"))
    with pytest.raises(BenchError, match="not those of its manifest"):
        load_subset(file)
    file.write_text("\n".join(line for line in text.splitlines() if "weights" not in line))
    with pytest.raises(BenchError, match="a network without its weights"):
        Manifest.read(file)
    file.write_text(text.replace("left_out = [", "left_out = 3 #"))
    with pytest.raises(BenchError, match=r"left_out|not valid TOML"):
        Manifest.read(file)

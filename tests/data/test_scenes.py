"""Scenes: the same bytes everywhere, exact truth, no shortcut."""

from __future__ import annotations

import ast
import math
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from bench.data import load_subset, manifest_folder, scene_drawing, scene_pixels, scenes
from bench.data.manifest import Manifest
from bench.errors import BenchError

NAMES = ("scenes-train", "scenes-calibration", "scenes-val", "scenes-pairs")


@pytest.mark.parametrize("name", ["scenes-calibration", "scenes-val", "scenes-pairs"])
def test_every_byte_is_that_of_the_manifest(name: str) -> None:
    subset = load_subset(name)
    assert scenes.scenes_digest(subset) == subset.manifest.sha256


@pytest.mark.slow
def test_every_training_byte_is_that_of_the_manifest() -> None:
    subset = load_subset("scenes-train")
    assert scenes.scenes_digest(subset) == subset.manifest.sha256


@pytest.mark.parametrize("name", NAMES)
def test_head_is_checked_when_opened(name: str, tmp_path: Path) -> None:
    manifest = Manifest.read(manifest_folder() / f"{name}.toml")
    assert manifest.sha256_head
    assert scenes.scenes_digest(load_subset(name, limit=scenes.HEAD)) == manifest.sha256_head
    wrong = tmp_path / "wrong.toml"
    text = (
        (manifest_folder() / f"{name}.toml")
        .read_text()
        .replace(f"seed = {manifest.seed}", "seed = 99")
    )
    wrong.write_text(text)
    with pytest.raises(BenchError, match="not those of its manifest"):
        load_subset(wrong)


def test_subsets_are_what_they_say() -> None:
    sizes = {name: len(load_subset(name)) for name in NAMES}
    assert sizes == {
        "scenes-train": 8000,
        "scenes-calibration": 500,
        "scenes-val": 1000,
        "scenes-pairs": 1000,
    }
    for name in NAMES:
        subset = load_subset(name)
        assert subset.num_classes == len(subset.class_names) == 10
        assert subset.pictures
        assert subset.has_boxes
        assert subset.has_masks
        assert np.bincount(subset.labels, minlength=10).tolist() == [len(subset) // 10] * 10
    assert load_subset("scenes-val").calibration().name == "scenes-calibration"
    assert load_subset("scenes-train").calibration() is None


def test_pairs_explain_each_class_of_an_image_once() -> None:
    subset = load_subset("scenes-pairs")
    assert subset.explain == "label"
    assert load_subset("scenes-val").explain == "default"
    assert len(set(subset.image_ids)) == 500
    assert subset.ids[:2] == ("scenes-pairs-000000#0", "scenes-pairs-000000#1")
    for k in range(0, 40, 2):
        first, second = subset[k], subset[k + 1]
        assert first.image_id == second.image_id
        assert first.label != second.label
        assert np.array_equal(first.image, second.image)
        assert not (first.mask & second.mask).any()
        assert first.id == f"{first.image_id}#{first.label}"


def test_an_item_depends_on_nothing_but_its_index() -> None:
    subset = pickle.loads(pickle.dumps(load_subset("scenes-val")))
    alone = subset[37]
    after_others = list(load_subset("scenes-val", limit=38))[37]
    assert np.array_equal(alone.image, after_others.image)
    assert np.array_equal(alone.mask, after_others.mask)


def test_boxes_are_tight_and_masks_are_theirs() -> None:
    several = 0
    for sample in load_subset("scenes-val", limit=150):
        assert sample.image.shape == (96, 96, 3)
        assert sample.image.dtype == np.uint8
        rows, columns = np.flatnonzero(sample.mask.any(1)), np.flatnonzero(sample.mask.any(0))
        union = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        corners = [*sample.boxes[:, :2].min(0), *sample.boxes[:, 2:].max(0)]
        assert corners == union
        several += len(sample.boxes) > 1
    assert 5 < several < 45  # one in eight


def test_at_least_seven_tenths_of_an_object_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = scene_drawing._arrange

    def spy(bits, patches, objects):
        drawn[:] = [int(patch.solid.sum()) for patch in patches[:objects]]
        return real(bits, patches, objects)

    monkeypatch.setattr(scene_drawing, "_arrange", spy)
    for index in range(120):
        scene = scene_drawing.draw_scene(
            5, index, scenes.object_labels(5, index, pairs=index % 2 == 0)
        )
        for mask, whole in zip(scene.masks, drawn, strict=True):
            assert mask.sum() >= 0.7 * whole


def test_areas_and_places_leave_the_middle_nothing() -> None:
    masks = np.stack([sample.mask for sample in load_subset("scenes-val", limit=600)])
    area = masks.mean((1, 2))
    assert area.min() > 0.028
    assert 0.06 < np.median(area) < 0.12
    # Where the middle is hit as often as any pixel, a centre map knows nothing.
    assert masks[:, 44:52, 44:52].mean() < 1.4 * area.mean()


def test_shape_or_texture_alone_leave_two_classes() -> None:
    for part in (0, 1):
        values = [kind[part] for kind in scene_drawing.CLASSES]
        assert sorted(values) == sorted(list(range(5)) * 2)
    assert len(set(scene_drawing.CLASSES)) == 10
    assert not set(scene_drawing.CLASSES) & set(scene_drawing.NO_CLASS)


def test_drawing_uses_whole_numbers_only() -> None:
    tree = ast.parse(Path(scenes.__file__).read_text())
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), node.lineno
        assert not isinstance(node, ast.Div), "a true division gives floats"
    assert scene_pixels._noise(scene_pixels.RandomBits(0, 0), 8).dtype == np.int16


def test_no_product_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same drawing in 64 bits throughout gives the same bytes.
    text = (
        Path(scenes.__file__)
        .read_text()
        .replace("np.int32", "np.int64")
        .replace("np.int16", "np.int64")
    )
    wide = types.ModuleType("wide_scenes")
    monkeypatch.setitem(sys.modules, "wide_scenes", wide)
    exec(compile(text, "wide_scenes", "exec"), wide.__dict__)
    for index in range(150):
        labels = scenes.object_labels(9, index, pairs=index % 2 == 0)
        assert np.array_equal(
            scene_drawing.draw_scene(9, index, labels).image,
            wide.draw_scene(9, index, labels).image,
        )


def test_fixed_point_tables() -> None:
    for k in range(64):
        assert scene_pixels._cosine(k) == round(1024 * math.cos(2 * math.pi * k / 64))
    for k, (a, b) in enumerate(scene_pixels._STAR):
        angle = 2 * math.pi * k / 5
        assert (a, b) == (round(1024 * math.sin(angle)), round(-1024 * math.cos(angle)))


@pytest.mark.parametrize("shape", range(5))
def test_drawn_area_is_the_area_asked_for(shape: int) -> None:
    for area in (370, 1000, 2800):
        patch = scene_drawing._draw_object(scene_pixels.RandomBits(1, area), (shape, 0), area)
        assert abs(int(patch.cover.sum()) / scene_pixels.FULL - area) <= 0.04 * area
        # Half-covered pixels count as covered, which widens small shapes a little.
        assert 0 <= int(patch.solid.sum()) - area <= 0.13 * area


def test_raw_bits_are_those_of_numpy_for_ever() -> None:
    # Golden, of numpy 2.4.
    assert [scene_pixels.RandomBits(1, i).draw_below(1 << 32) for i in range(3)] == [
        2198257139,
        1425381069,
        1925928375,
    ]
    numbers = [scene_pixels.RandomBits(0, i).draw_between(3, 5) for i in range(200)]
    assert set(numbers) == {3, 4, 5}

"""COCO's json: items by image and category, boxes, masks as pycocotools draws them, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from bench.data import load_subset
from bench.errors import BenchError
from tests.support.layouts import (
    HEIGHT,
    WIDTH,
    box_mask,
    list_samples,
    save_image,
    write_coco,
)

CATEGORIES = [(90, "toothbrush"), (1, "person"), (18, "dog")]  # neither sorted nor contiguous
NAMES = [f"{i:012d}.jpg" for i in range(8)]
TRIANGLE = [[2, 3, 30.5, 4, 11, 33.5]]
TWO_PARTS = [[5, 5, 15, 5, 15, 15, 5, 15], [20.5, 20, 40, 21, 38, 30.25]]


def one(image: int, category: int, box: list, **more: Any) -> dict[str, Any]:
    return {"image_id": 100 + image, "category_id": category, "bbox": box, **more}


def fill(place: Path, annotations: list[dict], file: str = "instances.json", **more: Any) -> Path:
    """Write images and a json beside them."""
    for i, name in enumerate(NAMES):
        save_image(place / "images" / name, i)
    return write_coco(place / file, NAMES, annotations, CATEGORIES, **more)


def boxes_only() -> list[dict]:
    return [
        *(one(i, (1, 18, 90)[i % 3], [2.5, 3, 10, 20]) for i in range(7)),
        one(0, 1, [0, 0, WIDTH, HEIGHT]),
        one(0, 90, [1, 2, 3, 4]),
    ]


def test_items_are_images_and_categories(tmp_path: Path) -> None:
    fill(tmp_path / "set", boxes_only())
    subset = load_subset(tmp_path / "set")
    samples = list_samples(subset)
    assert subset.class_names == ("person", "dog", "toothbrush")
    assert samples[f"{NAMES[0]}#0"].boxes.tolist() == [[2.5, 3, 12.5, 23], [0, 0, WIDTH, HEIGHT]]
    assert samples[f"{NAMES[0]}#2"].boxes.tolist() == [[1, 2, 4, 6]]
    assert samples[NAMES[4]].label == 1
    assert len(samples) == 8
    assert not subset.has_masks
    said = " ".join(subset.found)
    assert "0 person (id 1), 1 dog (id 18), 2 toothbrush (id 90)" in said
    assert "without an object: 1 image." in said
    same = load_subset(tmp_path / "set" / "instances.json")
    assert same.ids == subset.ids


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("val2017", "annotations/instances_val2017.json"),
        ("images/val2017", "annotations/instances_val2017.json"),
        ("images", "annotations/instances_default.json"),
        (".", "_annotations.coco.json"),
    ],
)
def test_images_are_found_where_they_usually_lie(tmp_path: Path, images: str, file: str) -> None:
    place = tmp_path / "set"
    for i, name in enumerate(NAMES):
        save_image(place / images / name, i)
    write_coco(place / file, NAMES, boxes_only(), CATEGORIES)
    assert len(list_samples(load_subset(place))) == 8


def test_parts_with_a_json_each(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        for i, name in enumerate(NAMES):
            save_image(tmp_path / "set" / part / name, i)
        file = tmp_path / "set" / part / "_annotations.coco.json"
        write_coco(file, NAMES, boxes_only(), CATEGORIES)
    subset = load_subset(tmp_path / "set")
    assert subset.name == subset.manifest.name == "set-valid"
    assert "the subset is valid" in subset.found[-1]


def test_several_files_are_a_choice(tmp_path: Path) -> None:
    for part in ("train", "val"):
        fill(tmp_path / "set", boxes_only(), f"annotations/instances_{part}.json")
    with pytest.raises(BenchError, match=r"has 2 COCO files \(instances_train.json, instances_val"):
        load_subset(tmp_path / "set")
    subset = load_subset(tmp_path / "set" / "annotations" / "instances_val.json")
    assert len(list_samples(subset)) == 8


def test_captions_and_keypoints_do_not_count(tmp_path: Path) -> None:
    for name in ("captions_val", "instances_val", "person_keypoints_val"):
        fill(tmp_path / "set", boxes_only(), f"annotations/{name}.json")
    subset = load_subset(tmp_path / "set")
    assert subset.name == "set-instances_val"
    assert "by instances_val.json" in subset.found[0]


def segmented() -> list[dict]:
    """Return objects with polygons, and run lengths in both forms."""
    runs = {"counts": [10, 30, HEIGHT * WIDTH - 40], "size": [HEIGHT, WIDTH]}
    packed = coco_mask.encode(np.asfortranarray(box_mask(7, 3, 19, 31, 1)))
    packed = {"counts": packed["counts"].decode(), "size": packed["size"]}
    crowd = {"counts": [0, HEIGHT * 12, HEIGHT * (WIDTH - 12)], "size": [HEIGHT, WIDTH]}
    shapes = [TRIANGLE, TWO_PARTS, runs, packed, TRIANGLE, TWO_PARTS, packed]
    found = [
        one(i, 18, [1, 1, 20, 20], segmentation=shape, area=9) for i, shape in enumerate(shapes)
    ]
    found += [one(1, 18, [7, 3, 12, 28], segmentation=packed, area=9)]
    return [*found, one(1, 18, [0, 0, 12, 36], segmentation=crowd, area=9, iscrowd=1)]


def test_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    annotations = segmented()
    file = fill(tmp_path / "set", annotations)
    samples = list_samples(load_subset(tmp_path / "set"))
    theirs = COCO(str(file))
    for i in range(7):
        found = theirs.loadAnns(theirs.getAnnIds(imgIds=100 + i, iscrowd=False))
        union = np.any([theirs.annToMask(a) for a in found], axis=0)
        assert union.any()
        assert np.array_equal(samples[NAMES[i]].mask, union), i
    # The crowd is the left 12 columns, as far as no object of the category lies there.
    left = box_mask(0, 0, 12, HEIGHT) > 0
    assert np.array_equal(samples[NAMES[1]].ignore, left & ~samples[NAMES[1]].mask)
    assert len(samples[NAMES[1]].boxes) == 2
    assert not samples[NAMES[0]].ignore.any()
    # By hand: the runs' ones are pixels 10 to 39, column by column.
    flat = np.zeros(HEIGHT * WIDTH, dtype=bool)
    flat[10:40] = True
    assert np.array_equal(samples[NAMES[2]].mask, flat.reshape(WIDTH, HEIGHT).T)
    assert np.array_equal(samples[NAMES[3]].mask, box_mask(7, 3, 19, 31) > 0)


def test_crowds_without_an_object_are_no_items(tmp_path: Path) -> None:
    crowd = {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}
    extra = one(7, 1, [0, 0, 4, 4], segmentation=crowd, iscrowd=1)
    fill(tmp_path / "set", [*segmented(), extra])
    subset = load_subset(tmp_path / "set")
    assert NAMES[7] not in list_samples(subset)
    assert "regions of a crowd: 2 annotations" in " ".join(subset.found)


def test_a_missing_segmentation_is_said(tmp_path: Path) -> None:
    fill(tmp_path / "set", [*segmented(), one(7, 1, [0, 0, 4, 4])])
    subset = load_subset(tmp_path / "set")
    assert not subset.has_masks
    assert "since a segmentation is missing for 1 object" in " ".join(subset.found)


def test_without_pycocotools_masks_are_refused_and_boxes_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    fill(tmp_path / "boxes", boxes_only())
    assert len(list_samples(load_subset(tmp_path / "boxes"))) == 8
    fill(tmp_path / "masks", segmented())
    with pytest.raises(BenchError, match=r"pip install 'cambench\[coco\]'"):
        load_subset(tmp_path / "masks")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (one(0, 7, [1, 1, 5, 5]), "category_id 7, which the file does not list"),
        (one(40, 1, [1, 1, 5, 5]), "image_id 140, which the file does not list"),
        (one(0, 1, [1, 1, 5]), "is not x, y, width, height"),
        (one(0, 1, [1, 1, -5, 5]), "with a width and a height above 0"),
        (one(0, 1, [1, 1, "5", 5]), "is not x, y, width, height"),
    ],
)
def test_wrong_annotations_are_refused(tmp_path: Path, annotation: dict, words: str) -> None:
    fill(tmp_path / "set", [*boxes_only(), annotation])
    with pytest.raises(BenchError, match=words):
        load_subset(tmp_path / "set")


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 5, 5]],
        [[1, 1, 5, 5, 6]],
        [[1, 1, 5, 5, 6, None]],
        {"counts": [1, 2], "size": [HEIGHT, WIDTH]},
        {"counts": [HEIGHT * WIDTH]},
        "polygon",
    ],
)
def test_wrong_segmentations_are_refused(tmp_path: Path, segmentation: Any) -> None:
    fill(tmp_path / "set", [one(0, 1, [1, 1, 5, 5], segmentation=segmentation)])
    with pytest.raises(BenchError, match="neither polygons of three points or more nor run"):
        load_subset(tmp_path / "set")


def test_run_lengths_of_another_size_are_refused(tmp_path: Path) -> None:
    runs = {"counts": [HEIGHT * WIDTH], "size": [WIDTH, HEIGHT]}
    file = fill(tmp_path / "set", [one(i, 1, [1, 1, 5, 5], segmentation=runs) for i in range(8)])
    with pytest.raises(BenchError, match="give a mask of the image's size"):
        list_samples(load_subset(file))


def test_fractions_and_degenerate_boxes(tmp_path: Path) -> None:
    fill(tmp_path / "fractions", [one(i, 1, [0.1, 0.2, 0.3, 0.4]) for i in range(8)])
    with pytest.raises(BenchError, match="are fractions of the image"):
        load_subset(tmp_path / "fractions")
    fill(tmp_path / "flat", [*boxes_only(), one(3, 18, [4, 4, 7, 0])])
    subset = load_subset(tmp_path / "flat")
    assert "without an area: 1 annotation." in " ".join(subset.found)
    assert len(list_samples(subset)) == 8


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "C:\\x.jpg", "a\\..\\..\\x.jpg"])
def test_files_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / "secret.jpg")
    file = fill(tmp_path / "set", boxes_only())
    content = json.loads(file.read_text())
    content["images"][2]["file_name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(BenchError, match="which does not lie below"):
        load_subset(tmp_path / "set")


def test_paths_that_windows_wrote_are_read(tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        save_image(tmp_path / "set" / "images" / "sub" / name, i)
    names = [f"sub\\{name}" for name in NAMES]
    write_coco(tmp_path / "set" / "instances.json", names, boxes_only(), CATEGORIES)
    assert f"sub/{NAMES[4]}" in list_samples(load_subset(tmp_path / "set"))


def test_json_that_is_no_coco_of_instances_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "0.jpg")
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(BenchError, match="has no list of categories"):
        load_subset(file)
    file.write_text("{")
    with pytest.raises(BenchError, match="cannot be read as JSON"):
        load_subset(file)
    missing = fill(tmp_path / "set", boxes_only())
    (tmp_path / "set" / "images" / NAMES[3]).unlink()
    with pytest.raises(BenchError, match=r"is missing \(1 of 8 that .*instances.json lists are\)"):
        load_subset(missing)

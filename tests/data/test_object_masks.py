"""Masks: what their values mean, where they lie beside a table, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import load_subset
from bench.data.object_masks import read_mask_file
from bench.errors import BenchError
from tests.support.layouts import (
    HEIGHT,
    WIDTH,
    box_mask,
    list_samples,
    save_image,
    save_mask,
    write_annotations,
)

SHAPE = (HEIGHT, WIDTH)
OBJECT = box_mask(5, 4, 20, 30) > 0


def as_palette(values: np.ndarray) -> Image.Image:
    """Return an image of indices whose colours are all but the indices."""
    image = Image.fromarray(values.astype(np.uint8)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([255 - i // 3 for i in range(768)])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(box_mask(5, 4, 20, 30)),
        Image.fromarray(box_mask(5, 4, 20, 30, 1)),
        Image.fromarray(box_mask(5, 4, 20, 30, 17)),
        Image.fromarray(OBJECT),
        Image.fromarray((OBJECT * 4000).astype(np.uint16)),
        Image.fromarray(box_mask(5, 4, 20, 30)).convert("RGB"),
        Image.fromarray(box_mask(5, 4, 20, 30)).convert("LA"),
        as_palette(box_mask(5, 4, 20, 30, 3)),
    ],
    ids=["255", "1", "17", "bits", "16 bits", "RGB", "LA", "palette"],
)
def test_one_value_is_the_object(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "m.png")
    found = read_mask_file(tmp_path / "m.png", SHAPE, "x.jpg")
    assert np.array_equal(found.mask, OBJECT)
    assert not found.ignore.any()


def test_255_beside_1_is_ignored(tmp_path: Path) -> None:
    values = box_mask(5, 4, 20, 30, 1)
    values[:, 20:22] = 255
    as_palette(values).save(tmp_path / "m.png")
    found = read_mask_file(tmp_path / "m.png", SHAPE, "x.jpg")
    assert np.array_equal(found.mask, values == 1)
    assert np.array_equal(found.ignore, values == 255)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint8).reshape(SHAPE)), "unclear"),
        (
            Image.fromarray(box_mask(0, 0, 5, 5, 1) + box_mask(9, 9, 12, 12, 2)),
            "values 1, 2 beside",
        ),
        (Image.fromarray(box_mask(0, 0, 5, 5, 2) + box_mask(9, 9, 12, 12)), "values 2, 255 beside"),
        (Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0)), "is in colour"),
        (Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0)), "has transparent pixels"),
        (Image.new("L", (HEIGHT, WIDTH)), f"has 36x48 pixels and its image x.jpg {WIDTH}x{HEIGHT}"),
    ],
)
def test_unclear_masks_are_refused(tmp_path: Path, image: Image.Image, words: str) -> None:
    image.save(tmp_path / "m.png")
    with pytest.raises(BenchError, match=words) as caught:
        read_mask_file(tmp_path / "m.png", SHAPE, "x.jpg")
    assert "m.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_masks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"text")
    with pytest.raises(BenchError, match="cannot be read as an image"):
        read_mask_file(tmp_path / "m.png", SHAPE, "x.jpg")
    with pytest.raises(BenchError, match="is missing"):
        read_mask_file(tmp_path / "none.png", SHAPE, "x.jpg")


# --- beside annotations.csv


def fill(place: Path, labels: list[int], header: str = "file,label", more: str = "") -> Path:
    """Write images/0.png ... with these labels; `{i}` of `more` is the row."""
    for i in range(len(labels)):
        save_image(place / "images" / f"{i}.png", i)
    rows = [f"images/{i}.png,{label}{more.format(i=i)}" for i, label in enumerate(labels)]
    return write_annotations(place, rows, header)


def test_a_column_names_masks(tmp_path: Path) -> None:
    place = fill(tmp_path / "set", [0, 1] * 4, "file,label,mask", ",truth/m{i}.png")
    for i in range(8):
        save_mask(place / "truth" / f"m{i}.png", box_mask(i, 1, 20, 9))
    table = (place / "annotations.csv").read_text().replace("truth/m3.png", "")
    (place / "annotations.csv").write_text(table)
    subset = load_subset(place)
    samples = list_samples(subset)
    assert np.array_equal(samples["images/6.png"].mask, box_mask(6, 1, 20, 9) > 0)
    assert not samples["images/3.png"].mask.any()
    assert "masks: 7 of 8 items" in subset.found[0]


@pytest.mark.parametrize("form", ["{i}", "images/{i}"])
def test_files_beside_images_are_masks(tmp_path: Path, form: str) -> None:
    place = fill(tmp_path / "set", [0, 1] * 4)
    without = load_subset(place)
    assert not without.has_masks
    for i in range(7):
        save_mask(place / "masks" / f"{form.format(i=i)}.png", box_mask(i, 1, 20, 9))
    save_mask(place / "masks" / "stranger.png", OBJECT)
    subset = load_subset(place)
    samples = list_samples(subset)
    assert np.array_equal(samples["images/6.png"].mask, box_mask(6, 1, 20, 9) > 0)
    said = " ".join(subset.found)
    assert "belong to no item: 1 file" in said
    assert "Without a mask in" in said
    assert subset.ids == without.ids
    assert subset.manifest_id != without.manifest_id
    before = subset.manifest_id
    save_mask(place / "masks" / f"{form.format(i=2)}.png", OBJECT)
    assert load_subset(place).manifest_id != before


def test_an_image_of_two_labels_has_two_masks(tmp_path: Path) -> None:
    place = fill(tmp_path / "set", [0, 1] * 4)
    table = (place / "annotations.csv").read_text() + "images/4.png,1\n"
    (place / "annotations.csv").write_text(table)
    for i in range(8):
        save_mask(place / "masks" / f"{i}.png", box_mask(i, 1, 20, 9))
    with pytest.raises(BenchError, match=r"4.png belongs to 2 items; give each a mask of its own"):
        load_subset(place)
    save_mask(place / "masks" / "4#1.png", OBJECT)
    samples = list_samples(load_subset(place))
    assert np.array_equal(samples["images/4.png#1"].mask, OBJECT)
    assert np.array_equal(samples["images/4.png#0"].mask, box_mask(4, 1, 20, 9) > 0)


def test_masks_that_match_nothing_are_said(tmp_path: Path) -> None:
    place = fill(tmp_path / "set", [0, 1] * 4)
    save_mask(place / "masks" / "0_mask.png", OBJECT)
    subset = load_subset(place)
    assert not subset.has_masks
    assert "is named PNG like an image, so there are no masks" in " ".join(subset.found)


@pytest.mark.parametrize("name", ["../m.png", "/tmp/m.png", "..\\m.png"])
def test_masks_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    save_mask(tmp_path / "m.png", OBJECT)
    place = fill(tmp_path / "set", [0, 1] * 4, "file,label,mask", f",{name}")
    with pytest.raises(BenchError, match="which does not lie below"):
        load_subset(place)


def test_missing_and_contradicting_masks_are_refused(tmp_path: Path) -> None:
    place = fill(tmp_path / "set", [0, 1] * 4, "file,label,mask", ",m{i}.png")
    with pytest.raises(BenchError, match=r"m0.png is missing \(8 of 8"):
        load_subset(place)
    table = (place / "annotations.csv").read_text() + "images/4.png,0,other.png\n"
    (place / "annotations.csv").write_text(table)
    with pytest.raises(BenchError, match=r"Several masks belong to images/4.png \(line"):
        load_subset(place)

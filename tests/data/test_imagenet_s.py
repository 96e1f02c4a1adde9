"""ImageNet-S: small files of its official layout, made here; its numbers count class folders."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import load_subset
from bench.data.class_names import imagenet_wnids
from bench.data.layouts.imagenet_s import IGNORED, find_segmented_part, read_numbers
from bench.errors import BenchError
from tests.support.layouts import HEIGHT, WIDTH, save_image

WNIDS = sorted(imagenet_wnids()[3::20])
"""Class folders of a set of 50."""


def save_numbers(file: Path, numbers: np.ndarray, blue: int = 0) -> None:
    """Write class numbers [H,W] as ImageNet-S does: R + 256 * G."""
    file.parent.mkdir(parents=True, exist_ok=True)
    bands = [numbers % 256, numbers // 256, np.full_like(numbers, blue)]
    Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8)).save(file)


def draw_numbers(number: int, other: int = 0) -> np.ndarray:
    """Return a mask: the class in the rows 4..9, the ignored rim in row 10, another class below."""
    values = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    values[4:10, 5:12] = number
    values[10, 5:12] = IGNORED
    values[12:, :] = other
    return values


def write_set(root: Path, count: int = 50, part: str = "validation", images: int = 3) -> Path:
    """Write a data set of so many class folders, of which the first and the last hold images."""
    place = root / f"ImageNetS{count}"
    names = sorted(imagenet_wnids()[:count]) if count != 50 else WNIDS
    for name in names:
        (place / part / name).mkdir(parents=True)
    for name in (names[0], names[-1]):
        number = names.index(name) + 1
        for i in range(images):
            save_image(place / part / name / f"ILSVRC2012_val_{i:08d}.JPEG", number + i)
            file = place / f"{part}-segmentation" / name / f"ILSVRC2012_val_{i:08d}.png"
            save_numbers(file, draw_numbers(number, names.index(names[1]) + 1))
    return place


def test_masks_hold_the_class_of_the_folder(tmp_path: Path) -> None:
    subset = load_subset(write_set(tmp_path))
    assert subset.num_classes == 1000
    assert subset.has_masks
    assert not subset.has_boxes
    assert subset.name == "ImageNetS50-validation"
    labels = [imagenet_wnids().index(WNIDS[0]), imagenet_wnids().index(WNIDS[-1])]
    whole = [*subset, *(subset.calibration() or ())]
    assert sorted(sample.label for sample in whole) == [labels[0]] * 3 + [labels[1]] * 3
    for sample in whole:
        inside, ignored = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
        inside[4:10, 5:12] = True
        ignored[10, 5:12] = True
        assert np.array_equal(sample.mask, inside)  # the other class is no truth
        assert np.array_equal(sample.ignore, ignored)
        assert sample.id.startswith(("n",))
    assert "ImageNet-S-50" in subset.found[0]
    assert "masks: 6 of 6 items" in subset.found[0]
    assert pickle.loads(pickle.dumps(subset))[0].mask.any()


@pytest.mark.parametrize("inner", ["", "ImageNetS50", "ImageNetS50/validation"])
def test_every_folder_of_the_layout_is_known(tmp_path: Path, inner: str) -> None:
    write_set(tmp_path)
    subset = load_subset(tmp_path / inner)
    assert subset.has_masks
    assert len(subset) + len(subset.calibration() or ()) == 6


def test_the_named_subsets_find_their_set_below_the_data_root(tmp_path: Path) -> None:
    place = write_set(tmp_path)
    named = load_subset("imagenet-s-50", data_root=tmp_path)
    assert named.name == "imagenet-s-50"
    assert named.ids == load_subset(place).ids
    with pytest.raises(BenchError, match=r"imagenet-s-300 is not at .*ImageNetS300"):
        load_subset("imagenet-s-300", data_root=tmp_path)


def test_numbers_beyond_a_byte_count_green(tmp_path: Path) -> None:
    subset = load_subset(write_set(tmp_path, count=919, images=1))
    last = next(sample for sample in (*subset, *(subset.calibration() or ())) if sample.label > 900)
    assert last.mask.sum() == 6 * 7
    file = tmp_path / "one.png"
    save_numbers(file, np.array([[0, 255, 256, 919, 1000]]))
    assert read_numbers(file, 919).tolist() == [[0, 255, 256, 919, 1000]]
    assert any("two classes of ImageNet" in note for note in subset.found)


def test_the_semi_supervised_part_is_the_second_choice(tmp_path: Path) -> None:
    write_set(tmp_path, part="train-semi")
    place = write_set(tmp_path / "other")
    assert load_subset(tmp_path / "ImageNetS50").name == "ImageNetS50-train-semi"
    (place / "train-semi").mkdir()
    (place / "train-semi-segmentation").mkdir()
    found = find_segmented_part(place)
    assert found is not None
    assert found.images.name == "validation"
    assert "give the path of train-semi" in found.note


def break_size(place: Path) -> None:
    save_numbers(_first_mask(place), np.ones((3, 4), dtype=np.int64))


def break_number(place: Path) -> None:
    save_numbers(_first_mask(place), draw_numbers(77))


def break_blue(place: Path) -> None:
    save_numbers(_first_mask(place), draw_numbers(1), blue=9)


def break_grey(place: Path) -> None:
    Image.fromarray(np.ones((HEIGHT, WIDTH), dtype=np.uint8)).save(_first_mask(place))


def break_file(place: Path) -> None:
    _first_mask(place).write_bytes(b"no image")


def _first_mask(place: Path) -> Path:
    return place / "validation-segmentation" / WNIDS[0] / "ILSVRC2012_val_00000000.png"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (break_size, f"has 4x3 pixels and its image .* {WIDTH}x{HEIGHT}; give a mask"),
        (break_number, "class number 77, and its data set has 50 classes"),
        (break_blue, "none of ImageNet-S"),
        (break_grey, "none of ImageNet-S"),
        (break_file, "cannot be read as an image"),
    ],
)
def test_wrong_masks_are_refused_in_a_sentence(tmp_path: Path, harm, words: str) -> None:
    place = write_set(tmp_path)
    harm(place)
    subset = load_subset(place)
    with pytest.raises(BenchError, match=words) as caught:
        assert [*subset, *(subset.calibration() or ())]
    assert "\n" not in str(caught.value)


def test_missing_class_folders_are_refused(tmp_path: Path) -> None:
    place = write_set(tmp_path)
    (place / "validation" / WNIDS[7]).rmdir()
    with pytest.raises(BenchError, match="has 49 class folders, and ImageNet-S has 50, 300 or 919"):
        load_subset(place)


def test_images_without_masks_are_counted(tmp_path: Path) -> None:
    place = write_set(tmp_path)
    _first_mask(place).unlink()
    subset = load_subset(place)
    assert any("Without a mask in" in note and "1 item" in note for note in subset.found)
    for file in (place / "validation-segmentation").rglob("*.png"):
        file.unlink()
    with pytest.raises(BenchError, match=r"No image of .* has a mask"):
        load_subset(place)

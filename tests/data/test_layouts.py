"""Layouts without a table of cambench's own: class folders, Pascal VOC, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from bench.data import Geometry, load_subset
from bench.data.class_names import imagenet_wnids
from bench.errors import BenchError
from tests.support.layouts import (
    HEIGHT,
    WIDTH,
    box_mask,
    draw_image,
    list_samples,
    save_image,
    save_mask,
    write_coco,
    write_voc,
)


def fill_folders(place: Path, names: list[str], count: int = 5) -> Path:
    """Write a folder per class with so many images each."""
    for row, name in enumerate(names):
        for i in range(count):
            save_image(place / name / f"img {i}.png", 10 * row + i)
    return place


# --- a folder per class


def test_named_class_folders_count_in_sorted_order(tmp_path: Path) -> None:
    subset = load_subset(fill_folders(tmp_path / "pets", ["dog", "Zebra", "cat"]))
    samples = list_samples(subset)
    assert subset.class_names == ("Zebra", "cat", "dog")
    assert len(samples) == 15
    assert samples["dog/img 3.png"].label == 2
    assert samples["Zebra/img 0.png"].label == 0
    assert np.array_equal(samples["cat/img 4.png"].image, draw_image(24))
    assert samples["cat/img 4.png"].boxes is None
    assert not subset.has_boxes
    assert not subset.has_masks
    assert subset.found == (
        "15 images in 3 class folders; labels in sorted order: 0 Zebra, 1 cat, 2 dog; boxes: none;"
        " masks: none.",
    )
    assert pickle.loads(pickle.dumps(subset)).ids == subset.ids


def test_class_folders_agree_with_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    place = fill_folders(tmp_path / "pets", ["b", "a", "_x", "B"])
    save_image(place / "a" / "more" / "deep.PNG", 7)
    samples = list_samples(load_subset(place))
    theirs = ImageFolder(str(place))
    want = {Path(file).relative_to(place).as_posix(): label for file, label in theirs.samples}
    assert {item: sample.label for item, sample in samples.items()} == want


def test_what_a_class_folder_also_holds_is_said(tmp_path: Path) -> None:
    place = fill_folders(tmp_path / "pets", ["a", "c"])
    (place / "b").mkdir()
    save_image(place / "c" / "2024" / "UPPER.JPEG", 3)
    (place / "c" / "notes.txt").write_text("x")
    (place / "c" / ".hidden.png").write_bytes(b"x")
    (place / ".git").mkdir()
    (place / "__MACOSX" / "a").mkdir(parents=True)
    save_image(place / "loose.png")
    subset = load_subset(place)
    assert subset.class_names == ("a", "b", "c")  # the empty folder keeps its label
    assert list_samples(subset)["c/2024/UPPER.JPEG"].label == 2
    said = " ".join(subset.found)
    assert "Class folders without images, which keep their label: b." in said
    assert "counted as of its class: 1 image." in said
    assert "in no class folder: 1 image." in said
    assert "with a suffix that no image has: 1 file." in said
    assert len(list_samples(subset)) == 11


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["0", "1", "2"], {"0": 0, "1": 1, "2": 2}, 3),
        (["00", "01", "02"], {"00": 0, "01": 1, "02": 2}, 3),
        (["2", "10", "417"], {"2": 2, "10": 10, "417": 417}, 418),
    ],
)
def test_numeric_folder_names_are_labels(
    tmp_path: Path, names: list[str], labels: dict[str, int], classes: int
) -> None:
    subset = load_subset(fill_folders(tmp_path / "numbers", names))
    found = {item.split("/")[0]: one.label for item, one in list_samples(subset).items()}
    assert found == labels
    assert subset.num_classes == classes
    said = any("torchvision's ImageFolder would count" in line for line in subset.found)
    assert said == (labels != {name: i for i, name in enumerate(sorted(names))})


def test_wnids_have_the_label_numbers_of_imagenet(tmp_path: Path) -> None:
    chosen = [imagenet_wnids()[i] for i in (7, 388, 999)]
    subset = load_subset(fill_folders(tmp_path / "few", chosen))
    found = {item.split("/")[0]: one.label for item, one in list_samples(subset).items()}
    assert found == dict(zip(chosen, (7, 388, 999), strict=True))
    assert subset.num_classes == 1000
    assert subset.class_names[388] == "giant panda"
    # A wnid of another ImageNet is a name like others.
    other = load_subset(fill_folders(tmp_path / "other", [*chosen, "n00000001"]))
    assert other.class_names == tuple(sorted([*chosen, "n00000001"]))


def test_the_validation_part_is_taken_and_said(tmp_path: Path) -> None:
    for part in ("train", "test", "VAL"):
        fill_folders(tmp_path / "set" / part, ["a", "b"], 6)
    subset = load_subset(tmp_path / "set")
    assert subset.name == "set-VAL"
    assert len(list_samples(subset)) == 12
    assert any("the subset is VAL; give another part's path" in line for line in subset.found)
    assert load_subset(tmp_path / "set" / "test").name == "test"
    for file in (tmp_path / "set" / "VAL").rglob("*.png"):
        file.rename(tmp_path / "set" / "train" / "a" / f"{file.parent.name} {file.name}")
    assert load_subset(tmp_path / "set").name == "set-test"  # VAL is empty


def test_a_manifest_gives_names_and_calibration(tmp_path: Path) -> None:
    place = fill_folders(tmp_path / "pets", ["cat", "dog"])
    (place / "manifest.toml").write_text(
        'name = "mine"\nkind = "class_folders"\nclasses = ["dog", "bird", "cat"]\n'
    )
    subset = load_subset(place)
    assert (subset.name, subset.num_classes, subset.calibration()) == ("mine", 3, None)
    assert {one.id.split("/")[0]: one.label for one in subset} == {"cat": 2, "dog": 0}
    (place / "cow").mkdir()
    with pytest.raises(BenchError, match=r"'cow' of .* is not one of the 3 classes"):
        load_subset(place)


def test_an_added_image_is_another_subset(tmp_path: Path) -> None:
    place = fill_folders(tmp_path / "pets", ["cat", "dog"])
    before = load_subset(place).manifest_id
    assert load_subset(place).manifest_id == before
    save_image(place / "cat" / "new.png", 99)
    assert load_subset(place).manifest_id != before


def test_folders_that_say_no_class_are_refused(tmp_path: Path) -> None:
    fill_folders(tmp_path / "yolo", ["images"])
    (tmp_path / "yolo" / "labels").mkdir()
    with pytest.raises(BenchError, match="in the folder 'images', which says no class"):
        load_subset(tmp_path / "yolo")
    for part in ("train", "val"):
        save_image(tmp_path / "flat" / part / "0.jpg")
    with pytest.raises(BenchError, match="holds images without a folder per class"):
        load_subset(tmp_path / "flat")
    for part in ("train", "val"):
        fill_folders(tmp_path / "odd" / part, ["a", "b"])
    fill_folders(tmp_path / "odd", ["other"])
    with pytest.raises(BenchError, match=r"parts train, val beside other.* give one of them"):
        load_subset(tmp_path / "odd")
    fill_folders(tmp_path / "same", ["1", "01"])
    with pytest.raises(BenchError, match="two of them are equal"):
        load_subset(tmp_path / "same")


def test_the_refusal_lists_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x")
    for place in (tmp_path, tmp_path / "text.txt"):
        with pytest.raises(BenchError, match="has no known layout") as caught:
            load_subset(place)
        words = ("annotations.csv", "parquet", "save_to_disk", "COCO", "VOC", "folder per class")
        assert all(word in str(caught.value) for word in words)
        assert "\n" not in str(caught.value)
    with pytest.raises(BenchError, match=r"A dict is no subset; give a name, a datasets.Dataset"):
        load_subset({"image": []})


# --- Pascal VOC


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A data set of eight images; image 2 has two classes, image 5 nothing."""
    place = tmp_path / "voc"
    for i in range(8):
        save_image(place / "JPEGImages" / f"00{i}.jpg", i)
        objects: list[tuple] = [("dog", (3, 5, 20, 30), i % 2)]
        objects += [("cat", (1, 1, WIDTH, HEIGHT)), ("dog", (7, 7, 7, 7))] if i == 2 else []
        write_voc(place / "Annotations" / f"00{i}.xml", [] if i == 5 else objects)
    return place


def test_corners_of_voc_are_the_last_pixels_inside(voc: Path) -> None:
    subset = load_subset(voc)
    samples = list_samples(subset)
    assert subset.class_names == ("cat", "dog")
    assert samples["JPEGImages/000.jpg"].boxes.tolist() == [[2, 4, 20, 30]]
    assert samples["JPEGImages/002.jpg#0"].boxes.tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert samples["JPEGImages/002.jpg#1"].boxes.tolist() == [[2, 4, 20, 30], [6, 6, 7, 7]]
    assert samples["JPEGImages/002.jpg#1"].image_id == "JPEGImages/002.jpg"
    assert np.array_equal(samples["JPEGImages/007.jpg"].image, draw_image(7))
    assert len(samples) == 8
    assert "8 items (image and class) of 7 images" in subset.found[0]
    assert "labels: 0 cat, 1 dog" in subset.found[0]
    assert "counted like other objects: 3 objects." in " ".join(subset.found)
    assert "without an object: 1 image." in " ".join(subset.found)


def test_xml_beside_images_is_read_alike(voc: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for folder in ("JPEGImages", "Annotations"):
        for file in (voc / folder).iterdir():
            file.rename(flat / file.name)
    samples = list_samples(load_subset(flat))
    assert samples["002.jpg#1"].boxes.tolist() == [[2, 4, 20, 30], [6, 6, 7, 7]]
    assert len(samples) == 8


def test_other_xml_makes_no_voc(tmp_path: Path) -> None:
    place = fill_folders(tmp_path / "pets", ["a", "b"])
    (place / "project.xml").write_text("<project/>")
    assert load_subset(place).class_names == ("a", "b")


def test_corners_at_zero_are_said(voc: Path) -> None:
    write_voc(voc / "Annotations" / "000.xml", [("dog", (0, 0, 20, 30))])
    subset = load_subset(voc)
    assert "corners at 0 were found in 1 box" in " ".join(subset.found)
    assert list_samples(subset)["JPEGImages/000.jpg"].boxes.tolist() == [[0, 0, 20, 30]]


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([("dog", (20, 5, 3, 30))], "is reversed"),
        ([("dog", (0.1, 0.2, 0.5, 0.6))], "a fraction of the image"),
        ([("dog", ("a", 5, 3, 30))], "no bndbox of four numbers"),
        ([("", (3, 5, 20, 30))], "has no name"),
    ],
)
def test_wrong_objects_of_voc_are_refused(voc: Path, objects: list, words: str) -> None:
    write_voc(voc / "Annotations" / "001.xml", objects)
    with pytest.raises(BenchError, match=words) as caught:
        load_subset(voc)
    assert "001.xml" in str(caught.value)


def test_wrong_files_of_voc_are_refused(voc: Path) -> None:
    (voc / "JPEGImages" / "003.jpg").unlink()
    with pytest.raises(BenchError, match=r"003.jpg of .*003.xml is missing"):
        load_subset(voc)
    text = (voc / "Annotations" / "003.xml").read_text()
    (voc / "Annotations" / "003.xml").write_text(text.replace("003.jpg", "../../000.jpg"))
    with pytest.raises(BenchError, match=r"names the file '../../000.jpg', which does not lie"):
        load_subset(voc)
    (voc / "Annotations" / "003.xml").write_text("<annotation>")
    with pytest.raises(BenchError, match="cannot be read as XML"):
        load_subset(voc)
    (voc / "Annotations" / "003.xml").write_text("<project/>")
    with pytest.raises(BenchError, match="is no annotation of Pascal VOC"):
        load_subset(voc)


def test_an_image_of_another_size_than_annotated_is_refused(voc: Path) -> None:
    write_voc(voc / "Annotations" / "001.xml", [("dog", (3, 5, 20, 30))], size=(96, 72))
    with pytest.raises(BenchError, match=r"001.jpg has 48x36 pixels and its annotation says 96x72"):
        list_samples(load_subset(voc))
    write_voc(voc / "Annotations" / "001.xml", [("dog", (3, 5, 20, 30))], size=(HEIGHT, WIDTH))
    with pytest.raises(BenchError, match="turned by its EXIF orientation"):
        list_samples(load_subset(voc))
    write_voc(voc / "Annotations" / "001.xml", [("dog", (3, 5, 20, 30))], size=(0, 0))
    assert len(list_samples(load_subset(voc))) == 8  # a size of 0 says nothing


# --- masks beside images


def test_masks_of_class_folders_follow_their_images(tmp_path: Path) -> None:
    place = fill_folders(tmp_path / "pets", ["cat", "dog"], 6)
    for name in ("cat", "dog"):
        for i in range(6):
            save_mask(place / "masks" / name / f"img {i}.png", box_mask(i, 3, 20, 30))
    subset = load_subset(place)
    assert subset.class_names == ("cat", "dog")
    assert subset.has_masks
    assert "masks: 12 of 12 items" in subset.found[0]
    for sample in subset:
        i = int(sample.id[-5])
        assert np.array_equal(sample.mask, box_mask(i, 3, 20, 30) > 0)
        assert not sample.ignore.any()


def test_a_class_called_masks_is_a_class(tmp_path: Path) -> None:
    place = fill_folders(tmp_path / "wear", ["hats", "other"])
    for i in range(5):
        save_image(place / "masks" / f"img {i}.png", i)  # named like images of other classes
    subset = load_subset(place)
    assert subset.class_names == ("hats", "masks", "other")
    assert not subset.has_masks


def test_cached_frames_carry_the_same_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill_folders(tmp_path / "pets", ["cat", "dog"], 6)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for i in range(6):
            values = rng.choice([0, 1, 255], (HEIGHT, WIDTH))
            save_mask(place / "masks" / name / f"img {i}.png", values)
    subset = load_subset(place)
    geometry = Geometry(24, "short", 27, "bilinear")
    plain = subset.batch(range(len(subset)), geometry)
    monkeypatch.setenv("CAMBENCH_CACHE_GIB", "1")
    monkeypatch.setenv("CAMBENCH_CACHE", str(tmp_path / "cache"))
    for _ in range(2):  # written, then read
        cached = subset.batch(range(len(subset)), geometry)
        assert cached.pixels.equal(plain.pixels)
        assert cached.truth.masks.equal(plain.truth.masks)
        assert cached.truth.ignore.equal(plain.truth.ignore)
    assert plain.truth.masks.any()
    assert plain.truth.ignore.any()


def test_coco_beside_class_folders_decides(tmp_path: Path) -> None:
    place = fill_folders(tmp_path / "both", ["images"], 6)
    names = [f"img {i}.png" for i in range(6)]
    boxes = [{"image_id": 100 + i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(6)]
    write_coco(place / "instances.json", names, boxes, [(1, "thing")])
    assert load_subset(place).class_names == ("thing",)


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_manifest_of_each_layout(voc: Path, tmp_path: Path, kind: str) -> None:
    if kind == "coco":
        names = [f"{i}.png" for i in range(4)]
        for i, name in enumerate(names):
            save_image(tmp_path / "voc" / name, i)
        boxes = [
            {"image_id": 100 + i, "category_id": i % 2, "bbox": [1, 1, 5, 5]} for i in range(4)
        ]
        write_coco(tmp_path / "voc" / "a.json", names, boxes, [(0, "cat"), (1, "dog")])
    manifest = f'name = "mine"\nkind = "{kind}"\nclasses = ["dog", "cow", "cat"]\n'
    (voc / "manifest.toml").write_text(manifest)
    subset = load_subset(voc)
    assert (subset.name, subset.class_names) == ("mine", ("dog", "cow", "cat"))
    assert set(subset.labels.tolist()) == {0, 2}
    assert subset.calibration() is None
    (voc / "manifest.toml").write_text(f'{manifest}boxes = "pixels"\n')
    with pytest.raises(BenchError, match="says itself what its boxes are"):
        load_subset(voc)
    (voc / "manifest.toml").write_text(f'{manifest}sha256 = "{"0" * 64}"\n')
    with pytest.raises(BenchError, match="are not those of its manifest"):
        load_subset(voc)

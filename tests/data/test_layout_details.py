"""Details of people's layouts that once gave a wrong label, box or picture without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from bench import load_subset
from bench.data.subset import Subset
from bench.errors import BenchError

WIDTH, HEIGHT = 60, 40
TURNED_ONLY = [5, 30, 20, 25]  # x, y, width, height: fits 40 x 60, not 60 x 40


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def save(file: Path, orientation: int = 1, mode: str = "RGB") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(pixels).convert(mode)
    image.save(file, **({"exif": exif} if orientation > 1 else {}))
    return file


def say(subset: Subset) -> str:
    return " ".join([*subset.found, *(note.text for note in subset.notes)])


def write_coco(folder: Path, box: list[float] | None, orientation: int = 1, **more: Any) -> Path:
    save(folder / "a.jpg", orientation)
    save(folder / "b.jpg")
    image = {"id": 4, "file_name": "a.jpg"} | more.pop("image", {})
    other = {"id": 9, "file_name": "b.jpg"} | more.pop("other", {})
    first = {"id": 1, "image_id": 4, "category_id": 3, "bbox": box} | more
    second = {"id": 2, "image_id": 9, "category_id": 3, "bbox": [2, 3, 10, 12]}
    content = {"images": [image, other], "categories": [{"id": 3, "name": "owl"}]}
    content["annotations"] = [first, second]
    file = folder / "instances.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")  # Windows writes the mark
    return folder


@pytest.mark.parametrize("sized", [False, True])
def test_coco_images_are_turned_where_boxes_or_sizes_fit_only_then(
    tmp_path: Path, sized: bool
) -> None:
    box = [1, 1, 5, 5] if sized else TURNED_ONLY
    size = {"width": HEIGHT, "height": WIDTH} if sized else {}
    subset = load_subset(write_coco(tmp_path / "set", box, 6, image=size))
    shapes = {sample.id: sample.image.shape[:2] for sample in subset}
    assert shapes == {"a.jpg": (WIDTH, HEIGHT), "b.jpg": (HEIGHT, WIDTH)}
    assert subset.manifest.exif == "turned"
    assert "fit only when it is applied" in say(subset)
    stored = load_subset(write_coco(tmp_path / "other", [1, 1, 5, 5], 6))
    assert {sample.image.shape[:2] for sample in stored} == {(HEIGHT, WIDTH)}
    assert "which viewers apply" in say(stored)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box": [0.1, 0.2, 0.5, 0.5]}, "lies within one pixel, as a fraction"),
        ({"other": {"id": 4}}, "lists 2 images with the id 4"),
        ({"other": {"id": None}}, "lists 1 image without an id"),
        ({"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]}, "are fractions of the image"),
    ],
)
def test_coco_that_is_wrong_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    whole = {"box": [1, 1, 5, 5]} | change
    if "segmentation" in whole:
        whole["box"] = [1, 1, 5, 5]
    place = write_coco(tmp_path / "set", **whole)
    if "segmentation" in whole:
        content = json.loads((place / "instances.json").read_text(encoding="utf-8-sig"))
        content["annotations"][1]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
        (place / "instances.json").write_text(json.dumps(content))
    with pytest.raises(BenchError, match=words):
        load_subset(place)


def test_a_missing_box_is_counted(tmp_path: Path) -> None:
    subset = load_subset(write_coco(tmp_path / "set", None))
    assert not subset.has_boxes
    assert "no boxes, since bbox is missing for 1 object" in say(subset)


def test_class_folders_say_what_their_images_are(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("1.0", "10.0", "2.0"):
        save(root / name / "a.jpg", 8)
        save(root / name / "b.png", mode="RGBA")
    subset = load_subset(root)
    assert {sample.id: sample.label for sample in subset}.items() <= {
        f"{name}/{file}": int(float(name))
        for name in ("1.0", "10.0", "2.0")
        for file in ("a.jpg", "b.png")
    }.items()
    assert "have an EXIF orientation" in say(subset)
    assert "may have transparent pixels" in say(subset)
    (root / "manifest.toml").write_text('name="t"\nkind="class_folders"\nexif="turned"\n')
    turned = {sample.id: sample.image.shape[:2] for sample in load_subset(root)}
    assert turned["1.0/a.jpg"] == (WIDTH, HEIGHT)
    assert turned["1.0/b.png"] == (HEIGHT, WIDTH)


def test_class_folders_alike_are_mentioned(tmp_path: Path) -> None:
    for name in ("Owl", "owl", "ant"):
        save(tmp_path / "set" / name / "a.png")
    assert "'Owl' and 'owl' differ only in capitals" in say(load_subset(tmp_path / "set"))


def test_voc_names_alike_are_refused(tmp_path: Path) -> None:
    for stem, name in (("a", "Owl"), ("b", "owl")):
        save(tmp_path / f"{stem}.png")
        box = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
        text = f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
        (tmp_path / f"{stem}.xml").write_text(f"<annotation>{text}</annotation>")
    with pytest.raises(BenchError, match=r"'owl' in .*b.xml differ only in capitals"):
        load_subset(tmp_path)


def make_objects(tmp_path: Path, boxes: list, categories: list, orientation: int = 1) -> Dataset:
    content = save(tmp_path / "picture.jpg", orientation).read_bytes()
    rows = [{"bbox": [box], "category": [one]} for box, one in zip(boxes, categories, strict=True)]
    kind = {int: "int64", float: "float64", str: "string"}[type(categories[0])]
    fields = {"bbox": List(List(Value("float32"))), "category": List(Value(kind))}
    images = [{"bytes": content, "path": f"{i}.jpg"} for i in range(len(boxes))]
    return Dataset.from_dict(
        {"image": images, "objects": rows},
        features=Features({"image": ImageFeature(), "objects": fields}),
    )


def test_objects_are_read_like_columns(tmp_path: Path) -> None:
    dataset = make_objects(tmp_path, [TURNED_ONLY, [1, 2, 3, 4]], [11.0, 3.0], 6)
    subset = load_subset(dataset)
    samples = {sample.id: sample for sample in subset}
    assert samples["0"].image.shape[:2] == (WIDTH, HEIGHT)
    assert [samples["0"].label, samples["1"].label] == [11, 3]
    assert samples["0"].boxes.tolist() == [[5, 30, 25, 55]]


@pytest.mark.parametrize(
    ("boxes", "categories", "words"),
    [
        ([[0.1, 0.1, 0.5, 0.5], [1, 2, 9, 9]], [0, 0], "within one pixel, as a fraction"),
        ([[1, 2, 9, 9]], [-1], "label -1 in 'objects' in row 0 .* is negative"),
        ([[1, 2, 9]], [0], "not lists of four finite numbers"),
        ([[31, 22, 59, 39]], [0], 'boxes = "xyxy" into manifest.toml .* save it with save_to_disk'),
    ],
)
def test_objects_that_are_wrong_name_their_row(
    tmp_path: Path, boxes: list, categories: list, words: str
) -> None:
    with pytest.raises(BenchError, match=words):
        load_subset(make_objects(tmp_path, boxes, categories))


def test_objects_of_unequal_length_are_refused(tmp_path: Path) -> None:
    dataset = make_objects(tmp_path, [[1, 2, 9, 9]], [0])
    rows = [{"bbox": [[1, 2, 9, 9]], "category": [0, 1]}]
    longer = dataset.remove_columns("objects").add_column("objects", rows)
    with pytest.raises(BenchError, match="has 1 boxes and 2 categories"):
        load_subset(longer)


@pytest.mark.parametrize(("key", "expected"), [("xywh", [1, 2, 21, 32]), ("xyxy", [1, 2, 20, 30])])
def test_a_manifest_settles_the_boxes_of_a_saved_dataset(
    tmp_path: Path, key: str, expected: list
) -> None:
    content = save(tmp_path / "picture.jpg").read_bytes()
    dataset = Dataset.from_dict(
        {"image": [{"bytes": content, "path": "a.jpg"}], "label": [0], "bbox": [[1, 2, 20, 30]]},
        features=Features(
            {"image": ImageFeature(), "label": Value("int64"), "bbox": List(Value("float32"))}
        ),
    )
    dataset.save_to_disk(tmp_path / "saved")
    with pytest.raises(BenchError, match='write boxes = "xyxy" or boxes = "xywh"'):
        load_subset(tmp_path / "saved")
    lines = f'name = "s"\nkind = "saved_dataset"\nboxes = "{key}"\n'
    (tmp_path / "saved" / "manifest.toml").write_text(lines)
    assert load_subset(tmp_path / "saved")[0].boxes.tolist() == [expected]


def test_voc_names_that_are_numbers_are_the_labels(tmp_path: Path) -> None:
    for stem, name in (("a", "10"), ("b", "2"), ("c", "0")):
        save(tmp_path / f"{stem}.png")
        box = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
        text = f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
        (tmp_path / f"{stem}.xml").write_text(f"<annotation>{text}</annotation>")
    subset = load_subset(tmp_path)
    labels = dict(zip(subset.source.ids, subset.source.labels.tolist(), strict=True))
    assert labels == {"a.png": 10, "b.png": 2, "c.png": 0}


@pytest.mark.parametrize("colours", [[0, 0, 0, 255, 255, 255], [255, 255, 255, 0, 0, 0]])
def test_a_grey_palette_mask_is_what_it_shows(tmp_path: Path, colours: list[int]) -> None:
    shown = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    shown[5:15, 10:40] = 255
    save(tmp_path / "a.png")
    (tmp_path / "annotations.csv").write_text("file,label\na.png,0\n")
    (tmp_path / "masks").mkdir()
    mask = Image.fromarray((shown == colours[3]).astype(np.uint8)).convert("L")
    mask.putpalette(colours + [7] * 3 * 254)
    mask.save(tmp_path / "masks" / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / "a.png").convert("L")), shown)
    assert np.array_equal(load_subset(tmp_path)[0].mask, shown > 0)


def test_a_colour_palette_whose_zero_is_the_object_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "annotations.csv").write_text("file,label\na.png,0\n")
    (tmp_path / "masks").mkdir()
    mask = Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8))
    mask.putpalette([200, 0, 0] + [0] * 3 * 255)
    mask.save(tmp_path / "masks" / "a.png")
    with pytest.raises(BenchError, match="in which 0 is a colour and 1 is black"):
        _ = load_subset(tmp_path)[0]

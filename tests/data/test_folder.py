"""Folders with annotations.csv and parquet: what is read, and what is said when it is wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import load_subset
from bench.data.images import files_digest
from bench.data.subset import id_hash
from bench.errors import BenchError

HEADER = "file,label,x0,y0,x1,y1"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(lines: list[str], header: str = HEADER, images: int = 12, manifest: str = "") -> Path:
        place = tmp_path / "photos"
        (place / "images").mkdir(parents=True)
        for i in range(images):
            Image.fromarray(picture(i)).save(place / "images" / f"{i}.png")
        (place / "annotations.csv").write_text("\n".join([header, *lines]) + "\n")
        if manifest:
            (place / "manifest.toml").write_text(manifest)
        return place

    return make


def good(n: int = 12) -> list[str]:
    return [f"images/{i}.png,{i % 3},1,2,10.5,15" for i in range(n)]


def test_a_folder_is_read_as_it_is(folder: Callable[..., Path]) -> None:
    subset = load_subset(folder([*good(), "images/3.png,0,4,4,30,23"]))
    assert subset.name == "photos"
    assert subset.num_classes == 3
    assert subset.class_names == ("0", "1", "2")
    assert subset.has_boxes
    assert not subset.has_masks
    assert not subset.pictures
    for where in (subset, subset.calibration()):
        for sample in where:
            i = int(Path(sample.id).stem)
            assert np.array_equal(sample.image, picture(i))
            assert sample.label == i % 3
            assert sample.boxes[0].tolist() == [1, 2, 10.5, 15]
            assert len(sample.boxes) == (2 if i == 3 else 1)
    again = pickle.loads(pickle.dumps(subset))
    assert np.array_equal(again[0].image, subset[0].image)


def test_order_and_calibration_are_those_of_the_hash(folder: Callable[..., Path]) -> None:
    subset = load_subset(folder(good()))
    ids = [f"images/{i}.png" for i in range(12)]
    order = sorted(ids, key=id_hash)
    aside = [i for i in order if int(id_hash(i), 16) % 5 == 0]
    assert aside, "the test's ids must have some on both sides"
    assert list(subset.ids) == [i for i in order if i not in aside]
    assert list(subset.calibration().ids) == aside
    assert set(subset.limit(3).calibration().ids).isdisjoint(subset.ids)


def test_an_image_with_two_labels_is_explained_twice(folder: Callable[..., Path]) -> None:
    manifest = 'name = "two"\nkind = "folder"\nexplain = "label"\n'
    lines = [
        "images/0.png,0,1,1,5,5",
        "images/0.png,2,6,6,9,9",
        "images/1.png,1,1,1,5,5",
        "images/0.png,0,7,1,9,5",
    ]
    subset = load_subset(folder(lines, manifest=manifest))
    found = {sample.id: (sample.image_id, sample.label, sample.boxes.tolist()) for sample in subset}
    assert found == {
        "images/0.png#0": ("images/0.png", 0, [[1, 1, 5, 5], [7, 1, 9, 5]]),
        "images/0.png#2": ("images/0.png", 2, [[6, 6, 9, 9]]),
        "images/1.png": ("images/1.png", 1, [[1, 1, 5, 5]]),
    }
    assert subset.explain == "label"


def test_images_that_would_all_calibrate_are_all_scored(folder: Callable[..., Path]) -> None:
    aside = next(
        f"images/{i}.png" for i in range(12) if int(id_hash(f"images/{i}.png"), 16) % 5 == 0
    )
    subset = load_subset(folder([f"{aside},0,1,1,5,5"]))
    assert subset.ids == (aside,)
    assert subset.calibration() is None
    assert any("too few to set one aside" in sentence for sentence in subset.found)


def test_names_as_labels_and_images_without_boxes(folder: Callable[..., Path]) -> None:
    subset = load_subset(
        folder(
            ["images/0.png,dog,,,,", "images/1.png,cat,1,1,5,5"], manifest='name="n"\nkind="folder"'
        )
    )
    assert subset.class_names == ("cat", "dog")
    by_label = {sample.label: sample for sample in subset}
    assert by_label[1].boxes.shape == (0, 4)
    assert by_label[0].boxes.shape == (1, 4)


def test_the_manifest_in_the_folder_rules(folder: Callable[..., Path]) -> None:
    manifest = (
        'name = "crops"\nkind = "folder"\nclasses = ["a", "b", "c", "d"]\npictures = true\nboxes = '
        '"pixels"\n'
        '[geometry]\nsize = 16\nresize = "squash"\nresize_size = 20\n'
    )
    place = folder(good(), manifest=manifest)
    subset = load_subset(place)
    assert (subset.name, subset.num_classes, subset.pictures, len(subset)) == ("crops", 4, True, 12)
    assert subset[0].boxes[0].tolist() == [1, 2, 11.5, 16]
    assert subset.calibration() is None
    assert subset.batch([0, 1], subset.geometry).pixels.shape == (2, 3, 16, 16)
    assert load_subset(place / "manifest.toml").manifest_id == subset.manifest_id
    elsewhere = place.parent / "elsewhere.toml"
    elsewhere.write_text(f'root = "photos"\n{manifest}')
    assert load_subset(elsewhere).ids == subset.ids
    assert load_subset(elsewhere).manifest_id == subset.manifest_id


def test_class_names_from_a_file_beside_the_data(folder: Callable[..., Path]) -> None:
    place = folder(good(), manifest='name = "n"\nkind = "folder"\nclasses = "names.txt"\n')
    with pytest.raises(BenchError, match=r"class names from .*names.txt, which is not there"):
        load_subset(place)
    (place / "names.txt").write_text("ant\nbee\ncat\n")
    assert load_subset(place).class_names == ("ant", "bee", "cat")


def test_credits_are_said_in_one_line(folder: Callable[..., Path]) -> None:
    header = "file,label,author,landing_page,licence"
    lines = ["images/0.png,0,Ada,https://a.example,CC BY 2.0", "images/1.png,0,,,"]
    subset = load_subset(folder(lines, header=header, manifest='name = "n"\nkind = "folder"'))
    said = {subset.ids[i]: subset.attribution(i) for i in range(2)}
    assert said == {"images/0.png": "Ada, https://a.example, CC BY 2.0", "images/1.png": None}
    assert not subset.has_boxes
    assert subset[0].boxes is None


@pytest.mark.parametrize(
    ("lines", "header", "words"),
    [
        ([], HEADER, "has no rows"),
        (["images/0.png"], "file", "lacks the column label"),
        (["images/0.png,0,1"], "file,label,x0", "lacks the column y0, x1, y1"),
        (["images/99.png,0,1,1,5,5"], HEADER, "99.png is missing"),
        (["images/0.png,-1,1,1,5,5"], HEADER, "label -1 in line 2 .* is negative"),
        (
            ["images/0.png,0,1,1,5,5", "images/1.png,cat,1,1,5,5"],
            HEADER,
            "neither a whole number nor the name",
        ),
        (["images/0.png,0.5,1,1,5,5", "images/1.png,1,1,1,5,5"], HEADER, "label '0.5'"),
        (["images/0.png,,1,1,5,5"], HEADER, "no label in line 2"),
        (["images/0.png,99999999999999999999,1,1,5,5"], HEADER, "is no class number"),
        (
            ["images/0.png,0,5,1,5,9"],
            HEADER,
            r"box \(5, 1, 5, 9\) of images/0.png \(line 2 .*\) is reversed or empty",
        ),
        (["images/0.png,0,5,1,,9"], HEADER, "four finite numbers"),
        (["images/0.png,0,5,1,six,9"], HEADER, "four numbers"),
        (["images/0.png,0,a", "images/1.png,0,a"], "file,label,image_id", "id 'a' twice"),
    ],
)
def test_what_is_wrong_in_the_table_is_said(
    folder: Callable[..., Path], lines: list, header: str, words: str
) -> None:
    with pytest.raises(BenchError, match=words) as caught:
        load_subset(folder(lines, header=header))
    assert "\n" not in str(caught.value)


def test_a_label_beyond_the_classes_is_said(folder: Callable[..., Path]) -> None:
    place = folder(good(), manifest='name = "n"\nkind = "folder"\nclasses = ["a", "b"]\n')
    with pytest.raises(
        BenchError, match=r"label 2 in line 4 of .*annotations.csv is not one of the 2 classes"
    ):
        load_subset(place)


def test_a_box_outside_its_image_is_said_when_read(folder: Callable[..., Path]) -> None:
    lines = ["images/0.png,0,1,1,40,9", "images/1.png,0,-0.5,1,30.5,9"]
    subset = load_subset(folder(lines, manifest='name = "n"\nkind = "folder"'))
    samples = {item: i for i, item in enumerate(subset.ids)}
    with pytest.raises(BenchError, match=r"0.png lies outside its image of 30x20 pixels"):
        subset[samples["images/0.png"]]
    # Less than a pixel is a rounding, and is clipped.
    assert subset[samples["images/1.png"]].boxes.tolist() == [[0, 1, 30, 9]]


def test_images_that_cannot_be_read_are_named(folder: Callable[..., Path]) -> None:
    place = folder(good(3), manifest='name = "n"\nkind = "folder"')
    whole = (place / "images/1.png").read_bytes()
    (place / "images/0.png").write_bytes(b"no image")
    (place / "images/1.png").write_bytes(whole[: len(whole) // 2])
    subset = load_subset(place)
    where = {item: i for i, item in enumerate(subset.ids)}
    for name in ("images/0.png", "images/1.png"):
        with pytest.raises(BenchError, match=rf"{name} cannot be read"):
            subset[where[name]]
    (place / "images/2.png").unlink()
    with pytest.raises(BenchError, match=r"images/2.png is missing"):
        subset[where["images/2.png"]]


def test_grey_and_turned_images_are_stored_pixels(folder: Callable[..., Path]) -> None:
    place = folder(
        ["images/0.png,0,1,1,5,5", "images/t.jpg,0,1,1,5,5"][:1],
        manifest='name = "n"\nkind = "folder"',
    )
    grey = Image.fromarray(picture(0)[:, :, 0])
    exif = grey.getexif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    grey.save(place / "images/0.png", exif=exif)
    assert np.array_equal(load_subset(place)[0].image, picture(0)[:, :, :1].repeat(3, axis=2))


def test_another_sha256_is_said(folder: Callable[..., Path]) -> None:
    place = folder(good(), manifest=f'name = "n"\nkind = "folder"\nsha256 = "{"0" * 64}"\n')
    with pytest.raises(BenchError, match="not those of its manifest"):
        load_subset(place)
    digest = files_digest([place / "annotations.csv"])
    (place / "manifest.toml").write_text(f'name = "n"\nkind = "folder"\nsha256 = "{digest}"\n')
    assert len(load_subset(place)) == 12


def test_folders_and_files_that_are_no_subset(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no known layout; a subset is one of: .*annotations.csv"):
        load_subset(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(BenchError, match="has no known layout"):
        load_subset(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "name", ["ilsvrc-sample-1k", "ccby-250", "tiny-imagenet-20", "imagenet-val-500"]
)
def test_where_files_are_to_be_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAMBENCH_DATA", raising=False)
    with pytest.raises(BenchError, match="--data-root"):
        load_subset(name)
    monkeypatch.setenv("CAMBENCH_DATA", str(tmp_path / "none"))
    with pytest.raises(BenchError, match="none"):
        load_subset(name)


# --- parquet
# --------------------------------------------------------------------------------------------------
def write_parquet(file: Path, n: int = 8, **columns: object) -> Path:
    from datasets import ClassLabel, Dataset
    from datasets import Image as ImageFeature

    table = {
        "image": [Image.fromarray(picture(i)) for i in range(n)],
        "label": [i % 3 for i in range(n)],
        **columns,
    }
    dataset = Dataset.from_dict({k: v for k, v in table.items() if v is not None})
    dataset = dataset.cast_column("image", ImageFeature())
    if table["label"] is not None:
        dataset = dataset.cast_column("label", ClassLabel(names=["ant", "bee", "cat"]))
    dataset.to_parquet(file)
    return file


@pytest.mark.parametrize(
    "columns",
    [
        {"boxes": [[[9, 2, 25, 10]]] * 8},
        {"bbox": [[9.0, 2.0, 25.0, 10.0]] * 8},
        {"x0": [9] * 8, "y0": [2] * 8, "x1": [25] * 8, "y1": [10] * 8},
    ],
)
def test_parquet_of_any_writer(columns: dict, tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "some.parquet", image_id=[f"id{i}" for i in range(8)], **columns
    )
    subset = load_subset(file)
    assert subset.name == "some"
    assert subset.class_names == ("ant", "bee", "cat")
    calibration = subset.calibration()
    samples = [*subset, *(calibration or ())]
    assert sorted(sample.id for sample in samples) == [f"id{i}" for i in range(8)]
    for sample in samples:
        i = int(sample.id[2:])
        assert np.array_equal(sample.image, picture(i))
        assert sample.label == i % 3
        assert sample.boxes.tolist() == [[9, 2, 25, 10]]


def test_parquet_without_ids_and_boxes_in_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "parts"
    place.mkdir()
    write_parquet(place / "a.parquet", n=4)
    write_parquet(place / "b.parquet", n=4)
    subset = load_subset(place)
    assert not subset.has_boxes
    assert len(subset) + len(subset.calibration() or ()) == 8
    assert np.array_equal(pickle.loads(pickle.dumps(subset))[1].image, subset[1].image)


def test_an_empty_image_in_parquet_is_said(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"image": {"bytes": None, "path": None}, "label": 0, "image_id": f"id{i}"} for i in range(3)
    ]
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": struct, "label": pa.int64(), "image_id": pa.string()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "empty.parquet")
    subset = load_subset(tmp_path / "empty.parquet")
    with pytest.raises(BenchError, match=f"image {subset.ids[0]} .*row . of .*empty.* is empty"):
        subset[0]


def test_what_is_wrong_in_parquet_is_said(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no column 'label'"):
        load_subset(write_parquet(tmp_path / "a.parquet", label=None))
    with pytest.raises(BenchError, match=r"is reversed or empty"):
        load_subset(write_parquet(tmp_path / "b.parquet", boxes=[[[9, 2, 1, 10]]] * 8))
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    with pytest.raises(BenchError, match=r"cannot be read .*c.parquet"):
        load_subset(tmp_path / "c.parquet")


# --- the real ones
# --------------------------------------------------------------------------------------------------
def test_ilsvrc_sample(data_root: Path) -> None:
    subset = load_subset("ilsvrc-sample-1k", data_root=data_root)
    assert len(subset) + len(subset.calibration()) == 1000
    assert subset.num_classes == 1000
    assert not subset.pictures
    batch = subset.batch(range(8), subset.geometry)
    assert batch.pixels.shape == (8, 3, 224, 224)
    assert all(len(boxes) for boxes in batch.truth.boxes)
    assert (
        load_subset("ilsvrc-sample-1k", data_root=data_root / "ilsvrc-sample-1k").ids == subset.ids
    )


def test_ccby(data_root: Path) -> None:
    subset = load_subset("ccby-250", data_root=data_root)
    assert len(subset) + len(subset.calibration()) == 250
    assert subset.pictures
    assert all(
        "creativecommons.org/licenses/by/2.0" in str(subset.attribution(i))
        for i in range(len(subset))
    )


def test_tiny_imagenet(data_root: Path) -> None:
    subset = load_subset("tiny-imagenet-20", data_root=data_root)
    assert len(subset) + len(subset.calibration()) == 1000
    assert subset.class_names[0] == "goldfish"
    assert all(len(sample.boxes) == 1 for sample in subset.limit(100))
    assert subset.batch([0], subset.geometry).pixels.shape == (1, 3, 64, 64)

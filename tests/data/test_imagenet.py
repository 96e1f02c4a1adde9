"""ImageNet's validation set: one order, and equal records from each form that it is kept in."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.data import load_subset, manifest_folder
from bench.data.class_names import imagenet_names, imagenet_wnids
from bench.data.imagenet import read_solution, read_xml, split_official
from bench.data.manifest import Manifest
from bench.data.subset import Subset, id_hash
from bench.errors import BenchError

NAMES = ("imagenet-val-500", "imagenet-val-2k", "imagenet-val-5k", "imagenet-val-49k")
Rows = dict[str, list[dict[str, str]]]


def official(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return split_official(Manifest.read(manifest_folder() / f"{name}.toml"))


def test_the_subsets_are_nested_and_calibrate_on_the_same_thousand() -> None:
    parts = [official(name) for name in NAMES]
    assert [len(scored) for scored, _ in parts] == [500, 2000, 5000, 49000]
    scored, aside = parts[-1]
    assert len(aside) == 1000
    assert len({*scored, *aside}) == 50000
    hashes = [id_hash(item) for item in (*scored, *aside)]
    assert hashes == sorted(hashes)
    for smaller, same in parts[:-1]:
        assert smaller == scored[: len(smaller)]
        assert same == aside


def test_the_order_is_this_one() -> None:
    # Golden: `printf ILSVRC2012_val_%08d | sha256sum`, sorted.
    assert official("imagenet-val-500")[0][:2] == (
        "ILSVRC2012_val_00049325",
        "ILSVRC2012_val_00032309",
    )


def test_labels_are_sorted_wnids() -> None:
    wnids = imagenet_wnids()
    assert len(wnids) == len(imagenet_names()) == 1000
    assert list(wnids) == sorted(wnids)
    assert wnids[0] == "n01440764"
    assert imagenet_names()[0] == "tench"
    assert imagenet_names()[999] == "toilet tissue"


def test_a_size_too_large_is_said() -> None:
    with pytest.raises(BenchError, match="lower its size"):
        split_official(Manifest("x", "imagenet", size=49_500, calibration="last-1000"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def rows(data_root: Path) -> Rows:
    """Return the annotation rows of 20 real images by id."""
    file = data_root / "ilsvrc-sample-1k" / "annotations.csv"
    if not file.is_file():
        pytest.skip(f"no real images: {file} is not there")
    found: Rows = {}
    with file.open() as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["image_id"], []).append(row)
    return dict(list(found.items())[::50][:20])


def numbers(row: dict[str, str]) -> list[str]:
    return [row[k] for k in ("x0", "y0", "x1", "y1")]


def write_xml(folder: Path, rows: Rows) -> None:
    folder.mkdir(parents=True)
    for item, objects in rows.items():
        body = "".join(
            f"<object><name>{o['wnid']}</name><bndbox>"
            + "".join(
                f"<{k}>{v}</{k}>"
                for k, v in zip(("xmin", "ymin", "xmax", "ymax"), numbers(o), strict=True)
            )
            + "</bndbox></object>"
            for o in objects
        )
        (folder / f"{item}.xml").write_text(
            f"<annotation><filename>{item}</filename>{body}</annotation>"
        )


def put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def image_of(data_root: Path, item: str) -> Path:
    return data_root / "ilsvrc-sample-1k" / "images" / f"{item}.JPEG"


def kaggle(root: Path, rows: Rows, data_root: Path) -> None:
    for item in rows:
        put(image_of(data_root, item), root / "ILSVRC/Data/CLS-LOC/val" / f"{item}.JPEG")
    with (root / "LOC_val_solution.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ImageId", "PredictionString"])
        for item, objects in rows.items():
            writer.writerow(
                [item, " ".join(" ".join([o["wnid"], *numbers(o)]) for o in objects) + " "]
            )


def flat(root: Path, rows: Rows, data_root: Path) -> None:
    for item in rows:
        put(image_of(data_root, item), root / "val" / f"{item}.JPEG")
    write_xml(root / "bbox" / "val", rows)


def by_wnid(root: Path, rows: Rows, data_root: Path) -> None:
    for item, objects in rows.items():
        put(image_of(data_root, item), root / "val" / objects[0]["wnid"] / f"{item}.JPEG")
    write_xml(root / "ILSVRC/Annotations/CLS-LOC/val", rows)


def parquet(root: Path, rows: Rows, data_root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    records = [
        {
            "image": {
                "bytes": image_of(data_root, item).read_bytes(),
                "path": f"{item}_{objects[0]['wnid']}.JPEG",
            },
            "label": int(objects[0]["label"]),
        }
        for item, objects in reversed(rows.items())
    ]
    for k in range(2):
        pq.write_table(
            pa.Table.from_pylist(records[k::2]),
            root / "data" / f"validation-0000{k}-of-00002.parquet",
        )
    write_xml(root / "boxes", rows)


FORMS = [kaggle, flat, by_wnid, parquet]


def open_form(root: Path, rows: Rows, extra: str = 'calibration = "hash"') -> Subset:
    root.mkdir(exist_ok=True)
    ids = ", ".join(f'"{item}"' for item in rows)
    (root / "some.toml").write_text(f'name = "some"\nkind = "imagenet"\nids = [{ids}]\n{extra}\n')
    return load_subset(root / "some.toml", data_root=root)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_records(
    form, rows: Rows, data_root: Path, tmp_path: Path
) -> None:
    form(tmp_path / "root", rows, data_root)
    subset = open_form(tmp_path / "root", rows)
    aside = subset.calibration()
    assert aside is not None
    order = sorted(rows, key=id_hash)
    assert list(subset.ids) == [i for i in order if int(id_hash(i), 16) % 5]
    assert set(subset.ids) | set(aside.ids) == set(rows)
    assert subset.num_classes == 1000
    sample_1k = load_subset("ilsvrc-sample-1k", data_root=data_root)
    pixels = {item: i for i, item in enumerate(sample_1k.ids)}
    for sample in subset:
        truth = rows[sample.id]
        assert sample.label == int(truth[0]["label"])
        assert np.array_equal(sample.boxes, np.array([numbers(o) for o in truth], dtype=np.float32))
        if sample.id in pixels:
            assert np.array_equal(sample.image, sample_1k[pixels[sample.id]].image)
    assert {sample.id for sample in aside} == set(aside.ids)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_image_is_said(form, rows: Rows, data_root: Path, tmp_path: Path) -> None:
    few = dict(list(rows.items())[:5])
    form(tmp_path / "root", few, data_root)
    wanted = {**few, "ILSVRC2012_val_00049999": few[next(iter(few))]}
    with pytest.raises(BenchError, match=r"1 of (the )?6 .*ILSVRC2012_val_00049999.*fetch"):
        open_form(tmp_path / "root", wanted)


def test_size_limits_what_is_scored(rows: Rows, data_root: Path, tmp_path: Path) -> None:
    flat(tmp_path / "root", rows, data_root)
    subset = open_form(tmp_path / "root", rows, extra='calibration = "none"\nsize = 7')
    assert list(subset.ids) == sorted(rows, key=id_hash)[:7]
    assert subset.calibration() is None


def test_images_without_labels_are_said(rows: Rows, data_root: Path, tmp_path: Path) -> None:
    flat(tmp_path / "root", rows, data_root)
    shutil.rmtree(tmp_path / "root" / "bbox")
    with pytest.raises(BenchError, match="come without labels; put"):
        open_form(tmp_path / "root", rows)


def test_folders_of_wnids_and_parquet_do_without_boxes(
    rows: Rows, data_root: Path, tmp_path: Path
) -> None:
    for form, xml in ((by_wnid, "ILSVRC"), (parquet, "boxes")):
        root = tmp_path / form.__name__
        form(root, rows, data_root)
        shutil.rmtree(root / xml)
        subset = open_form(root, rows)
        assert not subset.has_boxes
        assert subset[0].boxes is None
        assert subset[0].label == int(rows[subset.ids[0]][0]["label"])


def test_nothing_there_is_said(rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="finds no ImageNet validation images"):
        open_form(tmp_path / "root", rows)


def test_only_the_labels_objects_count(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    file = tmp_path / "a.xml"
    file.write_text(
        f"<a><object><name>n1</name>{box}</object><object><name>n2</name>{box}</object></a>"
    )
    assert read_xml(file) == ("n1", [[1, 2, 3, 4]])
    table = tmp_path / "a.csv"
    table.write_text("ImageId,PredictionString\na,n1 1 2 3 4 n2 5 6 7 8 n1 9 9 10 10 \n")
    assert read_solution(table) == {"a": ("n1", [[1, 2, 3, 4], [9, 9, 10, 10]])}


@pytest.mark.parametrize("text", ["<a>", "<a></a>", "<a><object><name>n1</name></object></a>"])
def test_bad_xml_is_said(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.xml"
    file.write_text(text)
    with pytest.raises(BenchError, match=r"bad.xml .*fetch ILSVRC2012_bbox_val_v3"):
        read_xml(file)


def test_bad_solution_is_said(tmp_path: Path) -> None:
    table = tmp_path / "bad.csv"
    table.write_text(f"ImageId,PredictionString{os.linesep}a,n1 1 2 3{os.linesep}")
    with pytest.raises(BenchError, match="not Kaggle's"):
        read_solution(table)

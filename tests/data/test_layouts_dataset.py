"""Hugging Face datasets: objects in memory, folders of save_to_disk, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from bench.data import load_subset
from bench.errors import BenchError
from tests.support.layouts import box_mask, draw_image, list_samples, save_image

COUNT = 9
PICTURES = [Image.fromarray(draw_image(i)) for i in range(COUNT)]
NAMED = Features({"image": ImageFeature(), "label": ClassLabel(names=["zebra", "ant"])})
NUMBERED = Features({"image": ImageFeature(), "label": Value("int64")})


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def make(features: Features = NAMED, **columns: Any) -> Dataset:
    columns = {"image": PICTURES, "label": [i % 2 for i in range(COUNT)]} | columns
    return Dataset.from_dict({name: columns[name] for name in features}, features=features)


def test_a_dataset_object_is_a_subset() -> None:
    subset = load_subset(make())
    samples = list_samples(subset)
    assert subset.class_names == ("zebra", "ant")  # the order of the ClassLabel
    assert len(samples) == COUNT
    assert np.array_equal(samples["00000003"].image, draw_image(3))
    assert samples["00000003"].label == 1
    assert "labels: 0 zebra, 1 ant; boxes: none; masks: none" in subset.found[0]
    assert len(load_subset(make(), limit=3)) == 3
    assert load_subset(subset) is subset


def test_columns_of_other_names_and_undecoded_images() -> None:
    plain = load_subset(make())
    content = []
    for picture in PICTURES:
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        content.append({"bytes": stream.getvalue(), "path": None})
    features = Features({"img": ImageFeature(decode=False), "labels": Value("int32")})
    other = make(features, img=content, labels=[i % 2 for i in range(COUNT)])
    other.set_format("numpy")
    samples = list_samples(load_subset(other))
    for item, sample in list_samples(plain).items():
        assert np.array_equal(samples[item].image, sample.image)
        assert samples[item].label == sample.label


def test_paths_to_images_are_read(tmp_path: Path) -> None:
    files = [str(save_image(tmp_path / f"p{i}.png", i)) for i in range(COUNT)]
    features = Features({"image": Value("string"), "label": Value("string")})
    subset = load_subset(make(features, image=files, label=["b", "a", "b"] * 3))
    assert subset.class_names == ("a", "b")
    assert np.array_equal(list_samples(subset)["p4"].image, draw_image(4))


def test_boxes_masks_and_ids() -> None:
    features = Features(
        {
            **NAMED,
            "boxes": List(List(Value("float32"))),
            "mask": ImageFeature(),
            "id": Value("string"),
        }
    )
    masks = [Image.fromarray(box_mask(i, 2, 20, 30)) for i in range(COUNT)]
    ids = [f"item-{i}" for i in range(COUNT)]
    subset = load_subset(make(features, boxes=[[[1, 2, 9, 8]]] * COUNT, mask=masks, id=ids))
    samples = list_samples(subset)
    assert samples["item-5"].boxes.tolist() == [[1, 2, 9, 8]]
    assert np.array_equal(samples["item-5"].mask, box_mask(5, 2, 20, 30) > 0)
    assert "boxes: 9 on 9 of 9 items; masks: of all items" in subset.found[0]


@pytest.mark.parametrize("listed", [True, False], ids=["list of dicts", "dict of lists"])
def test_objects_are_items_by_category(listed: bool) -> None:
    fields = {"bbox": List(Value("float32"), length=4), "category": ClassLabel(names=["a", "b"])}
    whole: Any = List(fields) if listed else {key: List(value) for key, value in fields.items()}
    features = Features({"image": ImageFeature(), "objects": whole, "id": Value("int64")})
    row: Any = {"bbox": [[1, 2, 10, 20], [0, 0, 4, 5], [5, 5, 5, 5]], "category": [1, 0, 1]}
    if listed:
        row = [{key: row[key][i] for key in row} for i in range(3)]
    subset = load_subset(make(features, objects=[row] * COUNT, id=list(range(COUNT))))
    samples = list_samples(subset)
    assert subset.class_names == ("a", "b")
    assert len(samples) == 2 * COUNT
    assert samples["3#1"].boxes.tolist() == [[1, 2, 11, 22], [5, 5, 10, 10]]
    assert samples["3#0"].boxes.tolist() == [[0, 0, 4, 5]]
    assert "objects: left, top, width, height in pixels" in subset.notes[1].text


def test_what_defines_a_dataset_is_its_content() -> None:
    first = load_subset(make()).manifest_id
    assert load_subset(make()).manifest_id == first
    other = [Image.fromarray(draw_image(i + (i == 4))) for i in range(COUNT)]
    assert load_subset(make(image=other)).manifest_id != first
    assert load_subset(make(label=[1] * COUNT)).manifest_id != first
    assert load_subset(make().select(range(COUNT - 1, -1, -1))).manifest_id != first


def test_saved_datasets_are_read_from_their_folder(tmp_path: Path) -> None:
    make().save_to_disk(tmp_path / "one")
    subset, memory = load_subset(tmp_path / "one"), load_subset(make())
    assert subset.ids == memory.ids
    assert np.array_equal(subset[0].image, memory[0].image)
    parts = DatasetDict(train=make(), test=make(label=[1] * COUNT))
    parts.save_to_disk(tmp_path / "two")
    subset = load_subset(tmp_path / "two")
    assert subset.name == "two-test"
    assert set(subset.labels.tolist()) == {1}
    assert "Of the parts train, test the subset is test" in " ".join(subset.found)
    assert load_subset(tmp_path / "two" / "train").manifest_id != subset.manifest_id
    assert load_subset(parts).ids == subset.ids


def test_a_saved_dataset_may_not_name_files_elsewhere(tmp_path: Path) -> None:
    files = [str(save_image(tmp_path / "elsewhere" / f"{i}.png", i)) for i in range(COUNT)]
    features = Features({"image": Value("string"), "label": Value("int64")})
    make(features, image=files).save_to_disk(tmp_path / "saved")
    with pytest.raises(BenchError, match="outside its folder; save it with the images in it"):
        load_subset(tmp_path / "saved")


@pytest.mark.parametrize(
    ("features", "columns", "words"),
    [
        ({"image": ImageFeature(), "fine_label": Value("int64")}, {}, "rename one of fine_label"),
        ({"picture": ImageFeature(), "label": Value("int64")}, {}, "No column 'image'"),
        ({**NAMED, "label": List(Value("int64"))}, {"label": [[0, 1]] * COUNT}, "several labels"),
        ({**NAMED, "label": Value("int64")}, {"label": [0, None] + [1] * 7}, "Row 1 .* no label"),
        (NAMED, {"label": [0] * 8 + [-1]}, "Row 8 .* has no label"),
        (
            {**NAMED, "image": List(Value("float32"))},
            {"image": [[0.5]] * COUNT},
            "not encoded images; cast it",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(features: dict, columns: dict, words: str) -> None:
    usual = {"fine_label": [0] * COUNT, "picture": PICTURES}
    dataset = make(Features(features), **usual | columns)
    with pytest.raises(BenchError, match=words) as caught:
        load_subset(dataset)
    assert "\n" not in str(caught.value)


def test_streams_and_empty_datasets_are_refused() -> None:
    with pytest.raises(BenchError, match="without streaming=True"):
        load_subset(make().to_iterable_dataset())
    with pytest.raises(BenchError, match="has no rows"):
        load_subset(make().select([]))
    with pytest.raises(BenchError, match="has no part"):
        load_subset(DatasetDict())


def test_parquet_holds_masks_too(tmp_path: Path) -> None:
    features = Features({**NAMED, "mask": ImageFeature()})
    masks = [Image.fromarray(box_mask(i, 2, 20, 30)) for i in range(COUNT)]
    (tmp_path / "set").mkdir()
    make(features, mask=masks).to_parquet(tmp_path / "set" / "all.parquet")
    subset = load_subset(tmp_path / "set")
    assert np.array_equal(list_samples(subset)["00000007"].mask, box_mask(7, 2, 20, 30) > 0)
    wrong = Features({**NAMED, "mask": Value("float32")})
    make(wrong, mask=[0.5] * COUNT).to_parquet(tmp_path / "set" / "all.parquet")
    with pytest.raises(BenchError, match="'mask' holds no images"):
        load_subset(tmp_path / "set")


def test_a_dataset_object_is_evaluated() -> None:
    import bench

    frame = bench.evaluate(make(label=[3] * COUNT, features=NUMBERED), "resnet-scenes", "random",
                           "average_drop").frame  # fmt: skip
    assert set(frame["label"]) == {3}
    assert frame["value"].notna().all()

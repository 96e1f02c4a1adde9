"""Data of strangers: no annotation, table, manifest, card or link opens a file somewhere else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench.data import load_subset
from bench.data.inner_paths import ROOTS_VARIABLE, refuse_outside
from bench.errors import BenchError
from bench.models.zoo import WEIGHTS_FOLDER, load_model


@pytest.fixture(autouse=True)
def _no_named_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ROOTS_VARIABLE, "CAMBENCH_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A picture that is nobody's business."""
    (tmp_path / "private").mkdir()
    return write_picture(tmp_path / "private" / "x.png")


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(path)
    return path


def write_table(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["file,label", *(f"{name},{i % 2}" for i, name in enumerate(names))]
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n")
    return folder


def list_attempts(folder: Path, away: Path) -> dict[str, Path]:
    """Return data sets that each name a picture outside of themselves."""
    made = {"csv, up": write_table(folder / "a", "../../private/x.png", "../../private/x.png")}
    made["csv, absolute"] = write_table(folder / "b", str(away))
    linked = write_table(folder / "c", "x.png")
    (linked / "x.png").symlink_to(away)
    made["csv, link"] = linked
    by_folder = folder / "d"
    write_picture(by_folder / "cat" / "1.png")
    (by_folder / "dog").symlink_to(away.parent)
    made["class folders, link"] = by_folder
    coco = folder / "e"
    write_picture(coco / "1.png")
    (coco / "2.png").symlink_to(away)
    rows = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 40} for i in (1, 2)]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        for i in (1, 2)
    ]
    content = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    (coco / "instances.json").write_text(json.dumps(content))
    made["coco, link"] = coco
    for name, path in (("parquet, absolute", str(away)), ("parquet, up", "../../private/x.png")):
        place = folder / name.replace(", ", "-")
        place.mkdir()
        image = pa.array(
            [{"bytes": None, "path": path}],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        pq.write_table(pa.table({"image": image, "label": [0]}), place / "all.parquet")
        made[name] = place
    return made


def test_no_data_set_reads_a_picture_elsewhere(tmp_path: Path, away: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, place in list_attempts(tmp_path / "data", away).items():
        with pytest.raises(BenchError, match="does not lie below") as refused:
            load_subset(place).source.read(0)
        assert ROOTS_VARIABLE in str(refused.value) or "copy" in str(refused.value), name


def test_a_folder_that_the_user_names_is_read(
    tmp_path: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    made = list_attempts(tmp_path / "data", away)
    monkeypatch.setenv(ROOTS_VARIABLE, os.pathsep.join([str(tmp_path / "no"), str(away.parent)]))
    for name in ("csv, up", "csv, absolute", "csv, link", "class folders, link", "coco, link"):
        assert load_subset(made[name]).source.read(0).image.shape == (40, 40, 3), name


def test_links_inside_and_a_linked_root_are_read(tmp_path: Path) -> None:
    folder = write_table(tmp_path / "real", "x.png", "y.png")
    write_picture(folder / "x.png")
    (folder / "y.png").symlink_to(folder / "x.png")
    (tmp_path / "link").symlink_to(folder)
    assert len(load_subset(tmp_path / "link")) > 0
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    blob = write_picture(tmp_path / "hub" / "blobs" / "1.png")
    snapshot.mkdir(parents=True)
    (snapshot / "x.png").symlink_to(blob)
    refuse_outside([snapshot / "x.png"], snapshot, "The data")
    with pytest.raises(BenchError, match="does not lie below"):
        refuse_outside([folder / "x.png"], snapshot, "The data")


def test_masks_do_not_lie_elsewhere(tmp_path: Path, away: Path) -> None:
    folder = write_table(tmp_path / "data", "x.png", "y.png")
    for name in ("x.png", "y.png"):
        write_picture(folder / name)
    (folder / "masks").mkdir()
    (folder / "masks" / "x.png").symlink_to(away)
    with pytest.raises(BenchError, match=r"The masks of .* does not lie below"):
        load_subset(folder)
    (folder / "masks" / "x.png").unlink()
    load_subset(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("path", "../private"), ("root", "../private"), ("classes", "../names.txt")]
)
def test_a_manifest_stays_in_its_folder(tmp_path: Path, away: Path, key: str, value: str) -> None:
    write_table(away.parent, "x.png", "x.png")
    (tmp_path / "names.txt").write_text("a\nb\n")
    folder = write_table(tmp_path / "theirs", "x.png")
    write_picture(folder / "x.png")
    manifest = folder / "m.toml"
    manifest.write_text(f'name = "m"\nkind = "folder"\n{key} = "{value}"\n')
    with pytest.raises(BenchError, match="does not lie below"):
        load_subset(manifest)
    if key != "classes":  # the user names the root
        assert len(load_subset(manifest, data_root=tmp_path / "private")) >= 1


@pytest.mark.parametrize("text", ["../w.safetensors", "/etc/passwd", "a/../../w.safetensors"])
def test_weights_lie_beside_their_card(tmp_path: Path, text: str) -> None:
    card = json.loads((WEIGHTS_FOLDER / "resnet-scenes.json").read_text())["resnet-scenes"]
    shutil.copy(WEIGHTS_FOLDER / card["file"], tmp_path / "w.safetensors")
    (tmp_path / "cards").mkdir()
    path = tmp_path / "cards" / "c.json"
    path.write_text(json.dumps({"m": card | {"file": text}}))
    with pytest.raises(BenchError, match="which does not lie below the card's folder"):
        load_model(path)
    assert load_model(path, weights=tmp_path / "w.safetensors").name == "m"
    beside = tmp_path / "c.json"
    beside.write_text(json.dumps({"m": card | {"file": "cards/../w.safetensors"}}))
    assert load_model(beside).name == "m"

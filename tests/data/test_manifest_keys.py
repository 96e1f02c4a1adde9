"""The keys of manifests: described, strict, and a path that starts at the manifest's folder."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import load_subset
from bench.data.box_format import BOX_KEYS
from bench.data.manifest import EXIF, EXPLAIN, KINDS, Manifest
from bench.data.manifest_keys import GeometryKeys, ManifestKeys
from bench.errors import AssumptionWarning, BenchError
from bench.schema import json_schema, list_keys, read_form, write_key_table

HEAD = 'name = "photos"\nkind = "folder"\n'


def test_keys_and_manifest_are_the_same():
    fields = {field.name: field.default for field in dataclasses.fields(Manifest)}
    assert list(fields) == list(ManifestKeys.model_fields)
    for name, field in ManifestKeys.model_fields.items():
        if not field.is_required():
            default = tuple(field.default) if isinstance(field.default, list) else field.default
            assert default == fields[name]


@pytest.mark.parametrize(
    ("key", "known"),
    [("kind", KINDS), ("explain", EXPLAIN), ("boxes", BOX_KEYS), ("exif", EXIF[1:])],
)
def test_the_forms_name_every_choice(key, known):
    assert set(read_form(ManifestKeys, key).removeprefix("one of ").split(", ")) == set(known)


def test_every_key_is_described():
    for keys in (ManifestKeys, GeometryKeys):
        for name, form, _, about in list_keys(keys):
            assert form, name
            assert about, name
    assert "| `name` (required) |" in write_key_table(ManifestKeys)
    assert json_schema(ManifestKeys)["required"] == ["name", "kind"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "path = 3\n", "path = 3; it must be text"),
        (HEAD + "classes = 3\n", "must be a list of strings, or one string"),
        (HEAD + 'seed = "3"\n', "seed = '3'; it must be a whole number"),
        (HEAD + "geometry = 224\n", "geometry = 224; it must be a table with size and resize"),
        (HEAD + '[geometry]\nsize = 8\nresize = "sqash"\n', "unknown resize 'sqash'.*squash"),
        (HEAD + '[geometry]\nsize = 8\nresize = "short"\nresize_size = 4\n', "wrong in its geom"),
        ('nme = "photos"\nkind = "folder"\n', "unknown key 'nme'. Did you mean name"),
        ('name = ""\nkind = "folder"\n', "empty name"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, text, words):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BenchError, match=words) as caught:
        Manifest.read(tmp_path / "mine.toml")
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_key(tmp_path):
    (tmp_path / "mine.toml").write_text(HEAD, encoding="utf-8-sig")
    assert Manifest.read(tmp_path / "mine.toml") == Manifest(name="photos", kind="folder")


# --- where a path starts


def write_images(folder: Path, count: int) -> None:
    """Write a folder of so many images with annotations.csv."""
    folder.mkdir(parents=True)
    lines = ["file,label"]
    for number in range(count):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{number % 2}")
    (folder / "annotations.csv").write_text("\n".join(lines))


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a manifest with a path, in a folder that is not the working directory."""
    monkeypatch.delenv("CAMBENCH_DATA", raising=False)
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "photos.toml"
    file.write_text(HEAD + 'path = "images/train"\n')
    return file


def test_a_path_starts_at_the_manifest(manifest):
    write_images(manifest.parent / "images" / "train", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AssumptionWarning)
        assert len(load_subset(manifest)) == 3


def test_a_path_is_looked_up_beside_the_manifest_first(manifest, tmp_path):
    write_images(manifest.parent / "images" / "train", 3)
    write_images(tmp_path / "root" / "images" / "train", 4)
    with pytest.warns(AssumptionWarning, match="own folder .*not from the data root"):
        subset = load_subset(manifest, data_root=tmp_path / "root")
    assert len(subset) == 3
    assert subset.data_root == tmp_path / "root"


def test_a_path_is_looked_up_in_the_data_root_next(manifest, tmp_path, monkeypatch):
    write_images(tmp_path / "root" / "images" / "train", 4)
    with pytest.warns(AssumptionWarning, match="taken from the data root"):
        assert len(load_subset(manifest, data_root=tmp_path / "root")) == 4
    monkeypatch.setenv("CAMBENCH_DATA", str(tmp_path / "root"))
    with pytest.warns(AssumptionWarning, match="taken from the data root"):
        assert len(load_subset(manifest)) == 4


def test_a_path_that_is_nowhere_is_said(manifest):
    with pytest.raises(BenchError, match=r"not at .*lists.images.train"):
        load_subset(manifest)


def test_a_bundled_manifest_takes_the_data_root(tmp_path, data_root):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AssumptionWarning)
        assert load_subset("ccby-250", data_root=data_root).data_root == data_root


PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_page_shows_the_keys_and_an_example_that_is_a_manifest(tmp_path):
    text = PAGE.read_text()
    assert write_key_table(ManifestKeys) in text
    assert write_key_table(GeometryKeys) in text
    (tmp_path / "photos.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    manifest = Manifest.read(tmp_path / "photos.toml")
    assert manifest.geometry is not None
    assert manifest.geometry.id == "short256-bicubic-crop224"

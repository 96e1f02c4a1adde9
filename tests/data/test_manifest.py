"""Manifests: strict keys, a stable id, and the ones that come with cambench."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data import SUBSETS, manifest_folder
from bench.data.geometry import Geometry
from bench.data.manifest import Manifest
from bench.errors import BenchError

SHIPPED = sorted(manifest_folder().glob("*.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_manifests_are_sound(file: Path) -> None:
    manifest = Manifest.read(file)
    assert manifest.name == file.stem
    assert manifest.name in SUBSETS
    assert manifest.title
    assert manifest.licence
    assert len(manifest.id) == 12
    assert manifest.pictures == (manifest.kind == "scenes" or manifest.name == "ccby-250")
    if manifest.calibration not in ("none", "hash", "last-1000"):
        assert manifest.calibration in SUBSETS


def test_shipped_ids_differ() -> None:
    assert len({Manifest.read(file).id for file in SHIPPED}) == len(SHIPPED) == 16


def test_id_is_of_the_content_and_not_of_the_place() -> None:
    one = Manifest(name="a", kind="folder", root="/here")
    assert one.id == Manifest(name="a", kind="folder", root="/there").id
    assert one.id != Manifest(name="a", kind="folder", calibration="hash").id
    assert one.id != Manifest(name="a", kind="folder", geometry=Geometry(8, "none", 8)).id


def test_id_does_not_depend_on_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\nkind = "folder"\n')
    (tmp_path / "b.toml").write_text(
        '# a comment\nkind = "folder"\nexplain = "default"\nname = "a"\n'
    )
    assert Manifest.read(tmp_path / "a.toml").id == Manifest.read(tmp_path / "b.toml").id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kind = "folder"', "has no name"),
        ('name = "a"', "has no kind"),
        ('name = "a"\nkind = "foldr"', "Did you mean folder"),
        ('name = "a"\nkind = "folder"\nclases = []', "unknown key 'clases'. Did you mean classes"),
        ('name = "a"\nkind = "folder"\npictures = 1', "must be true or false"),
        ('name = "a"\nkind = "scenes"\nsize = true', "must be a whole number"),
        ('name = "a"\nkind = "scenes"', "size must be at least 1"),
        ('name = "a"\nkind = "scenes"\nsize = 1\nseed = -1', "negative"),
        ('name = "a"\nkind = "folder"\nclasses = [1]', "list of strings"),
        ('name = "a"\nkind = "folder"\nexplain = "lable"', "Did you mean label"),
        ('name = "a"\nkind = "folder"\nboxes = "pixel"', "Did you mean pixels"),
        ('name = "a"\nkind = "folder"\ncalibration = "a"', "names itself"),
        ('name = "a"\nkind = "folder"\n[geometry]\nsize = 8', "has no resize"),
        (
            'name = "a"\nkind = "folder"\n[geometry]\nsize = 8\nresize = "none"\ncrop = 3',
            "unknown key 'crop'",
        ),
        (
            'name = "a"\nkind = "folder"\n[geometry]\nsize = 8.0\nresize = "none"',
            "must be a whole number",
        ),
        ("name = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(BenchError, match=words) as caught:
        Manifest.read(file)
    assert "bad.toml" in str(caught.value)


def test_a_missing_manifest_is_said(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read"):
        Manifest.read(tmp_path / "none.toml")

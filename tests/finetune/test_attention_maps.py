"""Edited maps on disk: what is written is what is read, and whatever is wrong is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import bench
from bench.errors import BenchError
from bench.finetune.attention_maps import (
    CHUNK,
    EditedMap,
    check_maps,
    expand_attention,
    load_map,
    load_maps,
    make_edited_map,
    map_facts,
    map_path,
    save_map,
    upsample_attention,
)
from bench.models.abn import to_grid

FACTS = {
    "item": "scenes-val-000003",
    "image_id": "scenes-val-000003",
    "subset": "scenes-val",
    "manifest_id": "0123456789ab",
    "model": "abn",
    "weights_id": "aaa-bbb",
    "label": 3,
    "when": "2026-11-20T12:00:00+00:00",
    "source": "editor",
    "revision": 1,
}


def some_map(size: int = 8, **facts: object) -> EditedMap:
    grey = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)
    return make_edited_map(grey, {**FACTS, **facts})


def of_model(model: bench.Explainee, subset: bench.Subset, i: int, **facts: object) -> EditedMap:
    own = {
        "item": subset.ids[i],
        "image_id": subset.image_ids[i],
        "label": int(subset.labels[i]),
        "manifest_id": subset.manifest_id,
        "weights_id": model.weights_id,
    }
    return some_map(model.size, **{**own, **facts})


def test_what_is_saved_is_what_is_loaded(tmp_path):
    before = some_map(before={"energy": 0.25}, note="Ünïcode ✓")
    path = save_map(tmp_path / "maps", before)
    after = load_map(path)
    assert path.name == "scenes-val-000003.png"
    assert after.facts == before.facts
    assert np.array_equal(after.values, before.values)
    assert np.array_equal(np.asarray(Image.open(path)), before.grey)  # any program shows it
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_values_are_rounded_to_the_nearest_255th(tmp_path):
    values = np.array([[0.0, 1.0], [0.501, 0.0019]], dtype=np.float32)
    path = save_map(tmp_path, EditedMap(values, {**FACTS, "format": 1, "size": 2}))
    assert load_map(path).grey.tolist() == [[0, 255], [128, 0]]


def test_ids_that_are_no_file_names_stay_apart(tmp_path):
    items = ["a/b", "a_b", "a b", "../../a", ".", "x" * 300, "x" * 301]
    for item in items:
        path = save_map(tmp_path, some_map(item=item))
        assert path.parent == tmp_path
    assert [m.item for m in load_maps(tmp_path)] == sorted(items)
    assert map_path(tmp_path, "a_b").name == "a_b.png"


def test_a_failed_save_leaves_the_older_map(tmp_path, monkeypatch):
    path = save_map(tmp_path, some_map())
    before = path.read_bytes()

    def full(self: Image.Image, target: Path, **_: object) -> None:
        Path(target).write_bytes(b"half of a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(BenchError, match="No space left"):
        save_map(tmp_path, some_map(revision=2))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("values", "facts", "words"),
    [
        (np.full((8, 8), 1.5), {}, "between 0 and 1"),
        (np.full((8, 8), np.nan), {}, "between 0 and 1"),
        (np.zeros((8, 4)), {}, "8 x 8"),
        (np.zeros((8, 8)), {"source": None}, "source"),
        (np.zeros((8, 8)), {"label": True}, "label"),
        (np.zeros((8, 8)), {"format": 2}, "format 2"),
    ],
)
def test_what_is_no_map_is_not_saved(tmp_path, values, facts, words):
    edited = EditedMap(values.astype(np.float32), {**some_map().facts, **facts})
    with pytest.raises(BenchError, match=words):
        save_map(tmp_path, edited)
    assert not list(tmp_path.iterdir())


def test_broken_files_are_named(tmp_path):
    path = save_map(tmp_path, some_map(size=64))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BenchError, match="cannot be read"):
        load_maps(tmp_path)
    Image.new("L", (8, 8)).save(path)
    with pytest.raises(BenchError, match=r"scenes-val-000003.png is not an attention map"):
        load_maps(tmp_path)
    for content, words in (
        ("{", "not valid JSON"),
        ("[]", "not an object"),
        ('{"format": 1}', "item = None"),
    ):
        text = PngImagePlugin.PngInfo()
        text.add_text(CHUNK, content)
        Image.new("L", (8, 8)).save(path, pnginfo=text)
        with pytest.raises(BenchError, match=words):
            load_map(path)
    text = PngImagePlugin.PngInfo()
    text.add_text(CHUNK, json.dumps({**some_map().facts, "size": 9}))
    Image.new("L", (8, 8)).save(path, pnginfo=text)
    with pytest.raises(BenchError, match="8 x 8 pixels, not 9"):
        load_map(path)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(BenchError, match="no folder"):
        load_maps(tmp_path / "none")
    with pytest.raises(BenchError, match="no attention maps"):
        load_maps(tmp_path)
    with pytest.raises(BenchError, match="no attention map"):
        load_map(tmp_path / "none.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="Cannot write"):
        save_map(tmp_path / "file", some_map())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"weights_id": "ccc"}, "2 models"),
        ({"manifest_id": "ccc"}, "2 subsets"),
        ({"size": 16}, "2 sizes"),
    ],
)
def test_mixed_maps_are_refused(tmp_path, other, words):
    save_map(tmp_path, some_map())
    save_map(tmp_path, some_map(**{"size": 8, **other, "item": "another"}))
    with pytest.raises(BenchError, match=words):
        load_maps(tmp_path)


def test_two_files_of_one_item_are_refused(tmp_path):
    path = save_map(tmp_path, some_map())
    (tmp_path / "copy.png").write_bytes(path.read_bytes())
    with pytest.raises(BenchError, match="two maps of scenes-val-000003"):
        load_maps(tmp_path)


def test_maps_of_another_model_subset_or_size(abn, scenes):
    check_maps([of_model(abn, scenes, 0), of_model(abn, scenes, 1)], abn, scenes)
    for facts, words in (
        ({"weights_id": "aaa-bbb"}, r"of the model abn \(aaa-bbb\)"),
        ({"manifest_id": "0123456789ab"}, "another folder"),
        ({"item": "nothing"}, "nothing, which is not in the subset"),
        ({"label": 9}, "class 9"),
    ):
        with pytest.raises(BenchError, match=words):
            check_maps([of_model(abn, scenes, 0, **facts)], abn, scenes)
    smaller = make_edited_map(
        np.zeros((64, 64), np.uint8), of_model(abn, scenes, 0).facts | {"size": 64}
    )
    with pytest.raises(BenchError, match="64 pixels wide"):
        check_maps([smaller], abn, scenes)


def test_facts_of_maps_tell_simulated_ones_and_change_with_the_values():
    drawn = some_map()
    simulated = some_map(item="another", source="simulated:masks")
    assert map_facts([drawn])["simulated"] is False
    facts = map_facts([drawn, simulated])
    assert facts["simulated"] is True
    assert facts["sources"] == {"editor": 1, "simulated:masks": 1}
    assert facts["sha256"] == map_facts([simulated, drawn])["sha256"]
    changed = make_edited_map(255 - drawn.grey, drawn.facts)
    assert map_facts([changed, simulated])["sha256"] != facts["sha256"]


@pytest.mark.parametrize(("size", "grid"), [(96, 12), (224, 14), (64, 8)])
def test_an_expanded_map_pools_back_to_itself(size, grid):
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(4, 1, 4, 4, generator=rng)
    attention = torch.sigmoid(
        4 * torch.nn.functional.interpolate(coarse, (grid, grid), mode="bicubic")
    )
    maps = expand_attention(attention, size)
    assert 0 <= maps.min() <= maps.max() <= 1
    assert (to_grid(maps, grid, grid) - attention).abs().max() < 1 / 255
    # What a bilinear map would do to a network that nobody has edited.
    assert (to_grid(upsample_attention(attention, size), grid, grid) - attention).abs().max() > 0.02

"""The bundled models can be trained anew: every recipe runs, on a few images, and writes what
`load_model` reads.
"""

from __future__ import annotations

import json

import pytest

import bench
from bench.errors import BenchError
from bench.files import CACHE_VARIABLE
from bench.finetune import bundled as scenes
from bench.models.zoo import MODELS


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "TRAIN", "scenes-calibration[:64]")
    monkeypatch.setattr(scenes, "VALIDATION", "scenes-calibration[64:84]")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def test_every_bundled_model_has_a_recipe():
    assert (
        set(scenes.BUNDLED)
        == set(scenes.RECIPES)
        == {e.name for e in MODELS if "bundled" in e.groups}
    )
    places = {name: place for place, name in enumerate(scenes.BUNDLED)}
    for name in scenes.BUNDLED:
        parent = bench.load_model(name).parent
        assert not parent or places[parent] < places[name]


@pytest.mark.parametrize("name", scenes.BUNDLED)
@pytest.mark.slow
def test_a_recipe_writes_a_model_like_the_bundled_one(tmp_path, name):
    rows = []
    out, work = tmp_path / "weights", tmp_path / "work"
    card = scenes.train_bundled(name, out, work, report=rows.append, epochs=1)
    assert sorted(p.name for p in out.iterdir()) == [f"{name}.json", f"{name}.safetensors"]
    assert len(rows) == 1
    made, kept = bench.load_model(card), bench.load_model(name)
    assert (made.name, made.parent, made.size) == (name, kept.parent, kept.size)
    assert made.probe_shape == kept.probe_shape
    assert made.fingerprint != kept.fingerprint  # these few images do not make the bundled weights
    facts, bundled = json.loads(card.read_text())[name], kept.card
    assert facts["command"] == bundled["command"] == f"cambench zoo train {name}"
    assert facts["recipe"]["epochs"] == 1
    assert facts["data"].startswith("scenes-calibration[:64]@")


def test_an_unknown_name_is_said():
    with pytest.raises(BenchError, match=r"no recipe for 'vgg-scene'.*Did you mean vgg-scenes"):
        scenes.train_bundled("vgg-scene")

"""The figures of guided fine-tuning: what they hold, what their texts say, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import bench
from bench.cli import main
from bench.data import load_subset
from bench.errors import BenchError
from bench.finetune.abn_training import wrap_in_abn
from bench.finetune.attention_maps import load_maps, make_edited_map
from bench.finetune.guided_attention import SETTINGS, train_guided
from bench.finetune.guided_figures import (
    build_change_figure,
    build_maps_figure,
    compare_guided,
    describe_figures,
    write_figures,
)
from bench.finetune.placement import find_placements
from bench.finetune.save import write_model
from bench.finetune.simulate import simulate_maps
from bench.finetune.training import Training

SUBSET = "scenes-calibration[:16]"


@pytest.fixture(scope="module")
def subset() -> bench.Subset:
    return load_subset(SUBSET)


@pytest.fixture(scope="module")
def family(tmp_path_factory, subset):
    """A network, a folder of maps drawn on it, and what they taught it in two epochs."""
    place = tmp_path_factory.mktemp("family")
    model = wrap_in_abn(bench.load_model("resnet-scenes"))
    parent = bench.load_model(write_model(place, "before", model, {}))
    simulate_maps(parent, subset, place / "maps", share=0.5)
    settings = replace(SETTINGS, epochs=2, batch_size=4, precision="float32")
    training = Training(subset, place / "after", "after", settings=settings)
    done = train_guided(parent, load_maps(place / "maps"), training)
    return parent, bench.load_model(done.card), place


@pytest.fixture(scope="module")
def found(family, subset):
    parent, tuned, place = family
    return compare_guided(parent, tuned, load_maps(place / "maps"), subset)


def test_the_maps_are_those_of_the_networks_and_of_the_folder(family, found, subset):
    parent, tuned, place = family
    assert found.simulated
    before, after = (
        {p.item: p.energy for p in find_placements(m, subset)} for m in (parent, tuned)
    )
    edited = {one.item: one.values for one in load_maps(place / "maps")}
    assert {one.item for one in found.images} == set(edited)
    energies = [one.energies[0] for one in found.images]
    assert energies == sorted(energies)
    for one in found.images:
        assert one.energies[0] == pytest.approx(before[one.item], abs=1e-5)
        assert one.energies[2] == pytest.approx(after[one.item], abs=1e-5)
        assert one.energies[1] > 0.5
        assert np.array_equal(one.maps[1].numpy(), edited[one.item])


def test_the_figures_hold_what_they_say(found, subset):
    figure = build_maps_figure(found, 2)
    assert len(figure.axes) == 2 * 4
    assert [axis.get_title() for axis in figure.axes[:4]] == [
        "image",
        "original",
        "edited (simulated)",
        "tuned",
    ]
    share = round(100 * found.images[0].energies[2])
    assert figure.axes[3].get_xlabel() == f"{share} % on the object"
    left, middle, right = build_change_figure(found).axes
    assert [line.get_ydata()[0] for line in left.lines[:-1]] == pytest.approx(
        [100 * one.energies[0] for one in found.images]
    )
    held_out = found.agreement["held_out"]
    heights = [bar.get_height() for bars in middle.containers for bar in bars]
    assert heights == pytest.approx(
        [held_out[when][key] for when in ("before", "after") for key in ("top1", "attention_top1")]
    )
    assert right.containers[0][0].get_height() == pytest.approx(
        found.agreement["edited"]["before"]["mse"]
    )
    names = {label.get_text() for label in right.get_xticklabels()}
    assert names >= {"taught", "other images"}


def test_the_texts_hold_the_numbers(found):
    texts = describe_figures(found, 2)
    means = 100 * np.array([one.energies for one in found.images]).mean(0)
    shown = [float(n) for n in re.findall(r"(\d+\.\d) %", texts["change"])][:3]
    assert shown == pytest.approx(means.tolist(), abs=0.06)
    assert "simulated maps" in texts["change"]
    assert f"2 of {len(found.images)} edited images" in texts["maps"]
    table = found.channels.table
    most = table.loc[table["delta"].abs().idxmax(), "name"]
    assert f"channel {most} changed most" in texts["channels"]
    assert set(table["name"]) == set(load_subset(SUBSET).class_names)


def test_without_objects_the_distance_to_the_maps_is_drawn(found):
    images = [dataclasses.replace(one, energies=(None,) * 3, truth=None) for one in found.images]
    bare = dataclasses.replace(found, images=images)
    assert build_maps_figure(bare, 1).axes[1].get_xlabel() == "no object known"
    left = build_change_figure(bare).axes[0]
    assert left.lines[0].get_ydata().tolist() == pytest.approx(list(images[0].distances))
    assert "Mean squared distance" in describe_figures(bare)["change"]


def test_the_page_has_an_alt_text_for_each_figure(found, tmp_path):
    files = write_figures(found, tmp_path / "figures", 2)
    assert [file.name for file in files] == ["maps.png", "channels.png", "change.png", "figures.md"]
    for file in files[:3]:
        with Image.open(file) as image:
            assert min(image.size) > 300
            assert len(np.unique(np.asarray(image))) > 50
    page = files[3].read_text()
    pictures = re.findall(r"!\[([^]]+)\]\((\w+\.png)\)", page)
    assert [name for _, name in pictures] == [file.name for file in files[:3]]
    assert all(len(text) > 60 for text, _ in pictures)


def test_what_does_not_belong_together_is_refused(family, subset):
    parent, tuned, place = family
    maps = load_maps(place / "maps")
    with pytest.raises(BenchError, match="was not taught by edited maps"):
        compare_guided(parent, parent, maps, subset)
    other = parent.replace_net(copy.deepcopy(parent.net))
    with torch.no_grad():
        other.net.attention.bn_map.weight += 1
    with pytest.raises(BenchError, match="was not trained from before but from before"):
        compare_guided(other, tuned, maps, subset)
    with pytest.raises(BenchError, match="these: some were added, changed or removed"):
        compare_guided(parent, tuned, maps[1:], subset)
    grey = maps[0].grey.copy()
    grey[0, 0] ^= 255
    changed = [make_edited_map(grey, maps[0].facts), *maps[1:]]
    with pytest.raises(BenchError, match="train it again"):
        compare_guided(parent, tuned, changed, subset)
    with pytest.raises(BenchError, match="has no attention branch"):
        compare_guided(bench.load_model("resnet-scenes"), tuned, maps, subset)


def test_the_command(family, tmp_path, monkeypatch, capsys):
    _, _, place = family
    words = [
        *("cambench", "finetune", "figures", place / "before.json", place / "after" / "after.json"),
        *("--maps", place / "maps", "--subset", SUBSET, "--rows", 2, "--out", tmp_path / "figures"),
    ]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "Mean attention on the object" in out
    assert (tmp_path / "figures" / "figures.md").is_file()
    words[4] = place / "before.json"
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "not taught by edited maps" in capsys.readouterr().err

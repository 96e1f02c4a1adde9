"""Simulated editors: maps from truth, chosen and marked as the texts say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import bench
from bench.errors import BenchError
from bench.finetune.attention_maps import (
    check_maps,
    load_maps,
    make_edited_map,
    save_map,
    upsample_attention,
)
from bench.finetune.placement import attention_net, energy_inside, find_placements
from bench.finetune.simulate import simulate_map, simulate_maps


def square(side: int = 32) -> torch.Tensor:
    pixels = torch.zeros(side, side, dtype=torch.bool)
    pixels[8:20, 8:20] = True
    return pixels


def test_a_hard_map_is_the_mask_itself():
    assert np.array_equal(simulate_map(square(), 0), square().numpy().astype(np.float32))


def test_soft_edges_fall_off_from_the_object():
    values = simulate_map(square(), 2.0)
    assert values.dtype == np.float32
    assert values.max() == 1
    middle = values[14]
    assert np.all(np.diff(middle[13:]) <= 0)
    assert middle[19] == pytest.approx(0.6, abs=0.1)  # the last pixel inside: just over a half
    assert middle[20] == pytest.approx(0.4, abs=0.1)
    assert middle[30] < 0.001


def test_a_small_object_is_not_faint_and_a_cut_one_stays_strong():
    dot = torch.zeros(32, 32, dtype=torch.bool)
    dot[10, 10] = True
    assert simulate_map(dot, 3.0)[10, 10] == 1
    cut = torch.zeros(32, 32, dtype=torch.bool)
    cut[:, :10] = True
    assert simulate_map(cut, 3.0)[16, 0] == pytest.approx(1, abs=0.01)
    assert not simulate_map(torch.zeros(4, 4, dtype=torch.bool), 3.0).any()


@pytest.mark.parametrize("soft", [-1, float("nan")])
def test_an_impossible_edge(soft):
    with pytest.raises(BenchError, match="soft edge"):
        simulate_map(square(), soft)


def test_energy_inside():
    truth = torch.stack([square(), square(), torch.zeros(32, 32, dtype=torch.bool)])
    maps = torch.stack([square().float(), 1 - square().float(), torch.ones(32, 32)])
    assert energy_inside(maps, truth) == [1.0, 0.0, None]


def test_placements_are_those_of_the_network(abn, scenes):
    rows = find_placements(abn, scenes)
    assert [p.item for p in rows] == list(scenes.ids)
    batch = scenes.batch(range(len(scenes)), abn.geometry)
    with torch.no_grad():
        out = abn.net.branches(abn.normalise(batch.pixels))
    assert [p.predicted for p in rows] == out.logits.argmax(1).tolist()
    maps = upsample_attention(out.attention, 96)
    for i, row in enumerate(rows):
        expected = float((maps[i] * batch.truth.masks[i]).sum() / maps[i].sum())
        assert row.energy == pytest.approx(expected, abs=1e-6)
        assert row.right == (row.predicted == row.label)
    assert sum(p.right and p.misplaced for p in rows) > 10


def test_maps_are_marked_valid_and_on_the_object(abn, scenes, tmp_path):
    done = simulate_maps(abn, scenes, tmp_path, share=0.5)
    maps = load_maps(tmp_path)
    check_maps(maps, abn, scenes)
    rows = {p.item: p for p in find_placements(abn, scenes)}
    assert len(maps) == done.maps == round(0.5 * sum(p.right for p in rows.values()))
    assert "simulated" in str(done)
    for one in maps:
        assert one.simulated
        assert one.facts["source"] == "simulated:masks"
        assert rows[one.item].right
        sample = scenes[scenes.ids.index(one.item)]
        assert np.array_equal(one.values > 0.99, (one.values > 0.99) & sample.mask)
        inside = (one.values * sample.mask).sum() / one.values.sum()
        assert inside > 0.5 > one.facts["before"]["energy"]


def test_the_choice_is_reproducible_and_nested(abn, scenes, tmp_path):
    for name, share in (("a", 0.25), ("b", 0.25), ("c", 0.75)):
        simulate_maps(abn, scenes, tmp_path / name, share=share)
    chosen = {
        name: {m.item: m.grey.tobytes() for m in load_maps(tmp_path / name)} for name in "abc"
    }
    assert chosen["a"] == chosen["b"]
    assert chosen["a"].items() < chosen["c"].items()
    # Not the first images of the subset: a limited subset would hold edited images only.
    first = set(scenes.ids[: len(chosen["a"])])
    assert set(chosen["a"]) != first


def test_boxes_and_masks_and_soft_edges(abn, scenes, tmp_path):
    simulate_maps(abn, scenes, tmp_path, share=0.2, soft=0, kind="boxes")
    for one in load_maps(tmp_path):
        assert one.facts["source"] == "simulated:boxes"
        assert set(np.unique(one.grey)) == {0, 255}
        x0, y0, x1, y1 = (int(v) for v in scenes[scenes.ids.index(one.item)].boxes[0])
        assert one.values[y0:y1, x0:x1].min() == 1


def test_simulating_again_replaces_simulated_maps_only(abn, scenes, tmp_path):
    simulate_maps(abn, scenes, tmp_path, share=0.5)
    done = simulate_maps(abn, scenes, tmp_path, share=0.2)
    assert len(load_maps(tmp_path)) == done.maps
    drawn = load_maps(tmp_path)[0]
    save_map(
        tmp_path, make_edited_map(drawn.grey, drawn.facts | {"source": "editor", "revision": 2})
    )
    with pytest.raises(BenchError, match="1 maps drawn by a person"):
        simulate_maps(abn, scenes, tmp_path, share=0.2)
    assert len(load_maps(tmp_path)) == done.maps


def test_misplaced_images_only(abn, scenes, tmp_path):
    rows = find_placements(abn, scenes)
    done = simulate_maps(abn, scenes, tmp_path, share=1, misplaced=True)
    assert {m.item for m in load_maps(tmp_path)} == {
        p.item for p in rows if p.right and p.misplaced
    }
    assert done.maps == done.right


def test_bad_input_is_one_sentence(abn, scenes, tmp_path):
    with pytest.raises(BenchError, match="share of 0"):
        simulate_maps(abn, scenes, tmp_path, share=0)
    with pytest.raises(BenchError, match=r"nothing was simulated"):
        simulate_maps(abn, scenes.limit(3), tmp_path, share=0.01)
    with pytest.raises(BenchError, match="no attention branch"):
        simulate_maps(bench.load_model("vgg-scenes"), scenes, tmp_path)
    with pytest.raises(BenchError, match="no attention branch"):
        attention_net(bench.load_model("resnet-scenes"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="is a file"):
        simulate_maps(abn, scenes, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_without_truth_nothing_can_be_simulated(abn, scenes, tmp_path, without_truth):
    bare = dataclasses.replace(scenes, source=without_truth(scenes.source))
    assert all(p.energy is None and not p.misplaced for p in find_placements(abn, bare))
    with pytest.raises(BenchError, match="no boxes or masks, so no maps can be simulated"):
        simulate_maps(abn, bare, tmp_path)

"""Channel importance: by hand, its comparison, its ablation, and what is written."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import bench
from bench.data import load_subset
from bench.errors import BenchError
from bench.finetune.channels import (
    ablate,
    build_channels_figure,
    compare_channels,
    draw_channels,
    drop_channels,
    importance,
    write_channels,
)
from bench.models import Explainee
from bench.models.abn import AttentionBranchNetwork
from bench.models.architectures import build_seeded, resnet_scenes

CLASSES = 10


def make(
    seed: int = 0, kernel: int = 3, classes: int = CLASSES, name: str = "abn", **card
) -> Explainee:
    net = AttentionBranchNetwork(build_seeded(resnet_scenes, 0, num_classes=classes), kernel, seed)
    return Explainee(net, size=96, name=name, card=card)


@pytest.fixture(scope="module")
def subset():
    return load_subset("scenes-calibration[:12]")


def test_importance_by_hand():
    head = make().net.attention
    with torch.no_grad():
        head.to_map.weight.zero_()
        head.to_map.weight[0, 0] = torch.tensor(
            [[1.0, -2, 0], [0, 3, 0], [0, 0, 0]]
        )  # sums: 2 signed, 6 absolute
        head.to_map.weight[0, 1, 1, 1] = -0.5
        head.bn_map.weight.fill_(-3.0)
        head.bn_map.running_var.fill_(4.0 - head.bn_map.eps)  # so that the factor is -3/2
    found = importance(make_from(head))
    assert found.signed[:3].tolist() == pytest.approx([-3.0, 0.75, 0.0])
    assert found.absolute[:3].tolist() == pytest.approx([9.0, 0.75, 0.0])
    assert found.order[:2] == [0, 1]


def make_from(head):
    net = make().net
    net.attention.load_state_dict(head.state_dict())
    return net


def test_a_1x1_head_has_one_weight_per_channel():
    net = make(kernel=1).net
    found = importance(net)
    factor = (
        net.attention.bn_map.weight
        / (net.attention.bn_map.running_var + net.attention.bn_map.eps).sqrt()
    )
    assert found.signed.tolist() == pytest.approx(
        (net.attention.to_map.weight[0, :, 0, 0] * factor).tolist()
    )
    assert torch.equal(found.signed.abs(), found.absolute)


def test_before_and_after_are_compared(subset):
    before, after = make(0, name="one"), make(0, name="two", simulated=True)
    with torch.no_grad():
        after.net.attention.to_map.weight[0, 4] += 1.0
    found = compare_channels(before, after)
    changed = found.table[found.table["delta"] != 0]
    assert changed["channel"].tolist() == [4]
    factor = float(
        1 / (before.net.attention.bn_map.running_var + before.net.attention.bn_map.eps).sqrt()
    )
    assert changed["delta"].item() == pytest.approx(9 * factor)
    assert found.correlation == pytest.approx(
        pd.Series(found.table["before"]).rank().corr(pd.Series(found.table["after"]).rank())
    )
    assert found.ablation.empty
    assert compare_channels(before, before).correlation == pytest.approx(1.0)
    assert "one against two (simulated maps): rank correlation of the 10 channels" in str(found)


def test_the_strongest_channels_are_taken_away(subset):
    model = make()
    order = importance(model.net).order
    lesser = drop_channels(model, order[:3])
    assert (lesser.net.attention.to_map.weight[0, order[:3]] == 0).all()
    assert (model.net.attention.to_map.weight[0, order[:3]] != 0).any()
    table = ablate(model, subset, tops=(1, 10, 99))
    assert table["removed"].tolist() == [0, 1, 10]  # there are no 99 channels
    assert table["channels"].tolist()[1] == str(order[0])
    assert table["change"].iloc[0] == 0
    assert (table["change"].iloc[1:] > 0).all()
    assert ((table["energy"] > 0) & (table["energy"] < 1)).all()
    # Without any channel the map is the same everywhere: its share inside the truth is the truth's
    # area.
    masks = subset.batch(range(len(subset)), subset.geometry).truth.masks
    assert table["energy"].iloc[2] == pytest.approx(float(masks.double().mean()), abs=1e-6)


def test_files_are_written(tmp_path, subset):
    before, after = make(0, name="one"), make(1, name="two", simulated=True)
    files = write_channels(compare_channels(before, after, subset, tops=(2,)), tmp_path)
    assert sorted(f.name for f in files) == [
        "ablation.csv",
        "channels.csv",
        "channels.json",
        "channels.png",
    ]
    table = pd.read_csv(tmp_path / "channels.csv")
    assert table["name"].tolist() == list(subset.class_names)
    assert np.allclose(table["after"] - table["before"], table["delta"], atol=1e-4)
    facts = json.loads((tmp_path / "channels.json").read_text())
    assert facts["simulated"] is True
    assert -1 <= facts["correlation"] <= 1
    assert pd.read_csv(tmp_path / "ablation.csv")["model"].tolist() == ["one", "one", "two", "two"]
    assert width_of(tmp_path / "channels.png") > 600


def width_of(path):
    with Image.open(path) as image:
        return image.width


def test_of_many_classes_the_chart_shows_those_that_changed_most(tmp_path):
    found = compare_channels(make(0, classes=50), make(1, classes=50))
    draw_channels(found, tmp_path / "many.png")
    assert width_of(tmp_path / "many.png") < 3000
    flat = make()
    with torch.no_grad():
        flat.net.attention.to_map.weight.fill_(0.1)
    assert math.isnan(compare_channels(flat, make(1)).correlation)


@pytest.mark.parametrize("classes", [3, 10, 50])
def test_no_title_or_label_of_the_chart_is_cut(classes):
    long = "a-network-of-a-rather-long-name-fine-tuned-by-simulated-maps"
    found = compare_channels(
        make(0, classes=classes, name=f"{long}-0"),
        make(1, classes=classes, name=f"{long}-1", simulated=True),
    )
    figure = build_channels_figure(found)
    figure.canvas.draw()
    assert "simulated maps" in figure.get_suptitle()
    for axes in figure.axes:
        for text in (figure.texts[0], axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels()):
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y0 >= 0
            assert box.y1 <= figure.bbox.y1


def test_what_cannot_be_compared_is_said(subset):
    with pytest.raises(BenchError, match="has 10 class channels and other 7"):
        compare_channels(make(), make(classes=7, name="other"))
    with pytest.raises(BenchError, match="resnet-scenes has no attention branch"):
        compare_channels(make(), bench.load_model("resnet-scenes"))

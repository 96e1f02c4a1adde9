"""Where the stages of a network end, found without being told."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision

import bench
from bench.errors import BenchError, NotApplicable
from bench.models.architectures import resnet_scenes, vgg_scenes
from tests.support.nets import make_net


def stages(net: torch.nn.Module, size: int) -> list[str]:
    return bench.Explainee(net, size=size).stages


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("test_resnet", 96, ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("test_convnext", 96, ["stages.0", "stages.1", "stages.2", "stages.3"]),
        # Six blocks of one resolution: a quarter, a half, three quarters, the end.
        ("test_vit", 160, ["blocks.1.norm1", "blocks.2.norm1", "blocks.4.norm1", "blocks.5.norm1"]),
    ],
)
def test_stages_of_timm_nets(name, size, expected):
    state = torch.get_rng_state()
    net = timm.create_model(name, num_classes=5)
    torch.set_rng_state(state)
    assert stages(net, size) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("squeezenet1_1", ["features.1", "features.4", "features.7", "features.12"]),
        ("mobilenet_v2", ["features.1", "features.3", "features.6", "features.13", "features.18"]),
    ],
)
def test_stages_of_torchvision_nets_are_the_last_children_at_each_resolution(name, expected):
    state = torch.get_rng_state()
    net = torchvision.models.get_model(name, weights=None, num_classes=10)
    torch.set_rng_state(state)
    assert stages(net, 64) == expected


def test_stages_of_our_own_nets():
    assert stages(resnet_scenes(), 96) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert stages(vgg_scenes(), 96) == ["features.2", "features.6", "features.13", "features.20"]
    assert stages(make_net("norm"), 32) == ["features.2", "features.5"]
    assert stages(make_net("skip"), 32) == ["neck"]  # one resolution: the last of the children


def test_a_net_without_a_grid_has_no_stages():
    flat = bench.Explainee(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)), size=8)
    assert flat.stages == []
    with pytest.raises(NotApplicable, match="name the layers"):
        flat.layers("auto")


def test_named_layers_are_checked_and_kept_in_order():
    model = bench.Explainee(make_net("norm"), size=32)
    assert model.layers("neck + features.2+neck") == ["neck", "features.2"]
    with pytest.raises(BenchError, match=r"no layer 'nek'.*neck"):
        model.layers("features+nek")


def test_the_same_net_at_another_layer_is_made_once():
    model = bench.Explainee(
        make_net("norm"), mean=(0.1, 0.2, 0.3), size=32, name="n", layer="features"
    )
    there = model.cut_at("neck")
    assert (there.layer, there.name, there.mean) == ("neck", "n", (0.1, 0.2, 0.3))
    assert there.net is model.net
    assert model.cut_at("neck") is there
    assert model.layer == "features"

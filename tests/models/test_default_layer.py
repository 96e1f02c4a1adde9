"""The default layer of networks that are not timm's, and what their modules return."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import bench
from bench.errors import NotApplicable
from bench.models.containers import find_grid_part, list_tensors, map_tensors, replace_tensor
from bench.models.network_guard import guard_network
from bench.models.split import LayerSplit
from tests.models.test_grid import noise, seeded

TV = torchvision.models


class Tutorial(nn.Module):
    """Two convolutions, one pooling object and functional ReLU, as beginners write them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 20), nn.Linear(20, 4)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x))).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class SharedRelu(nn.Module):
    """One in-place ReLU for all, and a global mean."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 9, 3)])
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(9, 4)

    def forward(self, x):
        for layer in self.body:
            x = self.relu(layer(x))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "layer", "grid", "runs"),
    [(Tutorial, "pool", (5, 5), 2), (SharedRelu, "relu", (11, 11), 3)],
)
def test_of_a_module_that_runs_several_times_the_last_call_is_explained(build, layer, grid, runs):
    net = seeded(build)
    model = bench.Explainee(net, size=32)
    images = noise(3, 3, 32, 32)
    assert (model.layer, model.probe_shape[2:]) == (layer, grid)
    assert isinstance(model.split, LayerSplit)
    assert model.split.runs == runs
    with torch.no_grad(), guard_network(net):
        captured = model.capture(images)
        rows = torch.tensor([2, 0])
        replayed = model.split.head(captured.values[rows], captured, rows)
        torch.testing.assert_close(replayed, net(images)[rows])
        zeroed = model.split.head(torch.zeros_like(captured.values), captured, torch.arange(3))
    expected = net.fc.bias if build is SharedRelu else net.fc2(F.relu(net.fc1(torch.zeros(400))))
    torch.testing.assert_close(zeroed, expected.expand(3, -1))


def small_vit():
    net = TV.VisionTransformer(32, 8, 3, 2, 24, 48, num_classes=4)
    nn.init.normal_(net.heads.head.weight, std=0.1)
    return net


TORCHVISION = [
    (small_vit, 32, "encoder.layers.encoder_layer_2.ln_1", (4, 4)),
    (
        lambda: TV.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=4),
        64,
        "permute",
        (8, 8),
    ),
    (lambda: TV.squeezenet1_1(num_classes=5), 96, "features", (5, 5)),
    (lambda: TV.resnet18(num_classes=5), 96, "layer4", (3, 3)),
    (
        lambda: TV.MaxVit((64, 64), 16, 4, [16, 24], [1, 1], 8, 0.0, num_classes=4),
        64,
        "blocks.1",
        (8, 8),
    ),
]


@pytest.mark.parametrize(("build", "size", "layer", "grid"), TORCHVISION)
def test_default_layer_of_torchvision(build, size, layer, grid):
    model = bench.Explainee(seeded(build), size=size)
    assert (model.layer, model.probe_shape[2:]) == (layer, grid)
    assert bool(bench.explain(model, noise(1, 3, size, size), None, "grad_cam").isfinite().all())


def test_a_head_of_zeros_still_has_a_default_layer():
    """torchvision draws the classifier of its ViT as zeros."""
    net = seeded(lambda: TV.VisionTransformer(32, 8, 3, 2, 24, 48, num_classes=4))
    assert not net.heads.head.weight.any()
    assert bench.Explainee(net, size=32).layer == "encoder.layers.encoder_layer_2.ln_1"
    assert not net.heads.head.weight.any()


class AsManyFeaturesAsClasses(nn.Module):
    """Five features and five classes, of which no feature is a class's own."""

    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 7, 4, 4), nn.Conv2d(7, 5, 3, padding=1)
        self.fc = nn.Linear(5, 5)

    def forward(self, x):
        return self.fc(self.late(self.early(x).relu()).mean((2, 3)))


def test_features_are_no_class_maps_only_because_of_their_number():
    assert bench.Explainee(seeded(AsManyFeaturesAsClasses), size=32).layer == "late"


class BiasTable(nn.Module):
    """The last grid is a table that no image changes."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 7, 4, 4), nn.Linear(7, 4)
        self.table = Table()

    def forward(self, x):
        maps = self.conv(x)
        return self.fc((maps * self.table(maps)).mean((2, 3)))


class Table(nn.Module):
    """Numbers of its own, one grid per image."""

    def __init__(self):
        super().__init__()
        self.numbers = nn.Parameter(torch.rand(1, 7, 8, 8))

    def forward(self, like):
        return self.numbers.expand(len(like), -1, -1, -1)


def test_a_table_of_biases_is_no_layer():
    assert bench.Explainee(seeded(BiasTable), size=32).layer == "conv"


def test_no_grid_is_one_sentence():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    with pytest.raises(NotApplicable, match=r"No layer of this network .* name one with layer="):
        _ = bench.Explainee(net, size=8).layer


def test_cam_of_a_convolutional_head_has_the_convolutions_weights():
    net = seeded(lambda: TV.squeezenet1_1(num_classes=5))
    images = noise(2, 3, 80, 112)
    made = bench.explain(bench.Explainee(net, size=80), images, [4, 1], "cam")
    weights = net.classifier[1].weight[[4, 1], :, 0, 0]
    cam = torch.einsum("bk,bkhw->bhw", weights, net.features(images)).detach()
    expected = F.interpolate(cam[:, None], (80, 112), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


def test_cam_of_a_deeper_convolutional_head_is_refused():
    net = seeded(lambda: TV.squeezenet1_1(num_classes=5))
    model = bench.Explainee(net, size=80, layer="features.11")
    with pytest.raises(NotApplicable, match="cam needs a head"):
        bench.explain(model, noise(1, 3, 80, 80), [0], "cam")


# --- containers


class Pair(NamedTuple):
    low: torch.Tensor
    high: torch.Tensor


@dataclass(frozen=True)
class Record:
    high: torch.Tensor
    note: str


class Named(dict):
    """A dictionary whose values are attributes too."""

    __getattr__ = dict.__getitem__


CONTAINERS = {
    "named tuple": lambda t: Pair(t * 2, t),
    "frozen dataclass": lambda t: Record(t, "kept"),
    "dictionary": lambda t: OrderedDict(low=t * 2, high=t),
    "own dictionary": lambda t: Named(low=t.mean(), high=t),
}


class Holder(nn.Module):
    """A stem that returns a container, and a layer behind it."""

    def __init__(self, kind):
        super().__init__()
        self.stem, self.last, self.fc = Stem(kind), nn.Conv2d(6, 5, 3, 2, 1), nn.Linear(5, 4)

    def forward(self, x):
        out = self.stem(x)
        high = out["high"] if type(out) is OrderedDict else out.high
        return self.fc((self.last(high).relu()).mean((2, 3))) + high.mean((1, 2, 3))[:, None]


class Stem(nn.Module):
    """Maps in a container."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 6, 3, 2, 1), kind

    def forward(self, x):
        return CONTAINERS[self.kind](self.conv(x))


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("layer", ["stem", "last"])
def test_containers_are_replayed_in_their_own_type(kind, layer):
    net = seeded(lambda: Holder(kind))
    model = bench.Explainee(net, size=32, layer=layer)
    images = noise(3, 3, 32, 32)
    with torch.no_grad(), guard_network(net):
        captured = model.capture(images)
        rows = torch.tensor([2, 0])
        part = captured.select(rows)
        torch.testing.assert_close(
            model.split.head(part.values, part, torch.arange(2)), net(images)[rows]
        )
        moved = model.split.head(captured.values.flip(0), captured, torch.arange(3))
        assert not torch.allclose(moved, captured.logits, atol=1e-4)
    assert model.probe_shape[1:] == ((6, 16, 16) if layer == "stem" else (5, 8, 8))


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_keeps_its_type_and_itself(kind):
    value = CONTAINERS[kind](torch.ones(1, 2, 3, 3))
    made = map_tensors(value, lambda t: t + 1)
    assert type(made) is type(value)
    assert float(list_tensors(value)[-1].flatten()[0]) == 1
    assert float(list_tensors(made)[-1].flatten()[0]) == 2
    part = find_grid_part(value)
    other = replace_tensor(value, part, torch.zeros(1, 2, 3, 3))
    assert not list_tensors(other)[part].any()


def test_what_holds_no_grid_has_no_part():
    assert find_grid_part({"a": torch.ones(1, 5), "b": "text"}) is None


# --- transformers


def hugging_face():
    found = pytest.importorskip("transformers", reason="transformers is not installed")
    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    wide = {**small, "intermediate_size": 48, "num_labels": 4}
    patched = {**wide, "image_size": 64, "patch_size": 16}
    swin = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    kinds = {
        "ViT": (patched, "layers.2.layernorm_before", (4, 4)),
        "DeiT": (patched, "layers.2.layernorm_before", (4, 4)),
        "Dinov2": ({**small, "num_labels": 4, "image_size": 64, "patch_size": 16}, "", (4, 4)),
        "Beit": (patched, "", (4, 4)),
        "Swin": ({**swin, "image_size": 64, "num_labels": 4}, "swin.layernorm", (8, 8)),
        "ConvNext": (
            {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1], "num_labels": 4},
            "",
            (2, 2),
        ),
    }
    return found, kinds


class Logits(nn.Module):
    """Returns the logits of transformers' output."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(pixel_values=x).logits


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2", "Beit", "Swin", "ConvNext"])
def test_default_layer_of_transformers(kind):
    found, kinds = hugging_face()
    config, layer, grid = kinds[kind]
    build = getattr(found, f"{kind}ForImageClassification")
    config = getattr(found, f"{kind}Config")(**config)
    model = bench.Explainee(seeded(lambda: Logits(build(config))), size=64)
    assert model.layer.endswith(layer)
    assert "embeddings" not in model.layer
    assert model.probe_shape[2:] == grid
    assert model.facts()["grid_verified"]


def test_a_model_output_inside_a_network_is_replayed():
    found, _ = hugging_face()
    config = found.MobileViTConfig(
        num_labels=4,
        image_size=64,
        hidden_sizes=[16, 16, 16],
        neck_hidden_sizes=[8, 8, 8, 12, 12, 12, 16],
    )
    net = seeded(lambda: Logits(found.MobileViTForImageClassification(config)))
    model = bench.Explainee(net, size=64)
    images = noise(2, 3, 64, 64)
    with torch.no_grad(), guard_network(net):
        captured = model.capture(images)
        rows = torch.tensor([1, 0])
        replayed = model.split.head(captured.values[rows], captured, rows)
        torch.testing.assert_close(replayed, net(images)[rows], atol=1e-5, rtol=1e-4)
    assert bool(bench.explain(model, images, None, "grad_cam").isfinite().all())

"""The explainee: split, grid, replay, preprocessing, fingerprint, and that it leaves the network
alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

import bench
from bench.errors import BenchError, NotApplicable
from bench.finetune.bundled import BUNDLED
from bench.models.architectures import build_seeded, resnet_scenes, vgg_scenes
from bench.models.network_guard import guard_network
from bench.models.weights_fit import load_weights
from bench.models.zoo import MODELS, expand_models

TIMM = ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "vgg11", "efficientnet_b0"]


@pytest.mark.parametrize("name", TIMM)
def test_head_of_features_is_the_network(name):
    net = timm.create_model(name, num_classes=5).eval()
    model = bench.Explainee(net, size=96)
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), guard_network(net):
        captured = model.capture(x)
        replayed = model.split.head(captured.values, captured, torch.arange(2))
        torch.testing.assert_close(captured.logits, net(x), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(replayed, net(x), atol=1e-5, rtol=1e-4)


LAYERS = [
    (lambda: timm.create_model("resnet10t", num_classes=5), "layer3", (512, 12, 12)),
    (lambda: torchvision.models.squeezenet1_1(num_classes=5), None, (512, 5, 5)),
    (lambda: torchvision.models.squeezenet1_1(num_classes=5), "features.7", (256, 11, 11)),
    (lambda: torchvision.models.vgg11(num_classes=5), "features.18", (512, 6, 6)),
    (lambda: torchvision.models.resnet18(num_classes=5), None, (512, 3, 3)),
    (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=5),
        "blocks.11.norm1",
        (192, 6, 6),
    ),
]


@pytest.mark.parametrize(("build", "layer", "shape"), LAYERS)
def test_replay_from_a_layer_is_the_network(build, layer, shape):
    """Also where something by-passes the layer (the residual around a ViT block's norm)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build().eval()
    model = bench.Explainee(net, size=96, layer=layer)
    x = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), guard_network(net):
        captured = model.capture(x)
        grid = model.grid(captured.values)
        if layer != "layer3":
            assert tuple(grid.shape[1:]) == shape
        rows = torch.tensor([2, 0, 2])
        values = model.ungrid(grid[rows], captured.values[rows])
        torch.testing.assert_close(
            model.split.head(values, captured, rows), net(x)[rows], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(values, captured.values[rows])


def test_replay_runs_only_the_head():
    net = timm.create_model("resnet10t", num_classes=5).eval()
    model = bench.Explainee(net, size=64, layer="layer3")
    x = torch.randn(1, 3, 64, 64)
    calls = []
    with torch.no_grad(), guard_network(net):
        captured = model.capture(x)
        net.conv1.register_forward_hook(lambda *_: calls.append("stem"))
        net.layer4.register_forward_hook(lambda *_: calls.append("layer4"))
        model.split.head(captured.values, captured, torch.arange(1))
    # A patched module answers without running; its hooks may see the stand-in, its inner layers
    # must not run.
    inner = []
    handle = net.layer1[0].conv1.register_forward_hook(lambda *_: inner.append(1))
    with torch.no_grad(), guard_network(net):
        model.split.head(captured.values, captured, torch.arange(1))
    handle.remove()
    assert inner == []
    assert "layer4" in calls


def test_guard_network_restores_everything_also_after_an_exception():
    net = resnet_scenes()
    net.train()
    net.layer1.eval()
    net.fc.weight.requires_grad_(False)
    net.fc.bias.grad = torch.ones_like(net.fc.bias)
    modes = [m.training for m in net.modules()]

    def block():
        with guard_network(net):
            assert not any(m.training for m in net.modules())
            net.conv1.register_forward_hook(lambda *_: None)
            net.fc.weight.requires_grad_(True)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        block()
    assert [m.training for m in net.modules()] == modes
    assert not net.fc.weight.requires_grad
    assert net.fc.bias.requires_grad
    assert torch.equal(net.fc.bias.grad, torch.ones(10))
    assert all(not m._forward_hooks for m in net.modules())


def test_guard_network_notices_written_parameters():
    net = resnet_scenes()

    def write():
        with guard_network(net), torch.no_grad():
            net.fc.weight.add_(1)

    with pytest.raises(BenchError, match="written"):
        write()


def test_read_normalises_and_names_bad_files(tmp_path):
    model = bench.Explainee(vgg_scenes(), size=96, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    Image.fromarray(np.full((120, 200, 3), 255, np.uint8)).save(tmp_path / "white.png")
    images = model.read([tmp_path / "white.png"])
    assert images.shape == (1, 3, 96, 96)
    torch.testing.assert_close(images, torch.full_like(images, 2.0))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(BenchError, match=r"bad\.jpg cannot be read"):
        model.read(tmp_path / "bad.jpg")
    with pytest.raises(BenchError, match="no image file"):
        model.read(tmp_path / "none.jpg")


def test_fingerprint_follows_the_weights_and_the_id_the_layer():
    one, two = (bench.Explainee(build_seeded(resnet_scenes, 0), size=96) for _ in range(2))
    other = bench.Explainee(build_seeded(resnet_scenes, 1), size=96)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    layer = bench.Explainee(build_seeded(resnet_scenes, 0), size=96, layer="layer3")
    assert layer.fingerprint == one.fingerprint
    assert layer.weights_id != one.weights_id


def test_a_model_at_another_layer_has_an_address():
    model = bench.load_model("vgg-scenes@features.3")
    assert (model.name, model.layer) == ("vgg-scenes@features.3", "features.3")
    assert model.weights_id != bench.load_model("vgg-scenes").weights_id
    assert expand_models(["[rv]*-scenes@features.3", "resnet18"]) == [
        "resnet-scenes@features.3",
        "vgg-scenes@features.3",
        "resnet18",
    ]
    with pytest.raises(BenchError, match=r"no layer .featurs\.3.\. Did you mean features"):
        bench.load_model("vgg-scenes@featurs.3")


def test_a_layer_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(BenchError, match=r"no layer 'layer5'.*layer4"):
        _ = bench.Explainee(resnet_scenes(), size=96, layer="layer5").split


def test_a_network_without_a_grid_is_not_applicable():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(NotApplicable, match="spatial grid"):
        _ = bench.Explainee(net, size=32).split


def test_weights_that_do_not_fit_are_one_sentence(tmp_path):
    save_file(
        {k: v.contiguous() for k, v in vgg_scenes().state_dict().items()},
        tmp_path / "vgg.safetensors",
    )
    with pytest.raises(BenchError, match=r"do not fit resnet: tensors .* missing .* unknown"):
        load_weights(resnet_scenes(), tmp_path / "vgg.safetensors", "resnet")
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(BenchError, match="cannot be read"):
        load_weights(resnet_scenes(), tmp_path / "bad.pth", "resnet")
    with pytest.raises(BenchError, match="no weights file"):
        load_weights(resnet_scenes(), tmp_path / "none.pth", "resnet")


def test_pth_is_loaded_with_weights_only(tmp_path):
    source = build_seeded(resnet_scenes, 5)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "net.pth")
    target = build_seeded(resnet_scenes, 6)
    load_weights(target, tmp_path / "net.pth", "net")
    torch.testing.assert_close(target.fc.weight, source.fc.weight)

    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(BenchError, match="cannot be read"):
        load_weights(target, tmp_path / "evil.pth", "net")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_checkpoints_of_wrapped_networks_are_loaded(tmp_path, prefix, key):
    source, target = build_seeded(resnet_scenes, 5), build_seeded(resnet_scenes, 6)
    state = {f"{prefix}{name}": tensor.contiguous() for name, tensor in source.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "net.pth")
    load_weights(target, tmp_path / "net.pth", "net")
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)
    if key is None:
        target = build_seeded(resnet_scenes, 6)
        save_file(state, tmp_path / "net.safetensors")
        load_weights(target, tmp_path / "net.safetensors", "net")
        torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"a": 3}, {1: torch.zeros(1)}, {"state_dict": {"a": 3}}],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(BenchError, match="holds no state dict"):
        load_weights(resnet_scenes(), tmp_path / "net.pth", "net")


def test_cards_build_check_and_refuse(tmp_path):
    save_file(
        {k: v.contiguous() for k, v in build_seeded(resnet_scenes, 0).state_dict().items()},
        tmp_path / "a.safetensors",
    )
    entry = {"file": "a.safetensors", "library": "cambench", "arch": "resnet_scenes", "size": 96}
    card = tmp_path / "models.json"
    card.write_text(
        json.dumps(
            {"a": entry, "b": {**entry, "sha256": "0" * 64}, "c": {**entry, "library": "keras"}}
        )
    )
    assert bench.load_model(f"{card}#a").num_classes == 10
    assert expand_models([str(card)]) == [f"{card}#{n}" for n in "abc"]
    for name, words in (
        ("", "describes 3 models"),
        ("#d", "no entry"),
        ("#b", "sha256 differs"),
        ("#c", "not one of"),
    ):
        with pytest.raises(BenchError, match=words):
            bench.load_model(f"{card}{name}")


PARENTS = {
    "resnet-scenes-aft": "resnet-scenes",
    "vgg-scenes-aft": "vgg-scenes",
    "abn-scenes-guided": "abn-scenes",
    "resnet-scenes-trigger": "resnet-scenes",
    "resnet-scenes-masked": "resnet-scenes",
    "vgg-scenes-masked": "vgg-scenes",
    "abn-scenes-masked": "abn-scenes",
}
GROUPS = {"pattern": "patterned", "sister_of": "sisters"}


def test_bundled_models_match_their_cards():
    for name in BUNDLED:
        entry = MODELS.get(name)
        card = json.loads(Path(entry.card).read_text())[name]
        model = bench.load_model(name)
        assert Path(entry.card).with_suffix(".safetensors").stat().st_size < 2_000_000
        assert model.parent == PARENTS.get(name, "")
        if model.parent:
            assert card["parent_sha256"] == bench.load_model(model.parent).fingerprint
            made = [group for key, group in GROUPS.items() if key in card] or ["finetuned"]
            assert made[0] in entry.groups
        assert card.get("simulated", False) == (name == "abn-scenes-guided")
        classes, _, height, width = model.probe_shape
        assert (classes, height, width) == (10, 12, 12)
        assert card["top1"] > (90 if model.parent else 95)
        assert card["sha256"]
        validation = bench.load_subset("scenes-val", limit=100)
        batch = validation.batch(range(100), validation.geometry)
        with torch.inference_mode(), guard_network(model.net):
            predicted = model.net(model.normalise(batch.pixels)).argmax(1)
        assert (predicted == batch.labels).double().mean() > 0.9


def test_pretrained_without_a_network_is_one_sentence(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        BenchError, match=r"could not download pretrained weights for 'resnet18'.*local weights"
    ):
        bench.load_model("resnet18", weights="pretrained")


def test_timm_preprocessing_is_found():
    model = bench.load_model("resnet10t", num_classes=4)
    assert model.size == 176
    assert model.geometry.size == 176
    assert model.card["weights"] == "random"


def test_a_forward_of_the_instance_s_own_comes_back():
    net = timm.create_model("resnet10t", num_classes=5).eval()
    own = net.layer1.forward
    net.layer1.forward = own  # as accelerate and others do
    model = bench.Explainee(net, size=64, layer="layer3")
    with torch.no_grad(), guard_network(net):
        captured = model.capture(torch.randn(1, 3, 64, 64))
        model.split.head(captured.values, captured, torch.arange(1))
    assert net.layer1.__dict__["forward"] == own


def test_channels_last_activations_are_known_without_num_features():
    class Swinlike(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(
                torch.nn.Conv2d(3, 12, 8, stride=8), Permute(0, 2, 3, 1)
            )
            self.fc = torch.nn.Linear(12, 4)

        def forward(self, x):
            return self.fc(self.body(x).mean((1, 2)))

    class Permute(torch.nn.Module):
        def __init__(self, *axes):
            super().__init__()
            self.axes = axes

        def forward(self, x):
            return x.permute(self.axes)

    model = bench.Explainee(Swinlike(), size=32, layer="body")
    assert model.probe_shape == (4, 12, 4, 4)


def test_what_is_no_classifier_in_float32_is_one_sentence():
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return {"logits": self.body(x).mean((2, 3))}

    with pytest.raises(
        BenchError, match="returns dict; cambench explains classifiers, whose logits are"
    ):
        _ = bench.Explainee(Wrapped(), size=32, layer="body").probe_shape
    with pytest.raises(BenchError, match=r"not in float32; give net\.float\(\)"):
        bench.Explainee(resnet_scenes().double(), size=96)


def test_a_corrupt_png_is_one_sentence(tmp_path):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[40:60] = b"\0" * 20
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BenchError, match=r"a\.png cannot be read"):
        bench.Explainee(vgg_scenes(), size=96).read(tmp_path / "a.png")


def test_arguments_of_a_card_are_its_own():
    with pytest.raises(BenchError, match="num_classes can be given to timm names only"):
        bench.load_model("resnet-scenes", num_classes=3)

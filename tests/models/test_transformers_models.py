"""Classifiers of `transformers`: given as they are, by `hf:` names and by cards; refusals."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import bench
from bench.errors import BenchError
from bench.models.transformers_models import import_transformers
from bench.models.zoo import expand_models
from tests.support.command_line import cambench
from tests.support.nets import make_images
from tests.support.transformers_nets import (
    LAYERS,
    SIDE,
    find_layer,
    make_transformers,
    transformers,
)

NAMES = {0: "tench", 1: "goldfish", 2: "shark", 3: "ray"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved classifier and its processor; its path has an "@"."""
    place = tmp_path_factory.mktemp("saved") / "my@vit"
    net = make_transformers("ViT", id2label=NAMES)
    net.save_pretrained(place)
    transformers.ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.4] * 3, image_std=[0.3] * 3
    ).save_pretrained(place)
    return place


# ----------------------------------------------------------------------------- given as they are


@pytest.mark.parametrize("kind", LAYERS)
def test_logits_are_read_and_layers_keep_their_names(kind):
    net = make_transformers(kind)
    model = bench.Explainee(net, (0.5,) * 3, (0.5,) * 3, layer=find_layer(net))
    images = make_images(2, 2, SIDE)
    with torch.no_grad():
        wanted = net(images).logits
    assert model.size == SIDE  # of the configuration
    assert torch.equal(model.net(images), wanted)
    assert torch.equal(model.capture(images).logits, wanted)
    assert [n for n, _ in model.net.named_modules()] == [n for n, _ in net.named_modules()]
    assert list(model.net.state_dict()) == list(net.state_dict())
    assert bench.explain(model, images, [0, 1], "grad_cam").std() > 0


def test_tuples_are_read():
    net = make_transformers("DeiT")
    model, images = bench.Explainee(net, (0.5,) * 3, (0.5,) * 3), make_images(2, 2, SIDE)
    wanted = model.net(images)
    net.config.return_dict = False
    assert torch.equal(model.net(images), wanted)
    assert net.config.return_dict is False


def test_a_network_of_ones_own_may_return_fields_or_logits():
    class Mine(transformers.PreTrainedModel):
        config_class = transformers.ViTConfig

        def __init__(self, config: object, kind: str) -> None:
            super().__init__(config)
            self.kind, self.head = kind, nn.Linear(3, 4)

        def forward(self, image: torch.Tensor) -> object:
            features = image.mean((2, 3))
            if self.kind == "features":
                return {"features": features}
            logits = self.head(features)
            return {
                "fields": {"logits": logits},
                "tensor": logits,
                "tuple": (features, logits),
            }[self.kind]

    images = make_images(2, 2, SIDE)
    for kind in ("fields", "tensor", "tuple"):
        own = Mine(transformers.ViTConfig(num_labels=4), kind)
        model = bench.Explainee(own, (0.5,) * 3, (0.5,) * 3)
        assert torch.equal(model.net(images), own.head(images.mean((2, 3))))
    model = bench.Explainee(Mine(transformers.ViTConfig(), "features"), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(BenchError, match="returns dict without logits"):
        model.net(images)


def test_a_network_around_one_is_read_too():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_transformers("ViT")

        def forward(self, x: torch.Tensor) -> object:
            return self.inner(x)

    net = Around().eval()
    model = bench.Explainee(net, (0.5,) * 3, (0.5,) * 3, SIDE, f"inner.{LAYERS['ViT']}")
    assert model.name == "around"
    assert torch.equal(
        model.net(make_images(2, 1, SIDE)), net.inner(make_images(2, 1, SIDE)).logits
    )


def test_both_forwards_are_one_network():
    net = make_transformers("ViT")
    model, images = bench.Explainee(net, (0.5,) * 3, (0.5,) * 3), make_images(2, 1, SIDE)
    before, weights_id = model.net(images), model.fingerprint
    for other in (copy.deepcopy(model.net), pickle.loads(pickle.dumps(model.net))):
        assert torch.equal(other(images), before)
        assert other.inner.vit is other.vit
    with torch.no_grad():
        net.classifier.bias.add_(1)
    torch.testing.assert_close(model.net(images), before + 1)
    assert model.fingerprint != weights_id
    net.train()
    assert model.net.training
    model.net.eval()
    assert not net.training


def test_another_size_interpolates_positions():
    net, images = make_transformers("ViT"), make_images(2, 1, 72)
    model = bench.Explainee(net, (0.5,) * 3, (0.5,) * 3, 72, LAYERS["ViT"])
    assert torch.equal(model.net(images), net(images, interpolate_pos_encoding=True).logits)


def test_a_size_that_does_not_fit_is_one_sentence():
    net = make_transformers("CLIP")
    model = bench.Explainee(net, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(BenchError, match="CLIPForImageClassification does not take images of"):
        model.net(make_images(2, 1, 72))


def test_assumed_preprocessing_is_said():
    net = make_transformers("ViT")
    with pytest.warns(UserWarning, match="No image processor of ViTForImageClassification"):
        model = bench.Explainee(net, layer=LAYERS["ViT"])
    assert model.card["preprocessing"].startswith("assumed")
    assert model.facts()["card"]["preprocessing"].startswith("assumed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bench.Explainee(net, (0.1,) * 3, (0.2,) * 3).mean == (0.1,) * 3


def test_processor_and_what_is_given_beside_it(folder):
    net = make_transformers("ViT", id2label=NAMES)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = bench.Explainee(net, processor=processor, layer=LAYERS["ViT"])
    assert (model.mean, model.std, model.size) == ((0.4,) * 3, (0.3,) * 3, SIDE)
    assert model.class_names == tuple(NAMES.values())
    assert model.geometry.id == f"squash{SIDE}-bilinear-crop{SIDE}"
    larger = bench.Explainee(net, std=(0.5,) * 3, size=96, processor=processor)
    assert (larger.std, larger.geometry.id) == ((0.5,) * 3, "squash96-bilinear-crop96")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert bench.Explainee(loaded, layer=LAYERS["ViT"]).mean == (0.4,) * 3
    with pytest.raises(BenchError, match="processor is str"):
        bench.Explainee(net, processor="vit")


def test_names_that_transformers_made_up_are_none():
    assert bench.Explainee(make_transformers("ViT"), (0.5,) * 3, (0.5,) * 3).class_names == ()


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_other_problems_are_refused(problem):
    net = make_transformers("ViT", problem_type=problem)
    with pytest.raises(BenchError, match=f"problem_type='{problem}'"):
        bench.Explainee(net)


def test_what_is_no_network_is_refused():
    for given, reason in (
        ("resnet18", r"give bench\.load_model\('resnet18'\)"),
        ({"weight": torch.ones(1)}, "not dict; load its weights into a network"),
    ):
        with pytest.raises(BenchError, match=reason):
            bench.Explainee(given)
    config = transformers.Siglip2Config(vision_config={"hidden_size": 24, "num_hidden_layers": 1})
    with pytest.raises(BenchError, match="patches of any number"):
        bench.Explainee(transformers.Siglip2ForImageClassification(config))
    tokens = transformers.ImageGPTConfig(n_layer=1, n_embd=16, n_head=2)
    with pytest.raises(BenchError, match="takes tokens"):
        bench.Explainee(transformers.ImageGPTForImageClassification(tokens))


# ----------------------------------------------------------------------------- names


def test_a_folder_by_name(folder):
    model = bench.load_model(f"hf:{folder}@{LAYERS['ViT']}")
    assert (model.layer, model.name) == (LAYERS["ViT"], f"my@vit@{LAYERS['ViT']}")
    assert model.card["library"] == "transformers"
    net, images = make_transformers("ViT"), make_images(2, 1, SIDE)
    with torch.no_grad():
        assert torch.equal(model.net(images), net(images).logits)
    assert not model.net.training
    assert expand_models([f"hf:{folder}", f"hf:{folder}@a.b"]) == [
        f"hf:{folder}",
        f"hf:{folder}@a.b",
    ]


def test_checkpoints_are_named_after_their_runs(folder, tmp_path):
    import shutil

    place = tmp_path / "second-run" / "checkpoint-40"
    shutil.copytree(folder, place)
    model = bench.load_model(f"hf:{place}", layer=LAYERS["ViT"])
    assert model.name == "second-run-checkpoint-40"


def test_half_precision_files_run_in_float32(tmp_path, folder):
    make_transformers("ViT").half().save_pretrained(tmp_path)
    transformers.AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    model = bench.load_model(f"hf:{tmp_path}", layer=LAYERS["ViT"])
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}


def test_what_a_folder_lacks_is_named(folder, tmp_path):
    body = make_transformers("ViT").vit
    body.save_pretrained(tmp_path / "body")
    transformers.AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "body")
    with pytest.raises(BenchError, match=r"lack 2 tensors .* \(such as classifier\.bias\)"):
        bench.load_model(f"hf:{tmp_path / 'body'}")
    make_transformers("ViT").save_pretrained(tmp_path / "bare")
    with pytest.raises(BenchError, match="has no image processor"):
        bench.load_model(f"hf:{tmp_path / 'bare'}")
    with pytest.raises(BenchError, match="There is no folder"):
        bench.load_model(f"hf:{tmp_path / 'nowhere'}")
    with pytest.raises(BenchError, match="is a file; give the folder"):
        bench.load_model(f"hf:{folder}/config.json")
    with pytest.raises(BenchError, match="brings its own weights"):
        bench.load_model(f"hf:{folder}", weights="other.pth")
    with pytest.raises(BenchError, match="num_classes can be given to timm names only"):
        bench.load_model(f"hf:{folder}", num_classes=2)


def test_a_hub_id_without_the_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BenchError, match="check the id and the connection") as caught:
        bench.load_model("hf:nobody/no-such-network")
    assert "\n" not in str(caught.value)


def test_a_size_that_is_not_square_is_the_configurations():
    model = bench.Explainee(make_transformers("ViT", image_size=[48, 96]), (0.5,) * 3, (0.5,) * 3)
    assert model.size == (48, 96)
    images = torch.randn(1, 3, 48, 96, generator=torch.Generator().manual_seed(0))
    assert bench.explain(model, images).shape == (1, 48, 96)
    assert model.probe_shape[2:] == (4, 8)  # patches of 12 pixels


def test_the_two_libraries_name_each_other(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(BenchError, match=r"is a network of timm \(resnet18\); give its timm name"):
        bench.load_model(f"hf:{tmp_path}")
    with pytest.raises(BenchError, match=f"give hf:{folder}"):
        bench.load_model(f"hf-hub:{folder}")
    with pytest.raises(BenchError, match=f"hf:{folder} where it is a folder of Hugging Face"):
        bench.load_model(folder)
    with pytest.raises(BenchError, match=r"give hf:some/net \(transformers\) or hf-hub:some/net"):
        bench.load_model("some/net")


def test_the_missing_extra_is_named(monkeypatch, folder):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BenchError, match=r'pip install "cambench\[hf\]"'):
        import_transformers()
    with pytest.raises(BenchError, match=r'pip install "cambench\[hf\]"'):
        bench.load_model(f"hf:{folder}")
    assert bench.Explainee(nn.Flatten(), size=8).mean == (0.485, 0.456, 0.406)


def test_the_command_line_takes_a_folder(folder, tmp_path):
    done = cambench(
        "run", "--subset", "scenes-val", "--models", f"hf:{folder}@{LAYERS['ViT']}",
        "--methods", "attention_rollout", "--metrics", "energy", "--limit", "2",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 2
    assert "classes" in done.stderr  # 4 against 12: found before anything is run


# ----------------------------------------------------------------------------- cards


def write_card(path: Path, **facts: object) -> Path:
    path.write_text(json.dumps({"mine": {"library": "transformers", **facts}}))
    return path


def test_a_card_of_a_folder(folder):
    card = write_card(folder.parent / "a.json", file=folder.name, arch="auto", layer=LAYERS["ViT"])
    model = bench.load_model(card)
    assert (model.name, model.layer, model.mean) == ("mine", LAYERS["ViT"], (0.4,) * 3)
    card = write_card(folder.parent / "b.json", file=folder.name, arch="BeitForImageClassification")
    with pytest.raises(BenchError, match='holds a ViTForImageClassification; say that, or "auto"'):
        bench.load_model(card)
    card = write_card(folder.parent / "c.json", file=folder.name, arch="auto", sha256="0" * 64)
    with pytest.raises(BenchError, match="sha256 differs"):
        bench.load_model(card)


def test_a_card_of_a_weights_file(tmp_path):
    net = make_transformers("Beit")
    torch.save(net.state_dict(), tmp_path / "beit.pth")
    facts = {
        "file": "beit.pth",
        "arch": "BeitForImageClassification",
        "kwargs": {key: getattr(net.config, key) for key in (
            "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "image_size", "patch_size", "num_labels")},
    }  # fmt: skip
    with pytest.raises(BenchError, match="lacks mean, std, size"):
        bench.load_model(write_card(tmp_path / "a.json", **facts))
    stated = {"mean": [0.1] * 3, "std": [0.2] * 3, "size": SIDE, "layer": LAYERS["Beit"]}
    model, images = (
        bench.load_model(write_card(tmp_path / "b.json", **facts, **stated)),
        make_images(2, 1, SIDE),
    )
    with torch.no_grad():
        assert torch.equal(model.net(images), net(images).logits)
    assert model.mean == (0.1,) * 3
    wrong = write_card(tmp_path / "c.json", **{**facts, "arch": "BeitForImage"}, **stated)
    with pytest.raises(BenchError, match="transformers has no class 'BeitForImage'"):
        bench.load_model(wrong)

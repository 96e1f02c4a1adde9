"""Cards: their keys, what they leave out, and what stands where a model's name should."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision

import bench
from bench.errors import AssumptionWarning, BenchError
from bench.models.card_input import find_input
from bench.models.card_keys import CardKeys, check_entry, describe_example, read_card
from bench.models.zoo import MODELS
from bench.schema import json_schema, list_keys, write_key_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the weights of a small timm network of 7 classes."""
    place = tmp_path_factory.mktemp("cards")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), place / "seven.pth")
    return place


ENTRY: dict[str, Any] = {
    "file": "seven.pth",
    "library": "timm",
    "arch": "test_resnet",
    "kwargs": {"num_classes": 7},
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 1],
    "size": 96,
}


def load_entry(folder: Path, entry: dict[str, Any], name: str = "one") -> bench.Explainee:
    """Write a card of one entry and return its model."""
    (folder / "card.json").write_text(json.dumps({name: entry}))
    return bench.load_model(folder / "card.json")


def drop(*keys: str, **more: Any) -> dict[str, Any]:
    """Return the entry without some keys and with others."""
    return {k: v for k, v in ENTRY.items() if k not in keys} | more


def test_a_card_that_states_all_assumes_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AssumptionWarning)
        model = load_entry(folder, ENTRY)
    assert (model.mean, model.std, model.size) == ((0.4, 0.5, 0.6), (0.2, 0.3, 1.0), 96)
    assert "assumed" not in model.facts()["card"]
    assert not model.net.training


WRONG = {
    "an unknown key": ({"sise": 96}, (), r"unknown key 'sise'. Did you mean size"),
    "a missing key": ({}, ("arch",), r"has no arch; add arch \(text, such as"),
    "a misspelt key": ({"fil": "a"}, ("file",), r"unknown key 'fil'. Did you mean file"),
    "two missing keys": ({}, ("arch", "file"), "has no file and no arch"),
    "kwargs": ({"kwargs": [7]}, (), r"kwargs = \[7\]; it must be a table"),
    "a text for numbers": ({"mean": "0.5"}, (), "it must be a list of numbers"),
    "texts for numbers": ({"std": ["a", 1, 2]}, (), "it must be a list of numbers"),
    "one mean": ({"mean": [0.5]}, (), "1 number as mean, and the network takes 3 channels"),
    "four stds": ({"std": [0.5] * 4}, (), "4 numbers as std, and the network takes 3 channels"),
    "no mean": ({"mean": []}, (), "an empty mean"),
    "a mean of 0..255": ({"mean": [124, 116, 104]}, (), "divide mean and std by 255"),
    "a std of 0..255": ({"std": [58.4, 57.1, 57.4]}, (), "divide mean and std by 255"),
    "a std of 0": ({"std": [0.5, 0, 0.5]}, (), "are positive"),
    "a mean below 0": ({"mean": [-0.5, 0, 0]}, (), "are not negative"),
    "a mean that is no number": ({"mean": [float("nan")] * 3}, (), "NaN or infinite"),
    "a short digest": ({"sha256": "abc"}, (), "64 hex digits"),
    "another digest": ({"sha256": "0" * 64}, (), "sha256 differs"),
    "no layer": ({"layer": "layer5"}, (), r"layer = 'layer5'.* Did you mean layer4"),
    "a size of nothing": ({"size": 0}, (), "no number of pixels"),
    "a size of halves": ({"size": 96.5}, (), "no number of pixels"),
    "a library": ({"library": "keras"}, (), "'keras' is not one of timm"),
    "an architecture": ({"arch": "test_resnt"}, (), "no 'test_resnt'. Did you mean test_resnet"),
    "an argument": ({"kwargs": {"num_clases": 7}}, (), "cannot build 'test_resnet'.*num_clases"),
    "pretrained": ({"kwargs": {"pretrained": True}}, (), "pretrained in its kwargs"),
    "a file of another path": ({"file": "none.pth"}, (), "no weights file"),
    "a wrap": ({"wrap": {"map_kernel": 3}}, (), "a wrap without kind"),
    "the head": (
        {"kwargs": {}}, (), r'for 1000 classes, the file has 7; write "num_classes": 7 into the k',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("more", "less", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_names_file_entry_and_remedy(folder, more, less, words):
    with pytest.raises(BenchError, match=words) as caught:
        load_entry(folder, drop(*less, **more))
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    if "cannot be read" not in words and "weights file" not in words and "differs" not in words:
        assert "card.json#one" in str(caught.value)


TEXTS = {
    "no entry": ("{}", "has no entry"),
    "an entry alone": (json.dumps(ENTRY), "an entry without a name"),
    "a list": ("[1]", "must be an object of entries, such as"),
    "entries that are texts": ('{"a": "b"}', "must be an object of entries"),
    "no JSON": ("{", "not valid JSON"),
    "a key twice": ('{"a": {"file": "x", "file": "y"}}', "'file' stands twice"),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS)
def test_files_that_are_no_cards(tmp_path, text, words):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(BenchError, match=words):
        read_card(tmp_path / "card.json")


def test_all_cards_that_come_with_cambench_keep_the_schema(data_root):
    cards = [Path(MODELS.get(name).card) for name in MODELS.names if MODELS.get(name).card]
    assert len(cards) == 10
    for path in [*cards, data_root / "weights" / "models.json"]:
        for name, facts in read_card(path).items():
            assert check_entry(facts, f"{path}#{name}").arch == facts["arch"]


# --- what a card leaves out


def test_a_card_without_any_takes_timm_s_own(folder):
    with pytest.warns(
        AssumptionWarning, match=r"states no mean, std and size; assumed: .*size 160"
    ):
        model = load_entry(folder, drop("mean", "std", "size"))
    config = timm.data.resolve_data_config({}, model=model.net)
    assert model.mean == config["mean"]
    assert model.std == config["std"]
    assert (model.size, model.geometry.size) == (160, 160)
    assert model.geometry.resize_size == int(160 / config["crop_pct"])
    assert model.facts()["card"]["assumed"] == model.card["assumed"]


def test_each_of_the_three_may_be_missing(folder):
    model = load_entry(folder, drop("mean", "std"))
    assert (model.mean, model.size) == ((0.5, 0.5, 0.5), 96)
    assert "states no mean and std" in model.card["assumed"][0]
    model = load_entry(folder, drop("size"))
    assert (model.mean, model.size) == ((0.4, 0.5, 0.6), 224)
    assert "size 224 (timm's own of test_resnet, whose size is 160)" in model.card["assumed"][0]


def test_a_network_of_one_size_takes_it(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "w.pth")
    entry = drop("size", file="w.pth", arch="test_vit", kwargs={"num_classes": 3})
    assert load_entry(tmp_path, entry).size == 160
    net = timm.create_model("test_vit", num_classes=3, img_size=64)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert load_entry(tmp_path, entry | {"kwargs": {"num_classes": 3, "img_size": 64}}).size == 64


def test_torchvision_s_own_is_that_of_its_weights(tmp_path):
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    entry = {"file": "w.pth", "library": "torchvision", "arch": "shufflenet_v2_x0_5"}
    model = load_entry(tmp_path, entry | {"kwargs": {"num_classes": 4}})
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.geometry.id == "short256-bilinear-crop224"
    assert "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1" in model.card["assumed"][0]


def test_five_channels_need_a_mean(tmp_path):
    net = timm.create_model("test_resnet", in_chans=5, num_classes=7)
    torch.save(net.state_dict(), tmp_path / "seven.pth")
    entry = drop("mean", "std", kwargs={"num_classes": 7, "in_chans": 5})
    with pytest.raises(BenchError, match=r"takes 5 channels.*add mean and std with 5 numbers each"):
        load_entry(tmp_path, entry)


# --- names that are files


@pytest.mark.parametrize("name", ["best.pth", "a/b.CKPT", "model.safetensors", "resnet18.bin"])
def test_a_file_of_weights_as_a_model_is_explained(name):
    with pytest.raises(BenchError) as caught:
        bench.load_model(name)
    text = str(caught.value)
    assert f"--weights {name}" in text
    example = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert example["mine"]["file"] == Path(name).name
    assert check_entry(example["mine"], "card.json#mine").library == "timm"


def test_a_folder_as_a_model_is_explained(tmp_path, monkeypatch):
    with pytest.raises(BenchError, match=r"is a folder and names no model.*hf:"):
        bench.load_model(tmp_path)
    (tmp_path / "test_resnet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert bench.load_model("test_resnet").name == "test_resnet"


@pytest.mark.parametrize("argument", ["pretrained", "checkpoint_path"])
def test_weights_go_through_the_checks(argument):
    with pytest.raises(BenchError, match=rf"given {argument}; leave it out and give weights="):
        bench.load_model("test_resnet", **{argument: "w.pth"})


# --- load_model


def test_load_model_returns_networks_in_eval_mode(folder):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

    @bench.register_model("train_mode_net")
    def train_mode_net() -> bench.Explainee:
        return bench.Explainee(net.train(), size=32)

    try:
        for name in ("resnet-scenes", "test_resnet", "train_mode_net", "resnet-scenes@layer3"):
            model = bench.load_model(name)
            assert not any(module.training for module in model.net.modules())
            before = model.fingerprint
            model.net(torch.rand(2, 3, 96, 96))
            assert model.fingerprint == before
    finally:
        MODELS.remove("train_mode_net")


def test_a_network_that_is_given_keeps_its_mode():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    bench.Explainee(net, size=32)
    assert all(module.training for module in net.modules())


def test_a_new_head_on_pretrained_weights_is_said(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    overlay = {"file": str(tmp_path / "w.pth")}
    with pytest.warns(AssumptionWarning, match=r"classifier of test_resnet has random weights"):
        model = bench.load_model(
            "test_resnet", weights="pretrained", num_classes=9, pretrained_cfg_overlay=overlay
        )
    assert model.card["assumed"]
    model = bench.load_model("test_resnet", weights="pretrained", pretrained_cfg_overlay=overlay)
    assert "assumed" not in model.card


def test_the_ema_of_a_file_stands_in_the_facts(tmp_path):
    net = timm.create_model("test_resnet", num_classes=7)
    other = timm.create_model("test_resnet", num_classes=7)
    both = {"model": other.state_dict(), "ema": net.state_dict()}
    torch.save(both, tmp_path / "w.pth")
    model = bench.load_model("test_resnet", weights=tmp_path / "w.pth", num_classes=7)
    torch.testing.assert_close(model.net.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert "EMA" in model.facts()["card"]["assumed"][0]


# --- the docs' tables


def test_every_key_is_described():
    for name, form, _, about in list_keys(CardKeys):
        assert form, name
        assert about, name
        assert f"| `{name}`" in write_key_table(CardKeys)
    schema = json_schema(CardKeys)
    assert schema["required"] == ["file", "library", "arch"]
    assert schema["additionalProperties"] is False


def test_the_example_is_a_card(tmp_path):
    (tmp_path / "card.json").write_text(describe_example())
    (facts,) = read_card(tmp_path / "card.json").values()
    assert check_entry(facts, "card.json#mine").size == 224


PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def test_the_page_shows_the_keys_and_an_example_that_is_a_card(tmp_path):
    text = PAGE.read_text()
    assert write_key_table(CardKeys) in text
    own = text.partition("## Cards")[2]
    (tmp_path / "card.json").write_text(own.partition("```json\n")[2].partition("```")[0])
    (facts,) = read_card(tmp_path / "card.json").values()
    assert check_entry(facts, "card.json#mine").kwargs == {"num_classes": 12}


def test_other_libraries_and_grey_networks_take_imagenet_s(folder):
    bare = {"file": "a", "library": "cambench", "arch": "resnet_scenes"}
    taken = find_input(torch.nn.Identity(), check_entry(bare, "c#a"), "c#a")
    assert (taken.mean, taken.size) == ((0.485, 0.456, 0.406), 224)
    assert "those of ImageNet" in taken.assumed[0]
    grey = check_entry(drop("mean", kwargs={"in_chans": 1}, std=[0.3]), "c#a")
    net = timm.create_model("test_resnet", in_chans=1)
    taken = find_input(net, grey, "c#a")
    assert (taken.mean, taken.std) == ((0.5,), (0.3,))
    with pytest.raises(BenchError, match=r"3 numbers as std, and the network takes 1 channels"):
        find_input(net, check_entry(drop(kwargs={"in_chans": 1}, mean=[0.5]), "c#a"), "c#a")

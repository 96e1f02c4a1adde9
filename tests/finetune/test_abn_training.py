"""Attention branch networks trained: what the loss is, what it reaches, what is written and loaded
again.
"""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import bench
from bench.data import load_subset
from bench.errors import BenchError
from bench.finetune.abn_training import BranchTask, measure_top1, train_abn, wrap_in_abn
from bench.finetune.augment import Augmentation
from bench.finetune.data import make_pictures
from bench.finetune.loop import SCORE, Settings
from bench.finetune.training import Training
from bench.models.abn import AttentionBranchNetwork
from bench.randomness import generator

SETTINGS = Settings(epochs=1, batch_size=8, lr=1e-3, precision="float32")
PART, CHECK = "scenes-calibration[:24]", "scenes-calibration[24:40]"
PLAIN = Augmentation(flip=0, gain=0, erase=0)


def trained(folder, backbone="resnet-scenes", name="abn", **changes):
    given = {"validation": load_subset(CHECK), "settings": SETTINGS} | changes
    recipe = {key: given.pop(key) for key in ("map_kernel",) if key in given}
    return train_abn(backbone, Training(load_subset(PART), folder, name, **given), **recipe)


def make_task(smoothing: float = 0.0) -> BranchTask:
    model = wrap_in_abn(bench.load_model("resnet-scenes"))
    pictures = make_pictures(load_subset(PART), model)
    return BranchTask(model, pictures, pictures, PLAIN, smoothing)


def test_it_starts_from_the_models_weights_and_leaves_the_model_alone():
    parent = bench.load_model("resnet-scenes")
    before = parent.fingerprint
    model = wrap_in_abn(parent, map_kernel=1)
    base, net = parent.net.state_dict(), model.net.state_dict()
    for name, value in base.items():
        if name.startswith("layer4."):
            assert torch.equal(net[name.replace("layer4.", "attention.stage.")], value)
            assert torch.equal(net[f"perception.stage.{name}"], value)
        else:
            assert torch.equal(
                net[("perception.head." if name.startswith("fc.") else "extractor.") + name], value
            )
    assert parent.fingerprint == before
    assert model.card["wrap"] == {"kind": "abn", "map_kernel": 1}


def test_the_loss_is_the_sum_of_both_branches_cross_entropies():
    task, rows = make_task(0.1), torch.tensor([3, 0, 7])
    task.net.eval()
    loss, numbers = task.loss(rows, generator(0, "x"))
    batch = load_subset(PART).batch(rows.tolist(), task.model.geometry)
    out = task.net.branches(task.model.normalise(batch.pixels))
    expected = torch.tensor(0.0, dtype=torch.float64)
    for logits in (out.attention_logits, out.logits):
        wanted = 0.9 * F.one_hot(batch.labels, 10) + 0.01
        expected = expected - (wanted * logits.double().log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert numbers["accuracy"] == (out.logits.argmax(1) == batch.labels).double().mean()
    assert (
        numbers["attention_accuracy"]
        == (out.attention_logits.argmax(1) == batch.labels).double().mean()
    )


def test_every_parameter_is_trained():
    task = make_task()
    task.train_mode()
    assert all(module.training for module in task.net.modules())
    task.loss(torch.arange(6), generator(0, "x"))[0].backward()
    without = [
        name for name, p in task.net.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert without == []
    listed = [id(p) for group in task.parameters() for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in task.net.parameters())


def test_both_heads_are_counted_on_every_image():
    task = make_task()
    task.net.eval()
    batch = load_subset(PART).batch(range(24), task.model.geometry)
    with torch.no_grad():
        out = task.net.branches(task.model.normalise(batch.pixels))
    numbers = task.validate()
    assert (
        numbers["top1"]
        == numbers[SCORE]
        == pytest.approx(100 * hits(out.logits, batch.labels) / 24)
    )
    assert numbers["attention_top1"] == pytest.approx(
        100 * hits(out.attention_logits, batch.labels) / 24
    )
    assert numbers["top1"] > 50  # the bundled parent's own weights, not an empty net


def hits(logits: torch.Tensor, labels: torch.Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


def test_what_is_trained_is_written_and_loaded(tmp_path):
    parent, rows = bench.load_model("resnet-scenes"), []
    settings = Settings(epochs=3, batch_size=8, lr=1e-3, precision="float32", keep="last")
    card = trained(tmp_path, settings=settings, command="cambench x", report=rows.append)
    model = bench.load_model(card)
    assert isinstance(model.net, AttentionBranchNetwork)
    assert rows[-1]["loss"] < rows[0]["loss"]
    facts = json.loads(card.read_text())["abn"]
    assert (facts["parent"], facts["parent_sha256"]) == ("resnet-scenes", parent.fingerprint)
    assert facts["recipe"]["kind"] == "abn"
    assert measure_top1(model, make_pictures(load_subset(CHECK), model)) == {
        "top1": facts["top1"],
        "attention_top1": facts["attention_top1"],
    }
    assert model.fingerprint != parent.fingerprint
    images = model.normalise(load_subset(CHECK).batch([0, 1], model.geometry).pixels)
    maps = bench.explain(model, images, method=["attention_branch", "grad_cam"])
    assert maps["attention_branch"].std() > 0
    assert maps["grad_cam"].shape == (2, 96, 96)


def test_same_seed_same_weights_other_seed_others(tmp_path):
    prints = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        card = trained(
            tmp_path / place, settings=Settings(1, 8, 1e-3, seed=seed, precision="float32")
        )
        prints.append(bench.load_model(card).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("backbone", ["vgg_scenes", "test_resnet"])
def test_it_starts_from_fresh_weights_too(tmp_path, backbone):
    card = trained(tmp_path, backbone, map_kernel=1)
    model = bench.load_model(card)
    assert (model.parent, model.size, model.net.num_classes) == ("", 96, 10)
    assert model.net.attention.to_map.kernel_size == (1, 1)
    assert "parent_sha256" not in model.card


@pytest.mark.parametrize(
    ("backbone", "options", "words"),
    [
        ("test_convnext", {}, r"\(ConvNeXt\) cannot be split"),
        ("resnet_scenes", {"map_kernel": 2}, "1 or 3, not 2"),
        ("resnet_scene", {}, "Unknown model 'resnet_scene'"),
    ],
)
def test_a_backbone_that_does_not_do_is_one_sentence(tmp_path, backbone, options, words):
    with pytest.raises(BenchError, match=words) as caught:
        trained(tmp_path, backbone, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_parent_in_the_same_folder_is_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(BenchError, match="other settings, data or parent"):
        trained(tmp_path, "resnet_scenes")

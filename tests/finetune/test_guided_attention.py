"""Edited maps that teach the attention branch: what moves, what stays to the bit, what is told
before and after.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import bench
from bench.cli import main
from bench.data import load_subset
from bench.errors import BenchError
from bench.finetune.abn_training import wrap_in_abn
from bench.finetune.attention_agreement import Group, grid_of, measure_agreement
from bench.finetune.attention_maps import load_maps, make_edited_map, save_map, utc_now
from bench.finetune.data import Pictures, make_pictures
from bench.finetune.guided_attention import (
    SETTINGS,
    Guidance,
    GuidedTask,
    choose_images,
    describe_final,
    find_unedited,
    learning_modules,
    make_examples,
    train_guided,
)
from bench.finetune.loop import SCORE
from bench.finetune.placement import find_placements
from bench.finetune.save import write_model
from bench.finetune.simulate import simulate_maps
from bench.finetune.training import Training
from bench.models.abn import AttentionBranchNetwork, Branches
from bench.randomness import generator

QUICK = replace(SETTINGS, epochs=2, batch_size=8, precision="float32")
WAYS = [
    (scope, objective)
    for objective in ("mse", "mitsuhara")
    for scope in ("all", "final", "map_head")
]
FINAL = ("attention.to_map.",)
MAP_HEAD = (*FINAL, "attention.bn_map.")
SHARED = (
    "attention.stage.",
    "attention.bn_stage.",
    "attention.to_classes.",
    "attention.bn_classes.",
    *MAP_HEAD,
)
LEARNS = {
    ("all", "mse"): SHARED,
    ("final", "mse"): FINAL,
    ("map_head", "mse"): MAP_HEAD,
    ("all", "mitsuhara"): (*SHARED, "attention.class_head.", "perception."),
    ("final", "mitsuhara"): (*FINAL, "perception."),
    ("map_head", "mitsuhara"): (*MAP_HEAD, "perception."),
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> bench.Explainee:
    """An attention branch network with a card, its attention random, the bundled network's
    accuracy.
    """
    model = wrap_in_abn(bench.load_model("resnet-scenes"))
    folder = tmp_path_factory.mktemp("parent")
    return bench.load_model(write_model(folder, "abn-random", model, {}))


@pytest.fixture(scope="module")
def subset() -> bench.Subset:
    return load_subset("scenes-calibration[:40]")


@pytest.fixture(scope="module")
def folder(parent, subset, tmp_path_factory):
    """Simulated maps of half of the images."""
    place = tmp_path_factory.mktemp("maps")
    simulate_maps(parent, subset, place, share=0.55)
    return place


@pytest.fixture(scope="module")
def maps(folder):
    return load_maps(folder)


def guided(parent, subset, maps, folder, **changes):
    guidance = changes.pop("guidance", None)
    given = {"settings": QUICK} | changes
    return train_guided(parent, maps, Training(subset, folder, "guided", **given), guidance)


def make_task(parent, subset, maps, guidance, **changes) -> GuidedTask:
    model = parent.replace_net(copy.deepcopy(parent.net))
    rows, targets = make_examples(model, subset, maps)
    return GuidedTask(
        model, make_pictures(subset, model), rows, targets, guidance, lr=1e-3, **changes
    )


def changed(one: torch.nn.Module, other: torch.nn.Module) -> set[str]:
    """Return the names of parameters and buffers that differ; the counters of batches are left
    out.
    """
    mine, others = one.state_dict(), other.state_dict()
    assert mine.keys() == others.keys()
    return {
        k
        for k in mine
        if not torch.equal(mine[k], others[k]) and not k.endswith("num_batches_tracked")
    }


# ---------------------------------------------------------------------------------- what is learned


@pytest.mark.parametrize("way", WAYS)
def test_what_is_frozen_stays_to_the_bit_and_all_else_learns(parent, subset, maps, tmp_path, way):
    before = parent.fingerprint
    done = guided(parent, subset, maps, tmp_path, guidance=Guidance(*way))
    net = bench.load_model(done.card).net
    state = parent.net.state_dict()
    moved = changed(net, parent.net)
    assert {name for name in moved if not name.startswith(LEARNS[way])} == set()
    expected = {
        name for name in state if name.startswith(LEARNS[way]) and "num_batches" not in name
    }
    assert moved == expected  # batch statistics among them
    counters = [
        name for name in state if "num_batches" in name and not name.startswith(LEARNS[way])
    ]
    assert all(torch.equal(net.state_dict()[name], state[name]) for name in counters)
    assert parent.fingerprint == before


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_where_the_scope_says_and_nowhere_else(parent, subset, maps, way):
    task = make_task(parent, subset, maps, Guidance(*way))
    task.train_mode()
    task.loss(torch.arange(6), generator(0, "x"))[0].backward()
    reached = {
        name for name, p in task.net.named_parameters() if p.grad is not None and p.grad.any()
    }
    expected = {name for name, _ in task.net.named_parameters() if name.startswith(LEARNS[way])}
    assert reached == expected
    assert {name for name, p in task.net.named_parameters() if p.requires_grad} == expected
    listed = [id(p) for group in task.parameters() for p in group["params"]]
    assert sorted(listed) == sorted(
        id(p) for name, p in task.net.named_parameters() if name in expected
    )


def test_a_final_convolution_that_is_not_the_papers_is_said(parent):
    assert "is 3x3, the paper's is 1x1" in describe_final(parent, Guidance("final"))
    assert describe_final(parent, Guidance("all")) == ""
    small = wrap_in_abn(bench.load_model("resnet-scenes"), map_kernel=1)
    assert describe_final(small, Guidance("final")) == ""


@pytest.mark.parametrize("norms", ["batch", "running"])
@pytest.mark.parametrize("way", WAYS)
def test_only_what_learns_is_in_training_mode(parent, subset, maps, way, norms):
    task = make_task(parent, subset, maps, Guidance(*way, norms=norms))
    task.train_mode()
    for name, module in task.net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training == (norms == "batch" and f"{name}.".startswith(LEARNS[way])), (
                name
            )
        elif list(module.parameters(recurse=False)):
            assert module.training == f"{name}.".startswith(LEARNS[way]), name


def test_before_the_first_step_it_is_the_parent(parent, subset, maps, tmp_path):
    task = make_task(parent, subset, maps, Guidance())
    task.net.eval()
    x = parent.normalise(subset.batch([0, 1, 2], parent.geometry).pixels)
    with torch.no_grad():
        for ours, theirs in zip(task.net.branches(x), parent.net.eval().branches(x), strict=True):
            assert torch.equal(ours, theirs)
    # A step of rate 0 changes nothing at all where statistics are frozen too, else only those of
    # what learns.
    still = guided(
        parent,
        subset,
        maps,
        tmp_path / "a",
        settings=replace(QUICK, lr=0.0),
        guidance=Guidance(norms="running"),
    )
    assert changed(bench.load_model(still.card).net, parent.net) == set()
    assert still.before == still.after
    stirred = guided(parent, subset, maps, tmp_path / "b", settings=replace(QUICK, lr=0.0))
    moved = changed(bench.load_model(stirred.card).net, parent.net)
    assert {name.rpartition(".")[2] for name in moved} == {"running_mean", "running_var"}
    assert all(name.startswith(SHARED) for name in moved)


def test_same_seed_same_weights_other_seed_others(parent, subset, maps, tmp_path):
    prints = []
    for place, seed, order in (("a", 0, 1), ("b", 0, -1), ("c", 1, 1)):
        done = guided(
            parent, subset, maps[::order], tmp_path / place, settings=replace(QUICK, seed=seed)
        )
        prints.append(bench.load_model(done.card).fingerprint)
    assert prints[0] == prints[1] != prints[2]  # and the order of the maps does not matter


# ------------------------------------------------------------------------------------ the objective


def test_targets_are_the_maps_means_over_cells_and_belong_to_their_images(parent, subset, maps):
    rows, targets = make_examples(parent, subset, maps)
    height, width = grid_of(parent)
    assert targets.shape == (len(maps), 1, height, width) == (len(maps), 1, 12, 12)
    by_item = {one.item: one.values for one in maps}
    for row, target in zip(rows.tolist(), targets, strict=True):
        values = by_item[subset.ids[row]]
        cells = values.reshape(12, 8, 12, 8).mean((1, 3))
        np.testing.assert_allclose(target[0].numpy(), cells, atol=1e-6)
    assert [one.tolist() for one in make_examples(parent, subset, maps[::-1])] == [
        rows.tolist(),
        targets.tolist(),
    ]


def test_mse_is_the_mean_square_over_cells(parent, subset, maps):
    task = make_task(parent, subset, maps, Guidance(flip=0))
    task.net.eval()
    loss, _ = task.loss(torch.tensor([2, 5]), generator(0, "x"))
    places = task.rows[[2, 5]].tolist()
    with torch.no_grad():
        m = parent.net.eval().attention_map(
            parent.normalise(subset.batch(places, parent.geometry).pixels)
        )
    expected = ((m.double().numpy() - task.targets[[2, 5]].double().numpy()) ** 2).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_mitsuhara_is_both_losses_and_gamma_times_the_distance(parent, subset, maps):
    task = make_task(parent, subset, maps, Guidance(objective="mitsuhara", gamma=0.3, flip=0))
    task.net.eval()
    index = torch.tensor([1, 0, 4])
    loss, numbers = task.loss(index, generator(0, "x"))
    batch = subset.batch(task.rows[index].tolist(), parent.geometry)
    with torch.no_grad():
        out = parent.net.eval().branches(parent.normalise(batch.pixels))
    distances = [
        float(np.sqrt(((m - t).double().numpy() ** 2).sum()))
        for m, t in zip(out.attention, task.targets[index], strict=True)
    ]
    classes = sum(
        F.nll_loss(z.double().log_softmax(1), batch.labels).item()
        for z in (out.attention_logits, out.logits)
    )
    assert numbers["distance"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert loss.item() == pytest.approx(classes + 0.3 * np.mean(distances), rel=1e-5)


def test_images_and_maps_are_mirrored_together(parent, subset, maps):
    task = make_task(parent, subset, maps, Guidance(flip=1))
    task.net.eval()
    seen = []
    task.net.extractor.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss, _ = task.loss(torch.tensor([0]), generator(0, "x"))
    pixels = subset.batch([int(task.rows[0])], parent.geometry).pixels
    torch.testing.assert_close(seen[0], parent.normalise(pixels.flip(3)))
    with torch.no_grad():
        m = parent.net.eval().attention_map(parent.normalise(pixels.flip(3)))
    assert loss.item() == pytest.approx(
        (m - task.targets[0].flip(-1)).square().mean().item(), rel=1e-5
    )


def test_the_maps_kept_aside_are_not_trained_on_and_choose_the_epoch(parent, subset, maps):
    task = make_task(parent, subset, maps, Guidance(flip=0), aside=3)
    assert task.size == len(maps) - 3
    seen = []
    task.net.extractor.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.net.eval()
    task.loss(torch.tensor([0]), generator(0, "x"))
    first = subset.batch([int(task.rows[3])], parent.geometry).pixels
    torch.testing.assert_close(seen[0], parent.normalise(first))
    numbers = task.validate()
    with torch.no_grad():
        m = task.net.attention_map(
            parent.normalise(subset.batch(task.rows[:3].tolist(), parent.geometry).pixels)
        )
    assert numbers["held_out_loss"] == pytest.approx(
        (m - task.targets[:3]).square().mean().item(), rel=1e-5
    )
    assert numbers[SCORE] == -numbers["held_out_loss"]


# ------------------------------------------------------------------------------------- what is told


def test_guidance_moves_the_maps_and_says_so(parent, subset, maps, tmp_path):
    rows = []
    settings = replace(QUICK, epochs=12, lr=3e-3)
    done = guided(parent, subset, maps, tmp_path, settings=settings, report=rows.append)
    assert rows[-1]["loss"] < rows[0]["loss"]
    aside = len(maps) // 10
    assert (done.before["edited"]["images"], done.before["aside"]["images"]) == (
        len(maps) - aside,
        aside,
    )
    assert done.before["held_out"]["images"] == len(subset) - len(maps)
    for which in ("edited", "held_out"):
        before, after = done.before[which], done.after[which]
        assert after["mse"] < 0.9 * before["mse"]
        assert after["pearson"] > before["pearson"] + 0.2
        assert after["iou"] > before["iou"]
        assert after["energy"] > before["energy"]
    # What is told is what the written model does.
    model = bench.load_model(done.card)
    places, targets = make_examples(model, subset, maps)
    assert (
        measure_agreement(
            model, Group(make_pictures(subset, model), places[aside:], targets[aside:])
        )
        == done.after["edited"]
    )
    facts = json.loads(done.card.read_text())["guided"]
    assert facts["agreement"]["held_out"]["after"] == done.after["held_out"]
    assert (facts["parent"], facts["parent_sha256"]) == (parent.name, parent.fingerprint)
    assert facts["maps"]["count"] == len(maps)
    assert facts["simulated"] is True
    lines = done.lines()
    assert len(lines) == 3
    assert f"{len(maps) - aside} simulated maps trained on: top1 " in lines[0]
    before, after = done.before["edited"]["mse"], done.after["edited"]["mse"]
    assert f"mse {before:.4f} -> {after:.4f}" in lines[0]
    assert "simulated" not in lines[2]


class Dictated(AttentionBranchNetwork):
    """Answers with maps and classes that a test dictates."""

    def __init__(self, backbone, maps, logits, attention_logits) -> None:
        super().__init__(backbone)
        self.given = maps, logits, attention_logits

    def branches(self, x, attention=None):
        maps, logits, attention_logits = self.given
        return Branches(attention_logits, logits, maps)


def test_agreement_by_hand(parent, subset):
    """Two images, a 2x2 grid: every number can be redone on paper."""
    labels = torch.from_numpy(subset.labels[:2])
    right = F.one_hot(labels, 10).float()
    wrong = F.one_hot((labels + 1) % 10, 10).float()
    maps = torch.tensor([[[[0.6, 0.2], [0.44, 0.2]]], [[[0.2, 0.2], [0.2, 0.2]]]])
    net = Dictated(
        bench.load_model("resnet-scenes").net, maps, torch.stack([right[0], wrong[1]]), right
    )
    model = parent.replace_net(net)
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.2, 0.2], [0.2, 0.0]]])
    numbers = measure_agreement(
        model, Group(make_pictures(subset, parent), torch.arange(2), targets[:, None])
    )
    assert (numbers["images"], numbers["top1"], numbers["attention_top1"]) == (2, 50.0, 100.0)
    assert numbers["mse"] == pytest.approx((0.4336 / 4 + 0.04 / 4) / 2, abs=1e-7)
    # Pearson, of [1,0,.6,0] with [1,0,0,0] as well: .6 / sqrt(.72 * .75); a constant map agrees
    # with nothing.
    assert numbers["pearson"] == pytest.approx((0.6 / (0.72 * 0.75) ** 0.5 + 0) / 2, abs=1e-6)
    # IoU of unit maps at .5: two cells and one in common with one; a constant map has no cell
    # above.
    assert numbers["iou"] == pytest.approx((1 / 2 + 0) / 2)
    up = F.interpolate(maps, size=(96, 96), mode="bilinear", align_corners=False)[:, 0]
    masks = subset.batch([0, 1], parent.geometry).truth.masks
    inside = [(m * t).sum() / m.sum() for m, t in zip(up.double(), masks, strict=True)]
    assert numbers["energy"] == pytest.approx(float(sum(inside) / 2), abs=1e-6)


def test_without_edited_maps_the_objects_stand_in(parent, subset):
    rows = torch.tensor([4, 7])
    masks = subset.batch([4, 7], parent.geometry).truth.masks.float()
    cells = masks.reshape(2, 12, 8, 12, 8).mean((2, 4))
    pictures = make_pictures(subset, parent)
    told = measure_agreement(parent, Group(pictures, rows))
    assert told == measure_agreement(parent, Group(pictures, rows, cells[:, None]))


def test_a_subset_without_truth_is_measured_by_its_classes_alone(parent, tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["file,label"]
    for i, sample in enumerate(load_subset("scenes-calibration[:3]")):
        Image.fromarray(sample.image).save(tmp_path / "images" / f"{i}.png")
        lines.append(f"images/{i}.png,{sample.label}")
    (tmp_path / "annotations.csv").write_text("\n".join(lines) + "\n")
    told = measure_agreement(
        parent, Group(Pictures(load_subset(tmp_path), parent.geometry), torch.arange(3))
    )
    assert told["top1"] == 100
    assert (told["mse"], told["pearson"], told["iou"], told["energy"]) == (None,) * 4


# -------------------------------------------------------------------------------- images, bad input


def test_chosen_are_right_in_class_and_wrong_in_place(parent, subset):
    rows = choose_images(parent, subset)
    expected = [
        p.item for p in find_placements(parent, subset) if p.predicted == p.label and p.energy < 0.5
    ]
    assert [p.item for p in rows] == expected
    assert 0 < len(rows) < len(subset)


def test_held_out_images_have_no_map(parent, subset, maps, tmp_path):
    others = find_unedited(subset, maps)
    assert set(others.ids).isdisjoint(one.item for one in maps)
    assert len(others) == len(subset) - len(maps)
    check = load_subset("scenes-calibration[50:56]")
    done = guided(parent, subset, maps, tmp_path, validation=check)
    assert done.before["held_out"]["images"] == 6


def test_few_maps_are_all_trained_on_and_the_last_epoch_is_kept(parent, subset, maps, tmp_path):
    done = guided(parent, subset, maps[:4], tmp_path)
    assert set(done.before) == {"edited", "held_out"}
    assert json.loads(done.card.read_text())["guided"]["epoch"] == QUICK.epochs


def test_maps_that_a_person_drew_are_not_called_simulated(parent, subset, maps, tmp_path):
    for one in maps[:3]:
        save_map(
            tmp_path / "maps",
            make_edited_map(one.grey, {**one.facts, "source": "editor", "when": utc_now()}),
        )
    done = guided(parent, subset, load_maps(tmp_path / "maps"), tmp_path / "run")
    assert not done.simulated
    assert "simulated" not in " ".join(done.lines())


def test_bad_input_is_one_sentence(parent, subset, maps, tmp_path):
    def refused(words, model=parent, images=subset, edited=maps, **changes):
        with pytest.raises(BenchError, match=words) as caught:
            guided(model, images, edited, tmp_path, **changes)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "checkpoint.pt").exists()

    refused("no attention branch", model=bench.load_model("resnet-scenes"))
    refused("There are no edited maps to learn from", edited=[])
    refused(
        "is of the model abn-random",
        model=parent.replace_net(wrap_in_abn(bench.load_model("resnet-scenes"), 1).net),
    )
    refused("not of scenes-val", images=load_subset("scenes-val[:40]"))
    refused("not in the subset", images=load_subset("scenes-calibration[40:60]"))
    alone = [
        place
        for place, item in zip(subset.positions, subset.ids, strict=True)
        if item in {m.item for m in maps}
    ]
    refused("Every image of .* has an edited map", images=replace(subset, positions=tuple(alone)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scope": "some"}, "Unknown scope 'some'; choose one of all, final, map_head"),
        ({"objective": "mae"}, "Unknown objective 'mae'"),
        ({"norms": "none"}, "Unknown norms 'none'"),
        ({"gamma": -1.0}, "gamma is -1"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"flip": 2.0}, "flip is 2"),
    ],
)
def test_impossible_guidance(given, words):
    with pytest.raises(BenchError, match=words):
        Guidance(**given)


def test_what_learns_lies_in_no_other_part_that_learns(parent):
    for scope, objective in WAYS:
        modules = learning_modules(parent.net, Guidance(scope, objective))
        inside = [id(m) for module in modules for m in module.modules()]
        assert len(inside) == len(set(inside))


# ------------------------------------------------------------------------------------- the commands


def cambench(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["cambench", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def test_the_commands_train_and_say_what_became_of_it(monkeypatch, capsys, tmp_path):
    code = cambench(
        monkeypatch,
        *("finetune", "abn", "--backbone", "resnet-scenes", "--subset", "scenes-calibration[:16]"),
        *(
            "--validation",
            "scenes-calibration[16:24]",
            "--epochs",
            1,
            "--batch-size",
            8,
            "--name",
            "branch",
        ),
        *("--map-kernel", 1, "--out", tmp_path / "abn"),
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    card = tmp_path / "abn" / "branch.json"
    assert f"Trained: {card}" in said.out
    assert "attention_top1" in said.out
    model = bench.load_model(card)
    assert model.net.map_kernel == 1
    simulate_maps(model, load_subset("scenes-calibration[:24]"), tmp_path / "maps", share=0.5)
    words = (
        "finetune",
        "guided",
        "--model",
        card,
        "--maps",
        tmp_path / "maps",
        "--epochs",
        1,
        "--scope",
        "final",
    )
    code = cambench(monkeypatch, *words, "--out", tmp_path / "guided")
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "simulated maps trained on: top1" in said.out
    facts = json.loads((tmp_path / "guided" / "branch-guided.json").read_text())["branch-guided"]
    assert facts["recipe"]["scope"] == "final"
    assert facts["command"].startswith("cambench finetune guided --model ")
    changes = changed(bench.load_model(tmp_path / "guided" / "branch-guided.json").net, model.net)
    assert changes
    assert all(name.startswith(FINAL) for name in changes)


def test_a_command_with_maps_of_another_model_says_so(
    monkeypatch, capsys, folder, parent, tmp_path
):
    other = write_model(tmp_path, "other", wrap_in_abn(bench.load_model("vgg-scenes")), {})
    words = ("finetune", "guided", "--model", other, "--maps", folder, "--out", tmp_path / "run")
    assert cambench(monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert f"is of the model {parent.name}" in said.err
    assert "Traceback" not in said.err
    assert cambench(monkeypatch, *words[:5], tmp_path / "nothing") == 2
    assert "There is no folder" in capsys.readouterr().err

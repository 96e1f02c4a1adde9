"""AFT: nothing changes before it trains, only what its scope names is trained, and the loss is the
stated one.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from typer.testing import CliRunner

import bench
from bench.cli import app
from bench.cli.finetune.aft import TunerOptions
from bench.errors import BenchError
from bench.files import CACHE_VARIABLE
from bench.finetune.aft import AftRecipe, AftTask, make_tuned_model, train_aft
from bench.finetune.aft_losses import rescale_mask
from bench.finetune.classifier import accuracy
from bench.finetune.data import make_pictures
from bench.finetune.loop import CHECKPOINT, SCORE, Settings
from bench.finetune.masks import CONTROLS, choose, search_masks
from bench.finetune.save import write_model
from bench.finetune.training import Training
from bench.models.architectures import build_seeded
from bench.models.card_keys import read_card
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.models.tuner import TunedLayer, TunedNet, find_tuner

TRAIN, CHECK = "scenes-calibration[:24]", "scenes-calibration[24:40]"
SETTINGS = Settings(epochs=2, batch_size=8, lr=5e-3, precision="float32")


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """Keep searches for the tests of this file, away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def parent() -> Explainee:
    model = bench.load_model("resnet-scenes")
    model.net.eval()
    return model


@pytest.fixture(scope="module")
def data():
    return bench.load_subset(TRAIN), bench.load_subset(CHECK)


def train(parent, data, out: Path, settings: Settings = SETTINGS, **recipe) -> Explainee:
    """Fine-tune and load what was written."""
    card = train_aft(
        parent,
        Training(data[0], out, "tuned", validation=data[1], settings=settings),
        AftRecipe(**recipe),
    )
    model = bench.load_model(card)
    model.net.eval()
    return model


def task(parent, data, control: str = "none", trained: bool = True, **recipe) -> AftTask:
    """Return a task whose tuner is no longer the identity."""
    made = AftRecipe(control=control, **{"target": "activations"} | recipe)
    tuned = make_tuned_model(parent, "tuned")
    pictures, held = (make_pictures(one, parent) for one in data)
    masks = choose(search_masks(parent, pictures), data[0].ids, "logodds", control)
    held_masks = choose(search_masks(parent, held), data[1].ids, "logodds")
    found = AftTask(tuned, (pictures, masks), (held, held_masks), made, SETTINGS.lr)
    if trained:
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in find_tuner(tuned.net).gate[-1].parameters():
                p.copy_(0.2 * torch.randn(p.shape, generator=rng))
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    state, rest = one.state_dict(), other.state_dict()
    return state.keys() == rest.keys() and all(torch.equal(state[key], rest[key]) for key in state)


def pixels(parent, data, count: int = 6) -> torch.Tensor:
    return parent.normalise(make_pictures(data[1], parent).pixels(torch.arange(count)))


# --- before and after


def test_before_training_logits_and_maps_are_the_parents_to_the_bit(parent, data):
    tuned, x = make_tuned_model(parent, "tuned"), pixels(parent, data)
    with torch.inference_mode():
        assert torch.equal(tuned.net(x), parent.net(x))
    assert torch.equal(bench.explain(tuned, x), bench.explain(parent, x))
    assert find_tuner(tuned.net) is not None
    assert not any(p is q for p in tuned.net.parameters() for q in parent.net.parameters())


def test_a_trained_tuner_is_written_loaded_and_carries_its_parent(parent, data, tmp_path):
    before = copy.deepcopy(parent.net)
    told = []
    card = train_aft(
        parent,
        Training(
            data[0],
            tmp_path,
            "tuned",
            validation=data[1],
            settings=SETTINGS,
            command="cambench x",
            facts={"licence": "mine"},
            report=told.append,
        ),
    )
    assert same(parent.net, before)
    model, facts = bench.load_model(card), read_card(card)["tuned"]
    assert (model.name, model.parent, facts["parent_sha256"]) == (
        "tuned",
        "resnet-scenes",
        parent.fingerprint,
    )
    assert isinstance(model.net, TunedNet)
    assert model.layer == "forward_features"
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)["best"]
    assert all(torch.equal(kept[key], value) for key, value in model.net.state_dict().items())
    # The network is the parent's, its batch statistics too; the tuner is not the one it started as.
    assert same(model.net.net, parent.net)
    start = make_tuned_model(parent, "tuned").net
    changed = {
        k
        for k, v in find_tuner(start).state_dict().items()
        if not torch.equal(v, find_tuner(model.net).state_dict()[k])
    }
    assert changed == set(find_tuner(start).state_dict())
    x = pixels(parent, data)
    assert not torch.equal(bench.explain(model, x), bench.explain(parent, x))
    with guard_network(model.net):
        assert facts["top1"] == accuracy(model, make_pictures(data[1], model))
        assert facts["top1_parent"] == accuracy(parent, make_pictures(data[1], model))
    assert (facts["licence"], facts["command"], facts["recipe"]["weight"]) == (
        "mine",
        "cambench x",
        3.0,
    )
    assert facts["masks"]["images"] == 24
    assert facts["masks"]["share_t0_official"] > 0.5 > facts["masks"]["share_t0_logodds"]
    assert facts["masks"]["select"] == "logodds"  # so auto
    assert [row["epoch"] for row in told] == [1, 2]
    assert {"loss", "accuracy", "ce", "mask", "top1", "held_out_ce", "held_out_mask"} < set(told[0])


def test_full_trains_the_network_too_but_not_its_batch_statistics(parent, data, tmp_path):
    model = train(
        parent, data, tmp_path, replace(SETTINGS, epochs=1), scope="full", weight=3.0, mu=0.1
    )
    before, after = parent.net.state_dict(), model.net.net.state_dict()
    statistics = [key for key in before if "running" in key or "num_batches" in key]
    assert statistics
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    trained = [key for key in before if key not in statistics]
    assert all(not torch.equal(before[key], after[key]) for key in trained)
    # Slowly: a weight moves much less than the tuner's.
    moved = (after["layer4.0.conv1.weight"] - before["layer4.0.conv1.weight"]).abs().max()
    assert moved < 1e-3
    assert not torch.equal(find_tuner(model.net).gate[1].running_mean, torch.zeros(12))


@pytest.mark.parametrize("scope", ["tuner", "full"])
def test_gradients_only_where_the_scope_says(parent, data, scope):
    made = task(parent, data, scope=scope, mu=0.5)
    listed = {id(p) for group in made.parameters() for p in group["params"]}
    made.train_mode()
    made.loss(torch.arange(8), torch.Generator().manual_seed(0))[0].backward()
    own = {id(p) for p in find_tuner(made.net).parameters()}
    for p in made.net.parameters():
        wanted = id(p) in own or scope == "full"
        assert (p.grad is not None) is wanted
        assert p.requires_grad is wanted
        assert (id(p) in listed) is wanted
    assert made.original is not None
    assert all(p.grad is None for p in made.original.parameters())
    rates = [group.get("lr") for group in made.parameters()]
    assert rates == ([None] if scope == "tuner" else [None, pytest.approx(5e-3 * 0.03)])
    training = {name for name, module in made.net.named_modules() if module.training}
    assert training == {
        f"tuner{name and '.'}{name}" for name, _ in find_tuner(made.net).named_modules()
    }


def test_same_seed_same_weights_other_seed_others(parent, data, tmp_path):
    once = replace(SETTINGS, epochs=1)
    one, two = (train(parent, data, tmp_path / name, once, control="random") for name in "ab")
    assert same(one.net, two.net)
    other = train(parent, data, tmp_path / "c", replace(once, seed=1), control="random")
    assert not torch.equal(find_tuner(one.net).gate[0].weight, find_tuner(other.net).gate[0].weight)


def test_a_killed_training_goes_on_and_ends_the_same(parent, data, tmp_path, monkeypatch):
    for scope in ("tuner", "full"):
        whole = train(parent, data, tmp_path / scope / "whole", scope=scope)
        calls, loss = [], AftTask.loss

        def killed(self, rows, rng, calls=calls, loss=loss):
            calls.append(rows)
            if len(calls) == 5:  # the second epoch's second step of three
                raise KeyboardInterrupt
            return loss(self, rows, rng)

        with monkeypatch.context() as patch:
            patch.setattr(AftTask, "loss", killed)
            with pytest.raises(KeyboardInterrupt):
                train(parent, data, tmp_path / scope / "parts", scope=scope)
        resumed = train(parent, data, tmp_path / scope / "parts", scope=scope)
        assert same(whole.net, resumed.net)
    with pytest.raises(BenchError, match="other settings, data or parent; choose another --out"):
        train(parent, data, tmp_path / "full" / "parts", scope="full", weight=2.0)


# --- the loss


def replica(
    made: AftTask, rows: torch.Tensor, flip: torch.Tensor, side: int = 96
) -> dict[str, float]:
    """Return the parts of the loss in float64, image by image, the pictures and masks mirrored
    before anything else.
    """
    recipe, (pictures, masks) = made.recipe, made.train
    net = copy.deepcopy(made.net).double().eval()
    find_tuner(net).train(find_tuner(made.net).training)
    plain = net.net
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (made.model.mean, made.model.std)
    )
    images, kept = pictures.pixels(rows).double(), masks.binary(rows).double()
    images, kept = (
        torch.stack([a.flip(-1) if f else a for a, f in zip(one, flip, strict=True)])
        for one in (images, kept)
    )
    x = (images - mean) / std
    with torch.no_grad():
        A0 = plain.forward_features(x)
        A = find_tuner(net)(A0)
        logits, before = plain.forward_head(A), plain.forward_head(A0)
    ce = np.mean(
        [
            float(torch.logsumexp(z, 0) - z[y])
            for z, y in zip(logits, pictures.labels[rows], strict=True)
        ]
    )
    p0, p1 = before.softmax(1), logits.softmax(1)
    kl = float((p0 * (p0.log() - p1.log())).sum(1).mean())
    own = [i for i in range(len(rows)) if masks.carries[rows[i]]]
    cells = A0.shape[-1]
    m = kept.view(-1, cells, side // cells, cells, side // cells).mean((2, 4))
    squares = [(A[i] - m[i] * A0[i]) ** 2 for i in own]
    mask = float(torch.stack(squares).mean() / torch.stack([A0[i] ** 2 for i in own]).mean())
    return {
        "ce": float(ce),
        "mask": mask,
        "kl": kl,
        "total": float(ce) + recipe.weight * mask + recipe.mu * kl,
    }


@pytest.mark.parametrize("scope", ["tuner", "full"])
def test_the_loss_is_the_stated_one(parent, data, scope):
    made = task(parent, data, scope=scope, weight=2.5, mu=0.7)
    masks = made.train[1]
    masks.carries[[1, 4]] = False  # as if these were classified wrongly
    made.train_mode()
    rows = torch.tensor([3, 1, 0, 4, 2, 9, 8])
    rng = torch.Generator().manual_seed(3)
    flip = torch.rand(len(rows), generator=torch.Generator().manual_seed(3)) < 0.5
    assert 0 < flip.sum() < len(rows)
    wanted = replica(made, rows, flip)
    terms = made.terms(made.train, rows, rng)
    assert terms.masked == 5
    for part in ("ce", "mask", "kl", "total"):
        assert float(getattr(terms, part).detach()) == pytest.approx(wanted[part], rel=2e-4), part


def test_the_original_stays_the_reference_when_the_network_moves(parent, data):
    """Under "full" A0 and the original's predictions come from a frozen copy, not from the network
    of now.
    """
    made = task(parent, data, scope="full", weight=1.0, mu=1.0)
    rows, x = torch.arange(6), made.model.normalise(made.train[0].pixels(torch.arange(6)))
    with torch.no_grad():
        for p in made.net.net.layer4.parameters():
            p.mul_(1.3)
        terms = made.terms(made.train, rows)
        A0, before = parent.net.forward_features(x), parent.net(x)
        A, after = made.net.forward_features(x), made.net(x)
    own = made.train[1].carries[rows]
    m = made.train[1].pooled[rows][:, None]
    wanted = ((A - m * A0)[own] ** 2).mean() / (A0[own] ** 2).mean()
    assert float(terms.mask) == pytest.approx(float(wanted), rel=1e-4)
    kl = (before.softmax(1) * (before.log_softmax(1) - after.log_softmax(1))).sum(1).mean()
    assert float(terms.kl) == pytest.approx(float(kl), rel=1e-4)
    assert not torch.allclose(before, after, atol=0.1)


def test_no_image_with_a_mask_in_the_batch_leaves_cross_entropy(parent, data):
    made = task(parent, data, weight=2.0)
    made.train[1].carries[:] = False
    terms = made.terms(made.train, torch.arange(4), torch.Generator().manual_seed(0))
    assert terms.masked == 0
    assert torch.equal(terms.total, terms.ce)
    terms.total.backward()


def test_validation_is_the_loss_on_held_out_images(parent, data):
    made = task(parent, data, weight=2.0, mu=0.5)
    made.net.eval()
    with torch.no_grad():
        found = made.validate()
        terms = made.terms(made.validation, torch.arange(len(data[1])))
    assert terms.masked < len(data[1]) or bool(made.validation[1].carries.all())
    assert found[SCORE] == pytest.approx(-float(terms.total), rel=1e-5)
    assert found["held_out_mask"] == pytest.approx(float(terms.mask), rel=1e-5)


def test_the_defaults_are_the_recommended_recipe():
    recipe, words = AftRecipe(), inspect.signature(TunerOptions).parameters
    assert (recipe.weight, recipe.target) == (3.0, "rescaled")
    assert (words["weight"].default, words["target"].default) == (3.0, "rescaled")


def test_lambda0_reads_no_mask_and_searches_none(parent, data, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    once = replace(SETTINGS, epochs=1)
    control = train(parent, data, tmp_path / "a", once, control="lambda0", weight=3.0)
    zero = train(parent, data, tmp_path / "b", once, weight=0.0)
    assert not (tmp_path / "cache").exists()
    assert same(control.net, zero.net)
    assert "masks" not in control.card
    made = task(parent, data, control="lambda0", weight=3.0)
    terms = made.terms(made.train, torch.arange(8), torch.Generator().manual_seed(0))
    assert torch.equal(terms.total, terms.ce)
    assert "mask" not in made.loss(torch.arange(8), torch.Generator().manual_seed(0))[1]


def test_every_control_trains_and_gives_another_network(parent, data, tmp_path):
    once = replace(SETTINGS, epochs=1)
    models = {c: train(parent, data, tmp_path / c, once, control=c, weight=5.0) for c in CONTROLS}
    weights = {c: find_tuner(m.net).gate[-1].weight for c, m in models.items()}
    for one in CONTROLS:
        assert models[one].card["recipe"]["control"] == one
        assert not any(
            torch.equal(weights[one], weights[other]) for other in CONTROLS if other != one
        )


def test_channel_mean_compares_the_scaled_mean_with_the_soft_mask(parent, data):
    made = task(parent, data, target="channel_mean")
    rows = torch.arange(6)
    made.net.eval()
    terms = made.terms(made.train, rows)
    net, masks = copy.deepcopy(made.net).double(), made.train[1]
    x = made.model.normalise(made.train[0].pixels(rows)).double()
    with torch.no_grad():
        mean = net.forward_features(x).mean(1)
    errors = []
    for i in range(6):
        if masks.carries[i]:
            scaled = (mean[i] - mean[i].min()) / (mean[i].max() - mean[i].min())
            errors.append(((scaled - masks.soft[i]) ** 2).mean())
    assert float(terms.mask.detach()) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)


def test_rescaled_masks_leave_the_mean_activity_as_it_was(parent, data):
    rows, made = torch.arange(8), task(parent, data, target="rescaled")
    made.net.eval()
    masks = made.train[1]
    x = made.model.normalise(made.train[0].pixels(rows))
    with torch.no_grad():
        terms = made.terms(made.train, rows)
        A0, A = parent.net.forward_features(x), made.net.forward_features(x)
    m, own = masks.pooled[rows], masks.carries[rows]
    scaled = rescale_mask(m, A0)
    size, least = A0.abs().mean((1, 2, 3)), (m[:, None] * A0).abs().mean((1, 2, 3))
    reached = size / least < 2
    assert reached.sum() > 0
    torch.testing.assert_close((scaled[:, None] * A0).abs().mean((1, 2, 3))[reached], size[reached])
    assert torch.equal(scaled == 0, m == 0)
    assert (scaled <= 2).all()
    torch.testing.assert_close(
        rescale_mask(m, 0 * A0), 0 * m
    )  # dead activations: no division by zero
    wanted = ((A - scaled[:, None] * A0)[own] ** 2).mean() / (A0[own] ** 2).mean()
    assert float(terms.mask) == pytest.approx(float(wanted), rel=1e-4)


def test_masked_images_are_further_examples(parent, data):
    plain, made = task(parent, data), task(parent, data, extra_masked=True)
    rows, masks = torch.arange(10), made.train[1]
    cut = (masks.carries[:10] & (masks.t[:10] > 0)).nonzero()[:, 0]
    assert 0 < len(cut) < 10
    given = []
    made.net.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    terms = made.terms(made.train, rows, torch.Generator().manual_seed(3))
    flip = torch.rand(10, generator=torch.Generator().manual_seed(3)) < 0.5
    (x,) = given
    assert len(x) == 10 + len(cut)
    colour = parent.colour((0.485, 0.456, 0.406))
    for place, image in enumerate(cut.tolist()):
        m = masks.binary(torch.tensor([image]))[0]
        m = m.flip(-1) if flip[image] else m
        torch.testing.assert_close(x[10 + place], torch.where(m, x[image], colour))
    labels = torch.cat([made.train[0].labels[:10], made.train[0].labels[cut]])
    made.net.eval()
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(made.net(x), labels)
    assert float(terms.ce.detach()) == pytest.approx(float(wanted), rel=1e-4)
    other = plain.terms(plain.train, rows, torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        terms.mask, other.mask, atol=1e-5, rtol=1e-4
    )  # the mask term is of the images alone
    given.clear()
    made.terms(made.train, rows)
    assert len(given[0]) == 10  # not where it is tested


def test_bfloat16_trains(parent, data, tmp_path):
    train(
        parent,
        data,
        tmp_path,
        replace(SETTINGS, epochs=1, precision="bfloat16"),
        scope="full",
        mu=0.1,
    )


# --- other networks, and bad input


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory) -> Explainee:
    """A torchvision network, whose tuned layer is a named module."""
    net = build_seeded(torchvision.models.squeezenet1_1, 0, num_classes=10).eval()
    built = {"library": "torchvision", "arch": "squeezenet1_1", "kwargs": {"num_classes": 10}}
    model = Explainee(net, size=96, name="squeeze", card=built)
    return bench.load_model(write_model(tmp_path_factory.mktemp("squeeze"), "squeeze", model, {}))


def test_a_named_layer_of_torchvision(squeezenet, data, tmp_path):
    squeezenet.net.eval()
    with torch.inference_mode():  # random weights: what it says becomes the label
        pictures = [make_pictures(one, squeezenet) for one in data]
        says = [
            squeezenet.net(squeezenet.normalise(one.pixels(torch.arange(len(one))))).argmax(1)
            for one in pictures
        ]
    assert len(set(torch.cat(says).tolist())) >= 1
    model = train(
        squeezenet, data, tmp_path, replace(SETTINGS, epochs=1), control="lambda0", scope="full"
    )
    assert model.layer == squeezenet.layer == "features"
    assert isinstance(model.net.get_submodule("features"), TunedLayer)
    card = json.loads((tmp_path / "tuned.json").read_text())["tuned"]
    assert card["wrap"] == {"kind": "tuner", "layer": "features", "channels": 512, "reduction": 8}
    assert card["layer"] == "features"
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)["best"]
    assert all(torch.equal(kept[key], value) for key, value in model.net.state_dict().items())
    assert len(bench.explain(model, pixels(squeezenet, data))) == 6


def test_bad_input_is_one_sentence_before_anything_is_trained(parent, data, tmp_path):
    for given, words in [
        ({"method": "grad_camm"}, "grad_camm.*Did you mean"),
        ({"scope": "head"}, "scope is 'head'; it can be tuner, full"),
        ({"target": "mean"}, r"target is 'mean'; it can be activations, rescaled, channel_mean"),
        ({"select": "best"}, "select is 'best'; it can be auto, official, logodds"),
        ({"control": "lambda"}, "control is 'lambda'; it can be .*Did you mean lambda0"),
        ({"weight": -1.0}, r"lambda is -1\.0; it must be"),
        ({"mu": float("nan")}, "mu is nan; it must be"),
    ]:
        with pytest.raises(BenchError, match=words):
            train(parent, data, tmp_path, **given)
    vit = build_seeded(
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=10), 0
    )
    built = {
        "library": "timm",
        "arch": "vit_tiny_patch16_224",
        "kwargs": {"img_size": 96, "num_classes": 10},
    }
    with pytest.raises(BenchError, match=r"tuner needs activations \[B,K,h,w\]"):
        train(Explainee(vit, size=96, geometry=parent.geometry, card=built), data, tmp_path)
    with pytest.raises(BenchError, match="does not say how it is built"):
        train(Explainee(parent.net, size=96, name="mine"), data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_has_a_trained_part_already_is_refused(parent, data, tmp_path):
    card = write_model(tmp_path, "once", make_tuned_model(parent, "once"), {}, parent)
    with pytest.raises(BenchError, match=r"once has a trained part of its own \(tuner\)"):
        train(bench.load_model(card), data, tmp_path / "twice")


def test_no_image_classified_correctly_is_one_sentence(squeezenet, tmp_path):
    wrong = bench.load_subset(TRAIN)
    pictures = make_pictures(wrong, squeezenet)
    with torch.inference_mode():
        squeezenet.net.eval()
        hits = (
            squeezenet.net(squeezenet.normalise(pictures.pixels(torch.arange(24)))).argmax(1)
            == pictures.labels
        )
    rows = (~hits).nonzero()[:, 0].tolist()
    subset = replace(wrong, positions=tuple(wrong.positions[i] for i in rows))
    with pytest.raises(
        BenchError, match=r"squeeze classifies 0 of .* images of scenes-calibration.* correctly"
    ):
        train(squeezenet, (subset, subset), tmp_path)


def test_a_subset_of_other_classes_is_one_sentence(parent, tmp_path):
    net = build_seeded(lambda: timm.create_model("resnet10t", num_classes=7), 0)
    other = Explainee(
        net, size=96, name="seven", card={"library": "timm", "arch": "resnet10t", "kwargs": {}}
    )
    with pytest.raises(BenchError, match=r"scenes-calibration\[:24\] has 10 classes and seven 7"):
        train(other, (bench.load_subset(TRAIN), bench.load_subset(CHECK)), tmp_path)


def test_the_command_trains_and_says_what_the_masks_were(tmp_path):
    words = [
        "--model",
        "resnet-scenes",
        "--subset",
        "scenes-calibration",
        "--limit",
        "24",
        "--validation",
        CHECK,
    ]
    words += [
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--lambda",
        "2",
        "--control",
        "fixed",
        "--mu",
        "0.1",
    ]
    done = CliRunner().invoke(
        app, ["finetune", "aft", *words, "--name", "mine", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert re.search(
        r"A mask guided (\d+) of the 24 training images: the original is right on \d+ of them, and "
        r"its map is not empty on \1\. On [\d.]+ % of these",
        said,
    )
    assert re.search(
        r"Held-out images, before -> after: top-1 [\d.]+ -> [\d.]+ %.*distance from the masks", said
    )
    card = read_card(tmp_path / "mine.json")["mine"]
    before, after = card["held_out"]["top1"]
    assert after == card["top1"]
    assert before == card["top1_parent"]
    assert (card["recipe"]["weight"], card["recipe"]["control"], card["recipe"]["epochs"]) == (
        2.0,
        "fixed",
        1,
    )
    assert bench.load_model(tmp_path / "mine.json").parent == "resnet-scenes"
    refused = CliRunner().invoke(
        app, ["finetune", "aft", *words, "--scope", "half", "--out", str(tmp_path / "b")]
    )
    assert isinstance(refused.exception, BenchError)
    assert "scope is 'half'" in str(refused.exception)

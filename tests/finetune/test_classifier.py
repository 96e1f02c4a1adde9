"""Training pictures, augmentation, plain classifiers, the written model, and the trained attention
of SA-CAM.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import bench
from bench.data import load_subset
from bench.errors import BenchError, NotApplicable
from bench.finetune.augment import Augmentation, augment_pixels
from bench.finetune.classifier import accuracy, network_input, new_model, train_classifier
from bench.finetune.data import Pictures, hold_out, make_pictures, mirror_images
from bench.finetune.loop import Settings
from bench.finetune.sa_training import SelfAttentionTask, train_self_attention
from bench.finetune.save import describe_data, write_model
from bench.finetune.training import Training
from bench.models import Explainee
from bench.models.sa_affinity import Affinity, AffinityNet, refine
from bench.randomness import generator

SETTINGS = Settings(epochs=1, batch_size=8, precision="float32", keep="last")
PART = "scenes-calibration[:24]"


def part():
    return load_subset(PART)


# --- pictures


def test_pictures_are_those_of_the_subset_whether_they_fit_into_memory_or_not():
    subset, rows = part(), torch.tensor([5, 0, 23])
    model = bench.load_model("resnet-scenes")
    kept, read = Pictures(subset, model.geometry), Pictures(subset, model.geometry, memory=0)
    batch = subset.batch(rows.tolist(), model.geometry)
    assert torch.equal(kept.pixels(rows), batch.pixels)
    assert torch.equal(read.pixels(rows), batch.pixels)
    assert torch.equal(kept.labels[rows], batch.labels)
    assert torch.equal(kept.truth(rows).masks, batch.truth.masks)


def test_the_held_out_tenth_is_disjoint():
    train, check = hold_out(part())
    assert (len(train), len(check)) == (22, 2)
    assert set(train.ids).isdisjoint(check.ids)
    assert set(train.ids) | set(check.ids) == set(part().ids)
    with pytest.raises(BenchError, match="too few to hold some out"):
        hold_out(load_subset("scenes-calibration[:9]"))


def test_parts_of_a_subset_are_slices_of_its_order():
    whole = load_subset("scenes-calibration")
    assert load_subset("scenes-calibration[3:7]").ids == whole.ids[3:7]
    assert load_subset("scenes-calibration[190:]").ids == whole.ids[190:]
    assert load_subset("scenes-calibration[:5]", limit=2).ids == whole.ids[:2]
    assert load_subset("scenes-calibration[:5]").name == "scenes-calibration[:5]"
    with pytest.raises(
        BenchError, match=r"scenes-calibration\[90000:\] holds nothing: .* has \d+ items"
    ):
        load_subset("scenes-calibration[90000:]")
    with pytest.raises(BenchError, match="no subset and no file"):
        load_subset("scenes-nothing[:5]")


def test_a_model_of_other_classes_or_size_is_refused():
    subset = part()
    other = new_model("resnet_scenes", load_subset("scenes-calibration[:4]"), 0)
    other.net.reset_classifier(7)
    with pytest.raises(BenchError, match=r"has 10 classes and .* 7"):
        make_pictures(subset, other)
    model = bench.load_model("resnet-scenes")
    with pytest.raises(BenchError, match=r"frames of 96 pixels and .* takes 64"):
        make_pictures(subset, Explainee(model.net, size=64, name="small"))


# --- augmentation


def test_flips_move_pictures_and_masks_alike():
    images, masks = torch.arange(24.0).view(2, 1, 3, 4), torch.arange(24.0).view(2, 3, 4)
    one, other = mirror_images(torch.tensor([True, False]), images, masks)
    assert torch.equal(one[:, 0], other)
    assert torch.equal(other[0], masks[0].flip(-1))
    assert torch.equal(other[1], masks[1])


def test_augmentation_draws_from_its_generator_and_can_be_off():
    pixels = torch.rand(6, 3, 16, 16, generator=generator(0, "pixels"))
    nothing = Augmentation(flip=0, gain=0, erase=0)
    assert torch.equal(augment_pixels(pixels, nothing, generator(0, "a")), pixels)
    how = Augmentation(upside=0.5, shift=0.25)
    one, same, other = (augment_pixels(pixels, how, generator(0, name)) for name in "aab")
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert ((one >= 0) & (one <= 1)).all()


def test_each_augmentation_does_what_it_says():
    pixels = torch.rand(8, 3, 20, 20, generator=generator(0, "pixels"))
    off = Augmentation(flip=0, gain=0, erase=0)

    def made(**changes):
        return augment_pixels(pixels, replace(off, **changes), generator(0, "x"))

    assert torch.equal(made(flip=1), pixels.flip(3))
    assert torch.equal(made(upside=1), pixels.flip(2))
    brighter = made(gain=0.2) / pixels
    assert ((brighter > 0.79) & (brighter < 1.21)).all()
    holes = (made(erase=1) - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)).abs().amax(
        1
    ) == 0
    assert (
        (holes.flatten(1).double().mean(1) > 0.005) & (holes.flatten(1).double().mean(1) < 0.3)
    ).all()
    moved = made(shift=0.2)
    for picture, original in zip(moved, pixels, strict=True):
        padded = torch.nn.functional.pad(original[None], (4,) * 4, mode="reflect")[0]
        windows = padded.unfold(1, 20, 1).unfold(2, 20, 1)  # [3,9,9,20,20]
        assert (windows == picture[:, None, None]).all((0, 3, 4)).sum() == 1


# --- classifiers and what is written


def test_a_classifier_learns_is_written_and_loaded(tmp_path):
    settings = replace(SETTINGS, epochs=3, lr=4e-3, keep="best")
    rows = []
    subset = load_subset("scenes-calibration[:60]")
    card = train_classifier(
        "resnet_scenes",
        Training(
            subset,
            tmp_path,
            "mine",
            settings=settings,
            command="cambench x",
            report=rows.append,
        ),
    )
    assert rows[-1]["loss"] < rows[0]["loss"]
    model = bench.load_model(card)
    facts = json.loads(card.read_text())["mine"]
    assert model.name == "mine"
    assert facts["data"] == describe_data(subset.part(6, None))
    assert (
        facts["top1"]
        == accuracy(model, make_pictures(subset.part(None, 6), model))
        == max(r["top1"] for r in rows)
    )
    assert facts["recipe"]["epochs"] == 3
    maps = bench.explain(model, model.normalise(subset.batch([0], model.geometry).pixels))
    assert maps.shape == (1, 96, 96)


def test_training_goes_on_from_a_trained_model(tmp_path):
    start = bench.load_model("resnet-scenes")
    card = train_classifier(
        "resnet-scenes", Training(part(), tmp_path, "more", settings=replace(SETTINGS, lr=0.0))
    )
    trained = bench.load_model(card)
    before, after = (dict(model.net.named_parameters()) for model in (start, trained))
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert trained.fingerprint != start.fingerprint  # the batch statistics did move


def test_a_timm_name_becomes_a_network_for_the_subset():
    model = new_model("resnet10t", part(), 0)
    assert (model.num_classes, model.size) == (10, 96)
    assert new_model("vit_tiny_patch16_224", part(), 0).size == 96
    with pytest.raises(BenchError, match="Unknown model 'resnet_scene'"):
        new_model("resnet_scene", part(), 0)


def test_a_model_that_does_not_say_how_it_is_built_cannot_be_written(tmp_path):
    with pytest.raises(BenchError, match="does not say how it is built"):
        write_model(tmp_path, "x", Explainee(torch.nn.Flatten(), size=8, name="mine"), {})


# --- trained SA-CAM


@pytest.fixture(scope="module")
def attentive(tmp_path_factory):
    parent = bench.load_model("vgg-scenes")
    folder = tmp_path_factory.mktemp("sa")
    card = train_self_attention(
        parent, Training(part(), folder, "vgg-sa", settings=replace(SETTINGS, lr=0.01))
    )
    return parent, bench.load_model(card)


def images_of(model):
    return model.normalise(part().batch([1, 2, 3], model.geometry).pixels)


def test_the_classifier_stays_as_it_is_to_the_bit(attentive):
    parent, model = attentive
    x = images_of(model)
    with torch.no_grad():
        assert torch.equal(model.net.eval()(x), parent.net.eval()(x))
    assert all(
        torch.equal(v, model.net.net.state_dict()[k]) for k, v in parent.net.state_dict().items()
    )
    assert torch.equal(bench.explain(model, x), bench.explain(parent, x))
    assert (model.parent, model.card["parent_sha256"]) == ("vgg-scenes", parent.fingerprint)
    assert model.layer == parent.layer


def test_only_queries_and_keys_are_trained():
    parent = bench.load_model("vgg-scenes")
    net = AffinityNet(parent.net, parent.probe_shape[1])
    model = Explainee(net, size=96, geometry=parent.geometry)
    pictures = make_pictures(part(), model)
    task = SelfAttentionTask(model, pictures, pictures, 1.0)
    task.train_mode()
    loss, _ = task.loss(torch.arange(4), generator(0, "x"))
    loss.backward()
    with_gradient = {
        name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert with_gradient == {"affinity.query.weight", "affinity.key.weight"}
    assert not any(module.training for module in net.modules())


def test_the_trained_map_is_its_formula(attentive):
    _, model = attentive
    x = images_of(model)
    found = bench.explain(model, x, method="sa_cam_trained")
    prober = bench.engine.prober.Prober(model)
    trace = bench.Trace(prober, x)
    a, g = trace.activations.double(), trace.gradients.double()
    q, k = (
        getattr(model.net.affinity, name).weight.detach().double()[:, :, 0, 0]
        for name in ("query", "key")
    )
    columns = a.flatten(2) / a.square().mean((1, 2, 3)).sqrt()[:, None, None]
    scores = torch.einsum("dk,bki,dl,blj->bij", q, columns, k, columns) / q.shape[0] ** 0.5
    p = scores.exp() / scores.exp().sum(2, keepdim=True)
    spread = torch.einsum("bij,bkj->bki", p, a.flatten(2)).view_as(a)
    expected = torch.einsum("bk,bkhw->bhw", g.mean((2, 3)), a + spread).clamp(min=0)
    assert torch.allclose(
        found, trace.upsample(expected.float()), atol=1e-4 * float(expected.max())
    )
    zero = bench.explain(model, x, method="sa_cam_trained[lambda=0]")
    assert torch.allclose(zero, bench.explain(model, x), atol=1e-6)


def test_attention_rows_sum_to_one_and_the_skip_keeps_what_was_there():
    a = torch.rand(2, 16, 3, 4, generator=generator(0, "a"))
    p = Affinity(16, 8)(a)
    assert p.shape == (2, 12, 12)
    assert torch.allclose(p.sum(2), torch.ones(2, 12))
    assert torch.equal(refine(a, p, 0.0), a)
    uniform = torch.full((2, 12, 12), 1 / 12)
    assert torch.allclose(refine(a, uniform, 2.0), a + 2 * a.mean((2, 3), keepdim=True), atol=1e-6)


def test_without_training_it_is_not_applicable():
    model = bench.load_model("resnet-scenes")
    with pytest.raises(
        NotApplicable, match="no trained attention; make it with `cambench finetune sa`"
    ):
        bench.explain(
            model, network_input(model, torch.rand(1, 3, 96, 96)), method="sa_cam_trained"
        )

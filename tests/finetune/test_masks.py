"""TFT masks: those of the TFT method and metric, the same from the cache, and controls that are
what they say.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bench
from bench.data.geometry import Geometry
from bench.errors import BenchError
from bench.files import CACHE_VARIABLE
from bench.finetune.data import Pictures, make_pictures
from bench.finetune.masks import Masks, Search, choose, search_masks
from bench.methods import METHODS
from bench.models.explainee import Explainee
from tests.support.nets import make_net

COUNT = 24


@pytest.fixture(scope="module")
def model() -> Explainee:
    return bench.load_model("resnet-scenes")


@pytest.fixture(scope="module")
def pictures(model) -> Pictures:
    return make_pictures(bench.load_subset("scenes-val", limit=COUNT), model)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found(model, pictures, cache) -> Search:
    return search_masks(model, pictures, cache=cache)


def same(one: Search, other: Search) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def fake_search(odds: torch.Tensor, clean: torch.Tensor, side: int = 8) -> Search:
    """Return a search with given log-odds [n,10] and [n], and maps whose rank is the pixel's
    index.
    """
    count, pixels = len(odds), side**2
    levels = (torch.arange(pixels) * 10 // pixels + 1).to(torch.uint8).expand(count, -1)
    every = torch.ones(count, dtype=torch.bool)
    soft = torch.rand(count, 10, 2, 2, generator=torch.Generator().manual_seed(0)).half()
    return Search(
        levels[:, ::2] | levels[:, 1::2] << 4, soft, odds.double(), clean.double(), every, every
    )


# --- what is searched


def test_official_masks_are_those_of_the_method_and_the_metric(model, pictures, found):
    rows = found.carries.nonzero()[:, 0]
    images = model.normalise(pictures.pixels(rows))
    ids = [pictures.ids[i] for i in rows.tolist()]
    maps = bench.explain(model, images, ids=ids)
    scores = bench.score(model, images, None, maps, "threshold_quality", ids=ids, curves=True)
    assert torch.equal(found.best("official")[rows], scores["tft_t"].long())
    assert torch.equal(found.best("logodds")[rows], scores["threshold_log_odds"].argmax(1))
    torch.testing.assert_close(found.odds[rows], scores["threshold_log_odds"], atol=1e-4, rtol=1e-4)
    tuned = bench.explain(model, images, method="tft(grad_cam)", ids=ids)
    masks = choose(found, pictures.subset.ids, "official")
    cut = masks.t[rows] > 0
    assert 0 < cut.sum() < len(rows)  # both kinds are there
    assert torch.equal(masks.binary(rows)[cut], tuned[cut] > 0)
    assert masks.binary(rows)[~cut].all()
    blocks = (tuned[cut] > 0).float().view(-1, 12, 8, 12, 8).mean((2, 4))
    torch.testing.assert_close(masks.pooled[rows][cut], blocks)
    torch.testing.assert_close(
        masks.soft[rows][cut], tuned[cut].view(-1, 12, 8, 12, 8).mean((2, 4)), atol=1e-3, rtol=0
    )


def test_only_images_classified_correctly_carry_a_mask(model, pictures, found):
    with torch.inference_mode():
        right = (
            model.net.eval()(model.normalise(pictures.pixels(torch.arange(COUNT)))).argmax(1)
            == pictures.labels
        )
    assert torch.equal(found.correct, right)
    wrong = replace_labels(
        pictures, (pictures.labels + torch.tensor([1, 0]).repeat(COUNT // 2)) % 10
    )
    half = search_masks(model, wrong, warn=pytest.fail)
    assert torch.equal(half.correct[::2], torch.zeros(COUNT // 2, dtype=torch.bool))
    assert torch.equal(half.carries, half.correct)
    assert not half.odds[~half.carries].any()
    assert torch.equal(half.best("logodds")[1::2], found.best("logodds")[1::2])


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "user"))


def replace_labels(pictures: Pictures, labels: torch.Tensor) -> Pictures:
    other = Pictures(pictures.subset, pictures.geometry)
    other.labels = labels
    return other


def test_an_odd_number_of_pixels_and_a_method_that_reads_the_truth():
    """Side 33: the last byte of the packed levels holds one pixel."""
    side = 33
    model = Explainee(make_net("gap", seed=3, side=side), size=side, layer="features")
    pictures = Pictures(bench.load_subset("scenes-val", limit=6), Geometry(side, "squash", side))
    pictures.geometry = Geometry(side, "squash", side)
    with torch.inference_mode():
        pictures.labels = model.net(model.normalise(pictures.pixels(torch.arange(6)))).argmax(1)
    found = search_masks(model, pictures, "oracle")
    assert found.side == side
    truth = pictures.truth(torch.arange(6)).pixels(side, side)
    assert torch.equal(found.cut(torch.arange(6), torch.zeros(6, dtype=torch.int64)), truth)


@pytest.fixture
def nothing_positive():
    """A method that says nothing of every other image."""

    @bench.register_method("test_nothing_positive")
    def maps_of(trace):
        maps = trace.upsample(trace.activations.sum(1))
        maps[::2] = -1.0
        return maps

    yield "test_nothing_positive"
    METHODS.remove("test_nothing_positive")


def test_a_map_without_positive_part_carries_no_mask(model, pictures, nothing_positive):
    found = search_masks(model, pictures, "test_nothing_positive")
    right = found.correct.nonzero()[:, 0]
    assert not found.carries[right[::2]].any()
    assert not any(
        getattr(found, name)[~found.carries].any() for name in ("levels", "soft", "odds")
    )
    assert found.carries[right[1::2]].all()
    assert choose(found, pictures.subset.ids).facts["with_mask"] == len(right[1::2])


# --- the cache


def test_a_kept_search_equals_a_fresh_one_and_runs_nothing(model, pictures, found, cache, tmp_path):
    def ran(done: int, total: int) -> None:
        pytest.fail("the model was run though the search is kept")

    assert same(search_masks(model, pictures, cache=cache, progress=ran, warn=pytest.fail), found)
    steps = []
    fresh = search_masks(
        model, pictures, cache=tmp_path, progress=lambda *state: steps.append(state)
    )
    assert steps == [(COUNT, COUNT)]
    assert same(fresh, found)


def test_what_decides_a_search_has_a_file_of_its_own(model, pictures, cache, tmp_path):
    def files() -> int:
        return len(list((tmp_path / "tft").glob("*.safetensors")))

    search_masks(model, pictures, cache=tmp_path)
    others = [
        (bench.load_model("vgg-scenes"), pictures, "grad_cam", 0),
        (model, make_pictures(pictures.subset.limit(COUNT - 1), model), "grad_cam", 0),
        (model, replace_labels(pictures, pictures.labels.clone().fill_(3)), "grad_cam", 0),
        (model, pictures, "layer_cam", 0),
        (model, pictures, "grad_cam", 1),
    ]
    for count, (other, images, method, seed) in enumerate(others, start=2):
        search_masks(other, images, method, seed=seed, cache=tmp_path, warn=pytest.fail)
        assert files() == count
    assert not [p for p in (tmp_path / "tft").iterdir() if p.suffix != ".safetensors"]


@pytest.mark.parametrize("damage", ["cut off", "empty", "another's"])
def test_a_broken_file_is_said_and_made_anew(model, pictures, found, tmp_path, damage):
    search_masks(model, pictures, cache=tmp_path)
    (file,) = (tmp_path / "tft").iterdir()
    whole = file.read_bytes()
    if damage == "another's":
        search_masks(model, pictures, seed=1, cache=tmp_path / "other")
        file.write_bytes(next((tmp_path / "other" / "tft").iterdir()).read_bytes())
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "cut off" else b"")
    said = []
    assert same(search_masks(model, pictures, cache=tmp_path, warn=said.append), found)
    assert len(said) == 1
    assert "they are made anew" in said[0]
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_a_warning_only(model, pictures, found, tmp_path):
    (tmp_path / "tft").write_text("a file in the folder's place")
    with pytest.warns(UserWarning, match="are not kept for the next time"):
        assert same(search_masks(model, pictures, cache=tmp_path), found)


# --- the choice


def test_auto_takes_logodds_where_over_half_of_the_images_stay_uncut():
    clean = torch.tensor([20.0, 20.0, 0.0, 20.0])
    odds = torch.zeros(4, 10)
    odds[:, 4] = 3.0  # helps the third image only: the others are sure already
    found = fake_search(odds, clean)
    assert found.best("official").tolist() == [0, 0, 4, 0]
    assert found.best("logodds").tolist() == [4, 4, 4, 4]
    assert found.resolve("auto") == "logodds"
    assert fake_search(odds[2:], clean[2:]).resolve("auto") == "official"  # exactly half
    facts = choose(found, "abcd").facts
    assert (facts["select"], facts["share_t0_official"], facts["share_t0_logodds"]) == (
        "logodds",
        0.75,
        0.0,
    )


def test_the_first_of_equal_cuts_is_taken():
    odds = torch.zeros(1, 10)
    odds[0, [3, 7]] = 2.0
    found = fake_search(odds, torch.tensor([-1.0]))
    assert found.best("official").tolist() == found.best("logodds").tolist() == [3]


def areas(masks: Masks, rows: torch.Tensor) -> list[int]:
    return masks.binary(rows).flatten(1).sum(1).tolist()


def test_random_masks_have_the_area_of_the_own_and_are_smooth_regions(found, pictures):
    rows, ids = found.carries.nonzero()[:, 0], pictures.subset.ids
    own, random = choose(found, ids, "logodds"), choose(found, ids, "logodds", "random")
    assert areas(random, rows) == areas(own, rows)
    assert torch.equal(random.t, own.t)
    cut = rows[own.t[rows] > 0]
    mine, other = own.binary(cut), random.binary(cut)
    assert not any(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    # A region, not salt and pepper: hardly any neighbours differ.
    assert (other[:, 1:] != other[:, :-1]).double().mean() < 0.06
    again, seeded = (choose(found, ids, "logodds", "random", seed=s) for s in (0, 1))
    assert np.array_equal(again.packed, random.packed)
    assert not np.array_equal(seeded.packed, random.packed)
    torch.testing.assert_close(random.pooled.mean((1, 2)), own.pooled.mean((1, 2)))


def test_shuffled_masks_are_each_another_images(found, pictures):
    rows, ids = found.carries.nonzero()[:, 0], pictures.subset.ids
    own, shuffled = choose(found, ids, "logodds"), choose(found, ids, "logodds", "shuffled")
    key = {own.soft[i].numpy().tobytes(): i for i in rows.tolist()}
    assert len(key) == len(rows)  # soft masks tell their images; binary ones may all be ones
    donors = [key[shuffled.soft[i].numpy().tobytes()] for i in rows.tolist()]
    assert sorted(donors) == rows.tolist()
    assert all(donor != i for donor, i in zip(donors, rows.tolist(), strict=True))
    assert torch.equal(shuffled.t[rows], own.t[donors])
    assert np.array_equal(shuffled.packed[rows], own.packed[donors])
    few = fake_search(torch.zeros(1, 10), torch.zeros(1))
    with pytest.raises(BenchError, match="'shuffled' needs two images"):
        choose(few, "a", control="shuffled")


def test_fixed_masks_are_cut_at_five(found, pictures):
    rows = found.carries.nonzero()[:, 0]
    fixed = choose(found, pictures.subset.ids, control="fixed")
    assert set(fixed.t[rows].tolist()) == {5}
    assert torch.equal(fixed.binary(rows), found.cut(rows, torch.full((len(rows),), 5)))
    assert max(areas(fixed, rows)) <= 96 * 96 - 5 * 96 * 96 // 10


def test_lambda0_has_the_own_masks(found, pictures):
    own, zero = (
        choose(found, pictures.subset.ids, control=control) for control in ("none", "lambda0")
    )
    assert np.array_equal(own.packed, zero.packed)


# --- bad input


def test_bad_input_is_one_sentence(model, pictures, found):
    with pytest.raises(BenchError, match=r"select is 'offical'; it can be .*Did you mean official"):
        choose(found, pictures.subset.ids, "offical")
    with pytest.raises(
        BenchError, match=r"control is 'shuffle'; it can be .*Did you mean shuffled"
    ):
        choose(found, pictures.subset.ids, control="shuffle")
    with pytest.raises(BenchError, match="nothing_here"):
        search_masks(model, pictures, "nothing_here")
    with pytest.raises(
        BenchError, match=r"classifies 0 of 24 images of scenes-val correctly.*TFT finds no mask"
    ):
        search_masks(model, replace_labels(pictures, (pictures.labels + 5) % 10))

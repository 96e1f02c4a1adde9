"""Maps made elsewhere keep their ranking, whatever numbers they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bench
from bench.engine.map_ranges import unit
from bench.errors import BenchError
from bench.models.architectures import build_seeded, resnet_scenes
from bench.run.map_sameness import is_same_map
from bench.run.map_values import check_map, is_beyond_float32, read_array, stack_given


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of every value, equal ones the same."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def draw_plane(seed: int) -> np.ndarray:
    """Return finite float64 numbers: of any 64 bits, of a narrow range, or of the widest."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**64, (6, 7), dtype=np.uint64)
    values = bits.view(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    if seed % 3 == 1:  # a narrow range somewhere
        values = rng.standard_normal() * 10.0 ** rng.integers(-300, 300)
        values = values * (1 + np.arange(42).reshape(6, 7) * np.finfo(np.float64).eps)
    if seed % 3 == 2:  # the smallest numbers beside the largest
        powers = rng.choice([-1074, -1030, 0, 1023], (6, 7))
        values = np.ldexp(rng.uniform(-1, 1, (6, 7)), powers)
    return values


@pytest.mark.parametrize("seed", range(60))
def test_any_finite_map_keeps_ranking_and_signs(seed):
    values = draw_plane(seed)
    got = check_map(values, "a").astype(np.float64)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(ranks(got), ranks(values))
    np.testing.assert_array_equal(np.sign(got), np.sign(values))


@pytest.mark.parametrize("offset", [0, 2**31, 2**53, 2**62, -(2**62)])
@pytest.mark.parametrize("step", [1, 3, 2**41])
def test_whole_numbers_keep_ranking(offset, step):
    values = offset + step * np.random.default_rng(0).permutation(30).reshape(5, 6).astype(np.int64)
    np.testing.assert_array_equal(ranks(check_map(values, "a")), ranks(values))
    shape = (values - values.min()).astype(np.float64)
    got = check_map(values, "a").astype(np.float64)
    spread = (got - got.min()) / (got.max() - got.min())
    np.testing.assert_allclose(spread, shape / shape.max(), atol=1e-6)


def test_a_cast_to_float32_would_lose_the_ranking():
    """What the map would be without this: the test above can fail."""
    values = 7.0 + np.arange(12).reshape(3, 4) * 1e-9
    assert len(np.unique(values.astype(np.float32))) == 1
    kept = check_map(values, "a")
    assert kept.dtype == np.float64
    assert is_beyond_float32(kept)
    assert not is_beyond_float32(check_map(values.round(), "a"))


@pytest.mark.parametrize("kind", ["float16", "float32", "uint8", "int16", "bool"])
def test_what_float32_holds_stays_what_it_is(kind):
    values = np.arange(12).reshape(3, 4).astype(kind)
    got = check_map(values, "a")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.astype(np.float32))


def test_a_power_of_two_changes_no_share():
    values = np.arange(1.0, 13.0).reshape(3, 4)
    for factor in (2.0**-900, 2.0**500):
        got = check_map(values * factor, "a").astype(np.float64)
        np.testing.assert_allclose(got / got.sum(), values / values.sum(), rtol=1e-15)


def test_axes_of_length_one_are_no_axes_and_colours_are_refused():
    plane = np.arange(6.0).reshape(2, 3)
    for form in (plane[None], plane[..., None], plane[None, None], plane.tolist()):
        np.testing.assert_array_equal(check_map(read_array(form, "a"), "a"), plane)
    for form in (np.stack([plane] * 3), np.stack([plane] * 3, -1), plane[0], plane[:0]):
        with pytest.raises(BenchError, match="one value per pixel"):
            check_map(form, "a")


@pytest.mark.parametrize("form", [np.full((2, 2), 1j), np.full((2, 2), "1"), np.full((2, 2), None)])
def test_what_is_no_real_number_is_refused(form):
    with pytest.raises(BenchError, match="a map holds real numbers"):
        check_map(form, "a")


def test_a_ragged_list_is_refused():
    with pytest.raises(BenchError, match="no array of numbers"):
        read_array([[1, 2], [3]], "a")


def test_tensors_of_any_kind_are_read():
    plane = torch.arange(6.0).reshape(2, 3)
    wanted = plane.numpy()
    for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int64):
        np.testing.assert_array_equal(check_map(read_array(plane.to(kind), "a"), "a"), wanted)
    learned = plane.clone().requires_grad_()
    np.testing.assert_array_equal(read_array(learned * 1, "a"), wanted)
    np.testing.assert_array_equal(read_array(plane.to_sparse(), "a"), wanted)


def test_masked_pixels_are_not_computed_and_nothing_masked_is_plain():
    plane = np.arange(6.0).reshape(2, 3)
    got = read_array(np.ma.masked_greater(plane, 4), "a")
    assert np.isnan(got).sum() == 1
    np.testing.assert_array_equal(read_array(np.ma.masked_greater(plane, 9), "a"), plane)


def test_small_steps_on_an_offset_are_not_the_constant_map():
    steps = torch.from_numpy(check_map(1 + np.arange(16).reshape(4, 4) * 1e-9, "a"))
    flat = torch.ones(4, 4)
    for one, other in ((steps, flat.double()), (1 + flat * torch.arange(4) * 1e-6, flat)):
        first, second = (m.expand(2, 3, 4, 4) for m in (one, other))
        assert not is_same_map(first, second)
        assert is_same_map(first, first)
    soft = torch.linspace(0, 1, 16).view(4, 4).expand(2, 3, 4, 4)
    assert is_same_map(soft, soft + 5e-6)
    assert not is_same_map(soft, soft + 5e-5)


@pytest.fixture(scope="module")
def model() -> bench.Explainee:
    return bench.Explainee(build_seeded(resnet_scenes, 3), size=32, name="small")


def test_scores_in_memory_follow_the_ranking_and_each_map_alone(model):
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=rng)
    order = torch.stack([torch.randperm(1024, generator=rng).view(32, 32) for _ in range(2)])
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[:, 4:20, 6:12] = True
    truth = bench.Truth(boxes=(torch.tensor([[6.0, 4.0, 12.0, 20.0]]),) * 2, masks=masks)
    given = {"truth": truth, "ids": ["a", "b"]}
    metrics = ["deletion", "energy_pointing_game", "iou_area"]
    plain = bench.score(model, images, None, order.float(), metrics, **given)
    fine = 5 + order.double() * 1e-10
    moved = bench.score(model, images, None, fine, metrics, **given)
    torch.testing.assert_close(moved["deletion"], plain["deletion"], rtol=0, atol=0)
    torch.testing.assert_close(moved["iou_area"], plain["iou_area"], rtol=0, atol=1e-6)
    share = masks.double().mean((1, 2))  # nearly constant: its energy is where the pixels are
    torch.testing.assert_close(moved["energy"], share, rtol=1e-6, atol=0)
    mixed = torch.stack([order[0].double(), fine[1]])
    both = bench.score(model, images, None, mixed, metrics, **given)
    for name in plain:
        assert both[name][0] == plain[name][0]
    learned = (order.float() * 1).requires_grad_()
    again = bench.score(model, images, None, learned, metrics, **given)
    torch.testing.assert_close(again["deletion"], plain["deletion"], rtol=0, atol=0)


def test_maps_for_another_number_of_images_are_refused():
    with pytest.raises(BenchError, match=r"maps has shape \(2, 3, 4\) for 5 images"):
        stack_given(np.zeros((2, 3, 4)), 5)


def test_unit_of_a_fine_map_is_that_of_its_steps():
    fine = torch.from_numpy(check_map(1 + np.arange(16).reshape(4, 4) * 1e-9, "a"))
    steps = torch.arange(16).view(1, 4, 4) / 15
    torch.testing.assert_close(unit(fine[None]).float(), steps, rtol=0, atol=1e-5)

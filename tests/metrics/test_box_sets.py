"""Boxes of upper sets: golden cases, the replica, and vectors that lose nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench.board.set_thresholds import apply_cuts, choose_cuts
from bench.metrics import METRICS
from bench.metrics.box_sets import (
    SETS,
    VECTOR,
    find_set_iou,
    join_cuts,
    merge_sets,
    read_sets,
    split_cuts,
)
from bench.protocol import PROTOCOLS, Protocol
from tests.metrics.test_golden_metrics import box_truth, one, steps_map
from tests.metrics.test_replicas_metrics import (
    QUICK,
    SIDE,
    explainee,
    make_maps,
    make_truth,
    score,
)
from tests.support import reference_boxes as ref
from tests.support.nets import make_images

IOUS = (0.3, 0.5, 0.7)
BLOCK = [0.0, 0.0, 4.0, 4.0]


def read(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoUs and cut values of one vector, as records hold it."""
    iou, cuts = read_sets(np.asarray(vector, np.float32)[None].astype(np.float64))
    return iou[0], cuts[0]


def test_sets_by_hand():
    # 12 pixels are .5, 4 are 1. Place floor(16 i / 100) is below 12 up to i = 74: sets 0 to 74 are
    # the 4x4 block (IoU 1), sets 75 to 99 the 2x2 block (IoU 4/16).
    iou, cuts = read(one("box_sets", steps_map(), truth=box_truth(BLOCK))["box_set_iou"])
    np.testing.assert_array_equal(iou, [1.0] * 75 + [0.25] * 25)
    np.testing.assert_array_equal(cuts, [0.5] * 75 + [1.0] * 25)


def test_a_tau_takes_in_the_pixels_at_it():
    # Values 1, 2, 3 and 4 in a row: set 25 i has the cut value i + 1 and 4 - i pixels.
    L = torch.zeros(8, 8)
    L[0, :4] = torch.arange(1.0, 5.0)
    truth = box_truth([2.0, 0.0, 4.0, 1.0])
    iou, cuts = find_set_iou(L.double().numpy(), truth.boxes[0].numpy(), Protocol())
    np.testing.assert_array_equal(cuts, np.repeat([1.0, 2.0, 3.0, 4.0], 25))
    np.testing.assert_allclose(iou, np.repeat([2 / 4, 2 / 3, 1.0, 1 / 2], 25))


def test_the_best_of_several_boxes_counts():
    # Component 2 has IoU 9/16 with the second box of the truth, component 1 has 1/4 with the first.
    L = torch.zeros(8, 8)
    L[0:2, 0:2] = 1.0
    L[4:7, 4:7] = 1.0
    out = one("box_sets", L, truth=box_truth(BLOCK, [4.0, 4.0, 8.0, 8.0]))["box_set_iou"]
    np.testing.assert_array_equal(read(out)[0], 9 / 16)


def test_a_constant_map_is_the_whole_frame():
    iou, cuts = read(
        one("box_sets", torch.full((8, 8), 0.5), truth=box_truth(BLOCK))["box_set_iou"]
    )
    np.testing.assert_array_equal(iou, 16 / 64)
    np.testing.assert_array_equal(cuts, 0.5)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_a_map_without_positive_part_has_no_box(value):
    out = one("box_sets", torch.full((8, 8), value), truth=box_truth(BLOCK))["box_set_iou"]
    np.testing.assert_array_equal(out, np.zeros(VECTOR))


def test_without_a_box_of_the_truth_it_is_missing():
    assert np.isnan(one("box_sets", steps_map(), truth=box_truth())["box_set_iou"]).all()


@pytest.mark.parametrize("kind", ["signed", "relu", "levels", "binary", "constant"])
def test_sets_equal_the_replica(kind):
    images, maps, truth = make_images(3, 3, SIDE), make_maps(kind, 3, 3), make_truth(3, 3)
    for k, (L, boxes) in enumerate(zip(maps, truth.boxes, strict=True)):
        expected = ref.find_sets(L.double().numpy(), boxes.double().numpy())
        iou, cuts = find_set_iou(
            L.clamp(min=0).double().numpy(), boxes.double().numpy(), Protocol()
        )
        np.testing.assert_allclose(iou, [one for _, one in expected], atol=1e-12)
        np.testing.assert_array_equal(cuts, [cut for cut, _ in expected])
        merged = merge_sets(iou, cuts, IOUS)
        out = score(
            explainee("gap", 0), images, torch.zeros(3).long(), maps, "box_sets", truth=truth
        )
        found = read(out["box_set_iou"][k])
        np.testing.assert_allclose(found[0], merged[0], atol=1e-6)
        np.testing.assert_array_equal(found[1], merged[1])


@QUICK
@given(seed=st.integers(0, 9_999))
def test_merged_sets_and_the_replica_choose_and_hit_alike(seed):
    """The board reads merged vectors in float32; the replica reads every set."""
    rng = np.random.default_rng(seed)
    raw, vectors = [], []
    for _ in range(12):
        # Few levels, so that cut values of different images are equal.
        cuts = np.sort(rng.integers(1, 30, SETS)).astype(np.float64)
        iou = np.repeat(rng.choice([0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9], 20), 5)
        iou = iou[np.searchsorted(cuts, cuts)]  # equal cut values are one set
        raw.append(list(zip(cuts.tolist(), iou.tolist(), strict=True)))
        kept, first = merge_sets(iou, cuts, IOUS)
        vectors.append(np.concatenate([kept, *split_cuts(first)]).astype(np.float32))
    stacked = np.stack(vectors).astype(np.float64)
    taus = choose_cuts(stacked[:8], IOUS)
    assert taus == [ref.choose_tau(raw[:8], bound) for bound in IOUS]
    hits = apply_cuts(stacked[8:], taus, IOUS).mean(1)
    np.testing.assert_allclose(hits, ref.box_accuracy_ranked(raw[8:], raw[:8], IOUS))


@QUICK
@given(
    st.lists(st.floats(0, 1.7e308, allow_subnormal=True, allow_nan=False), min_size=1, max_size=20)
)
def test_cut_values_keep_their_bits(values):
    cuts = np.array(values)
    parts = split_cuts(cuts)
    np.testing.assert_array_equal(join_cuts(parts.astype(np.float32)), cuts)


def test_the_last_part_of_a_float32_is_empty():
    cuts = np.random.default_rng(0).random(50).astype(np.float32).astype(np.float64)
    assert not split_cuts(cuts)[2].any()


def test_a_missing_vector_has_no_sets():
    iou, cuts = read_sets(np.full((1, VECTOR), np.nan))
    assert np.isnan(iou).all()
    assert np.isnan(cuts).all()


def test_batch_mates_of_another_precision_change_nothing():
    """A case holds float64 maps where one of its maps needs them."""
    images, maps, truth = make_images(1, 2, SIDE), make_maps("signed", 1, 2), make_truth(1, 2)
    model, targets = explainee("gap", 0), torch.zeros(2).long()
    plain = score(model, images, targets, maps, "box_sets", truth=truth)["box_set_iou"]
    double = maps.double()
    double[1] += 1e-12
    mixed = score(model, images, targets, double, "box_sets", truth=truth)["box_set_iou"]
    np.testing.assert_array_equal(mixed[0], plain[0])
    assert (mixed[1] != plain[1]).any()


@pytest.mark.parametrize("name", ["wsol", "quantus"])
def test_protocols_choose_boxes_and_no_scale(name):
    """Under wsol the box is the largest contour's, with both corners counted, of the same sets."""
    p = dataclasses.replace(PROTOCOLS[name])
    L = np.zeros((8, 8))
    L[1:4, 1:4] = 2.0
    L[6, 6] = 3.0
    iou, cuts = find_set_iou(L, np.array([[1.0, 1.0, 4.0, 4.0]]), p)
    assert set(cuts) == {2.0, 3.0}
    largest = 1.0 if name == "quantus" else 16 / 16  # both end one pixel further there
    assert iou[0] == pytest.approx(largest)
    assert METRICS.get("box_sets").id(p).startswith("box_sets@")


def test_the_metric_runs_nothing_and_calibrates():
    metric = METRICS.get("box_accuracy_ranked")
    assert metric.name == "box_sets"
    assert metric.calibrates
    assert not metric.scale_free
    assert metric.forwards(Protocol(), 224 * 224) == 0
    assert bench.metrics.base.board_names("box_set_iou", metric.values["box_set_iou"]) == (
        "box_accuracy_ranked",
        "box_set_iou",
    )

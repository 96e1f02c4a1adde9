"""Pastes: edge, colours, area and truth by hand, and what an expression may say."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bench.data import Geometry, load_subset
from bench.data.open_pastes import OpenPastes, is_pastes, split_pools
from bench.data.pasted import (
    LEAST_SHARE,
    MOST_SHARE,
    FramePool,
    Paste,
    PastedSource,
    blend,
    bound_shares,
    cut_box,
    find_edge,
    find_truth,
    keep_size,
    make_alpha,
    scale_box,
)
from bench.errors import BenchError

FRAME = Geometry(96, "none", 96)


@pytest.fixture(scope="module")
def pool() -> FramePool:
    return FramePool(load_subset("scenes-val", limit=6), FRAME)


# --- compositing, by hand


def test_the_edge_rises_over_twelve_pixels_at_224() -> None:
    alpha = make_alpha(60, 80, find_edge((224, 224)))
    assert alpha.shape == (60, 80)
    middle = [0.5 / 12, 1.5 / 12, 2.5 / 12]
    assert alpha[30, :3].tolist() == pytest.approx(middle)
    assert alpha[:3, 40].tolist() == pytest.approx(middle)
    assert alpha[30, -1] == alpha[30, 0]
    assert (alpha[12:-12, 12:-12] == 1).all()  # from 12 pixels inside the rim on
    assert (alpha[11, 12:-12] < 1).all()
    assert alpha[0, 0] == pytest.approx(0.5 / 12)  # the nearer rim decides a corner


def test_the_edge_scales_with_the_side() -> None:
    assert find_edge((224, 224)) == 12
    assert find_edge((96, 96)) == pytest.approx(12 * 96 / 224)
    assert find_edge((448, 224)) == 12  # of the shorter side


def test_colours_are_weighted_and_halves_rounded_up() -> None:
    target = np.full((5, 6, 3), 100, dtype=np.uint8)
    patch = np.full((2, 2, 3), 201, dtype=np.uint8)
    alpha = np.array([[0.0, 0.5], [0.25, 1.0]])
    mixed = blend(target, patch, alpha, 1, 3)
    # 100; 150.5 -> 151; 125.25 -> 125; 201
    assert mixed[1:3, 3:5, 0].tolist() == [[100, 151], [125, 201]]
    mixed[1:3, 3:5] = 100
    assert (mixed == target).all()  # nothing else has changed
    assert (target == 100).all()


def test_the_truth_is_where_the_paste_decides_half_of_a_pixel() -> None:
    paste = Paste(0, 1, 2, height=70, width=90, top=20, left=30, attempt=0)
    mask, box = find_truth(paste, (224, 224))
    # alpha is 5.5/12 in the sixth pixel and 6.5/12 in the seventh: six are cut off on each side.
    assert box.tolist() == [[36.0, 26.0, 114.0, 84.0]]
    assert mask.sum() == (70 - 12) * (90 - 12)
    assert mask[26:84, 36:114].all()


def test_a_box_is_cut_at_its_edges() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[2:6, 1:5] = 200
    assert (cut_box(image, np.array([1.0, 2.0, 5.0, 6.0]), (4, 4)) == 200).all()
    assert cut_box(image, np.array([1.0, 2.0, 5.0, 6.0]), (3, 7)).shape == (3, 7, 3)


@pytest.mark.parametrize("share", [LEAST_SHARE, 0.2, MOST_SHARE])
def test_a_box_covers_the_share_that_is_asked_for(share: float) -> None:
    height, width = scale_box(np.array([10.0, 20.0, 50.0, 120.0]), share, (224, 224))
    assert height * width / 224**2 == pytest.approx(share, rel=0.02)
    assert height / width == pytest.approx(100 / 40, rel=0.02)


def test_shares_that_do_not_fit_are_left_out() -> None:
    square, long = np.array([0.0, 0.0, 50.0, 50.0]), np.array([0.0, 0.0, 200.0, 40.0])
    assert bound_shares(square, (224, 224)) == (LEAST_SHARE, MOST_SHARE)
    # 5 : 1 fits at most 224 x 44.8 pixels, a share of .2.
    assert bound_shares(long, (224, 224)) == pytest.approx((LEAST_SHARE, 0.2))
    # 20 : 1 at 224 x 11.2 has a share of .05: too little.
    assert bound_shares(np.array([0.0, 0.0, 200.0, 10.0]), (224, 224)) is None
    assert keep_size(square, (224, 224)) == (50, 50)
    assert keep_size(np.array([0.0, 0.0, 200.0, 180.0]), (224, 224)) is None  # over half
    assert keep_size(np.array([0.0, 0.0, 200.0, 23.0]), (224, 224)) is None  # under two edges


def test_a_slow_composite_agrees(pool: FramePool) -> None:
    """Every pixel by its own formula, in Python's floats."""
    paste = Paste(0, 1, 2, height=34, width=40, top=11, left=50, attempt=0)
    target, patch = pool.read(1)[0], cut_box(pool.read(0)[0], pool.read(0)[1][0], (34, 40))
    made, edge = pool.compose(paste), 12 * 96 / 224
    for y, x in [(0, 0), (1, 20), (3, 3), (17, 39), (17, 20), (33, 0), (30, 2)]:
        rim = min(y + 0.5, 34 - y - 0.5, x + 0.5, 40 - x - 0.5)
        alpha = min(1.0, rim / edge)
        for channel in range(3):
            inner, outer = float(patch[y, x, channel]), float(target[11 + y, 50 + x, channel])
            assert int(made[11 + y, 50 + x, channel]) == int(
                alpha * inner + (1 - alpha) * outer + 0.5
            )


def test_a_source_composes_what_it_says(pool: FramePool) -> None:
    paste = Paste(0, 1, 2, height=34, width=40, top=11, left=50, attempt=7)
    source = PastedSource((pool,), ((paste,),), "abc")
    again = pickle.loads(pickle.dumps(source))
    sample = again.read(0)
    assert sample.id == "scenes-val-000000-on-scenes-val-000001-7-abc"
    assert sample.label == pool.subset.labels[0]
    assert (sample.image == pool.compose(paste)).all()
    mask, box = find_truth(paste, (96, 96))
    assert (sample.mask == mask).all()
    assert (sample.boxes == box).all()


# --- the expression


def test_open_pastes_know_classes_and_no_items() -> None:
    subset = load_subset("pasted(scenes-val)", limit=7)
    assert (len(subset), len(subset.calibrating)) == (7, 60)
    assert isinstance(subset.source, OpenPastes)
    assert subset.class_names == load_subset("scenes-val").class_names
    assert subset.explain == "label"
    assert len(load_subset("pasted(scenes-val)[10:30]")) == 20
    with pytest.raises(BenchError, match=r"A network chooses the items of pasted\(scenes-val\)"):
        subset[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pasted()", r"is no pasted\(SUBSET\)"),
        ("pasted(scenes-val,a,b)", r"is no pasted\(SUBSET\)"),
        ("pasted(scenes-val,)", r"is no pasted\(SUBSET\)"),
        ("pasted(pasted(scenes-val))", "name a subset of images"),
        ("pasted(grid(scenes-val,2))", "name a subset of images"),
        ("pasted(scenes-vla)", "Did you mean scenes-val"),
    ],
)
def test_wrong_expressions_are_refused(text: str, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        load_subset(text)


def test_parts_of_pastes_are_pastes() -> None:
    assert is_pastes("pasted(scenes-val[:40],resnet-scenes)[:5]")
    assert not is_pastes("grid(scenes-val,2)")


def test_scored_and_calibrating_photographs_differ() -> None:
    scored, aside = split_pools(load_subset("scenes-val", limit=30))
    assert aside is not None
    assert (len(scored), aside.name) == (30, "scenes-calibration")
    alone = load_subset("scenes-calibration", limit=50)
    scored, aside = split_pools(alone)  # which has no calibration part of its own
    assert aside is not None
    assert not set(scored.ids) & set(aside.ids)
    assert {*scored.ids, *aside.ids} == set(alone.ids)

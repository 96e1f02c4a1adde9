"""Grids as a subset: how they are drawn and written, and what they refuse."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

import bench
from bench.data import Geometry
from bench.data.expressions import EXPRESSIONS, is_expression
from bench.data.grids import GridForm, GridSource, close_grids, draw_grids
from bench.errors import BenchError

FRAMES = Geometry(96, "none", 96)


def draw(name: str, side: int = 2, positions: list[int] | None = None):
    subset = bench.load_subset(name)
    chosen = list(subset.positions) if positions is None else positions
    return subset, draw_grids(subset, chosen, GridForm(side, False))


@pytest.mark.parametrize("side", [2, 3])
def test_a_grid_holds_other_images_than_all_others_and_each_class_once(side):
    subset, grids = draw("scenes-val[:90]", side)
    used = [position for cells in grids for position in cells]
    assert len(used) == len(set(used))
    for cells in grids:
        assert len(cells) == side**2
        assert len({int(subset.source.labels[p]) for p in cells}) == side**2


def test_as_many_grids_are_drawn_as_there_can_be():
    subset = bench.load_subset("scenes-val[:40]")
    by_class = {label: np.flatnonzero(subset.labels == label).tolist() for label in range(6)}
    # 3, 3, 2, 2, 1, 1 images of six classes: three grids of four, and no image is left.
    left = [p for label, n in enumerate((3, 3, 2, 2, 1, 1)) for p in by_class[label][:n]]
    assert len(draw_grids(subset, left, GridForm(2, False))) == 3
    # 4, 1, 1: three classes make no grid of four.
    few = by_class[0][:4] + by_class[1][:1] + by_class[2][:1]
    assert draw_grids(subset, few, GridForm(2, False)) == []


def test_an_image_that_is_listed_twice_is_in_one_grid():
    subset, grids = draw("scenes-pairs[:40]")
    images = [subset.source.image_ids[p] for cells in grids for p in cells]
    assert grids
    assert len(images) == len(set(images))


def make_source(side: int = 2, *, separate: bool = False, networks=("w",)) -> GridSource:
    subset, grids = draw("scenes-val[:40]", side)
    return GridSource(subset, FRAMES, GridForm(side, separate), tuple(grids), networks)


def test_an_item_is_a_cell_with_its_image_its_box_and_its_mask():
    source = make_source()
    position = 4 * 3 + 2  # the third cell of the fourth grid: below, on the left
    sample = source.read(position)
    first = source.inner.source.read(source.grids[3][2])
    assert sample.label == first.label
    assert sample.id == f"{sample.image_id}#2"
    np.testing.assert_array_equal(sample.image[96:, :96], first.image)
    assert sample.boxes.tolist() == [[0, 96, 96, 192]]
    assert sample.mask.sum() == 96 * 96
    assert sample.mask[96:, :96].all()


def test_ids_name_the_images_their_places_and_the_networks():
    assert make_source().ids == make_source().ids
    assert not {*make_source().ids} & {*make_source(networks=("v",)).ids}
    source = make_source()
    turned = tuple(cells[::-1] for cells in source.grids)
    assert not {*source.ids} & {*dataclasses.replace(source, grids=turned).ids}


def test_classes_of_separate_cells_are_numbered_cell_by_cell():
    plain, apart = make_source(), make_source(separate=True)
    assert apart.num_classes == 40
    assert apart.labels.tolist() == [
        label + 10 * (i % 4) for i, label in enumerate(plain.labels.tolist())
    ]
    assert apart.class_names[13] == f"{plain.class_names[3]} in cell 1"


def test_a_limit_counts_grids_and_the_others_calibrate():
    subset = bench.load_subset("grid(scenes-val[:40],2)", limit=3)
    assert subset.name == "grid(scenes-val[:40],2)"
    source = make_source()
    closed = close_grids(subset, source, ())
    assert closed.ids == source.ids[:12]
    assert len(closed.limit(2)) == 8
    assert closed.part(1, 3).ids == source.ids[4:12]
    calibration = closed.calibration()
    assert not {*calibration.image_ids} & {*closed.image_ids}
    assert len(calibration) == len(source.ids) - 12
    assert calibration.limit(2).ids == (*source.ids[-4:], *source.ids[-8:-4])
    longer = close_grids(dataclasses.replace(subset, positions=tuple(range(16))), source, ())
    assert longer.calibration().limit(2).ids == calibration.limit(2).ids


def test_the_manifest_id_holds_the_images_and_the_networks():
    subset = bench.load_subset("grid(scenes-val[:40],2)")
    one, other = (close_grids(subset, make_source(networks=(w,)), ()) for w in ("a", "b"))
    assert one.manifest_id != other.manifest_id
    assert one.explain == "label"


def test_grids_can_be_sent_to_another_process():
    source = make_source()
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(other.read(5).image, source.read(5).image)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grid(scenes-val,4)", "n = 2 or 3"),
        ("grid(scenes-val)", "n = 2 or 3"),
        ("di_full(scenes-val,two)", "di_full(scenes-val,2)"),
        ("grid(grid(scenes-val,2),2)", "name a subset of images"),
        ("grid(scenes-vall,2)", "scenes-val"),
        ("grid(scenes-val[:3],2)", "a grid needs 4"),
    ],
)
def test_a_wrong_expression_is_refused_in_a_sentence(text, words):
    with pytest.raises(BenchError) as error:
        bench.load_subset(text)
    assert words in str(error.value)
    assert str(error.value).count("\n") == 0


def test_grids_that_nobody_has_chosen_name_no_items():
    subset = bench.load_subset("grid(scenes-val,2)")
    with pytest.raises(BenchError, match="networks of a run choose"):
        _ = subset.ids
    with pytest.raises(BenchError, match="networks of a run choose"):
        _ = subset[0]
    assert subset.has_masks
    assert subset.class_names == bench.load_subset("scenes-val").class_names


def test_the_forms_that_are_listed_are_those_that_are_read():
    for expression in EXPRESSIONS:
        text = expression.form.replace("SUBSET", "scenes-val").replace("n)", "2)")
        assert is_expression(text)
        assert bench.load_subset(text, limit=1).name == text

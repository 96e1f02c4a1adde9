"""A published board keeps mean curves, and every table stays as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.board import publish
from bench.board.curve_averages import average_all, find_curves
from bench.board.gallery import GREY_PIXEL, level_map, load_gallery
from bench.board.light_vectors import lighten_records, round_boxes
from bench.board.measures import list_measures
from bench.errors import AssumptionWarning, BenchError
from bench.health.checks import coarsen_curves
from bench.protocol import get_protocol
from bench.records.gallery_parts import GALLERY_ITEMS
from bench.records.mean_curves import CURVES_FILE, IMAGE_CURVES, MEAN_CURVES, write_mean_curves
from bench.records.merge import merge_runs
from bench.records.packed_vectors import COUNTS, pack_vectors, unpack_vectors
from bench.records.run_facts import write_run_json
from bench.records.store import KEY, Records, write_parquet
from tests.board.test_board_files import pictures, write_run

BOXES = [0.3, 0.5, 0.7]


@pytest.fixture(scope="module")
def whole(toy) -> Records:
    """A run of 20 images, more than a gallery keeps."""
    return toy.random_records(n=20, k=3)


def save_light(records: Records, folder, *, image_curves: bool = False) -> Records:
    """Write records as a published board has them, without its tables and plots; read them."""
    folder.mkdir()
    light = lighten_records(records, {}, image_curves=image_curves)
    publish.write_records(light, folder)
    if MEAN_CURVES in light.provenance:
        write_mean_curves(folder, light.provenance[MEAN_CURVES])
    write_run_json(folder, light.provenance)
    return Records.load(folder)


@pytest.fixture(scope="module")
def light(whole, tmp_path_factory) -> Records:
    return save_light(whole, tmp_path_factory.mktemp("light") / "board")


def measures_of(records: Records) -> dict[str, pd.DataFrame]:
    found = list_measures(records.frame, records.provenance)
    kept = [measure for measure in found if measure.reduce != "curve"]
    return {measure.name: measure.rows.sort_values(KEY, ignore_index=True) for measure in kept}


def test_every_value_that_tables_are_made_of_is_the_same(whole, light):
    rounded = lighten_records(whole, {}, image_curves=True)  # p(x) at 2^-16, as boards had it
    before, after = measures_of(rounded), measures_of(light)
    assert before.keys() == after.keys()
    assert {"box_accuracy", "box_accuracy_oracle", "deletion_relative", "pixel_ap_pooled"} <= {
        *after
    }
    for name, rows in before.items():
        np.testing.assert_array_equal(rows["value"], after[name]["value"], err_msg=name)
    pooled = zip(
        before["pixel_ap_pooled"]["vector"], after["pixel_ap_pooled"]["vector"], strict=True
    )
    assert all(np.array_equal(one, two) for one, two in pooled)
    exact = measures_of(whole)
    for name in before.keys() - {"deletion_relative", "insertion_relative"}:
        np.testing.assert_array_equal(rows_of(exact, name), rows_of(after, name), err_msg=name)


def rows_of(measures: dict[str, pd.DataFrame], name: str) -> pd.Series:
    return measures[name]["value"]


def test_only_the_gallerys_items_keep_their_curves(light):
    curves = light.frame[light.frame["metric"] == "deletion_curve"]
    lengths = curves["vector"].map(len)
    kept = light.provenance[IMAGE_CURVES]
    assert kept.keys() == {"net-a", "net-b"}
    assert all(len(items) == GALLERY_ITEMS for items in kept.values())
    assert set(curves.loc[lengths == 5, "item"]) == set(kept["net-a"])
    assert set(lengths) == {1, 5}
    boxes = light.frame[light.frame["metric"] == "box_iou"]
    others = boxes[~boxes["item"].isin(kept["net-a"])]
    assert set(np.unique(np.stack(list(others["vector"])))) == {
        *np.array([0, *BOXES], np.float32).tolist()
    }


def test_the_mean_curves_are_those_of_every_image(whole, light):
    rows = light.provenance[MEAN_CURVES]
    assert {row["model"] for row in rows} == {"net-a", "net-b", "overall"}
    for row in rows:
        frame = whole.frame
        of = frame["metric"].eq(row["metric"]) & frame["method"].eq(row["method"])
        of &= row["model"] == "overall" or frame["model"].eq(row["model"])
        mean = np.stack(list(frame.loc[of, "vector"])).mean(0)
        np.testing.assert_allclose(row["mean"], mean, atol=2**-12)
        assert row["n"] == 20
        assert (np.array(row["low"]) <= np.array(row["mean"]) + 2**-12).all()
    (measure,) = (
        m for m in list_measures(light.frame, light.provenance) if m.name == "deletion_curve"
    )
    found = find_curves(measure, "toy", "overall", light.provenance, 0)
    assert [row["method"] for row in found] == ["method_00", "oracle", "random"]
    assert average_all(light) == rows  # a board that is published again keeps them


def test_a_board_that_is_published_again_stays_the_same(light):
    again = lighten_records(light, {}, image_curves=False)
    for one, two in zip(light.frame["vector"], again.frame["vector"], strict=True):
        np.testing.assert_array_equal(one, two)
    assert again.provenance[IMAGE_CURVES] == light.provenance[IMAGE_CURVES]


def test_with_image_curves_every_curve_stays(whole, tmp_path):
    kept = save_light(whole, tmp_path / "board", image_curves=True)
    assert IMAGE_CURVES not in kept.provenance
    assert not (tmp_path / "board" / CURVES_FILE).exists()
    curves = kept.frame[kept.frame["metric"] == "insertion_curve"]
    assert set(curves["vector"].map(len)) == {5}


def test_what_needs_the_curves_of_every_image_says_so(whole, light, tmp_path):
    folder = tmp_path / "board"
    save_light(whole, folder)
    with pytest.raises(BenchError, match="cannot be merged: it keeps mean curves"):
        merge_runs([folder], tmp_path / "merged")
    with pytest.raises(BenchError, match="keeps no curves of single images"):
        publish.publish_board(folder, tmp_path / "other", image_curves=True)
    provenance = {
        **light.provenance,
        "models": {m: {**f, "size": 8} for m, f in light.provenance["models"].items()},
    }
    with pytest.warns(AssumptionWarning, match="the curves of 12 images; for those of every image"):
        table = coarsen_curves(
            Records(light.frame, provenance), "toy", "net-a", get_protocol("cambench-1"), 2
        )
    assert table.empty
    (folder / CURVES_FILE).unlink()
    with pytest.raises(BenchError, match=r"has no curves\.parquet"):
        Records.load(folder)


def test_a_box_reaches_the_same_ious_as_before():
    values = np.array([0, 0.29999, 0.3, 0.49, 0.5, 0.7, 0.99, np.nan], np.float32)
    for whole in (True, False):
        rounded = round_boxes(values, BOXES, whole=whole)
        for iou in BOXES:
            np.testing.assert_array_equal(rounded >= np.float32(iou), values >= np.float32(iou))
        assert np.isnan(rounded[-1])
        assert (rounded[:-1] <= values[:-1]).all()
    assert round_boxes(None, BOXES, whole=True) is None
    # At an IoU that the protocol lacks a rounded value may miss: that is what is given up.
    assert (round_boxes(values, BOXES, whole=False) >= 0.45).sum() < (values >= 0.45).sum()


def test_whole_numbers_are_packed_and_unpacked(toy, tmp_path):
    counts = np.arange(400.0)
    rows = [
        toy.row("a", "m", "pixel_histogram", counts),
        toy.row("b", "m", "pixel_histogram", counts + 0.5),
        toy.row("c", "m", "pixel_histogram", counts + 2**16),
        toy.row("d", "m", "pixel_histogram", None),
        toy.row("e", "m", "pixel_histogram", np.full(400, np.nan)),
        toy.row("f", "m", "pixel_histogram", [1.0, 2.0]),
    ]
    frame = toy.build(rows).frame
    write_parquet(tmp_path / "plain.parquet", frame)
    write_parquet(tmp_path / "dense.parquet", frame, dense=True)
    from bench.records.store import read_part

    plain, dense = (read_part(tmp_path / f"{name}.parquet") for name in ("plain", "dense"))
    assert list(plain) == list(dense)
    for one, two in zip(plain["vector"], dense["vector"], strict=True):
        np.testing.assert_array_equal(one, two)
    assert list(read_part(tmp_path / "dense.parquet", ["item", "value"])) == ["item", "value"]
    import pyarrow.parquet as pq

    stored = pq.read_table(tmp_path / "dense.parquet")
    assert [row is not None for row in stored[COUNTS].to_pylist()] == [True] + [False] * 5
    assert unpack_vectors(pack_vectors(unpack_vectors(stored))).equals(unpack_vectors(stored))


@pytest.mark.slow
def test_a_gallery_without_pixels_keeps_maps_and_boxes(toy, tmp_path):
    records = toy.random_records(n=4, k=3, models=("net-a",))
    subsets = {"toy": {**records.provenance["subsets"]["toy"], "pictures": False}}
    run = write_run(
        tmp_path / "run", Records(records.frame, {**records.provenance, "subsets": subsets})
    )
    pictures(run, ("net-a",))
    publish.publish_board(run, tmp_path / "out")
    before, after = (load_gallery(place)["net-a"] for place in (run, tmp_path / "out"))
    assert before.keys() == after.keys()
    for item, picture in after.items():
        assert (picture.image == GREY_PIXEL).all()
        assert (before[item].image != GREY_PIXEL).any()
        assert picture.image.shape == before[item].image.shape
        for name, values in picture.maps.items():
            np.testing.assert_array_equal(values, level_map(before[item].maps[name]))
            assert set(np.unique(values)) <= set(range(256))

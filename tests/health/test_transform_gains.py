"""What trivial transforms gain: a power moves energy and no value that compares pixels."""

from __future__ import annotations

import pytest

import bench
from bench.cli.health import print_gains
from bench.health.checks import ROUNDING
from bench.health.findings import Health, Verdict
from bench.health.gains_section import write_gains
from bench.health.reload import reload_run
from bench.health.report import csv_tables
from bench.health.transform_gains import (
    COLUMNS,
    TRANSFORMS,
    choose_plain,
    collect_gains,
    describe_gains,
    list_sharpened,
    read_stored_gains,
)
from bench.records.store import Records
from tests.support.shared_folders import copy_shared

SUBSET, MODEL = "scenes-val[:8]", "resnet-scenes"
METHODS = ["oracle", "grad_cam", "saliency", "sharpened", "blurred(saliency)"]
METRICS = ["energy_pointing_game", "pixel_precision", "pointing_game"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The records of a small run, and its gains beside the forwards that they took."""

    def make(folder):
        bench.evaluate(SUBSET, MODEL, METHODS, METRICS, out=folder / "run", calibration=0)

    folder = copy_shared(tmp_path_factory, "gains", make) / "run"
    records, notes = Records.load(folder), []
    loaded = reload_run(records, SUBSET)
    given = (records, SUBSET, MODEL, loaded, 8, folder / "parts", notes)
    gains, forwards = collect_gains(*given)
    again, none = collect_gains(*given)
    assert not notes
    assert again.equals(gains)
    assert none == 0  # what is there is not run again
    health = Health(records)
    health.add_gains(gains, forwards)
    return health


def cell(gains, metric, transform, method="grad_cam"):
    rows = gains[(gains["metric"] == metric) & (gains["transform"] == transform)]
    return rows[rows["method"] == method].iloc[0]


def test_a_power_gains_in_energy_and_in_no_value_that_compares_pixels(found):
    gains = found.gains
    assert list(gains.columns) == COLUMNS
    for method in ("grad_cam", "saliency"):
        assert cell(gains, "energy", "power[p=4]", method)["low"] > ROUNDING
        for metric in ("pixel_ap", "pointing", "pointing_exact"):
            for transform in ("power[p=4]", "power[p=16]", "ranked"):
                row = cell(gains, metric, transform, method)
                assert row["gain"] == row["low"] == row["high"] == 0, (metric, transform)
    assert {"energy", "energy_lift"} <= set(list_sharpened(gains))
    assert {"pixel_ap", "pointing", "pointing_exact"}.isdisjoint(list_sharpened(gains))
    assert set(gains["transform"]) == set(TRANSFORMS)


def test_transforms_of_maps_cost_the_passes_alone(found):
    # Eight images: the pass, and the forward of the input's gradient.
    assert found.gain_forwards == 8 * (1 + 1)


def test_gains_of_the_runs_own_controls_are_read_from_its_records(found):
    stored = read_stored_gains(found.records, SUBSET, MODEL)
    pairs = set(zip(stored["method"], stored["transform"], strict=True))
    assert pairs == {("grad_cam", "power[p=4]"), ("saliency", "blurred")}
    for method, transform in pairs:
        mine, fresh = (
            cell(table, "energy", transform, method)["gain"] for table in (stored, found.gains)
        )
        assert mine == pytest.approx(fresh, abs=1e-5)


def test_the_page_the_files_and_the_terminal_show_them(found, capsys):
    page = "\n".join(write_gains(found))
    assert page.startswith("## What trivial transforms gain")
    assert "| energy§" in page
    assert "| pixel\\_ap (ranked) | .000 [.000, .000] | .000 [.000, .000] |" in page
    assert f"Forwards that this took: {found.gain_forwards}." in page
    assert csv_tables(found)["gains"].equals(found.gains)
    content = found.to_json()
    assert content["gain_forwards"] == found.gain_forwards
    assert {"metric", "method", "transform", "gain", "low", "high", "n"} <= set(content["gains"][0])
    (first, *_) = describe_gains(found.gains)
    assert first.startswith(f"{SUBSET}, {MODEL}: raising maps to a power gains in ")
    print_gains(found)
    assert f"The transformed maps took {found.gain_forwards} forwards." in capsys.readouterr().out


def test_a_verdict_knows_whether_a_power_gains(found):
    def verdict(metric, subset=SUBSET):
        return Verdict(subset, MODEL, metric, {}, True, None)

    assert found.is_sharpened(verdict("energy"))
    assert not found.is_sharpened(verdict("pixel_ap"))
    assert not found.is_sharpened(verdict("energy", "elsewhere"))
    assert not Health(found.records).is_sharpened(verdict("energy"))


def test_the_first_method_of_a_group_stands_in_for_a_missing_one(found):
    assert choose_plain(found.records, MODEL) == ["grad_cam", "saliency"]
    facts = {name: dict(one) for name, one in found.records.provenance["methods"].items()}
    facts["grad_cam"]["group"] = facts["saliency"]["group"] = "cam"
    rows = found.records.frame
    assert choose_plain(Records(rows, {"methods": facts}), MODEL) == ["grad_cam"]
    assert choose_plain(Records(rows[rows["method"] == "oracle"], {"methods": facts}), MODEL) == []
    rows = rows[rows["method"] != "grad_cam"]
    assert choose_plain(Records(rows, {"methods": facts}), MODEL) == ["saliency"]

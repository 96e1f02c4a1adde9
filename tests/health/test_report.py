"""Verdicts: a broken metric fails and is marked on the board, a good one passes, an old verdict is
left out.
"""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest

import bench
from bench.board import leaderboard
from bench.engine.prober import probability
from bench.errors import BenchError
from bench.health import examine
from bench.health.reload import protocol_of
from bench.metrics import METRICS, register_metric
from bench.metrics.faithfulness import area_under, cuts
from bench.protocol import Protocol
from bench.records.store import HEALTH, Records
from tests.support.shared_folders import copy_shared

METHODS = [
    "oracle",
    "random",
    "center_gaussian",
    "grad_cam",
    "layer_cam",
    "saliency",
    "input_x_gradient",
]
NAMES = ["good_deletion", "blind_deletion", "flipped_deletion", "good_place", "blind_place"]


def quick_deletion(case):
    """Deletion in four steps."""
    taken = cuts(case.maps[0].numel(), Protocol(steps=4))
    odds = case.curve(
        case.trace.model.colour(case.protocol.baseline)[None], case.trace.images, taken
    )
    return area_under(probability(odds), taken)


@pytest.fixture(scope="module")
def metrics():
    """One metric that works, one that ignores the map, and one whose direction is wrong, of each
    kind.
    """
    lower = {
        "better": "lower",
        "family": "faithfulness",
        "reads": ("score", "tie_rule", "baseline"),
    }

    @register_metric("good_deletion", **lower)
    def good_deletion(case):
        return {"good_deletion": quick_deletion(case)}

    @register_metric("blind_deletion", **lower)
    def blind_deletion(case):
        return {"blind_deletion": probability(case.trace.log_odds)}

    @register_metric(
        "flipped_deletion",
        better="higher",
        family="faithfulness",
        reads=("score", "tie_rule", "baseline"),
    )
    def flipped_deletion(case):
        return {"flipped_deletion": quick_deletion(case)}

    place = {"family": "localization", "needs": ("masks",)}

    @register_metric("good_place", better="higher", **place)
    def good_place(case):
        inside = (case.positive * case.truth.masks).flatten(1).sum(1) / case.positive.flatten(
            1
        ).sum(1)
        return {"good_place": inside.double()}

    @register_metric("blind_place", better="higher", **place)
    def blind_place(case):
        return {"blind_place": case.truth.masks.flatten(1).double().mean(1)}

    yield NAMES
    for name in NAMES:
        METRICS.remove(name)


@pytest.fixture(scope="module")
def checked(metrics, tmp_path_factory):
    """A small run and its health."""

    def make(folder):
        given = ("scenes-val[:8]", "resnet-scenes", METHODS, metrics)
        bench.evaluate(*given, out=folder / "run", calibration=0)
        examine(folder / "run", limit=8)

    folder = copy_shared(tmp_path_factory, "health", make) / "run"
    return folder, examine(folder, limit=8)  # what is there is not run again


def verdict(health, metric):
    (found,) = [v for v in health.verdicts if v.metric == metric]
    return found


def test_good_metrics_pass(checked):
    _, health = checked
    for name in ("good_deletion", "good_place"):
        found = verdict(health, name)
        assert found.passes, found.reasons
        assert found.separations
        assert all(one.holds for one in found.separations)


def test_broken_metrics_fail_for_their_reason(checked):
    _, health = checked
    blind = verdict(health, "blind_deletion")
    assert blind.passes is False
    assert {one.gap for one in blind.separations} == {0.0}
    assert blind.spread.ties == 1
    flipped = verdict(health, "flipped_deletion")
    assert flipped.passes is False
    planted = next(
        one for one in flipped.separations if (one.first, one.second) == ("planted", "inverted")
    )
    assert planted.high < 0
    assert verdict(health, "blind_place").passes is False
    assert {v.metric for v in health.list_failing()} == {
        "blind_deletion",
        "flipped_deletion",
        "blind_place",
    }


@pytest.mark.slow
def test_broken_metrics_are_marked_on_the_board(checked, tmp_path):
    folder, _ = checked
    board = leaderboard(Records.load(folder), resamples=200)
    for name in ("blind_deletion", "flipped_deletion", "blind_place"):
        assert any(f"{name}† fails its health check" in flag for flag in board.flags), board.flags
    assert not any("good" in flag and "†" in flag for flag in board.flags)
    board.save(tmp_path, gallery=folder)
    page = (tmp_path / "board.md").read_text()
    assert "blind\\_deletion ↓†" in page
    assert "good\\_deletion ↓ |" in page
    assert "fails its health check on a model of this table" in page


def test_the_files_say_what_was_found(checked):
    folder, health = checked
    content = json.loads((folder / HEALTH).read_text())
    assert content["protocol"] == Protocol().id
    assert {v["metric"] for v in content["verdicts"]} == {v.metric for v in health.verdicts}
    page = (folder / "health" / "health.md").read_text()
    assert "**fail** †" in page
    grid = pd.read_csv(folder / "health" / "grid.csv")
    columns = ["subset", "model", "metric", "choice", "value", "method", "n", "mean", "rank"]
    assert list(grid.columns) == columns
    assert set(grid["choice"]) == {"default", "baseline=black", "baseline=white"}
    assert set(grid["method"]) <= set(METHODS)
    blur = pd.read_csv(folder / "health" / "blur.csv")
    assert set(blur["choice"]) == {"blur=4", "blur=8"}
    still = blur[blur["metric"] == "blind_deletion"]
    assert (still["change"].abs() < 1e-6).all()  # it ignores the map, blurred or not


def test_a_second_call_runs_nothing_new(checked, monkeypatch):
    folder, first = checked
    from bench.engine.prober import Prober

    def never(*_args, **_kwargs):
        raise AssertionError("a network was run")

    monkeypatch.setattr(Prober, "start", never)
    again = examine(folder, limit=8)
    assert [(v.metric, v.passes) for v in again.verdicts] == [
        (v.metric, v.passes) for v in first.verdicts
    ]


def test_stored_records_alone_judge_localisation(checked, tmp_path, metrics):
    folder, _ = checked
    kept = (folder / HEALTH).read_bytes()
    try:
        health = examine(folder, forwards=False)
    finally:
        (folder / HEALTH).write_bytes(kept)
    assert verdict(health, "good_place").passes is True
    assert verdict(health, "blind_place").passes is False
    assert verdict(health, "good_deletion").passes is None


def test_what_cannot_be_reloaded_is_one_sentence(checked):
    folder, _ = checked
    kept, run = (folder / HEALTH).read_bytes(), (folder / "run.json").read_text()
    told = json.loads(run)
    told["models"]["resnet-scenes"]["weights_sha256"] = "another"
    told["subsets"]["scenes-val[:8]"]["manifest_id"] = "another"
    records = folder / "records"
    parts = {p: p.read_bytes() for p in records.glob("*.parquet")}
    try:
        for part in parts:
            pd.read_parquet(part).assign(manifest_id="another").to_parquet(part)
        (folder / "run.json").write_text(json.dumps(told))
        health = examine(folder, limit=8)
    finally:
        for part, content in parts.items():
            part.write_bytes(content)
        (folder / "run.json").write_text(run)
        (folder / HEALTH).write_bytes(kept)
    assert any("only checks of stored records were made" in note for note in health.notes)
    assert verdict(health, "good_place").passes is True
    assert verdict(health, "good_deletion").passes is None


@pytest.mark.parametrize("what", ["protocol", "metric", "weights", "manifest"])
def test_an_old_verdict_is_left_out_with_a_sentence(checked, what):
    folder, _ = checked
    records = Records.load(folder)
    told = json.loads(json.dumps(records.provenance["health"]))
    if what == "protocol":
        told["protocol"] = "cambench-1@old"
    for one in told["verdicts"]:
        one |= {f"{what}_id": "old"} if what != "protocol" else {}
    old = Records(records.frame, {**records.provenance, "health": told})
    board = leaderboard(old, resamples=200)
    assert not any("fails its health check" in flag for flag in board.flags)
    (said,) = [flag for flag in board.flags if "health.json" in flag]
    assert "run `cambench health` again" in said


def test_a_board_without_health_says_nothing_of_it(checked):
    folder, _ = checked
    records = Records.load(folder)
    bare = Records(records.frame, {k: v for k, v in records.provenance.items() if k != "health"})
    assert not any("health" in flag for flag in leaderboard(bare, resamples=200).flags)


@pytest.mark.slow
def test_a_published_board_keeps_its_health(checked, tmp_path):
    from bench.board import publish_board

    folder, _ = checked
    board = publish_board(folder, tmp_path / "board")
    assert any("blind_deletion† fails" in flag for flag in board.flags)
    assert (tmp_path / "board" / "health" / "grid.csv").is_file()
    assert "health" not in json.loads((tmp_path / "board" / "run.json").read_text())


def test_a_run_of_values_that_nobody_compares_has_no_verdict(tmp_path):
    bench.evaluate(
        bench.load_subset("scenes-val", limit=2),
        bench.load_model("resnet-scenes"),
        ["random"],
        ["complexity"],
        out=tmp_path,
        calibration=0,
    )
    assert examine(tmp_path, forwards=False).verdicts == []


def test_a_protocol_comes_back_from_run_json():
    for protocol in (
        Protocol(),
        dataclasses.replace(Protocol(), steps=5, box_ious=(0.5,), references=("black",)),
    ):
        told = json.loads(json.dumps({"id": protocol.id, **dataclasses.asdict(protocol)}))
        assert protocol_of(told) == protocol
    with pytest.raises(BenchError, match="unknown field 'colour'"):
        protocol_of({"id": Protocol().id, "colour": 1})
    with pytest.raises(BenchError, match="comes out as"):
        protocol_of({"id": "cambench-1@old", **dataclasses.asdict(Protocol())})


def test_masking_metrics_lose_to_fake_cam():
    """Fake-CAM keeps everything, so average drop cannot tell the planted tile from it."""
    from bench.health.planted_evidence import make_planted_plans, run_planted
    from bench.run.plan import make_plan

    model = bench.load_model("resnet-scenes")
    plan = make_plan(
        bench.load_subset("scenes-val", limit=4),
        [model],
        ["random"],
        ["average_drop"],
        Protocol(),
        calibration=0,
    )
    frame = run_planted(make_planted_plans(plan, model), None).frame
    means = frame[frame["metric"] == "average_drop"].groupby("method")["value"].mean()
    assert means["fake_cam"] <= means["planted"] + 1e-3
    assert means["planted"] < means["random"]


def test_a_control_that_is_missing_leaves_the_verdict_open():
    """Better than the centre says nothing about random; worse than the centre is a failure all the
    same.
    """
    from bench.health.checks import Spread, select_directed
    from bench.health.findings import Verdict
    from bench.health.report import _separate
    from tests.support.toy_records import build, scalars

    for centre, passes in ((0.2, None), (0.95, False)):
        records = build(
            scalars("energy", {"oracle": [0.9, 0.8, 0.9, 0.8], "center_gaussian": [centre] * 4})
        )
        (measure,) = [m for m in select_directed(records, "toy") if m.name == "energy"]
        verdict = Verdict("toy", "net", "energy", {}, True, Spread(0.0, 0.0, 1.0, 2))
        _separate(verdict, measure, [("oracle", "random"), ("oracle", "center_gaussian")])
        assert verdict.passes is passes
        assert "oracle over random" in verdict.reasons[0]

"""Baseline files, what may be compared, and the reports."""

from __future__ import annotations

import dataclasses
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.board.measures import list_measures
from bench.board.older_versions import mark_older
from bench.errors import BenchError
from bench.gate.baseline import load_baseline, save_baseline, select
from bench.gate.judge import CHANGED, REGRESSION, UNJUDGED, judge
from bench.gate.verdict_report import (
    print_verdicts,
    write_junit,
    write_markdown,
    write_markdown_lines,
    write_outcome,
)
from bench.identity import plain_name
from bench.metrics import METRICS
from bench.protocol import Protocol
from bench.records.store import Records
from tests.gate.toy_baselines import make, scores

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "leaderboards" / "scenes"


# --- baselines


def test_a_file_gives_back_what_went_in_and_the_same_bytes(tmp_path):
    made = make({**scores(), ("cam", "pointing"): [np.nan, 1, 0]})
    save_baseline(made, tmp_path / "a.parquet")
    save_baseline(made, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    again = load_baseline(tmp_path / "a.parquet")
    key = ["method", "metric", "item"]
    left, right = (side.frame.sort_values(key, ignore_index=True) for side in (made, again))
    pd.testing.assert_frame_equal(left, right)
    assert again.facts == {**made.facts, "format": 1}


def test_paths_of_this_machine_stay_out(tmp_path):
    save_baseline(
        make(scores(), commands=["cambench run --out /home/me/runs/x"]), tmp_path / "a.parquet"
    )
    assert b"/home/me" not in (tmp_path / "a.parquet").read_bytes()


def test_a_committed_board_is_a_baseline_with_the_boards_own_values():
    """Values are the board's measures, derived ones included, item by item."""
    baseline, records = load_baseline(BOARD), mark_older(Records.load(BOARD))
    (measure,) = [
        m
        for m in list_measures(records.frame, records.provenance)
        if plain_name(m.name) == "box_accuracy" and not m.name.endswith("@correct")
    ]
    key = ["model", "method", "item"]
    mine = (
        baseline.frame[baseline.frame["metric"] == measure.name]
        .set_index(key)["value"]
        .sort_index()
    )
    theirs = measure.rows.set_index(key)["value"].sort_index()
    pd.testing.assert_series_equal(mine, theirs, check_names=False)
    assert baseline.values[measure.name]["calibrated"]
    assert not baseline.values["deletion"]["calibrated"]
    assert "seconds" not in baseline.values  # what a map cost is no quality of it
    assert "pixel_ap_pooled" not in baseline.values
    ranked = {plain_name(name) for name in baseline.choose().frame["metric"]}
    # The board is of before `peaked` and ranks energy and box accuracy, which sharpening moves.
    assert ranked == {"deletion", "insertion", "pointing", "pixel_ap"}


def test_a_board_judged_by_itself_is_the_same():
    verdicts = judge(load_baseline(BOARD).choose(models="resnet-scenes"), load_baseline(BOARD))
    assert write_outcome(verdicts).startswith("Fine: ")
    assert set(verdicts.gated["verdict"]) <= {"same", "new"}


def test_choosing_keeps_random_since_margins_need_it():
    chosen = make(scores()).choose(methods="cam")
    assert set(chosen.frame["method"]) == {"cam", "random"}


@pytest.mark.parametrize(
    ("patterns", "found"),
    [("all", ["a1", "a2", "b"]), ("a*,-a2", ["a1"]), ("ranked", ["b"]), ("b,a1", ["b", "a1"])],
)
def test_select(patterns, found):
    assert select(patterns, {"a1": {}, "a2": {}, "b": {"ranked": True}}, "value") == found


@pytest.mark.parametrize("patterns", ["c", "-a1", "a1,-a1", "ranked"])
def test_select_refuses_what_is_not_there(patterns):
    with pytest.raises(BenchError, match="value"):
        select(patterns, {"a1": {}, "a2": {}}, "value")


def test_files_that_are_no_baseline_are_refused(tmp_path):
    with pytest.raises(BenchError, match="There is no baseline at"):
        load_baseline(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(BenchError, match="cannot be read"):
        load_baseline(tmp_path / "text.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(BenchError, match="is a parquet file but no baseline"):
        load_baseline(tmp_path / "other.parquet")
    with pytest.raises(BenchError, match=r"holds no run\.json"):
        load_baseline(tmp_path)


# --- what may be compared


def changed(made, path, value):
    """Return a baseline with one fact changed, at a path of keys."""
    place = made.facts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ("protocol",),
            {"id": "rise@1", "name": "rise", "seed": 0, "steps": 224},
            "they differ in name, steps",
        ),
        (("subsets", "toy", "manifest_id"), "m2", "other images or preprocessing of toy"),
        (
            ("subsets",),
            {"other": {"manifest_id": "m1"}},
            "The baseline is of toy and the run of other",
        ),
        (
            ("values", "insertion", "id"),
            "insertion@2",
            "insertion is insertion@1 in the baseline and insertion@2",
        ),
        (("models", "net", "card"), {"arch": "b"}, "has architecture a and the run's b"),
        (("models", "net", "classes"), 4, "has classes 3 and the run's 4"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(path, value, words):
    with pytest.raises(BenchError) as refused:
        judge(make(scores()), changed(make(scores()), path, value))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unpaired_images_are_refused():
    with pytest.raises(
        BenchError, match="has 30 of the baseline's 40 items of toy, so 10 are unpaired"
    ):
        judge(make(scores()), make(scores(n=30)))
    judge(make(scores(n=30)), make({k: v[:30] for k, v in scores(n=30).items()}))


def test_another_model_is_refused_unless_it_stands_for_one():
    run = make(scores())
    run.facts["models"]["tuned"] = run.facts["models"].pop("net")
    run.facts["calibration"]["tuned"] = run.facts["calibration"].pop("net")
    run = dataclasses.replace(run, frame=run.frame.assign(model="tuned"))
    with pytest.raises(
        BenchError, match=r"The baseline is of net and the run of tuned; .*--as NEW=OLD"
    ):
        judge(make(scores()), run)
    assert judge(make(scores()), run.rename_models({"tuned": "net"})).exit_code == 0
    with pytest.raises(
        BenchError, match=r"no model 'tune' to judge as another\. Did you mean tuned"
    ):
        run.rename_models({"tune": "net"})


def test_other_weights_are_judged_and_said():
    run = changed(make(scores(-0.2)), ("models", "net", "weights_sha256"), "w2")
    run = changed(run, ("models", "net", "weights_id"), "w2")
    verdicts = judge(make(scores()), run)
    assert verdicts.exit_code == 1
    assert "net: other weights." in verdicts.notes
    assert set(verdicts.frame.loc[verdicts.frame["verdict"] == REGRESSION, "cause"]) == {"model"}


def test_another_seed_is_refused_unless_asked_for():
    """The ids of a run of another seed differ in the seed alone; another definition is still seen
    behind it.
    """
    sides = []
    for seed in (0, 1):
        protocol = Protocol(seed=seed)
        fields = {"id": protocol.id, **dataclasses.asdict(protocol)}
        made = make(scores(), protocol=fields)
        made.facts["values"]["insertion"]["id"] = METRICS.get("insertion").id(protocol)
        sides.append(made)
    with pytest.raises(
        BenchError, match=r"they differ in seed.*--other-seed lets the draws differ"
    ):
        judge(*sides)
    verdicts = judge(*sides, other_seed=True)
    assert verdicts.exit_code == 0
    assert verdicts.notes[0] == "The run has seed 1 and the baseline 0: every draw is another one."
    sides[0].facts["values"]["insertion"]["id"] = "insertion@older"
    with pytest.raises(BenchError, match="another definition"):
        judge(*sides, other_seed=True)


def test_changed_code_is_said():
    run = changed(make(scores()), ("methods", "cam", "id"), "cam@2")
    assert "The code of cam changed." in judge(make(scores()), changed(run, ("code",), "2.0")).notes


# --- reports


@pytest.fixture
def verdicts():
    """Return a regression, an open cell, a change, a missing method and a control that moved."""
    rng = np.random.default_rng(0)
    old = {
        **scores(),
        ("cam", "deletion"): 0.1 + 0.01 * rng.standard_normal(40),
        ("other", "deletion"): 0.2 + 0.01 * rng.standard_normal(40),
        ("random", "deletion"): 0.6 + 0.01 * rng.standard_normal(40),
        ("other", "pointing"): np.ones(40),
    }
    new = {
        **old,
        ("cam", "insertion"): old[("cam", "insertion")] - 0.1,
        ("cam", "deletion"): old[("cam", "deletion")] + 0.3 * rng.standard_normal(40),
        ("other", "deletion"): old[("other", "deletion")] - 0.001,
        ("random", "deletion"): old[("random", "deletion")] + 0.1,
    }
    del new[("other", "pointing")]
    return judge(make(old), make(new))


def test_junit_is_what_ci_parsers_read(verdicts, tmp_path):
    write_junit(verdicts, tmp_path / "gate.xml")
    root = ET.parse(tmp_path / "gate.xml").getroot()
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    cases = list(suite)
    assert {case.tag for case in cases} == {"testcase"}
    assert int(suite.get("tests")) == len(cases) == len(verdicts.gated) == 5
    assert (
        int(suite.get("failures"))
        == len(suite.findall("testcase/failure"))
        == verdicts.count(REGRESSION)
        == 1
    )
    assert (
        int(suite.get("errors"))
        == len(suite.findall("testcase/error"))
        == verdicts.count(UNJUDGED)
        == 2
    )
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    (failed,) = [case for case in cases if case.find("failure") is not None]
    assert (failed.get("classname"), failed.get("name")) == ("toy.net.cam", "insertion")
    assert "worse by more than 5%" in failed.find("failure").get("message")


def test_the_summary_is_appended_and_starts_with_the_outcome(verdicts, tmp_path):
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    write_markdown(verdicts, path)
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert (
        lines[1]
        == "### cambench check: Regression: 1 regression; 2 could not judge; 1 changed, not worse; "
        "1 same " + ("(of 5 cells).")
    )
    table = [line for line in lines if line.startswith("| net")]
    assert table[0].split(" | ")[1:3] == ["cam", "insertion ↑"]
    assert all(line.count(" | ") == table[0].count(" | ") for line in table)
    assert "- The run has nothing of net on toy for other (pointing)." in lines


def test_the_table_shows_what_moved_in_percent_of_the_distance(verdicts):
    out = io.StringIO()
    print_verdicts(verdicts, Console(file=out, width=200))
    text = out.getvalue()
    assert "-20." in text  # .1 of about .5
    assert text.strip().splitlines()[-1] == write_outcome(verdicts)
    assert text.index("regression") < text.index(CHANGED)
    assert "! The run has nothing of net on toy for other (pointing)." in text
    everything = io.StringIO()
    print_verdicts(verdicts, Console(file=everything, width=200), everything=True)
    assert len(everything.getvalue().splitlines()) > len(text.splitlines())


def test_a_run_that_is_the_same_needs_no_table():
    lines = list(write_markdown_lines(judge(make(scores()), make(scores()))))
    assert lines[0] == "### cambench check: Fine: 2 same (of 2 cells)."
    out = io.StringIO()
    print_verdicts(judge(make(scores()), make(scores())), Console(file=out, width=200))
    assert out.getvalue().strip() == "Fine: 2 same (of 2 cells)."

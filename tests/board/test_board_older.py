"""Rows of an older version stand on boards under a name that says so."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from bench.board import leaderboard
from bench.board.older_versions import find_older_methods, find_older_values, mark_older
from bench.gate.baseline import from_records, load_baseline, save_baseline
from bench.gate.comparable import list_older_values
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.registry import Registry


def raise_version(
    monkeypatch: pytest.MonkeyPatch, registry: Registry[Any], name: str, version: int
) -> None:
    entry = dataclasses.replace(registry.get(name), version=version)
    monkeypatch.setitem(registry._entries, name, entry)


def build(toy: SimpleNamespace):
    rows = toy.scalars(
        "deletion", {"xgrad_cam": [0.1, 0.2], "grad_cam": [0.3, 0.2], "random": [0.5, 0.5]}
    )
    return toy.build(rows)


def test_nothing_is_renamed_where_nothing_is_older(toy):
    records = build(toy)
    assert mark_older(records) is records


def test_an_older_method_has_its_version_in_its_name(toy, monkeypatch):
    records = build(toy)
    raise_version(monkeypatch, METHODS, "xgrad_cam", 2)
    board = leaderboard(records, resamples=20)
    assert set(board.frame["method"]) == {"xgrad_cam (v1)", "grad_cam", "random"}
    assert "xgrad_cam (v1)" in board.provenance["methods"]
    assert any("xgrad_cam (v1)" in line for line in board.compare("xgrad_cam (v1)", "grad_cam"))
    assert "xgrad_cam" in records.provenance["methods"]  # the records themselves are what they were


def test_a_wrapper_is_as_old_as_what_it_wraps(monkeypatch):
    raise_version(monkeypatch, METHODS, "xgrad_cam", 3)
    assert find_older_methods({"tft(xgrad_cam)": {}, "tft(grad_cam)": {}}) == {
        "tft(xgrad_cam)": "tft(xgrad_cam) (v1)"
    }
    made = {"tft(xgrad_cam)": {"versions": {"tft": 1, "xgrad_cam": 2}}}
    assert find_older_methods(made) == {"tft(xgrad_cam)": "tft(xgrad_cam) (v2)"}
    made["tft(xgrad_cam)"]["versions"]["xgrad_cam"] = 3
    assert find_older_methods(made) == {}


def test_an_older_metric_has_its_version_in_the_names_of_its_values(toy, monkeypatch):
    rows = toy.scalars("deletion", {"xgrad_cam": [0.1, 0.2], "grad_cam": [0.3, 0.2]})
    rows += toy.scalars(
        "deletion_curve", {"xgrad_cam": [[0.5, 0], [0.4, 0]], "grad_cam": [[0.5, 0], [0.4, 0]]}
    )
    records = toy.build(rows)
    assert "deletion_relative" in set(leaderboard(records, resamples=20).frame["metric"])
    raise_version(monkeypatch, METRICS, "deletion", 2)
    names = set(leaderboard(records, resamples=20).frame["metric"])
    assert names == {"deletion (v1)", "deletion_relative (v1)"}


def test_the_gate_never_judges_an_older_version_under_the_plain_name(toy, monkeypatch, tmp_path):
    before = from_records(build(toy))
    save_baseline(before, tmp_path / "baseline.parquet")
    raise_version(monkeypatch, METHODS, "xgrad_cam", 2)
    loaded = load_baseline(tmp_path / "baseline.parquet")
    assert set(loaded.frame["method"]) == {"xgrad_cam (v1)", "grad_cam", "random"}
    assert set(from_records(build(toy)).frame["method"]) == set(loaded.frame["method"])


def test_a_baselines_derived_values_have_the_names_that_boards_give_them(monkeypatch):
    raise_version(monkeypatch, METRICS, "box_localization", 2)
    facts = {"metric": "box_localization", "version": 1}
    values = {"box_accuracy": facts, "box_accuracy_30@correct": facts, "deletion": {}}
    assert find_older_values(values) == {
        "box_accuracy": "box_accuracy (v1)",
        "box_accuracy_30@correct": "box_accuracy_30 (v1)@correct",
    }


def test_a_health_check_marks_the_older_value_that_it_is_about(toy, monkeypatch):
    records = build(toy)
    (identity,) = {facts["id"] for facts in records.provenance["metrics"].values()}
    verdict = {"metric": "deletion", "metric_id": identity, "model": "net"}
    other = {**verdict, "metric_id": "deletion@another"}
    health = {"protocol": "p", "verdicts": [verdict, other]}
    records = dataclasses.replace(records, provenance={**records.provenance, "health": health})
    raise_version(monkeypatch, METRICS, "deletion", 2)
    marked = mark_older(records).provenance["health"]["verdicts"]
    assert [one["metric"] for one in marked] == ["deletion (v1)", "deletion"]
    assert health["verdicts"][0]["metric"] == "deletion"


def test_the_gate_says_which_values_are_of_another_version(toy, monkeypatch, tmp_path):
    records = build(toy)
    save_baseline(from_records(records), tmp_path / "baseline.parquet")
    raise_version(monkeypatch, METRICS, "deletion", 2)
    old, older_run = load_baseline(tmp_path / "baseline.parquet"), from_records(records)
    assert list(list_older_values(old, older_run)) == []
    facts = {"deletion": {**old.values["deletion (v1)"], "version": 2}}
    new = dataclasses.replace(older_run, facts={**older_run.facts, "values": facts})
    (said,) = list_older_values(old, new)
    assert said.startswith("Version 1 of deletion in the baseline is another definition")
    assert "--metrics 'ranked,-*(v1)*'" in said
    assert next(list_older_values(new, old)).startswith("Version 1 of deletion in the run")

"""Boards of older records show the tags of today."""

from __future__ import annotations

from bench.board.board import leaderboard
from bench.board.present_tags import renew_tags
from bench.methods import METHODS
from tests.support.toy_records import build, scalars

VALUES = {"integrated_gradients": [0.1, 0.2], "layer_cam": [0.2, 0.3], "own": [0.3, 0.4]}


def make(**ids: str):
    records = build(scalars("deletion", VALUES))
    for name, facts in records.provenance["methods"].items():
        facts |= {"fidelity": "official", "citation": "of its day", "id": ids.get(name, "x@1")}
    return records


def test_an_unchanged_method_has_the_tag_of_today():
    today = METHODS.get("integrated_gradients")
    assert today.fidelity == "paper"
    found = renew_tags(make(integrated_gradients=today.id)).provenance["methods"]
    assert found["integrated_gradients"]["fidelity"] == "paper"
    assert found["integrated_gradients"]["citation"] == today.citation
    assert found["own"] == {**found["own"], "fidelity": "official", "citation": "of its day"}


def test_an_older_version_is_not_official():
    board = leaderboard(make(), resamples=50)
    assert METHODS.get("layer_cam").fidelity == "official"
    fidelity = board.frame.drop_duplicates("method").set_index("method")["fidelity"]
    assert fidelity["layer_cam (v1)"] == "paper"


def test_records_are_not_changed():
    records = make(integrated_gradients=METHODS.get("integrated_gradients").id)
    renew_tags(records)
    assert records.provenance["methods"]["integrated_gradients"]["fidelity"] == "official"
    twice = renew_tags(renew_tags(records))
    assert renew_tags(twice) is twice

"""The protocol: ids that follow the fields, views that hide what was not declared, rules that exist."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.protocol import Protocol, get_protocol


def test_a_metric_id_hashes_only_what_it_reads():
    base, other = Protocol(), Protocol(steps=14)
    assert METRICS.get("deletion").id(base) != METRICS.get("deletion").id(other)
    assert METRICS.get("pointing_game").id(base) == METRICS.get("pointing_game").id(other)
    assert base.id != other.id


def test_a_field_that_is_not_declared_cannot_be_read():
    view = Protocol().view(("steps",))
    assert view.steps == 28
    with pytest.raises(AttributeError, match="'thresholds' is not declared"):
        _ = view.thresholds


def test_every_built_in_metric_reads_only_what_it_declares(monkeypatch):
    """The contract tests run every metric under its view; here: all declared fields exist and are wanted words."""
    fields = {f.name for f in dataclasses.fields(Protocol)}
    for metric in METRICS:
        assert set(metric.all_reads) <= fields


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"faithfulness_target": "predicte"}, "faithfulness_target is 'predicte'; it can be predicted or label"),
        ({"tie_rule": "random"}, "tie_rule"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_a_rule_that_is_not_built_is_refused(change, words):
    with pytest.raises(BenchError, match=words):
        Protocol(**change)


@given(st.integers(1, 500), st.integers(0, 10))
def test_ids_are_equal_exactly_when_fields_are(steps, seed):
    one, two = Protocol(steps=steps, seed=seed), Protocol(steps=steps, seed=seed)
    assert one.id == two.id
    assert (one.id == Protocol().id) == (one == Protocol())


def test_names_are_found():
    assert get_protocol("cambench-1") == bench.Protocol()
    with pytest.raises(BenchError, match="Did you mean cambench-1"):
        get_protocol("cambench1")

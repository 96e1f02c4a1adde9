"""Ids are part of every published record: what does not change a number must not change them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from bench.board.older_versions import find_older_methods
from bench.identity import FIRST_VERSIONS, older_name, plain_name
from bench.methods import METHODS, base, cam
from bench.metrics import METRICS
from bench.models import load_model
from bench.protocol import PROTOCOLS

BOARDS = Path(__file__).parents[2] / "leaderboards"
WRITTEN = json.loads(Path(__file__).with_name("published_ids.json").read_text())
"""Ids of 227 addresses, 10 models and 168 metrics under named protocols. The oldest of methods are
by the code that hashed source texts.
"""


def test_ids_of_addresses_are_those_of_the_code_that_hashed_source():
    assert len(WRITTEN["methods"]) >= 200
    assert {name: METHODS.get(name).id for name in WRITTEN["methods"]} == WRITTEN["methods"]


def at_version(method: base.Method, version: int) -> base.Method:
    """Return a method as it was at a version, and what it wraps likewise."""
    inner = None if method.inner is None else at_version(method.inner, version)
    return dataclasses.replace(method, version=version, inner=inner)


def test_ids_of_older_versions_of_methods_are_those_of_their_records():
    for version, written in WRITTEN["older_methods"].items():
        for name, identity in written.items():
            assert at_version(METHODS.get(name), int(version)).id == identity
            assert WRITTEN["methods"][name] != identity


def test_ids_of_models_metrics_and_protocols_are_those_of_before():
    assert {name: load_model(name).weights_id for name in WRITTEN["models"]} == WRITTEN["models"]
    assert {name: protocol.id for name, protocol in PROTOCOLS.items()} == WRITTEN["protocols"]
    pairs = {key: key.split() for key in WRITTEN["metrics"]}
    assert {key: METRICS.get(q).id(PROTOCOLS[p]) for key, (p, q) in pairs.items()} == WRITTEN[
        "metrics"
    ]


def test_ids_of_older_versions_of_metrics_are_those_of_their_records():
    for version, written in WRITTEN["older_metrics"].items():
        for key, identity in written.items():
            protocol, name = key.split()
            older = dataclasses.replace(METRICS.get(name), version=int(version))
            assert older.id(PROTOCOLS[protocol]) == identity
            assert WRITTEN["metrics"][key] != identity


@pytest.mark.parametrize("board", ["scenes", "scenes-field", "ilsvrc-mobilenetv2"])
def test_methods_are_those_of_the_published_records(board):
    frame = pd.read_parquet(
        BOARDS / board / "records.parquet", columns=["method", "method_id"]
    ).drop_duplicates()
    written = dict(zip(frame.method, frame.method_id, strict=True))
    older = find_older_methods(json.loads((BOARDS / board / "run.json").read_text())["methods"])
    now = {name: METHODS.get(name).id for name in written.keys() - older}
    assert now == {name: written[name] for name in now}
    assert all(METHODS.get(name).id != written[name] for name in older)


def test_a_rename_and_a_move_change_no_id():
    method = METHODS.get("grad_cam")

    place = Path(cam.__file__).with_name("elsewhere.py")
    space = {"__name__": "bench.methods.elsewhere", "function": method.function}
    code = "def renamed(one_trace):\n    return function(one_trace)"
    exec(compile(code, str(place), "exec"), space)
    renamed = space["renamed"]
    assert dataclasses.replace(method, function=renamed).id == method.id


def test_a_later_version_has_another_id_also_inside_a_wrapper():
    method, wrapper = METHODS.get("grad_cam"), METHODS.get("tft(grad_cam)")
    later = dataclasses.replace(method, version=2)
    assert later.id != method.id
    assert dataclasses.replace(later, version=3).id != later.id
    assert wrapper.wrap(later).id != wrapper.id
    assert wrapper.wrap(later).versions == {"tft": 1, "grad_cam": 2}


def test_a_younger_method_needs_no_stored_constant():
    young = base.Method(name="young", function=cam.grad_cam, group="cam", fidelity="paper")
    other = dataclasses.replace(young, name="younger")
    assert "young" not in FIRST_VERSIONS
    assert young.id.startswith("young@")
    assert other.id != young.id


def test_names_of_older_versions():
    assert older_name("tft(score_cam)", 1) == "tft(score_cam) (v1)"
    assert plain_name("tft(score_cam) (v1)") == "tft(score_cam)"
    assert plain_name("grad_cam") == "grad_cam"

"""What a board derives from vectors: declared with the value, in run.json or in the registry."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from bench.board.derived_names import list_shown_facts, read_derived
from bench.board.measures import list_measures
from bench.metrics import METRICS, Value
from bench.metrics.base import Derived, board_names, find_derived

PLUGIN = {"title": "Best IoU", "better": "higher", "ranked": False, "reduce": "box_accuracy"}


@pytest.mark.parametrize("value", [v for m in METRICS for v in m.values.items() if v[1].derived])
def test_a_board_reads_what_the_value_declares(value: tuple[str, Value]) -> None:
    """run.json as it is written now, with the name alone, and of before: the same facts."""
    name, declared = value
    facts = dataclasses.asdict(declared)
    older = {key: fact for key, fact in facts.items() if key != "derived"}
    assert read_derived(name, facts) == declared.derived
    assert read_derived(name, older) == declared.derived
    assert declared.derived is not None
    assert read_derived(name, {**older, "derived": declared.derived.name}) == declared.derived
    assert board_names(name, declared)[0] == declared.derived.name


def test_run_json_speaks_before_the_registry() -> None:
    derived = Derived("area_hits", "hits by area", better="lower", ranked=False, upper=None)
    facts = {**PLUGIN, "derived": dataclasses.asdict(derived)}
    assert read_derived("box_iou", facts) == derived
    assert read_derived("box_iou (v1)", facts).name == "area_hits (v1)"
    assert list_shown_facts(derived) == {
        "title": "hits by area",
        "better": "lower",
        "ranked": False,
        "lower": 0.0,
        "upper": None,
        "peaked": False,
    }


def test_a_value_that_declares_nothing_is_named_after_itself() -> None:
    """Of a plug-in that is not loaded; `cambench list` and the board agree on the name."""
    found = read_derived("mine", PLUGIN)
    assert (found.name, found.ranked, found.better) == ("mine_accuracy", False, "higher")
    assert found.peaked
    value = Value("Best IoU", reduce="box_accuracy")
    assert find_derived("mine", value) == found
    assert board_names("mine", value) == ("mine_accuracy", "mine")
    pooled = read_derived("mine", {**PLUGIN, "reduce": "pooled_precision"})
    assert (pooled.name, pooled.title) == ("mine_pooled", "pooled pixel average precision")


def test_the_board_ranks_as_the_value_declares(toy: SimpleNamespace) -> None:
    """`ranked` and the direction of a derived measure come from the declaration."""
    derived = Derived("miss", "misses", better="lower", ranked=False)
    rows = [toy.row(f"i{k}", "a", "pixel_histogram", [1, 0, 0, 1]) for k in range(2)]
    records = toy.build(rows)
    facts = records.provenance["metrics"]["pixel_histogram"]
    facts["derived"] = dataclasses.asdict(derived)
    measure, *_ = list_measures(records.frame, records.provenance)
    assert measure.name == "miss"
    assert {k: measure.facts[k] for k in ("title", "better", "ranked")} == {
        "title": "misses",
        "better": "lower",
        "ranked": False,
    }

"""The protocol: ids that follow the fields, views that hide what was not declared, rules that
exist.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.protocol import PROTOCOLS, Protocol, get_protocol
from bench.protocol_checks import describe_field


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
    """The contract tests run every metric under its view; here: all declared fields exist and are
    wanted words.
    """
    fields = {f.name for f in dataclasses.fields(Protocol)}
    for metric in METRICS:
        assert set(metric.all_reads) <= fields


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        (
            {"faithfulness_target": "predicte"},
            "faithfulness_target is 'predicte'; it can be predicted or label",
        ),
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


CAMBENCH_1 = "cambench-1@76032da1c3b1"
METRIC_IDS = {
    "deletion": "deletion@eeda0576cdbb",
    "insertion": "insertion@cc9a1b8b9539",
    "average_drop": "average_drop@a6c4dd01e7e9",
    "threshold_quality": "threshold_quality@e616738adb21",
    "pointing_game": "pointing_game@82597d7e248d",
    "box_localization": "box_localization@ea279c62e08b",
    "pixel_precision": "pixel_precision@dea9a3be7ac0",
    "road": "road@112f2003b03c",
    "robustness": "robustness@508cb14633fc",
}
"""Published: committed boards hold them, and a field that comes later must not change them."""


def test_published_ids_stay():
    assert Protocol().id == CAMBENCH_1
    assert {name: METRICS.get(name).id(Protocol()) for name in METRIC_IDS} == METRIC_IDS


def test_a_quiet_field_counts_off_its_default_only():
    for name in ("removed", "step_rule", "curve_area"):
        assert name in METRICS.get("deletion").reads
    base = METRICS.get("deletion").id(Protocol())
    assert METRICS.get("deletion").id(Protocol(removed="zero")) != base
    assert METRICS.get("deletion").id(Protocol(box_shapes="contours")) == base
    assert Protocol(box_shapes="contours").id != Protocol().id
    # A field of before is in the id of every metric that reads it, at its default as well.
    assert "attack_eps_255" in METRICS.get("robustness").reads
    assert METRICS.get("robustness").id(Protocol(attack_eps_255=(2.0,))) != METRICS.get(
        "robustness"
    ).id(Protocol())


def test_every_named_protocol_is_another_one():
    ids = {protocol.id for protocol in PROTOCOLS.values()}
    assert len(ids) == len(PROTOCOLS) >= 5
    assert {"cambench-1", "rise", "wsol", "quantus", "torchcam"} <= set(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert bool(protocol.changes()) == (name != "cambench-1")


def test_a_field_can_be_changed_by_name():
    assert get_protocol("quantus[step_features=224]") == dataclasses.replace(
        PROTOCOLS["quantus"], step_features=224, name="quantus[step_features=224]"
    )
    many = get_protocol(" wsol[ box_ious = 0.3:0.5 , box_last_tau=TRUE, kernel_sigma=2.5,seed=3] ")
    assert (many.box_ious, many.box_last_tau, many.kernel_sigma, many.seed) == (
        (0.3, 0.5),
        True,
        2.5,
        3,
    )
    assert many.name == "wsol[seed=3,box_ious=0.3:0.5,kernel_sigma=2.5,box_last_tau=true]"
    assert get_protocol(many.name) == many
    assert get_protocol("cambench-1[references=black:white]").references == ("black", "white")


def test_one_protocol_has_one_name():
    assert get_protocol("cambench-1[steps=28]") == Protocol()
    assert get_protocol("rise[]") == PROTOCOLS["rise"]
    one, two = (get_protocol(f"rise[{text}]") for text in ("steps=3,seed=1", "seed=1,steps=3"))
    assert one == two
    assert one.replace_fields({"steps": 28, "seed": 0}) == PROTOCOLS["rise"]
    assert one.id.partition("@")[0] == one.name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantu", "Unknown protocol 'quantu'.*Did you mean quantus"),
        ("rise[steps=3", "Unknown protocol"),
        ("rise[steps]", "'steps' sets nothing; write field=value"),
        ("rise[=3]", "no field ''"),
        ("rise[step=3]", "no field 'step'.*Did you mean steps"),
        ("rise[name=x]", "no field 'name'"),
        ("rise[steps=3,steps=4]", "sets steps twice"),
        ("rise[steps=3.5]", "give a whole number"),
        ("rise[steps=0]", "steps is 0"),
        ("rise[kernel_sigma=wide]", "give a number"),
        ("rise[kernel_sigma=inf]", "give a number"),
        ("rise[kernel_sigma=0]", "kernel_sigma is 0; it must be 0.01 to 10,000"),
        ("rise[kernel_side=10]", "kernel_side is 10; it must be odd"),
        ("rise[removed=black]", "removed is 'black'; it can be colour or zero or minimum"),
        ("rise[step_features=-1]", "step_features is -1; it must be 0 to"),
        ("wsol[box_last_tau=1]", "give true or false"),
        ("wsol[box_ious=0.3:half]", "values with : between them"),
        ("wsol[box_ious=1.5]", "box_ious is 1.5; it must be above 0, at most 1"),
        ("wsol[box_levels=256]", "it must be 0 to 255"),
        ("torchcam[baseline=0:0]", "give red, green and blue"),
        ("torchcam[baseline=0:0:2]", "baseline is 2; it must be 0 to 1"),
        ("rise[blur_sigma_224=-1]", "blur_sigma_224 is -1; it must be 0.01 to 224"),
        ("rise[seed=-1]", "seed is -1; it must be 0 to"),
        (f"rise[seed={'9' * 5000}]", "give a whole number"),
        (f"rise[steps={'9' * 400}]", "steps is a number of 1,329 bits; it must be 1 to"),
        ("rise[pgd_step=nan]", "give a number"),
        ("rise[references=baseline:nowhere]", "references"),
    ],
)
def test_a_wrong_address_is_one_sentence(text, words):
    with pytest.raises(BenchError, match=words) as caught:
        get_protocol(text)
    assert "\n" not in str(caught.value)


def test_every_field_says_what_it_can_be():
    free = {"name", "references", "box_last_tau"}  # a text, methods' references, a truth value
    fields = {field.name for field in dataclasses.fields(Protocol)}
    assert {name for name in fields if not describe_field(name)} == free


def test_a_field_is_checked_in_python_as_well():
    for changes in (
        {"steps": "28"},
        {"steps": 2.5},
        {"seed": True},
        {"box_ious": ()},
        {"pgd_step": float("nan")},
        {"baseline": (0, 0, 1j)},
    ):
        with pytest.raises(BenchError, match=f"Protocol field {next(iter(changes))}"):
            Protocol(**changes)


def test_names_are_found():
    assert get_protocol("cambench-1") == bench.Protocol()
    with pytest.raises(BenchError, match="Did you mean cambench-1"):
        get_protocol("cambench1")

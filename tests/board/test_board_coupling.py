"""Values that favour a method because both take the same colour for nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.board.board import leaderboard
from bench.board.coupling import find_metric_reference, find_reference, is_coupled
from bench.errors import BenchError
from bench.methods import METHODS, register_method
from bench.methods.registration import REFERENCE_WORDS

IMAGENET = {"mean": [0.485, 0.456, 0.406]}
HALF = {"mean": [0.5, 0.5, 0.5]}
PAINTED = {"protocol": {"baseline": [0.485, 0.456, 0.406]}}
LOWER = {"metric": "deletion", "better": "lower"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("input_x_gradient", "zero"),
        ("integrated_gradients", "baseline"),
        ("integrated_gradients[reference=black]", "black"),
        ("a_fmi", "baseline"),
        ("a_fmi[replace=zero]", ""),
        ("sa_cam", ""),
        ("sa_cam[base=score_cam]", "baseline"),
        ("fused(a_fmi[reference=white])", "white"),
        ("tft(grad_cam)", "baseline"),
        ("group_cam", "blur"),
        ("grad_cam", ""),
        ("deep_lift_shap", ""),
    ],
)
def test_what_a_method_compares_with(name: str, expected: str) -> None:
    assert find_reference(name, {}) == expected


def test_declared_references_are_those_of_the_methods() -> None:
    """A method with a parameter `reference` compares with what that says; every word is one that
    boards know.
    """
    chosen = {m.name: m for m in METHODS if "reference" in m.all_parameters}
    assert {name: m.compared_with for name, m in chosen.items()} == dict.fromkeys(
        chosen, "baseline"
    )
    assert {m.variant(reference="white").compared_with for m in chosen.values()} == {"white"}
    assert {m.compared_with for m in METHODS} <= {"", *REFERENCE_WORDS}
    compared = {m.base for m in METHODS if m.compared_with}
    assert compared == {
        *("input_x_gradient", "lrp", "full_grad", "group_cam", "tft", "a_fmi", "deep_lift", "idgi"),
        *(
            "integrated_gradients",
            "score_cam",
            "abs_cam",
            "abs_cam_elementwise",
            "occlusion",
            "rise",
            "lime",
        ),
        "kernel_shap",
    }


def test_run_json_says_what_a_method_compares_with_and_an_older_one_need_not() -> None:
    method = METHODS.get("a_fmi[reference=black]")
    assert method.facts()["reference"] == "black"
    assert "reference" not in METHODS.get("grad_cam").facts()
    assert find_reference("gone", {"versions": {"gone": 1}, "reference": "blur"}) == "blur"
    assert find_reference("score_cam", {"versions": {"score_cam": 1}}) == ""  # that version did not
    assert find_reference("gone", {}) == ""
    assert find_reference("score_cam (v1)", {}) == "baseline"


@pytest.mark.parametrize(
    ("method", "model", "metric", "protocol", "expected"),
    [
        ("input_x_gradient", IMAGENET, "deletion", {}, True),
        ("input_x_gradient", HALF, "deletion", {}, False),  # its zero is another grey
        (
            "integrated_gradients",
            HALF,
            "deletion",
            {},
            True,
        ),  # its reference is the colour, whatever the model
        ("input_x_gradient", HALF, "deletion", {"baseline": [0.5, 0.5, 0.5]}, True),
        ("score_cam", IMAGENET, "deletion", {"baseline": [0, 0, 0]}, False),
        (
            "integrated_gradients[reference=black]",
            IMAGENET,
            "deletion",
            {"baseline": [0, 0, 0]},
            True,
        ),
        ("group_cam", IMAGENET, "insertion", {}, True),
        ("input_x_gradient", IMAGENET, "insertion", {}, False),
        ("input_x_gradient", IMAGENET, "insertion", {"insertion_start": "baseline"}, True),
        ("input_x_gradient", HALF, "deletion", {"removed": "zero"}, True),
        ("score_cam", IMAGENET, "deletion", {"removed": "zero"}, True),
        ("score_cam", HALF, "deletion", {"removed": "zero"}, False),
        ("input_x_gradient", IMAGENET, "deletion", {"removed": "minimum"}, False),
        ("group_cam", IMAGENET, "insertion", {"insertion_start": "kernel"}, False),
        ("input_x_gradient", IMAGENET, "energy_pointing_game", {}, False),
        ("grad_cam", IMAGENET, "deletion", {}, False),
    ],
)
def test_coupled_pairs(
    method: str, model: dict, metric: str, protocol: dict, expected: bool
) -> None:
    provenance = {
        "protocol": PAINTED["protocol"] | protocol,
        "models": {"net": model},
        "methods": {method: {}},
    }
    assert is_coupled(provenance, ["net"], method, {**LOWER, "metric": metric}) is expected
    assert not is_coupled(
        provenance, ["net"], method, {**LOWER, "metric": metric, "better": "none"}
    )


def test_what_is_not_painted_has_no_reference() -> None:
    assert find_metric_reference("pointing_game", {}) == ""
    assert find_metric_reference("insertion", {"insertion_start": "blur"}) == "blur"


def test_a_board_marks_and_flags_them(toy: SimpleNamespace) -> None:
    rows = toy.scalars("deletion", {"input_x_gradient": [0.1, 0.2], "grad_cam": [0.3, 0.2]})
    rows += toy.scalars("insertion", {"input_x_gradient": [0.1, 0.2], "grad_cam": [0.3, 0.2]})
    models = {"net": {"weights_id": "w-net", "parent": "", "top1": 0.9, **IMAGENET}}
    protocol = {
        "name": "p",
        "id": "cambench-1@x",
        **PAINTED["protocol"],
        "insertion_start": "baseline",
    }
    board = leaderboard(toy.build(rows, models=models, protocol=protocol), resamples=50)
    marked = board.frame.set_index(["metric", "method"])["coupled"]
    assert marked.to_dict() == {
        ("deletion", "grad_cam"): False,
        ("deletion", "input_x_gradient"): True,
        ("insertion", "grad_cam"): False,
        ("insertion", "input_x_gradient"): True,
    }
    assert any(
        "deletion paints with the very reference that is built into input_x_gradient" in f
        for f in board.flags
    )
    assert any("no second evidence beside deletion" in flag for flag in board.flags)
    from bench.board.tables import build_sections

    (line,) = [
        line
        for line in build_sections(board, "toy", "net")[0].lines
        if line.method == "input_x_gradient"
    ]
    assert [cell.mark for cell in line.cells] == ["‡", "‡"]


def test_a_plug_in_declares_its_reference() -> None:
    try:

        @register_method("doc_black", reference="black")
        def doc_black(trace):  # pragma: no cover - never called
            return trace

        facts = METHODS.get("doc_black").facts()
        assert facts["reference"] == "black"
        assert find_reference("doc_black", facts) == "black"
        assert METHODS.get("fused(doc_black)").compared_with == "black"
    finally:
        METHODS.remove("doc_black")
    with pytest.raises(
        BenchError, match="reference 'grey' of method 'doc_grey' is not one of zero, baseline"
    ):
        register_method("doc_grey", reference="grey")

"""This project against the conformance vectors, and the vectors' own tools against planted
mistakes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.randomness import generator, smooth_field
from tests.conformance import derive, run_bench

HERE = Path(__file__).parent
LIMIT = 300_000


@pytest.fixture(scope="module")
def own() -> dict[str, object]:
    return run_bench.all_scores()


def compared(scores: object, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run compare.py, without any installed package, on scores (or on a text as it is)."""
    file = folder / "scores.json"
    file.write_text(
        scores if isinstance(scores, str) else json.dumps({"schema": 1, "scores": scores})
    )
    command = [sys.executable, "-I", "-S", str(HERE / "compare.py"), str(file), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_vector_agrees(own, tmp_path):
    done = compared(own, tmp_path, "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agrees" in done.stdout
    assert "DIFFERS" not in done.stdout


FOUND_BY = {
    "no-end-points": {"curves", "curves-from-baseline", "end-points", "logistic", "ties"},
    "four-connected": {"boxes"},
    "any-tied-maximum": {"pointing", "ties"},
    "own-network": {"sister-curves", "sister-cells"},
}


@pytest.mark.parametrize("mistake", run_bench.WRONG)
def test_mistakes_of_other_implementations_are_found(mistake, tmp_path):
    with run_bench.WRONG[mistake]():
        scores = run_bench.all_scores()
    done = compared(scores, tmp_path)
    assert done.returncode == 1
    assert {
        line.split()[0] for line in done.stdout.splitlines() if line.endswith("DIFFERS")
    } == FOUND_BY[mistake]
    assert ", expected " in done.stdout


def test_the_files_are_as_derived_without_any_library():
    module = "tests.conformance.derive"
    command = [sys.executable, "-E", "-s", "-S", "-m", module, "--check"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_claim_is_found(tmp_path, monkeypatch):
    expected = json.loads((derive.CASES / "end-points" / "expected.json").read_text())
    text = (derive.CASES / "end-points" / "derivation.md").read_text()
    assert "* 24/25 = 0.508" in text
    (tmp_path / "end-points").mkdir()
    (tmp_path / "end-points" / "derivation.md").write_text(
        text.replace("* 24/25 = 0.508", "* 23/25 = 0.508")
    )
    monkeypatch.setattr(derive, "CASES", tmp_path)
    seen, wrong = derive.claims("end-points", expected)
    assert seen == {"deletion", "deletion_curve"}
    assert len(wrong) == 1
    assert "first deletion" in wrong[0]


def test_the_tie_fields_are_those_that_are_drawn():
    """The generator is not language neutral, so the files hold its draws; their order is the one
    that counts.
    """
    for size, given in json.loads((HERE / "v2" / "tie_fields.json").read_text()).items():
        height, width = map(int, size.split("x"))
        drawn = smooth_field(generator(0, "ties", given["id"]), height, width)
        field = torch.tensor(given["field"], dtype=torch.float64)
        torch.testing.assert_close(field.float(), drawn, atol=1e-6, rtol=0)
        assert len(field.unique()) == height * width
        assert torch.equal(field.flatten().argsort(), drawn.flatten().argsort())


def test_the_folder_stays_small():
    assert sum(file.stat().st_size for file in (HERE / "v2").rglob("*") if file.is_file()) < LIMIT


def test_version_2_differs_from_1_only_where_a_map_has_no_value_above_0():
    changed = set()
    for file in sorted((HERE / "v1" / "cases").glob("*/expected.json")):
        case = file.parent.name
        there = HERE / "v2" / "cases" / case
        assert (there / "input.json").read_text() == (file.parent / "input.json").read_text()
        items = json.loads((there / "input.json").read_text())["items"]
        after = json.loads((there / "expected.json").read_text())["items"]
        for item, values in json.loads(file.read_text())["items"].items():
            for name, value in values.items():
                if value != after[item][name]:
                    changed.add(f"{case}/{item}")
                    assert value == "NaN" or set(value) == {"NaN"}, f"{case}/{item} {name}"
                    assert max(v for row in items[item]["map"] for v in row) <= 0
    assert changed == {
        "boxes/all_negative",
        "masking/negative",
        "pixels/all_negative",
        "threshold-localization/all_negative",
        "thresholds/negative",
        "ties/zeros",
    }


# --------------------------------------------------------------------------------------- compare.py


def test_some_scores_are_enough_unless_all_are_asked_for(tmp_path):
    some = {
        "complexity": {
            "constant": {"entropy": 1, "gini": 0, "of_our_own": 5},
            "all_negative": {"entropy": None},
        }
    }
    done = compared(some, tmp_path)
    assert done.returncode == 0, done.stdout
    assert compared(some, tmp_path, "--all").returncode == 1


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (0.99, ".99, expected 1"),
        ("NaN", "NaN, expected 1"),
        ([1, 1], "2 numbers, expected 1"),
        (None, "NaN, expected 1"),
    ],
)
def test_what_differs_is_said(value, word, tmp_path):
    done = compared({"complexity": {"constant": {"entropy": value}}}, tmp_path)
    assert done.returncode == 1
    assert word in done.stdout


def test_a_number_for_what_cannot_be_scored_differs(tmp_path):
    assert compared({"pointing": {"empty_truth": {"pointing": 1}}}, tmp_path).returncode == 1
    assert compared({"pointing": {"large_truth": {"pointing": "NaN"}}}, tmp_path).returncode == 1


def test_maps_are_compared_up_to_a_positive_factor(own, tmp_path):
    one = own["methods"]["class_0"]["map:cam"]
    for factor, code in ((7, 0), (-7, 1)):
        scaled = [[factor * v for v in row] for row in one]
        assert compared({"methods": {"class_0": {"map:cam": scaled}}}, tmp_path).returncode == code


@pytest.mark.parametrize(
    ("scores", "word"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must be"),
        ('{"schema": 2, "scores": {}}', "schema 2"),
        ({"complexities": {}}, "There is no case 'complexities'"),
        ({"complexity": {"constants": {}}}, "no item 'constants'"),
        ({"complexity": 5}, "must be {item"),
        ({}, "There is no score in the file"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_and_code_2(scores, word, tmp_path):
    done = compared(scores, tmp_path)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr

"""`cambench baseline`, `cambench check`, the tier of a run, and the script of action.yml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError
from tests.support.command_line import ROOT, cambench


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a baseline of the committed board."""
    folder = tmp_path_factory.mktemp("gate")
    done = cambench("baseline", "leaderboards/scenes", "--out", folder / "base.parquet")
    assert done.returncode == 0, done.stderr
    assert "36 items" in done.stdout
    return folder


def test_check_exit_codes(files):
    good = cambench(
        "check",
        "leaderboards/scenes",
        "--against",
        files / "base.parquet",
        *("--models", "vgg-scenes", "--methods", "grad_cam"),
        "--junit",
        files / "good.xml",
    )
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.strip().startswith("Fine: ")
    assert (files / "good.xml").is_file()
    tuned = cambench(
        *(
            "check",
            "leaderboards/scenes",
            "--against",
            files / "base.parquet",
            "--models",
            "vgg-scenes",
        ),
        *(
            "--methods",
            "grad_cam",
            "--as",
            "vgg-scenes-aft=vgg-scenes",
            "--summary",
            files / "s.md",
        ),
    )
    assert tuned.returncode == 0
    assert "vgg-scenes: other weights" in tuned.stdout
    assert (files / "s.md").read_text().startswith("### cambench check: ")
    refused = cambench("check", "leaderboards/scenes-pairs", "--against", files / "base.parquet")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert refused.stderr.startswith(
        "Error: The baseline is of scenes-val and the run of scenes-pairs"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--margin", "0"), "--margin is 0.0; it must lie between 0 and 10"),
        (("--as", "vgg-scenes"), "--as is 'vgg-scenes'; write NEW=OLD"),
        (("--metrics", "deletio"), "The baseline has no value 'deletio'. Did you mean deletion"),
    ],
)
def test_check_refuses_bad_input(files, more, said):
    given = [
        "check",
        str(ROOT / "leaderboards" / "scenes"),
        "--against",
        str(files / "base.parquet"),
        *more,
    ]
    refused = CliRunner().invoke(app, given).exception
    assert isinstance(refused, BenchError)
    assert str(refused).startswith(said)


def test_a_tier_is_a_preset_and_words_still_win():
    done = cambench("run", "--tier", "gate", "--limit", "3", "--calibration", "0", "--plan")
    assert done.returncode == 0, done.stderr
    assert "3 images, 1 models, 5 methods, 6 metrics" in done.stdout
    assert "Records go to runs/gate" in done.stdout
    refused = CliRunner().invoke(app, ["run", "--tier", "gat"]).exception
    assert str(refused) == "Unknown tier 'gat'. Did you mean gate?"


def test_the_actions_check_passes_its_exit_code_on(files):
    """The script of action.yml, run as GitHub runs it, with `cambench` on the path."""
    steps = {
        step["name"]: step
        for step in yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    }
    tools = files / "tools"
    tools.mkdir()
    (tools / "cambench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bench "$@"\n')
    (tools / "cambench").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AGAINST": str(files / "base.parquet"),
        "FOLDER": "leaderboards/scenes",
        "MARGIN": "0.05",
        "ALPHA": "0.01",
        "ARGUMENTS": "--models vgg-scenes --methods grad_cam",
        "JUNIT": str(files / "action.xml"),
        "GITHUB_STEP_SUMMARY": str(files / "summary.md"),
        "GITHUB_OUTPUT": str(files / "output"),
        "OPEN_CELLS_FAIL": "false",
    }
    codes = []
    for changes in ({}, {"FOLDER": "leaderboards/scenes-pairs", "JUNIT": str(files / "none.xml")}):
        script = ["bash", "-eo", "pipefail", "-c", steps["Check"]["run"]]
        codes.append(
            subprocess.run(script, cwd=ROOT, env={**environment, **changes}, check=False).returncode
        )
    assert codes == [0, 2]
    assert (files / "output").read_text() == "exit-code=0\nexit-code=2\n"
    assert (files / "summary.md").read_text().startswith("### cambench check: Fine")


def test_the_actions_inputs_are_all_used():
    text = (ROOT / "action.yml").read_text()
    for name in yaml.safe_load(text)["inputs"]:
        assert f"inputs.{name}" in text

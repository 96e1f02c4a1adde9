"""`cambench health` and `cambench protocols`: what they write, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import bench
from tests.support.command_line import cambench, refused

METHODS = [
    "oracle",
    "random",
    "center_gaussian",
    "grad_cam",
    "layer_cam",
    "saliency",
    "input_x_gradient",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    metrics = ["deletion", "average_drop", "pointing_game"]
    bench.evaluate("scenes-val[:6]", "resnet-scenes", METHODS, metrics, out=folder, calibration=0)
    return folder


@pytest.mark.slow
def test_health_writes_its_report_and_boards_mark_it(run):
    done = cambench(
        "health", run, "--limit", "4", "--methods", "grad_cam,layer_cam,saliency,input_x_gradient"
    )
    assert done.returncode == 0, done.stderr
    assert "average_drop (reported, not ranked) planted is not above" in done.stdout
    verdicts = {
        v["metric"]: v["passes"] for v in json.loads((run / "health.json").read_text())["verdicts"]
    }
    assert verdicts["deletion"] is True
    assert verdicts["average_drop"] is False
    grid = pd.read_csv(run / "health" / "grid.csv")
    assert {"default", "steps=14", "steps=7", "baseline=black", "baseline=blur"} <= set(
        grid["choice"]
    )
    assert set(grid.loc[grid["choice"] == "baseline=black", "method"]) <= set(METHODS) - {"oracle"}
    board = cambench("board", run)
    assert board.returncode == 0, board.stderr
    assert "average_drop" in board.stdout
    (table,) = (run / "tables").glob("*resnet-scenes.md")
    assert "average\\_drop ↓†" in table.read_text()
    assert "deletion ↓ |" in table.read_text()


def test_stored_checks_need_no_model(run):
    done = cambench("health", run, "--stored")
    assert done.returncode == 0, done.stderr
    assert "stored records only" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["health", "nowhere"], "There is no run at nowhere"),
        (["protocols", "--protocols", "cambench-1", "--limit", "2"], "at least two protocols"),
        (["protocols", "--protocols", "cambench-1,nonsense", "--limit", "2"], "nonsense"),
    ],
)
def test_bad_input_is_one_sentence(words, said):
    refused(cambench(*words), said)

"""The tutorial on threshold and activation fine-tuning, from start to board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "tutorials" / "fine_tune_thresholds.py"


@pytest.mark.slow
def test_thresholds_are_tuned_from_start_to_board(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, control in (("cut", "none"), ("control", "shuffled")):
        (card,) = json.loads((tmp_path / name / f"{name}.json").read_text()).values()
        assert card["recipe"]["control"] == control
        assert card["parent"] == "resnet-scenes"
        assert card["masks"]["with_mask"] > 0
    assert r"tft(grad\_cam)" in done.stdout  # as Markdown writes it
    rows = done.stdout.split("difference")[-1]
    assert rows.count(" energy ") == 2
    assert {"cut", "control"} <= set(rows.split())
    assert (tmp_path / "board" / "board.md").is_file()

"""The first minutes of a user, on any system: import, list, run, go on, lock, edit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench.cli import app
from bench.editor import Session, address_of, listen, make_token, serve
from bench.errors import BenchError
from bench.files import lock_folder
from bench.records.store import Records
from tests.torture.conftest import SMALL_RUN

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]


def call(*words: object) -> None:
    """Run one command line in this process; what it raises is raised."""
    app([str(word) for word in words], standalone_mode=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of four images."""
    folder = tmp_path_factory.mktemp("a folder with é") / "run"
    call(*SMALL_RUN, "--out", folder)
    return folder


def test_the_command_starts_in_a_new_python():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--version"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.split() == ["cambench", bench.__version__]


def test_what_there_is_is_listed(capsys):
    call("list", "models")
    assert "resnet-scenes" in capsys.readouterr().out


def test_a_run_ends_in_a_board(run):
    assert "Grad-CAM" in (run / "board.md").read_text(encoding="utf-8")
    assert Records.load(run).frame.groupby("method")["item"].nunique().tolist() == [4, 4]
    assert [p.name for p in run.rglob("*.tmp")] == []


def test_the_same_command_goes_on_and_computes_nothing_again(run):
    before = {part: part.read_bytes() for part in (run / "records").glob("*.parquet")}
    call(*SMALL_RUN, "--out", run)
    assert {part: part.read_bytes() for part in (run / "records").glob("*.parquet")} == before


def test_a_part_that_is_gone_is_made_again(run, tmp_path):
    expected = Records.load(run).frame
    for part in (run / "records").glob("*.parquet"):
        part.unlink()
    call(*SMALL_RUN, "--out", run)
    keys = ["item", "method", "metric"]
    found = Records.load(run).frame
    pd.testing.assert_frame_equal(
        found.sort_values(keys, ignore_index=True).drop(columns="run"),
        expected.sort_values(keys, ignore_index=True).drop(columns="run"),
    )


def test_a_folder_has_one_owner(run):
    with (
        lock_folder(run, "in the test"),
        pytest.raises(BenchError, match="Another run is writing"),
    ):
        call(*SMALL_RUN, "--methods", "saliency", "--out", run)


def test_the_editor_answers(tmp_path):
    images = bench.load_subset("scenes-val[:2]")
    with (
        listen(0) as listening,
        Session(bench.load_model("abn-scenes"), images, tmp_path / "maps", True) as session,
    ):
        token = make_token()
        server = threading.Thread(
            target=serve, args=(session, listening, token, False), daemon=True
        )
        server.start()
        for _ in range(100):
            try:
                with urllib.request.urlopen(address_of(listening, token), timeout=10) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                time.sleep(0.1)
        pytest.fail("the editor did not answer")

"""Streams of Windows and of a bare CI: plain signs, and no reader is needed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.board import leaderboard
from bench.plain_streams import ERRORS, PlainFile
from bench.run.evaluate import evaluate
from tests.support import toy_records as toy
from tests.support.command_line import cambench

ROOT = Path(__file__).parents[2]


def start(*words: str, encoding: str, **more) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a new Python whose streams have an encoding."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    given |= {"PYTHONIOENCODING": encoding, "NO_COLOR": "1", "COLUMNS": "100"}
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(command, env=given, timeout=300, check=False, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return the folder of a run whose board has an arrow."""
    folder = tmp_path_factory.mktemp("run") / "scenes"
    evaluate(
        "scenes-val",
        "resnet-scenes",
        ["random"],
        ["complexity", "pointing_game"],
        out=folder,
        calibration=0,
        gallery=0,
        shard="1/40",
    )
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437"])
def test_a_board_is_printed_whatever_the_stream_can_write(run, encoding):
    done = cambench("board", run, columns=100, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "pointing ^" in done.stdout
    assert "pointing ↑" in (run / "board.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [["run", "--help"], ["list", "methods"], ["--help"]])
def test_pages_are_printed_in_ascii(words):
    # A new Python: a fork of one that has imported all may end with words of these libraries.
    done = cambench(*words, columns=100, fresh=True, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_a_plain_interpreter_would_have_failed():
    """What the streams are without us: the tests above can fail."""
    command = [sys.executable, "-c", "print('pointing ↑')"]
    given = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    assert subprocess.run(command, env=given, capture_output=True, check=False).returncode == 1


def test_utf8_keeps_its_signs(run):
    done = cambench("board", run, columns=100)
    assert "pointing ↑" in done.stdout


def test_a_reader_that_leaves_changes_no_exit_code():
    """`list methods` writes more than a pipe holds back; the reader takes a byte and leaves."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = start("list", "methods", encoding="utf-8", stdout=nobody, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        refused = start("list", "method", encoding="utf-8", stdout=nobody, stderr=subprocess.PIPE)
    assert refused.returncode == 2
    assert refused.stderr.count(b"\n") <= 6


@pytest.mark.skipif(os.name == "nt", reason="a shell's way to close a stream")
def test_a_closed_stdout_is_nowhere():
    words = f"{sys.executable} -m bench list methods >&-"
    given = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", words], env=given, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_signs_have_a_plain_form():
    text = "deletion ↓ – 5 × “a” é █ ╭ 漢 …"
    assert text.encode("ascii", ERRORS) == b'deletion v - 5 x "a" e # + ? ...'
    assert "é –".encode("cp1252", ERRORS) == "é –".encode("cp1252")  # what there is stays


def test_a_board_in_a_script_prints_plainly(monkeypatch):
    rows = toy.scalars("deletion", {"a": [0.1, 0.2], "b": [0.3, 0.2]})
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    leaderboard(toy.build(rows), resamples=20).print()
    sys.stdout.flush()
    assert b"deletion v" in raw.getvalue()
    assert PlainFile(sys.stdout).encoding == "cp1252"

"""Seconds from a command to its work: `cambench run` until its first task, and `import bench`.

Run on an idle machine: `pytest tests/perf/test_start.py -m perf`. The only rows of the table that
are no ratios: what a user waits for is seconds. Every start is a process of its own, and the files
of Python's modules are warm.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.perf.ratios import SECONDS, Row, pairs_wanted, report, seconds

pytestmark = pytest.mark.perf

RUN = "run --models resnet-scenes --methods grad_cam --metrics deletion --limit 8 --out"
LONGEST = 120.0


def until_first_task(out: Path) -> float:
    """Return the seconds until run.json is there, which is written when the first task starts; then
    stop the run.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench", *RUN.split(), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not (out / "run.json").exists():
            took = time.perf_counter() - start
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            assert took < LONGEST, "the run does not start"
            time.sleep(0.005)
        return took
    finally:
        process.kill()
        process.communicate()


def test_first_task_of_a_run(benchmark, tmp_path, monkeypatch):
    """What a run announces is counted, and the rates of its networks are measured, before it
    starts.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    until_first_task(tmp_path / "warm")
    times = [until_first_task(tmp_path / str(number)) for number in range(pairs_wanted())]
    row = Row("from `cambench run` to its first task, resnet-scenes", "–", 5.0, "lower", SECONDS)
    report(benchmark, row, times)


def test_import(benchmark):
    """`import bench` loads no torch."""

    def imported() -> None:
        subprocess.run([sys.executable, "-c", "import bench"], check=True)

    imported()
    times = [seconds(imported) for _ in range(pairs_wanted())]
    report(benchmark, Row("a Python that runs `import bench`", "–", 2.0, "lower", SECONDS), times)

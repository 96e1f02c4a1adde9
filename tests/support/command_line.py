"""Run `cambench` as a user does, and check how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def cambench(
    *words: str | Path, cwd: Path | None = None, timeout: int = 300, columns: int = 200
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, with its output in pipes."""
    given = {
        "PYTHONPATH": str(ROOT),
        "COLUMNS": str(columns),
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, words)],
        cwd=cwd or ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one sentence, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]

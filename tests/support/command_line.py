"""Run `cambench` as a user does, and check how it refuses."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

Done = subprocess.CompletedProcess[str]


def cambench(
    *words: str | Path,
    cwd: Path | None = None,
    timeout: int = 300,
    columns: int = 200,
    fresh: bool = False,
    **environment: str,
) -> Done:
    """Run a command in a process of its own, with its output in files.

    fresh: start a new Python. By default the process is a fork of one that has imported all.
    """
    given = {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "NO_COLOR": "1"}
    given = {**os.environ, **given, "OMP_NUM_THREADS": "1", **environment}
    told, folder = [*map(str, words)], cwd or ROOT
    if fresh:
        command = [sys.executable, "-m", "bench", *told]
        return subprocess.run(
            command,
            cwd=folder,
            env=given,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / "out", Path(place) / "err"]
        code = ask([told, str(folder), given, *map(str, files)], timeout)
        written = given.get("PYTHONIOENCODING", "utf-8")
        out, err = (file.read_text(encoding=written) for file in files)
    return subprocess.CompletedProcess(told, code, out, err)


def ask(request: list[object], timeout: float) -> int:
    """Let the server run a command, and return its exit code."""
    server = start_server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], timeout)[0]:
        server.kill()
        start_server.cache_clear()
        raise subprocess.TimeoutExpired(str(request[0]), timeout)
    answer = server.stdout.readline()
    assert answer, f"the command server ended with {server.wait()}"
    return int(json.loads(answer)[0])


@functools.cache
def start_server() -> subprocess.Popen[str]:
    """Start the server of this test process; it ends with it."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.command_server"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.terminate)
    return server


def refused(done: Done, *words: str) -> None:
    """Exit code 2, one sentence, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]

"""Processes that hold a lock until they are killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def start_holder(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Start a process that takes a lock; it is killed at the end.

    Args:
        code: Python that takes the lock, prints "held" and waits.
        words: its arguments.
    """
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()

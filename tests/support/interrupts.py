"""Processes that tests stop as a user does, with Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
from typing import Any


def interruptible(
    command: list[str], environment: dict[str, str], **more: Any
) -> subprocess.Popen[str]:
    """Start a process that SIGINT reaches, with pipes for what it prints.

    Tests that a shell started in the background ignore SIGINT, and so would their children.
    """
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **more,
    )

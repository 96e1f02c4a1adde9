"""What an editor does until its session is there: the page that waits asks for it."""

from __future__ import annotations

import threading
from typing import Any

from bench.editor.session import Session


class StartReport:
    """The steps of a start, written by the command and read by the server's threads.

    session: the editor's session, once it is made.
    """

    def __init__(self, session: Session | None = None) -> None:
        self.session = session
        self._step, self._done, self._total = "Starting", 0, 0
        self._failure: str | None = None
        self._watched, self._heard = threading.Event(), threading.Event()

    def begin(self, step: str) -> None:
        """Say what is done now, such as "Loading the network abn-scenes"."""
        self._step, self._done, self._total = step, 0, 0

    def advance(self, done: int, total: int) -> None:
        """Say how much of the step is done."""
        self._done, self._total = done, total

    def fail(self, reason: str, patience: float = 2.0) -> None:
        """Say why there will be no session; a page that waits has `patience` seconds to ask."""
        self._failure = reason
        if self._watched.is_set():
            self._heard.wait(patience)

    def read_facts(self) -> dict[str, Any]:
        """Return the step for the page."""
        self._watched.set()
        if self._failure is not None:
            self._heard.set()
        return {
            "ready": self.session is not None,
            "step": self._step,
            "done": self._done,
            "total": self._total,
            "failure": self._failure,
        }

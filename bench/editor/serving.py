"""The editor's server, for this machine only: it answers from the first second of a start."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from bench.editor.page_access import ADDRESS, OPENER, address_of, write_opener
from bench.editor.server import make_config
from bench.editor.session import Session
from bench.editor.start_report import StartReport
from bench.errors import BenchError, take_first_line

DEFAULT_PORT = 8765


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine only; a port that cannot be had is a
    BenchError.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform == "win32":  # there, another program could take the port over
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise BenchError(
            f"The port {port} cannot be used ({reason}); choose another with --port."
        ) from None
    return listening


class EditorServer:
    """A server beside the main thread, which makes the session meanwhile.

    Args:
        report: What the start does; it gets the session.
        listening: The socket.
        token: What each request must carry.
        browser: Open the page where there is a screen; on a server `webbrowser` would start a text
            browser.

    Example:
        >>> with EditorServer(report, listening, token) as server:  # doctest: +SKIP
        ...     report.session = Session(model, subset, folder)
        ...     server.wait()
    """

    def __init__(
        self, report: StartReport, listening: socket.socket, token: str, browser: bool = True
    ) -> None:
        self._report, self._listening = report, listening
        self._address = address_of(listening, token)
        self._wanted = browser and graphical()
        self._server = uvicorn.Server(make_config(report, token))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, daemon=True
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._report.fail(take_first_line(error))
        elif error is not None:
            self._report.fail("It was stopped.", patience=0)
        self._server.should_exit = True
        self._thread.join()
        self._stack.close()

    def open_page(self, folder: Path) -> None:
        """Open the page in a browser, once; the folder of the maps is there."""
        if self._wanted:
            self._wanted = False
            self._stack.enter_context(_opened(folder, self._address, wanted=True))

    def wait(self) -> None:
        """Serve until Ctrl-C; requests that run then have two seconds to end."""
        with contextlib.suppress(KeyboardInterrupt), self._server.capture_signals():
            self._thread.join()


def serve(session: Session, listening: socket.socket, token: str, browser: bool = True) -> None:
    """Serve a session until Ctrl-C."""
    with EditorServer(StartReport(session), listening, token, browser) as server:
        server.open_page(session.folder)
        server.wait()


@contextlib.contextmanager
def _opened(folder: Path, address: str, wanted: bool) -> Iterator[None]:
    """Open the address in a browser, where that is wanted; a browser that cannot is no error."""
    if not wanted:
        yield
        return
    opener = folder / OPENER
    try:
        with contextlib.suppress(OSError, webbrowser.Error):
            webbrowser.open(write_opener(folder, address).resolve().as_uri())
        yield
    finally:
        with contextlib.suppress(OSError):
            opener.unlink(missing_ok=True)


def graphical() -> bool:
    """Return whether there is a screen."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )

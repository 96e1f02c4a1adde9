"""HTTP connections of the editor: one that says nothing, or nonsense, ends without a trace."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 30.0
"""Seconds that a request may take to arrive."""


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, which waits for a request's first line and headers without an end."""

    _timer: asyncio.TimerHandle | None = None
    _last: Any = None
    _done: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the waiting."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take data; nonsense behind a request that was answered closes the connection."""
        if self._done:
            return
        try:
            super().data_received(data)
        except h11.ProtocolError:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and leave the client the time to read that.

        A connection that is closed while data comes in loses the answer that is on its way.
        """
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (answer, h11.Data(data=msg.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._done = True
        if self.cycle is not None:  # it still waits for a body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write_eof()
        self._wait()

    def on_response_complete(self) -> None:
        """Begin to wait for the rest of this request and for the next one."""
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self._stop()
        self._last = self.cycle
        self._timer = self.loop.call_later(PATIENCE, self._close_if_silent)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_if_silent(self) -> None:
        if self.cycle is self._last:
            self.transport.close()

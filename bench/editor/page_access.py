"""Who may use the editor: only requests that carry its token, of its own page, on this machine.

Any user of the machine can connect to 127.0.0.1. The token tells the person who started the
editor from the others. It stands in the address that the command prints. The page's first load
puts it into a cookie, so that a reload needs no address with a token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESS = "127.0.0.1"
NAMES_OF_THIS_MACHINE = (ADDRESS, "localhost")
PARAMETER = "token"
HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
NO_TOKEN = (
    "This needs the token of the editor; open the address that `cambench edit` printed last.\n"
)
NOT_OWN = "This is no request of the editor's own page; open the address that it printed.\n"
OPENER = "open-editor.html"
"""File of the maps' folder that a browser is started with."""


def make_token() -> str:
    """Return a new token of 256 random bits."""
    return secrets.token_urlsafe(32)


def address_of(listening: socket.socket, token: str) -> str:
    """Return the page's address, with the token."""
    return f"http://{ADDRESS}:{listening.getsockname()[1]}/?{PARAMETER}={token}"


def write_opener(folder: Path, address: str) -> Path:
    """Write the file that leads a browser to the address, readable by this user only.

    A browser's command line is open to all users of a machine, so the token may not stand there.
    """
    path = folder / OPENER
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(
            '<!doctype html><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={address}">\n'
        )
    return path


class OnlyOwnPages:
    """Middleware: answers requests that carry the token and come from the editor's own page.

    A site that names itself to 127.0.0.1 (DNS rebinding) shows in the Host header; a form or script
    of another origin shows in Origin, which browsers send with every POST.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()
        # Cookies know no ports: two editors in one browser need two names.
        self._cookie = f"cambench_editor_{hashlib.sha256(self._token).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with 403."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # a websocket: there is none
            return None
        refusal = self._refuse(scope)
        opening = refusal is None and scope["path"] == "/"
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                more = [*HEADERS.items(), *([self._set_cookie()] if opening else [])]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        app = self._app if refusal is None else PlainTextResponse(refusal, 403)
        try:
            return await app(scope, receive, send_with_headers)
        except Exception:
            if started:  # it was answered with a sentence, or nobody is left to answer
                return None
            raise

    def _refuse(self, scope: Scope) -> str | None:
        """Return why a request is refused, or None."""
        headers = Headers(scope=scope)
        if not is_own(scope["method"], headers):
            return NOT_OWN
        return None if self._has_token(scope["query_string"], headers) else NO_TOKEN

    def _has_token(self, query: bytes, headers: Headers) -> bool:
        """Tell whether the address has the token, or the cookie where the address has none."""
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in pairs if key == PARAMETER] or self._read_cookies(headers)
        right = [hmac.compare_digest(value.encode(), self._token) for value in given]
        return bool(right) and all(right)

    def _read_cookies(self, headers: Headers) -> list[str]:
        pairs = (
            pair.strip().partition("=")
            for text in headers.getlist("cookie")
            for pair in text.split(";")
        )
        return [value for name, _, value in pairs if name == self._cookie]

    def _set_cookie(self) -> tuple[bytes, bytes]:
        cookie = f"{self._cookie}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"
        return b"set-cookie", cookie.encode()


def is_own(method: str, headers: Headers) -> bool:
    """Tell whether a request names this machine as its host, and no other page as its origin."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if host.rpartition(":")[0] not in NAMES_OF_THIS_MACHINE and host not in NAMES_OF_THIS_MACHINE:
        return False
    if origin is None:
        return method in ("GET", "HEAD")
    return origin == f"http://{host}"

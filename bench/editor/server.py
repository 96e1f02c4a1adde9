"""The editor's web server, for this machine only: pages and JSON around a `Session`, which does the
work.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import socket
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.editor.session import ConflictError, Session
from bench.errors import BenchError
from bench.finetune.attention_maps import Grey

DEFAULT_PORT = 8765
ADDRESS = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/editor.css": ("editor.css", "text/css"),
    "/brush.js": ("brush.js", "text/javascript"),
    "/picture.js": ("picture.js", "text/javascript"),
    "/editor.js": ("editor.js", "text/javascript"),
}
COLOUR_MAPS = {"turbo": (0.1, 0.88), "inferno": (0.1, 0.95), "viridis": (0, 1), "gray": (0, 1)}
"""Colour maps of matplotlib, and the part of each that is used: their dark ends hide the image."""
NAMES_OF_THIS_MACHINE = (ADDRESS, "localhost")
HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine only; a port that cannot be had is a
    BenchError.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there, it would share a port that is taken
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


def serve(session: Session, listening: socket.socket, browser: bool = True) -> None:
    """Serve the editor until Ctrl-C; requests that run then have two seconds to end.

    browser: open the page, where there is a screen: on a server `webbrowser` would start a text
    browser.
    """
    if browser and graphical():
        webbrowser.open(address_of(listening))
    app = make_app(session)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn closes in order, then raises it again
        uvicorn.Server(config).run(sockets=[listening])


def address_of(listening: socket.socket) -> str:
    """Return the page's address."""
    return f"http://{ADDRESS}:{listening.getsockname()[1]}/"


def graphical() -> bool:
    """Return whether there is a screen."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def make_app(session: Session) -> ASGIApp:
    """Return the web application of a session."""
    api = Api(session)
    routes = [
        *(Route(path, _file(*file)) for path, file in FILES.items()),
        Route("/api/session", api.session),
        Route("/api/images/{k:int}", api.image),
        Route("/api/images/{k:int}/frame.png", api.frame),
        Route("/api/images/{k:int}/infer", api.infer, methods=["POST"]),
        Route("/api/images/{k:int}/map", api.save, methods=["POST"]),
    ]
    return OnlyOwnPages(Starlette(routes=routes, exception_handlers={BenchError: _refuse}))


class Api:
    """JSON about a session. Maps go over the wire as their bytes: raw in requests, base64 in
    answers.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def session(self, _request: Request) -> Response:
        """Return the queue and what is fixed while the editor runs."""
        session = self._session
        return JSONResponse(
            {
                "model": session.model.name,
                "subset": session.subset.name,
                "folder": str(session.folder),
                "size": session.side,
                "looked_at": len(session.seen),
                "right": sum(p.right for p in session.seen),
                "everything": session.everything,
                "first": session.first,
                "images": [session.state(k) for k in range(len(session))],
                "colour_maps": {name: _pack(colours(name)) for name in COLOUR_MAPS},
            }
        )

    def image(self, request: Request) -> Response:
        """Return one image: its map, truth, state, and what the network makes of it."""
        view = self._session.view(self._position(request))
        return JSONResponse(
            view | {key: _pack(view[key]) for key in ("own", "map", "mask")} | _outcome(view)
        )

    def frame(self, request: Request) -> Response:
        """Return one image as PNG."""
        out = io.BytesIO()
        Image.fromarray(self._session.frame(self._position(request))).save(out, format="PNG")
        return Response(out.getvalue(), media_type="image/png")

    async def infer(self, request: Request) -> Response:
        """Return what the network makes of an image with the map in the request's body."""
        k, grey = self._position(request), await self._grey(request)
        return JSONResponse(
            _outcome({"outcome": await run_in_threadpool(self._session.infer, k, grey)})["outcome"]
        )

    async def save(self, request: Request) -> Response:
        """Save the map in the body, begun from revision ?base=n; 409 where a newer one has been
        saved meanwhile.
        """
        k, grey = self._position(request), await self._grey(request)
        base = request.query_params.get("base", "")
        if not base.isdigit():
            return JSONResponse(
                {"error": "A map is saved with ?base=, the revision it was begun from."}, 400
            )
        try:
            saved = await run_in_threadpool(self._session.save, k, grey, int(base))
        except ConflictError as conflict:
            theirs = self._session.state(k) | {"map": _pack(conflict.current.grey)}
            kept = str(conflict.kept.relative_to(self._session.folder))
            return JSONResponse({"current": theirs, "kept": kept}, 409)
        return JSONResponse(
            {key: saved.facts[key] for key in ("item", "revision", "when", "source")}
        )

    def _position(self, request: Request) -> int:
        k = int(request.path_params["k"])
        if k >= len(self._session):
            raise BenchError(
                f"There is no image {k + 1} in a queue of {len(self._session)}; reload the page."
            )
        return k

    async def _grey(self, request: Request) -> Grey:
        size = self._session.side
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > size * size:
                break
        if len(body) != size * size:
            raise BenchError(f"A map of {size} x {size} bytes was expected; reload the page.")
        return np.frombuffer(body, dtype=np.uint8).reshape(size, size)


class OnlyOwnPages:
    """Middleware: answers this machine's own page only, so that no web site can read or save
    through the browser.

    A site that names itself to 127.0.0.1 (DNS rebinding) shows in the Host header; a form or script
    of another origin shows in Origin, which browsers send with every POST.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with 403."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # a websocket: there is none
            return None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        app = (
            self._app
            if _is_own(scope["method"], headers)
            else PlainTextResponse("Not this machine's own page.\n", 403)
        )
        return await app(scope, receive, send_with_headers)


def _is_own(method: str, headers: dict[str, str]) -> bool:
    host, origin = headers.get("host", ""), headers.get("origin")
    if host.rpartition(":")[0] not in NAMES_OF_THIS_MACHINE and host not in NAMES_OF_THIS_MACHINE:
        return False
    if origin is None:
        return method in ("GET", "HEAD")
    return origin == f"http://{host}"


def _refuse(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


def _file(name: str, media_type: str) -> Callable[[Request], Response]:
    def answer(_request: Request) -> Response:
        return FileResponse(PAGE / name, media_type=media_type)

    return answer


def _outcome(view: dict[str, Any]) -> dict[str, Any]:
    outcome = view["outcome"]
    attention = outcome["attention"]
    height, width = attention.shape
    packed = {"height": height, "width": width, "values": _pack(attention)}
    return {"outcome": outcome | {"attention": packed}}


def _pack(values: Grey | None) -> str | None:
    return None if values is None else base64.b64encode(values.tobytes()).decode("ascii")


def colours(name: str) -> Grey:
    """Return a colour map as uint8 [256,3]."""
    from matplotlib import colormaps

    return np.asarray(
        colormaps[name](np.linspace(*COLOUR_MAPS[name], 256), bytes=True)[:, :3], dtype=np.uint8
    )

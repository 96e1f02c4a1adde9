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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bench.editor.page_access import ADDRESS, OPENER, OnlyOwnPages, address_of, write_opener
from bench.editor.patient_protocol import PatientProtocol
from bench.editor.request_reading import read_grey, read_number, read_position
from bench.editor.session import ConflictError, Session
from bench.errors import BenchError, take_first_line
from bench.finetune.attention_maps import Grey

DEFAULT_PORT = 8765
PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/editor.css": ("editor.css", "text/css"),
    "/brush.js": ("brush.js", "text/javascript"),
    "/picture.js": ("picture.js", "text/javascript"),
    "/editor.js": ("editor.js", "text/javascript"),
}
COLOUR_MAPS = {"inferno": (0.1, 0.95), "viridis": (0, 1), "cividis": (0, 1), "gray": (0, 1)}
"""Perceptually uniform colour maps of matplotlib, the usual one first, and the part of each that is
used: a dark end hides the image.
"""
STATUS_TEXTS = {
    404: "The editor has nothing at this address; reload the page.",
    405: "This address does not take this kind of request; reload the page.",
    408: "The map did not arrive in time; save it again.",
}


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


def serve(session: Session, listening: socket.socket, token: str, browser: bool = True) -> None:
    """Serve the editor until Ctrl-C; requests that run then have two seconds to end.

    token: what each request must carry.  browser: open the page, where there is a screen: on a
    server `webbrowser` would start a text browser.
    """
    with _opened(session.folder, address_of(listening, token), browser and graphical()):
        server = uvicorn.Server(make_config(session, token))
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn closes in order, then raises it
            server.run(sockets=[listening])


def make_config(session: Session, token: str) -> uvicorn.Config:
    """Return how the editor is served: no line of a request is written to a log."""
    return uvicorn.Config(
        make_app(session, token),
        http=PatientProtocol,
        log_level="critical",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )


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


def make_app(session: Session, token: str) -> ASGIApp:
    """Return the web application of a session, for requests that carry the token."""
    api = Api(session)
    routes = [
        *(Route(path, _file(*file)) for path, file in FILES.items()),
        Route("/api/session", api.session),
        Route("/api/images/{k}", api.image),
        Route("/api/images/{k}/frame.png", api.frame),
        Route("/api/images/{k}/infer", api.infer, methods=["POST"]),
        Route("/api/images/{k}/map", api.save, methods=["POST"]),
    ]
    handlers = {BenchError: _refuse, HTTPException: _refuse_status, Exception: _say_failure}
    return OnlyOwnPages(Starlette(routes=routes, exception_handlers=handlers), token)


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
        base = read_number(request.query_params.get("base", ""))
        if base is None:
            return JSONResponse(
                {"error": "A map is saved with ?base=, the revision it was begun from."}, 400
            )
        try:
            saved = await run_in_threadpool(self._session.save, k, grey, base)
        except ConflictError as conflict:
            theirs = self._session.state(k) | {"map": _pack(conflict.current.grey)}
            kept = str(conflict.kept.relative_to(self._session.folder))
            return JSONResponse({"current": theirs, "kept": kept}, 409)
        return JSONResponse(
            {
                key: saved.facts.get(key)
                for key in ("item", "revision", "when", "source", "set_aside")
            }
        )

    def _position(self, request: Request) -> int:
        return read_position(request, len(self._session))

    async def _grey(self, request: Request) -> Grey:
        return await read_grey(request, self._session.side)


def _refuse(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


def _say_failure(_request: Request, error: Exception) -> Response:
    what = f"{type(error).__name__}: {take_first_line(error)}"
    text = f"The editor failed on this request ({what}); what was saved before is kept."
    return JSONResponse({"error": text}, 500)


def _refuse_status(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = STATUS_TEXTS.get(error.status_code, "The editor cannot answer this request.")
    return JSONResponse({"error": text}, error.status_code, headers=error.headers)


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

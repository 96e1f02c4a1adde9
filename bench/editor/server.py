"""The editor's web application: pages and JSON around a `Session`, which does the work."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
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

from bench.editor.drawing_steps import StaleStepsError, Steps
from bench.editor.page_access import OnlyOwnPages
from bench.editor.patient_protocol import PatientProtocol
from bench.editor.request_reading import read_count, read_grey, read_position
from bench.editor.session import ConflictError, Session
from bench.editor.start_report import StartReport
from bench.errors import BenchError, take_first_line
from bench.finetune.attention_maps import Grey

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/editor.css": ("editor.css", "text/css"),
    "/brush.js": ("brush.js", "text/javascript"),
    "/picture.js": ("picture.js", "text/javascript"),
    "/requests.js": ("requests.js", "text/javascript"),
    "/steps.js": ("steps.js", "text/javascript"),
    "/strip.js": ("strip.js", "text/javascript"),
    "/editor.js": ("editor.js", "text/javascript"),
}
COLOUR_MAPS = {"inferno": (0.1, 0.95), "viridis": (0, 1), "cividis": (0, 1), "gray": (0, 1)}
"""Perceptually uniform colour maps of matplotlib, the usual one first, and the part of each that is
used: a dark end hides the image.
"""
STATUS_TEXTS = {
    400: "A request lacks one of its numbers; reload the page.",
    404: "The editor has nothing at this address; reload the page.",
    405: "This address does not take this kind of request; reload the page.",
    408: "The map did not arrive in time; save it again.",
    503: "The editor is still starting; wait a moment.",
}


def make_config(editor: Session | StartReport, token: str) -> uvicorn.Config:
    """Return how the editor is served: no line of a request is written to a log."""
    return uvicorn.Config(
        make_app(editor, token),
        http=PatientProtocol,
        log_level="critical",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )


def make_app(editor: Session | StartReport, token: str) -> ASGIApp:
    """Return the web application of an editor, for requests that carry the token.

    editor: its session, or the report of a start that will have one.
    """
    api = Api(editor if isinstance(editor, StartReport) else StartReport(editor))
    routes = [
        *(Route(path, _file(*file)) for path, file in FILES.items()),
        Route("/api/start", api.start),
        Route("/api/session", api.session),
        Route("/api/images/{k}", api.image),
        Route("/api/images/{k}/frame.png", api.frame),
        Route("/api/images/{k}/infer", api.infer, methods=["POST"]),
        Route("/api/images/{k}/map", api.save, methods=["POST"]),
        Route("/api/images/{k}/steps", api.steps),
        Route("/api/images/{k}/steps", api.add_step, methods=["POST"]),
        Route("/api/images/{k}/place", api.move, methods=["POST"]),
    ]
    handlers = {
        BenchError: _refuse,
        HTTPException: _refuse_status,
        StaleStepsError: _refuse_stale,
        Exception: _say_failure,
    }
    return OnlyOwnPages(Starlette(routes=routes, exception_handlers=handlers), token)


class Api:
    """JSON about a session. Maps go over the wire as their bytes: raw in requests, base64 in
    answers.
    """

    def __init__(self, report: StartReport) -> None:
        self._report = report

    @property
    def _session(self) -> Session:
        if self._report.session is None:
            raise HTTPException(503)
        return self._report.session

    def start(self, _request: Request) -> Response:
        """Return what the editor does while it starts."""
        return JSONResponse(self._report.read_facts())

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
                "grid": session.grid,
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
        base = read_count(request, "base")
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

    def steps(self, request: Request) -> Response:
        """Return the maps of a drawing's steps as their bytes, the first one first."""
        steps = self._session.read_steps(self._position(request))
        content = b"" if steps is None else steps.maps.tobytes()
        return Response(content, media_type="application/octet-stream")

    async def add_step(self, request: Request) -> Response:
        """Add the map in the body to the drawing's steps, behind the first ?keep=n of them.

        ?seen=n is the version that the page knows, ?base=n the revision it began from, ?saved=1
        says that the map is the saved one. 409 where another page has drawn meanwhile.
        """
        k, grey = self._position(request), await self._grey(request)
        keep, base, seen = (read_count(request, name) for name in ("keep", "base", "seen"))
        saved = request.query_params.get("saved") == "1"
        item = self._session.queue[k].item

        def add() -> Steps:
            return self._session.steps.add(item, grey, keep=keep, base=base, seen=seen, saved=saved)

        return JSONResponse((await run_in_threadpool(add)).facts)

    def move(self, request: Request) -> Response:
        """Show step ?at=n of a drawing: undo and redo."""
        k = self._position(request)
        at, seen = (read_count(request, name) for name in ("at", "seen"))
        return JSONResponse(self._session.steps.move(self._session.queue[k].item, at, seen).facts)

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


def _refuse_stale(_request: Request, _error: Exception) -> Response:
    text = "Another page draws on this image too; what you draw here is kept once you save it."
    return JSONResponse({"error": text}, 409)


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

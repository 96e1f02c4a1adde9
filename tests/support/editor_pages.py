"""The editor's page in a real Chromium: open it, draw on it, and read what it shows."""

from __future__ import annotations

import re
import shutil
import threading
from typing import Any

import numpy as np
import pytest
import uvicorn

from bench.editor import Session, address_of, listen, make_token
from bench.editor.server import make_config
from bench.finetune.attention_maps import load_maps

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Editor:
    """A served session, or a start that will have one; `close` ends both, as Ctrl-C does."""

    def __init__(self, session: Any, port: int = 0) -> None:
        self.session, self.listening = session, listen(port)
        token = make_token()
        self.page = address_of(self.listening, token)
        self.address = self.page.partition("?")[0]
        self.server = uvicorn.Server(make_config(session, token))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.address.split(":")[-1].strip("/"))

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listening.close()
        if isinstance(self.session, Session):
            self.session.close()


def open_page(browser: Any, editor: Editor, context: Any = None) -> Any:
    """Open the editor in a browser of its own (or another tab of a context) and wait for the first
    image.
    """
    page = (context or browser.new_context(viewport={"width": 1280, "height": 800})).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "request",
        lambda r: (
            None if r.url.startswith((editor.address, "data:")) else page.problems.append(r.url)
        ),
    )
    page.goto(editor.page)
    settled(page)
    return page


def settled(page: Any) -> None:
    """Wait until an image is shown and drawn."""
    page.wait_for_selector("#classes li")
    sync_api.expect(page.locator("#board.busy")).to_have_count(0)
    frame(page)


def frame(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def text(page: Any, selector: str) -> str:
    return page.inner_text(selector)


def state(page: Any, words: str) -> None:
    sync_api.expect(page.locator("#state")).to_contain_text(re.compile(words))


def place(page: Any, x: float, y: float) -> tuple[float, float]:
    """Return where a point of the map (its pixels) is on the screen."""
    box = page.locator("#marks").bounding_box()
    return box["x"] + x / 96 * box["width"], box["y"] + y / 96 * box["height"]


def drag(page: Any, *points: tuple[float, float], **options: Any) -> None:
    """Paint from point to point, in pixels of the map."""
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down(**options)
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=6)
    page.mouse.up(**options)
    page.mouse.move(*place(page, 95.5, 95.5))
    frame(page)


def colour(page: Any, x: float, y: float) -> list[int]:
    """Return the colour [r,g,b] that is shown at a point of the map."""
    frame(page)
    script = """([x, y]) => { const c = document.getElementById("picture");
        const drawn = c.getContext("2d").getImageData(c.width * x / 96, c.height * y / 96, 1, 1);
        return [...drawn.data].slice(0, 3); }"""
    return page.evaluate(script, [x, y])


def probabilities(page: Any) -> dict[int, float]:
    rows = page.evaluate(
        "[...document.querySelectorAll('#classes li')].map((r) => [r.dataset.label, "
        "r.dataset.after])"
    )
    return {int(label): float(after) for label, after in rows}


def saved(editor: Editor, k: int = 0) -> np.ndarray:
    item = editor.session.queue[k].item
    return {one.item: one for one in load_maps(editor.session.folder)}[item].grey


def press_save(page: Any) -> None:
    page.keyboard.press("s")
    state(page, r"^Saved \d\d:\d\d, version")

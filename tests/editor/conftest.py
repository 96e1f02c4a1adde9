"""An editor that is served, and its page in a browser; skipped where there is no browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.editor import Session


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from tests.support.editor_pages import CHROMIUM, SWITCHES, sync_api

    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield running
        running.close()


@pytest.fixture
def editor(abn, scenes, tmp_path) -> Iterator[Any]:
    from tests.support.editor_pages import Editor

    served = Editor(Session(abn, scenes, tmp_path / "maps"))
    yield served
    served.close()


@pytest.fixture
def page(browser, editor) -> Iterator[Any]:
    from tests.support.editor_pages import open_page

    opened = open_page(browser, editor)
    yield opened
    assert not opened.problems
    opened.context.close()

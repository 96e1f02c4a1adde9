"""The editor without a mouse and with a screen reader: keys, focus, contrast, names; and the tools
that fill a shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.editor import Session, StartReport
from tests.support.editor_pages import (
    Editor,
    drag,
    frame,
    open_page,
    place,
    press_save,
    saved,
    settled,
    state,
    sync_api,
    text,
)

SERIOUS = ("serious", "critical")
FOCUSABLE = """[...document.querySelectorAll('button, input, select, [tabindex="0"]')]
    .filter((e) => !e.disabled && e.checkVisibility() && !e.closest('dialog'))
    .map((e) => e.id || e.getAttribute('aria-label') || e.textContent)"""
FOCUSED = """(() => { const e = document.activeElement;
    return e.id || e.getAttribute('aria-label') || e.textContent; })()"""


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def focused(page: Any) -> str:
    return page.evaluate(FOCUSED)


# --- shapes


def test_a_box_is_filled_to_the_pixel(page, editor):
    own = editor.session.view(0)["own"]
    page.keyboard.press("x")
    assert page.get_attribute("#box", "aria-pressed") == "true"
    assert page.is_disabled("#radius")
    drag(page, (20, 30), (60, 70))
    press_save(page)
    grey = saved(editor).copy()
    inside = grey[31:69, 21:59]
    assert np.all(inside == 255)
    outside = np.ones(grey.shape, bool)
    outside[29:72, 19:62] = False
    assert np.array_equal(grey[outside], own[outside])
    page.keyboard.press("e")
    page.locator("#strength").fill("50")
    drag(page, (60, 70), (20, 30))  # from the other corner, half as strong
    press_save(page)
    assert np.all(np.abs(saved(editor)[31:69, 21:59].astype(int) - 128) <= 1)


def test_a_lasso_is_filled(page, editor):
    press(page, "c", "l")
    drag(page, (20, 20), (80, 20), (80, 80))  # the way back closes it
    press_save(page)
    grey = saved(editor)
    assert np.all(grey[30:40, 60:78] == 255)
    assert not grey[60:, :40].any()
    page.keyboard.press("Control+z")
    state(page, "Unsaved changes")
    page.keyboard.press("s")
    state(page, "version 2")
    assert not saved(editor).any()


def test_escape_drops_a_shape(page):
    page.keyboard.press("x")
    page.mouse.move(*place(page, 20, 20))
    page.mouse.down()
    page.mouse.move(*place(page, 60, 60))
    page.keyboard.press("Escape")
    page.mouse.up()
    state(page, "Not drawn yet")


# --- keys


def test_drawing_with_the_keyboard_alone(page, editor):
    """A box, a lasso and a stroke on cells of 8 pixels, and no mouse."""
    press(page, "c", "x", "d")
    assert focused(page) == "marks"
    cell = "Row 7 of 12, column 7 of 12, attention 0 percent"
    assert cell in text(page, "#spoken")
    press(page, " ", "ArrowRight", "ArrowDown", " ")
    assert text(page, "#spoken") == "Box filled."
    press(page, "PageDown", "PageUp")  # to the next image and back, from the picture
    settled(page)
    press(page, "l", *["ArrowLeft"] * 4, *["ArrowUp"] * 5, " ")
    press(page, *["ArrowRight"] * 3, " ", *["ArrowDown"] * 3, " ", "Enter")
    assert text(page, "#spoken") == "Lasso filled."
    press(page, "b", *["ArrowDown"] * 5)
    page.keyboard.down(" ")
    press(page, "ArrowLeft", "ArrowLeft")
    page.keyboard.up(" ")
    assert "attention 100 percent" in text(page, "#spoken")
    press(page, "Escape")
    assert focused(page) != "marks"
    press_save(page)
    grey = saved(editor)
    assert np.all(grey[48:64, 48:64] == 255)  # both corners' cells
    assert not grey[44:47, 48:64].any()
    assert not grey[48:64, 65:70].any()
    y, x = np.nonzero(grey[:40])
    assert (y.min(), x.max()) == (pytest.approx(20, abs=1), pytest.approx(52, abs=1))
    assert np.all(grey[84, 36:52] == 255)


def test_a_shape_of_keys_is_dropped_by_escape(page):
    press(page, "x", "d", " ", "ArrowRight", "Escape")
    assert text(page, "#spoken") == "Shape cancelled."
    assert focused(page) == "marks"
    press(page, "ArrowRight", "Shift+ArrowRight")
    state(page, "Not drawn yet")


def test_every_control_is_reached_by_tab(page):
    page.keyboard.press("c")
    wanted, reached = set(page.evaluate(FOCUSABLE)), set()
    for _ in range(len(wanted) + 3):
        page.keyboard.press("Tab")
        reached.add(focused(page))
        style = page.evaluate(
            "document.activeElement === document.body ? 'the page itself' : "
            "getComputedStyle(document.activeElement).outlineStyle"
        )
        assert style != "none", focused(page)  # the focus is seen
    assert wanted <= reached
    assert {"brush", "box", "lasso", "marks", "undo", "save", "opacity", "colours"} <= wanted


def test_controls_keep_their_own_keys(page, editor):
    page.focus("#clear")
    page.keyboard.press("Enter")
    state(page, "Unsaved changes")
    assert text(page, "#count").startswith("0 of ")  # cleared, and not saved
    page.focus("#undo")
    page.keyboard.press(" ")
    state(page, "Not drawn yet")
    assert focused(page) == "redo"  # undo cannot be pressed any more
    page.focus("#opacity")
    press(page, "ArrowRight", "ArrowRight")
    assert page.input_value("#opacity") == "62"
    assert focused(page) == "opacity"
    assert "1 of " in text(page, "#item")
    page.focus("#truth")
    page.keyboard.press(" ")
    assert page.is_checked("#truth")
    page.focus("#queue li:nth-child(2) button")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#item")).to_contain_text(editor.session.queue[1].item)


def test_shortcuts_of_one_key_can_be_turned_off(page):
    page.keyboard.press("?")
    page.click("#letters")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    state(page, "Not drawn yet")
    page.reload()
    settled(page)
    page.keyboard.press("c")
    state(page, "Not drawn yet")
    page.click("#show-help")
    page.click("#letters")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    state(page, "Unsaved changes")


# --- what a screen reader and an eye get


def list_violations(page: Any) -> list[tuple[str, str]]:
    """Return (impact, rule) of what axe-core finds serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [(one["impact"], one["id"]) for one in found if one["impact"] in SERIOUS]


def test_axe_finds_nothing_serious(browser, editor, page):
    assert list_violations(page) == []
    press(page, "c", "x")
    drag(page, (20, 20), (60, 60))
    press(page, "t")
    assert list_violations(page) == []
    page.set_viewport_size({"width": 800, "height": 900})
    frame(page)
    assert list_violations(page) == []
    page.keyboard.press("?")
    assert list_violations(page) == []
    page.keyboard.press("Escape")
    other = open_page(browser, editor)
    press(other, "c", "s")
    state(other, "Saved")
    press(page, "s")
    page.wait_for_selector("#conflict[open]")
    assert list_violations(page) == []
    page.click("text=Decide later")
    other.context.close()


def test_axe_finds_what_is_wrong(page):
    page.evaluate(
        """() => { const text = document.createElement('button');
        text.style.color = '#333';
        text.textContent = 'dark on dark';
        document.querySelector('header').append(text, document.createElement('button')); }"""
    )
    assert {("serious", "color-contrast"), ("critical", "button-name")} <= set(
        list_violations(page)
    )


def test_motion_stops_where_it_is_unwanted(page):
    def moves() -> str:
        script = "getComputedStyle(document.querySelector('.bars i')).transitionDuration"
        return page.evaluate(script)

    assert moves() != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert moves() == "0s"


# --- the start


def test_the_page_says_what_the_start_does(browser, abn, scenes, tmp_path):
    report = StartReport()
    editor = Editor(report)
    page = browser.new_page()
    report.begin("Loading the network abn")
    page.goto(editor.page)
    step = page.locator("#step")
    sync_api.expect(step).to_have_text("Loading the network abn …")
    assert not page.is_visible("#work")
    report.begin("Computing the maps")
    report.advance(8, 24)
    sync_api.expect(step).to_have_text("Computing the maps: 8 of 24")
    assert list_violations(page) == []
    report.session = Session(abn, scenes.limit(8), tmp_path, everything=True)
    settled(page)
    assert text(page, "#count") == "0 of 8 drawn"
    page.close()
    report.session.close()
    editor.close()


def test_the_page_says_why_there_is_no_editor(browser):
    report = StartReport()
    editor = Editor(report)
    page = browser.new_page()
    page.goto(editor.page)
    sync_api.expect(page.locator("#step")).to_have_text("Starting …")
    report.fail("The queue is empty.")
    sync_api.expect(page.locator("#step")).to_contain_text("could not start. The queue is empty.")
    page.close()
    editor.close()

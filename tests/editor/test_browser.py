"""The editor in a real Chromium: what a person does with mouse and keys, and what is then on disk
and on screen.
"""

from __future__ import annotations

import http.server
import re
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.data import load_subset
from bench.editor import Session
from bench.errors import BenchError
from bench.finetune.attention_maps import load_map, load_maps, map_path
from bench.finetune.guided_attention import train_guided
from bench.finetune.loop import Settings
from bench.finetune.placement import find_placements
from bench.finetune.simulate import simulate_maps
from bench.finetune.training import Training
from bench.models import load_model
from tests.support.editor_pages import (
    Editor,
    colour,
    drag,
    frame,
    open_page,
    place,
    press_save,
    probabilities,
    saved,
    settled,
    state,
    sync_api,
    text,
)

# --- looking


def test_the_page_opens_at_the_first_image(page, editor):
    session = editor.session
    first = session.queue[0]
    assert text(page, "#title") == session.class_name(first.label)
    assert first.item in text(page, "#item")
    assert text(page, "#count") == f"0 of {len(session)} drawn"
    assert page.locator("#queue button").count() == len(session)
    assert "abn on scenes-val" in text(page, "#facts")
    state(page, "Not drawn yet")
    before = session.view(0)["outcome"]
    assert probabilities(page) == pytest.approx(
        {row["label"]: row["before"] for row in before["classes"]}
    )
    assert text(page, "#energy strong") == f"{100 * before['before']['energy']:.1f} %"
    assert page.is_disabled("#undo")
    assert page.is_disabled("#previous")


def test_opacity_and_the_bare_image(page, editor):
    page.keyboard.press("c")
    drag(page, (40, 40))
    image = editor.session.frame(0)[40, 40].astype(int)

    def distance() -> float:
        return float(np.abs(np.array(colour(page, 40.5, 40.5)) - image).sum())

    seen = []
    for opacity in (0, 40, 80):
        page.locator("#opacity").fill(str(opacity))
        seen.append(distance())
    assert seen[0] < 30  # the image itself, up to the smoothing of its grain
    assert seen[0] + 20 < seen[1] < seen[2] - 20
    page.keyboard.down(" ")
    assert distance() == seen[0]
    page.keyboard.up(" ")
    assert distance() == seen[2]
    page.keyboard.press("-")
    assert page.input_value("#opacity") == "70"


def test_colours_outline_and_the_networks_grid(page):
    page.keyboard.press("c")
    drag(page, (40, 40))
    shown = [colour(page, 40.5, 40.5)]
    for name in ("viridis", "cividis", "gray"):
        page.select_option("#colours", name)
        shown.append(colour(page, 40.5, 40.5))
    assert len({tuple(one) for one in shown}) == 4
    page.evaluate("document.activeElement.blur()")
    marks = (
        "document.getElementById('marks').getContext('2d').getImageData(0, 0, 2000, "
        "2000).data.some((v) => v)"
    )
    page.mouse.move(5, 5)
    frame(page)
    assert not page.evaluate(marks)
    page.keyboard.press("t")
    frame(page)
    assert page.evaluate(marks)
    edge = [colour(page, x + 0.5, 44.5) for x in range(33, 48)]
    page.keyboard.press("g")
    blocks = [colour(page, x + 0.5, 44.5) for x in range(33, 48)]
    assert edge != blocks


# --- painting


def test_painting_undo_and_redo(page):
    page.keyboard.press("c")
    empty = colour(page, 30.5, 30.5)
    drag(page, (20, 30), (40, 30))
    painted = colour(page, 30.5, 30.5)
    assert painted != empty
    state(page, "Unsaved changes")
    drag(page, (60, 70), (80, 70))
    far = colour(page, 70.5, 70.5)
    page.keyboard.press("Control+z")
    assert colour(page, 70.5, 70.5) != far
    assert colour(page, 30.5, 30.5) == painted
    page.click("#undo")
    assert colour(page, 30.5, 30.5) == empty
    page.keyboard.press("Control+Shift+z")
    page.click("#redo")
    assert colour(page, 30.5, 30.5) == painted
    assert colour(page, 70.5, 70.5) == far
    assert page.is_disabled("#redo")
    page.keyboard.press("Control+z")
    drag(page, (10, 80), (12, 80))
    assert page.is_disabled("#redo")  # a new stroke ends what could be redone
    for _ in range(3):
        page.keyboard.press("Control+z")
    state(page, "Not drawn yet")
    assert page.is_disabled("#undo")


def test_what_was_painted_is_on_disk(page, editor):
    own = editor.session.view(0)["own"]
    page.locator("#radius").fill("6")
    page.locator("#soft").fill("0")
    drag(page, (20, 30), (60, 30))
    page.keyboard.press("e")
    drag(page, (20, 70), (60, 70))
    press_save(page)
    grey = saved(editor)
    y, x = np.mgrid[0:96, 0:96] + 0.5
    for row, value in ((30, 255), (70, 0)):
        away = np.hypot(x - x.clip(20, 60), y - row)
        assert np.all(grey[away < 5] == value)
        near = away < 7.2
        other = np.hypot(x - x.clip(20, 60), y - (100 - row)) < 7.2
        assert np.array_equal(grey[~near & ~other], own[~near & ~other])
    assert text(page, "#count").startswith("1 of ")
    facts = load_maps(editor.session.folder)[0].facts
    assert (facts["revision"], facts["source"], facts["item"]) == (
        1,
        "editor",
        editor.session.queue[0].item,
    )
    expected = editor.session.infer(0, grey)
    sync_api.expect(page.locator("#energy strong")).to_have_text(
        f"{100 * expected['after']['energy']:.1f} %"
    )


def test_soft_edges_and_strength(page, editor):
    page.keyboard.press("c")
    page.locator("#radius").fill("20")
    page.locator("#soft").fill("100")
    page.locator("#strength").fill("60")
    drag(page, (48, 48), (48.2, 48), (48, 48))
    press_save(page)
    middle = saved(editor)[48].astype(int)
    assert middle[48] == pytest.approx(
        153, abs=2
    )  # 60 % of 255, however often the stroke went over it
    right = middle[48:70]
    assert np.all(np.diff(right[: right.argmin()]) < 0)
    assert right[10] == pytest.approx(76, abs=12)  # half way out, half as strong
    assert right[21:].max() == 0


def test_the_right_button_and_shift_do_the_opposite(page, editor):
    page.keyboard.press("c")
    page.locator("#soft").fill("0")
    drag(page, (40, 40), (60, 40))
    drag(page, (60, 40), button="right")
    page.keyboard.down("Shift")
    drag(page, (40, 40))
    page.keyboard.up("Shift")
    drag(page, (80, 80))
    press_save(page)
    grey = saved(editor)
    assert [int(grey[y, x]) for y, x in ((40, 50), (40, 60), (40, 40), (80, 80))] == [
        255,
        0,
        0,
        255,
    ]


def test_reset_and_clear(page, editor):
    own = editor.session.view(0)["own"]
    page.keyboard.press("c")
    press_save(page)
    assert not saved(editor).any()
    page.keyboard.press("r")
    state(page, "Unsaved changes, last saved")
    press_save(page)
    assert np.array_equal(saved(editor), own)
    page.click("#clear")
    page.click("#undo")
    state(page, "Saved")


# --- the network


def test_the_probabilities_follow_the_edit(page, editor):
    before = probabilities(page)
    with page.expect_response(re.compile("infer")):
        page.keyboard.press("c")
    sync_api.expect(page.locator("#energy strong")).to_have_text("–")
    none = editor.session.infer(0, np.zeros((96, 96), np.uint8))
    assert probabilities(page) == pytest.approx(
        {row["label"]: row["after"] for row in none["classes"]}
    )
    assert probabilities(page) != before
    drag(page, (20, 20), (70, 70))
    press_save(page)
    expected = editor.session.infer(0, saved(editor))
    sync_api.expect(page.locator("#energy strong")).to_have_text(
        f"{100 * expected['after']['energy']:.1f} %"
    )
    wanted = pytest.approx({row["label"]: row["after"] for row in expected["classes"]}, abs=1e-6)
    for _ in range(200):  # an answer on the way may round to the same energy as the last one
        if probabilities(page) == wanted:
            break
        page.wait_for_timeout(50)
    assert probabilities(page) == wanted


# --- the queue


def test_keys_go_through_the_queue_and_work_is_kept(page, editor):
    session = editor.session
    drag(page, (20, 20), (70, 70))
    painted = colour(page, 45.5, 45.5)
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.locator("#item")).to_contain_text(session.queue[1].item)
    settled(page)
    assert colour(page, 45.5, 45.5) != painted
    page.keyboard.press("ArrowLeft")
    settled(page)
    assert colour(page, 45.5, 45.5) == painted
    state(page, "Unsaved changes")
    page.keyboard.press("Enter")  # save, next
    sync_api.expect(page.locator("#item")).to_contain_text(session.queue[1].item)
    assert session.is_drawn(0)
    page.click("#next")
    sync_api.expect(page.locator("#item")).to_contain_text(session.queue[2].item)
    settled(page)
    page.keyboard.press("s")
    state(page, "Saved")
    page.click(f"#queue li:nth-child({len(session)}) button")
    sync_api.expect(page.locator("#item")).to_contain_text(session.queue[-1].item)
    assert page.is_disabled("#next")
    page.keyboard.press("u")  # the next one not drawn yet, from the start again
    sync_api.expect(page.locator("#item")).to_contain_text(session.queue[1].item)
    assert page.locator("#queue .saved").count() == 2


def test_keys_of_the_brush_and_help(page):
    radius = float(page.input_value("#radius"))
    page.keyboard.press("]")
    page.keyboard.press("]")
    assert float(page.input_value("#radius")) == radius + 3
    page.keyboard.press("[")
    assert float(page.input_value("#radius")) == radius + 1.5
    page.keyboard.press("}")
    assert page.input_value("#soft") == "60"
    page.mouse.move(*place(page, 40, 40))
    page.mouse.wheel(0, 100)
    frame(page)
    assert float(page.input_value("#radius")) < radius + 1.5
    page.keyboard.press("e")
    assert page.get_attribute("#remove", "aria-pressed") == "true"
    page.keyboard.press("a")
    assert page.get_attribute("#remove", "aria-pressed") == "false"
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("c")  # keys do nothing behind the dialogue
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    state(page, "Not drawn yet")


def test_unsaved_work_outlives_a_long_walk(browser, abn, tmp_path):
    """The page forgets images that are saved or untouched, never unsaved work."""
    editor = Editor(Session(abn, load_subset("scenes-val", limit=50), tmp_path, everything=True))
    page = open_page(browser, editor)
    page.keyboard.press("c")
    page.keyboard.press("s")
    state(page, "Saved")
    page.keyboard.press("ArrowRight")
    settled(page)
    page.keyboard.press("c")
    for k in range(2, 50):
        page.keyboard.press("ArrowRight")
        sync_api.expect(page.locator("#item")).to_contain_text(f"{k + 1} of 50")
        settled(page)
    assert page.locator("#queue button").count() == 20
    page.click("text=← Earlier")
    assert page.locator("#queue button").count() == 30
    assert text(page, "#pages span") == "1 to 30 of 50"
    page.click("#queue li:nth-child(2) button")
    state(page, "Unsaved changes")
    sync_api.expect(page.locator("#undo")).to_be_enabled()
    page.keyboard.press("ArrowLeft")  # forgotten, and fetched again with its steps
    settled(page)
    state(page, "Saved")
    assert page.is_enabled("#undo")
    page.context.close()
    editor.close()


# --- training from it


def test_what_was_drawn_trains_the_network(page, editor, abn, scenes, tmp_path):
    """Three images drawn with the mouse; guided fine-tuning moves the network's own maps towards
    them.
    """
    for k in range(3):
        x0, y0, x1, y1 = editor.session.view(k)["boxes"][0]
        page.keyboard.press("c")
        middle = (x0 + x1) / 2, (y0 + y1) / 2
        page.locator("#radius").fill(str(round(min(x1 - x0, y1 - y0) / 3)))
        drag(page, middle, (middle[0] + 1, middle[1]))
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("#item")).to_contain_text(editor.session.queue[k + 1].item)
        settled(page)
    drawn = load_maps(editor.session.folder)
    assert [one.facts["source"] for one in drawn] == ["editor"] * 3
    assert all(one.facts["after"]["energy"] > 0.5 > one.facts["before"]["energy"] for one in drawn)
    settings = Settings(epochs=6, batch_size=3, lr=3e-3, weight_decay=0.0)
    training = Training(scenes, tmp_path / "guided", "guided", settings=settings)
    done = train_guided(abn, drawn, training)
    assert not done.simulated
    assert done.after["edited"]["mse"] < 0.7 * done.before["edited"]["mse"]
    trained = load_model(done.card)
    assert trained.parent == "abn"
    before, after = (
        {p.item: p.energy for p in find_placements(model, scenes)} for model in (abn, trained)
    )
    assert all(after[one.item] > before[one.item] for one in drawn)


# --- nothing is lost


def test_a_reload_shows_what_was_saved(page, editor):
    page.keyboard.press("c")
    drag(page, (20, 30), (60, 30))
    press_save(page)
    painted = colour(page, 40.5, 30.5)
    page.reload()
    settled(page)
    assert editor.session.queue[1].item in text(page, "#item")  # the first that is not saved yet
    page.keyboard.press("ArrowLeft")
    settled(page)
    state(page, "Saved")
    assert colour(page, 40.5, 30.5) == painted
    assert text(page, "#count").startswith("1 of ")


def test_unsaved_work_and_its_steps_outlive_a_reload(page, editor):
    page.keyboard.press("c")
    drag(page, (20, 30), (60, 30))
    drag(page, (20, 70), (60, 70))
    painted = colour(page, 40.5, 70.5)
    page.keyboard.press("Control+z")
    empty = colour(page, 40.5, 70.5)
    assert empty != painted
    kept(editor, 2, 4)
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    settled(page)
    assert not asked
    state(page, "Unsaved changes")
    assert page.locator("#queue .changed").count() == 1
    assert colour(page, 40.5, 70.5) == empty
    assert not list(editor.session.folder.glob("*.png"))  # kept, and not saved for training
    page.keyboard.press("Control+Shift+z")
    assert colour(page, 40.5, 70.5) == painted
    for _ in range(3):
        page.keyboard.press("Control+z")
    state(page, "Not drawn yet")
    assert page.is_disabled("#undo")
    page.keyboard.press("Control+y")
    press_save(page)
    assert not saved(editor).any()
    page.reload()
    settled(page)
    page.keyboard.press("ArrowLeft")
    settled(page)
    state(page, "Saved")
    assert page.is_enabled("#undo")
    assert page.is_enabled("#redo")


def kept(editor: Editor, place: int, count: int) -> None:
    """Wait until the server keeps so many steps of the first image, and shows that one."""
    for _ in range(200):
        steps = editor.session.read_steps(0)
        if steps is not None and (steps.place, len(steps.maps)) == (place, count):
            return
        time.sleep(0.05)
    raise AssertionError(steps and steps.facts)


def test_leaving_is_asked_about_where_the_server_does_not_keep_the_work(page, editor, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise BenchError("Cannot write the steps (No space left on device); free some space.")

    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    with monkeypatch.context() as patch:
        patch.setattr(editor.session.steps, "add", full)
        page.keyboard.press("c")
        sync_api.expect(page.locator("#notice")).to_contain_text("No space left on device")
        page.reload()
    settled(page)
    assert asked == ["beforeunload"]
    state(page, "Not drawn yet")


def test_a_second_page_of_the_same_drawing_does_not_mix_with_it(browser, editor, page):
    other = open_page(browser, editor)
    page.keyboard.press("c")
    kept(editor, 1, 2)
    drag(other, (20, 20), (60, 20))
    sync_api.expect(other.locator("#notice")).to_contain_text("Another page draws on this image")
    drag(page, (20, 70), (60, 70))
    kept(editor, 2, 3)
    other.context.close()


def conflicting(browser: Any, editor: Editor, page: Any) -> Any:
    """Return a page in another browser that has drawn on the first image, which is saved here
    meanwhile.
    """
    other = open_page(browser, editor)
    for one, row in ((page, 20), (other, 70)):
        one.keyboard.press("c")
        drag(one, (20, row), (60, row))
    press_save(page)
    other.keyboard.press("s")
    other.wait_for_selector("#conflict[open]")
    return other


def history(editor: Editor) -> list[Path]:
    return sorted((editor.session.folder / "history").glob("*.png"))


def test_a_second_browser_keeps_its_own(browser, editor, page):
    other = conflicting(browser, editor, page)
    assert saved(editor)[20, 40] == 255
    (refused,) = history(editor)
    assert refused.name in text(other, "#conflict-text")
    assert load_map(refused).grey[70, 40] == 255
    other.click("text=Keep mine")
    state(other, "version 2")
    assert (saved(editor)[20, 40], saved(editor)[70, 40]) == (0, 255)
    assert load_map(history(editor)[0]).grey[20, 40] == 255
    assert load_map(history(editor)[0]).facts["revision"] == 1
    page.keyboard.press("c")
    page.keyboard.press("s")  # and now it is the first one's turn
    page.wait_for_selector("#conflict[open]")
    page.click("text=Decide later")
    state(page, "Unsaved changes")
    assert saved(editor)[70, 40] == 255
    other.context.close()


def test_a_second_browser_takes_theirs(browser, editor, page):
    theirs = None
    other = conflicting(browser, editor, page)
    theirs = colour(page, 40.5, 20.5)
    other.click("text=Load theirs")
    state(other, "Saved")
    assert colour(other, 40.5, 20.5) == theirs
    assert saved(editor)[20, 40] == 255
    other.keyboard.press("Control+z")  # one's own is there, too
    state(other, "Unsaved changes")
    other.keyboard.press("s")
    state(other, "version 2")
    assert saved(editor)[70, 40] == 255
    other.context.close()


def test_a_second_tab_follows(editor, page, browser):
    second = open_page(browser, editor, page.context)
    page.keyboard.press("c")
    drag(page, (20, 20), (60, 20))
    press_save(page)
    state(second, "Saved")
    assert colour(second, 40.5, 20.5) == colour(page, 40.5, 20.5)
    drag(second, (20, 70), (60, 70))
    page.keyboard.press("c")
    press_save(page)
    sync_api.expect(second.locator("#notice")).to_contain_text("saved in another tab")
    state(second, "Unsaved changes")
    second.keyboard.press("s")
    second.wait_for_selector("#conflict[open]")
    assert not saved(editor).any()


def test_an_editor_that_was_closed_is_said_and_gone_on_with(abn, scenes, browser, tmp_path):
    editor = Editor(Session(abn, scenes, tmp_path))
    page = open_page(browser, editor)
    page.keyboard.press("c")
    drag(page, (20, 20), (60, 20))
    editor.close()
    page.keyboard.press("s")
    sync_api.expect(page.locator("#notice")).to_contain_text("does not answer")
    state(page, "Unsaved changes")
    again = Editor(Session(abn, scenes, tmp_path), editor.port)
    page.keyboard.press("s")  # the new editor has another token
    sync_api.expect(page.locator("#notice")).to_contain_text("open the address that it printed")
    state(page, "Unsaved changes")
    fresh = open_page(browser, again, page.context)
    press_save(page)
    assert saved(again)[20, 40] == 255
    fresh.reload()
    settled(fresh)
    assert again.session.queue[1].item in text(fresh, "#item")
    page.context.close()
    again.close()


def test_a_save_that_fails_is_said(page, editor, monkeypatch):
    from bench.editor import saved_maps as module

    def full(*_: object) -> None:
        raise BenchError("Cannot write the map (No space left on device); free some space.")

    drag(page, (20, 20), (60, 20))
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_map", full)
        page.keyboard.press("s")
        sync_api.expect(page.locator("#notice")).to_contain_text("No space left on device")
        state(page, "Unsaved changes")
    press_save(page)
    assert saved(editor)[20, 40] == 255


def test_the_token_is_not_on_show_and_a_reload_works(page, editor):
    token = editor.page.partition("=")[2]
    sent = []
    page.on("request", lambda request: sent.append((request.url, request.headers)))
    assert page.url == editor.address
    page.reload()
    settled(page)
    assert page.url == editor.address
    assert len(sent) > 5
    for url, headers in sent:
        assert token not in url
        assert not headers.get("referer")
    assert token not in page.evaluate("document.cookie")


def test_a_stranger_sees_a_sentence_and_nothing_else(browser, editor):
    context = browser.new_context()
    page = context.new_page()
    for address in (editor.address, editor.address + "api/images/0/frame.png"):
        assert page.goto(address).status == 403
        assert "needs the token" in page.inner_text("body")
    context.close()


def test_a_page_of_another_port_gets_nothing(browser, editor, page):
    """Its cookies come along, since they know no ports; Origin and CORP keep it out."""
    with socketserver.TCPServer(("127.0.0.1", 0), Blank) as stranger:
        thread = threading.Thread(target=stranger.serve_forever)
        thread.start()
        other = page.context.new_page()
        other.goto(f"http://127.0.0.1:{stranger.server_address[1]}/")
        script = """async (address) => {
            const picture = new Image();
            const shown = await new Promise((done) => {
                picture.onload = () => done(true);
                picture.onerror = () => done(false);
                picture.src = address + "api/images/0/frame.png";
            });
            const read = await fetch(address + "api/session", { credentials: "include" })
                .then((answer) => answer.text()).catch(() => "");
            const body = new Uint8Array(96 * 96);
            await fetch(address + "api/images/0/map?base=0",
                { method: "POST", mode: "no-cors", credentials: "include", body }).catch(() => "");
            return [shown, read];
        }"""
        assert other.evaluate(script, editor.address) == [False, ""]
        stranger.shutdown()
        thread.join()
    assert not list(editor.session.folder.glob("*.png"))


class Blank(http.server.BaseHTTPRequestHandler):
    """A page of another program on this machine."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>hello")

    def log_message(self, *_: object) -> None:
        pass


def test_a_damaged_map_is_said_and_kept(abn, scenes, browser, tmp_path):
    with Session(abn, scenes, tmp_path) as session:
        session.save(0, session.view(0)["own"], 0)
    file = map_path(tmp_path, session.queue[0].item)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    damaged = file.read_bytes()
    editor = Editor(Session(abn, scenes, tmp_path))
    page = open_page(browser, editor)
    state(page, "cannot be read")
    sync_api.expect(page.locator("#notice")).to_contain_text("kept in the folder's history")
    assert page.locator("#queue .damaged").count() == 1
    page.keyboard.press("c")
    press_save(page)
    sync_api.expect(page.locator("#notice")).to_contain_text(".damaged")
    assert next((tmp_path / "history").glob("*.damaged")).read_bytes() == damaged
    assert not saved(editor).any()
    assert page.locator("#queue .damaged").count() == 0
    page.context.close()
    editor.close()


def test_simulated_maps_are_shown_as_such(abn, scenes, browser, tmp_path):
    simulate_maps(abn, scenes, tmp_path, share=1)
    editor = Editor(Session(abn, scenes, tmp_path))
    page = open_page(browser, editor)
    state(page, "Simulated from masks, not drawn by a person")
    assert text(page, "#count").startswith("0 of ")
    assert page.locator("#queue .simulated").count() == len(editor.session)
    press_save(page)
    assert text(page, "#count").startswith("1 of ")
    page.context.close()
    editor.close()


@pytest.mark.parametrize("size", [(1920, 1080), (900, 650), (600, 900)])
def test_the_page_fits_the_window(browser, editor, size):
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = open_page(browser, editor, context)
    board = page.locator("#board").bounding_box()
    assert board["width"] == board["height"] >= 96 * 3
    assert board["x"] >= 0
    assert board["x"] + board["width"] <= size[0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_a_brush(page):
    """The paint itself: full in the core, half at the edge, nothing outside; twice over a place is
    once.
    """

    def run(body: str) -> Any:
        return page.evaluate(f"import('/brush.js').then((m) => {{ {body} }})")

    assert run("return [0, 9.4, 10, 10.6].map((d) => m.coverage(d, 10, 0))") == pytest.approx(
        [1, 1, 0.5, 0], abs=0.01
    )
    assert run("return [0, 5, 5.5, 10.5].map((d) => m.coverage(d, 10, 0.5))") == pytest.approx(
        [1, 1, 1, 0]
    )
    twice = """const v = new Float32Array(400).fill(100);
        const s = new m.Stroke(v, 20, { radius: 4, soft: 0, strength: 0.5, remove: false });
        s.line(5, 5, 15, 5); s.line(15, 5, 5, 5);
        return [v[5 * 20 + 10], v[15 * 20 + 10]];"""
    assert run(twice) == [177.5, 100]
    outside = """const v = new Float32Array(400);
        const brush = { radius: 4, soft: 0, strength: 1, remove: false };
        new m.Stroke(v, 20, brush).line(-30, -30, -10, 10);
        return Math.max(...v);"""
    assert run(outside) == 0

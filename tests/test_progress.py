"""How work is shown: stages, and the bar or the lines that show them."""

from __future__ import annotations

import io
import sys
import threading
import time
import types

import pytest
from rich.console import Console

from bench.progress import (
    Clock,
    NotebookBar,
    PlainLines,
    TerminalBar,
    choose_display,
    follow,
    show_images,
    show_steps,
    show_work,
)
from bench.work_stages import Listener, is_heard, listening, look_at_work, open_stage, track


def hear() -> tuple[Listener, list[tuple[float, float, str]]]:
    """Return a listener, and what it hears."""
    seen: list[tuple[float, float, str]] = []
    return Listener(lambda *state: seen.append(state)), seen


@pytest.fixture
def at_once(monkeypatch):
    """Pass every report on."""
    monkeypatch.setattr("bench.work_stages.INTERVAL", 0.0)


def test_inner_stages_fill_the_step_of_the_outer_one(at_once):
    listener, seen = hear()
    with listening(listener):
        for _ in track("ab", "letters"):
            for _ in track(range(4), "numbers"):
                pass
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {0.25, 0.5, 0.75, 1.25, 1.5, 1.75} <= {done for done, _, _ in seen}
    assert seen[-1] == (2, 2, "letters")
    assert {total for _, total, _ in seen} == {2}


def test_steps_weigh_what_their_sizes_say(at_once):
    listener, seen = hear()
    with listening(listener):
        assert list(track("ab", str.upper, [1, 9])) == ["a", "b"]
    assert next(done for done, _, words in seen if words == "B") == 1
    assert seen[-1][:2] == (10, 10)


def test_a_gauge_is_read_when_a_network_runs(at_once):
    listener, seen = hear()
    run = [0]
    with listening(listener), open_stage(10, "probes") as stage:
        stage.begin(10, gauge=lambda: run[0] / 4)
        for run[0] in (1, 2, 3, 4, 9):
            look_at_work()
    assert [done for done, _, _ in seen][-4:] == [2.5, 5, 7.5, 10]


def test_what_is_done_never_shrinks_within_a_step(at_once):
    listener, seen = hear()
    with listening(listener), open_stage(1) as stage:
        stage.fill(0.6)
        for _ in track(range(10)):  # such as a task whose images are run again in halves
            pass
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_reports_are_few():
    listener, seen = hear()
    with listening(listener), open_stage(1) as stage:
        for number in range(100_000):
            stage.fill(number / 100_000)
    assert len(seen) < 50


def test_without_a_listener_and_in_other_threads_nothing_is_heard():
    assert not is_heard()
    listener, seen = hear()
    with listening(listener):
        thread = threading.Thread(target=lambda: list(track(range(3))))
        thread.start()
        thread.join()
    assert seen == []


def test_an_error_of_the_report_stops_the_outermost_stage_between_steps(at_once):
    def stop(done: float, total: float, words: str) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    reached = []

    def work() -> None:
        for step in track(range(3)):
            for part in track(range(4)):  # the error is raised in here, and is no fault of it
                reached.append((step, part))

    with listening(Listener(stop)), pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [(0, part) for part in range(4)]


def test_a_log_gets_a_line_every_so_often_with_the_time_left():
    stream = io.StringIO()
    lines = PlainLines(Console(file=stream, width=200), seconds=0.2)
    lines.report(10, 40, "net: images 1-10 of 40")
    lines._clock.start -= 10
    lines.report(20, 40, "net: images 11-20 of 40")
    start = time.monotonic()
    while stream.getvalue().count("\n") < 2 and time.monotonic() < start + 30:
        time.sleep(0.05)
    lines.end()
    taken, shown = time.monotonic() - start, stream.getvalue().splitlines()
    assert 2 <= len(shown) <= 1 + taken / 0.2
    assert shown[0].startswith("net: images 11-20 of 40: 20/40 (50 %), about ")
    assert shown[0].endswith(" left")
    time.sleep(0.5)
    assert stream.getvalue().splitlines() == shown


def test_a_short_stage_prints_no_line():
    stream = io.StringIO()
    with show_work(Console(file=stream)):
        list(track(range(5), "short"))
    assert stream.getvalue() == ""


def test_the_time_left_follows_from_the_speed_so_far():
    clock = Clock()
    clock.note(0.5)  # an earlier start did this
    assert clock.describe_left() == ""
    clock.start -= 60
    clock.note(0.75)
    assert clock.describe_left() in ("about 60 seconds left", "about 61 seconds left")


def test_a_terminal_gets_a_bar_that_goes():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    assert isinstance(choose_display(console), TerminalBar)
    with show_work(console), show_steps() as report:
        report("counting", 1, 4)
    assert "25%" in stream.getvalue()
    assert "counting" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")  # the last line is taken away


def test_a_quiet_console_gets_no_bar():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, quiet=True)
    with show_work(console), show_images("scenes") as report:
        report(1, 2)
    assert stream.getvalue() == ""


def test_a_notebook_gets_a_bar_without_more_packages(monkeypatch):
    shown: list[str] = []

    class Handle:
        def update(self, new: str) -> None:
            shown.append(new)

    def display(new: str, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(new)
        return Handle()

    module = types.ModuleType("IPython.display")
    module.__dict__.update(HTML=str, display=display)
    parent = types.ModuleType("IPython")
    parent.__dict__["get_ipython"] = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", parent)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    bar = choose_display(Console(file=io.StringIO()))
    assert isinstance(bar, NotebookBar)
    bar.report(1, 4, "<net>")
    bar.report(2, 4, "<net>")
    bar.end()
    assert 'value="0.2500"' in shown[0]
    assert 'value="0.5000"' in shown[1]
    assert "&lt;net&gt;" in shown[1]
    assert shown[2] == ""


def test_progress_chooses_who_hears(capsys):
    seen: list[tuple[float, float, str]] = []
    with follow(lambda *state: seen.append(state)):
        list(track(range(2), "own"))
    assert seen[-1] == (2, 2, "own")
    with follow(None):  # no terminal, no notebook
        assert not is_heard()
    with follow(True):
        assert is_heard()
    outer, heard = hear()
    with listening(outer), follow(None):
        list(track(range(2), "outer"))
    assert heard[-1] == (2, 2, "outer")
    with listening(outer), follow(False):
        assert not is_heard()
    assert capsys.readouterr().err == ""

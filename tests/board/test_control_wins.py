"""The first line of a board: which ranked values a control wins over every method."""

from __future__ import annotations

import io

from rich.console import Console

from bench.board.board import leaderboard
from bench.board.control_wins import find_control_wins, write_control_wins
from bench.board.text import markdown
from tests.support.toy_records import build, facts, scalars

START = "A control beats every method in these ranked values."


def make_board(*rows):
    return leaderboard(build([one for part in rows for one in part]), resamples=50)


def test_a_control_that_beats_every_method_stands_in_the_first_line(tmp_path):
    table = {"center": [0.9, 0.8], "oracle": [1.0, 1.0], "a": [0.7, 0.8], "b": [0.1, 0.2]}
    board = make_board(
        scalars("pixel_ap", table),
        scalars("deletion", {"random": [0.5, 0.6], "a": [0.2, 0.3], "b": [0.1, 0.2]}),
    )
    title = facts("pixel_ap")["title"]
    words = f"{START} {title} (pixel_ap): center on toy, net."
    assert write_control_wins(board.frame) == words
    board.save(tmp_path)
    lines = (tmp_path / "board.md").read_text().splitlines()
    assert lines[:3] == ["# Board", "", f"- **{markdown(words)}**"]
    shown = io.StringIO()
    board.print(Console(file=shown, width=200))
    assert shown.getvalue().splitlines()[0].strip() == words


def test_a_control_that_is_as_good_as_a_method_beats_none(tmp_path):
    board = make_board(
        scalars("deletion", {"random": [0.2, 0.3], "a": [0.2, 0.3], "b": [0.5, 0.6]})
    )
    assert list(find_control_wins(board.frame)) == []
    assert write_control_wins(board.frame) == ""
    board.save(tmp_path)
    assert "A control beats" not in (tmp_path / "board.md").read_text()


def test_models_of_one_win_stand_together():
    table = {"center": [0.9, 0.8], "a": [0.7, 0.8]}
    board = make_board(
        scalars("pixel_ap", table, model="net"),
        scalars("pixel_ap", table, model="other"),
        scalars("deletion", {"center": [0.1, 0.1], "a": [0.7, 0.8]}, model="net"),
        scalars("deletion", {"center": [0.9, 0.9], "a": [0.7, 0.8]}, model="other"),
    )
    (deletion, *others) = sorted(find_control_wins(board.frame), key=lambda one: one.metric)
    assert (deletion.control, deletion.method, deletion.model) == ("center", "a", "net")
    assert {one.model for one in others} >= {"net", "other"}
    words = write_control_wins(board.frame)
    assert "(deletion): center on toy, net" in words
    assert "(pixel_ap): center on toy, net, other" in words

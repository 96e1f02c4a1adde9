"""What a run and a board print: in brief, all of it, or almost nothing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.board.board import leaderboard
from bench.board.console import MOST_ROWS, print_brief
from bench.board.result_words import describe_result
from tests.support.command_line import cambench
from tests.support.toy_records import build, random_records, scalars

SMALL = ["--models", "resnet-scenes", "--methods", "grad_cam,random", "--metrics", "deletion"]
SMALL += ["--limit", "2", "--calibration", "0"]
DEFAULT_LINES, COLUMNS = 60, 80


def count_screen_lines(text: str) -> int:
    """Return the lines of a terminal of 80 columns, which breaks longer ones."""
    return sum(max(1, -(-len(line) // COLUMNS)) for line in text.splitlines())


def show_brief(board) -> str:
    stream = io.StringIO()
    print_brief(board, Console(file=stream, width=COLUMNS, color_system=None))
    return stream.getvalue()


def test_a_board_in_brief_has_words_and_one_table_that_fits():
    board = leaderboard(random_records(), resamples=200)
    shown = show_brief(board)
    assert " ".join(describe_result(board)[0].split()) in " ".join(shown.split())
    assert all(len(line) <= COLUMNS for line in shown.splitlines())
    assert shown.count("method  ") == 1
    assert "toy, overall" in shown
    assert count_screen_lines(shown) <= 45


def test_a_long_table_is_cut_and_says_so():
    values = {f"m{place:02d}": [place / 100, place / 90] for place in range(MOST_ROWS + 4)}
    shown = show_brief(leaderboard(build(scalars("deletion", values)), resamples=200))
    assert f"m{MOST_ROWS - 1:02d}" in shown
    assert f"m{MOST_ROWS:02d}" not in shown
    assert "4 more methods stand in board.md" in " ".join(shown.split())


def test_values_that_no_method_has_take_no_column():
    rows = [
        *scalars("deletion", {"a": [0.1, 0.2], "b": [0.3, 0.4]}),
        *scalars("insertion", {"a": [float("nan")] * 2, "b": [float("nan")] * 2}),
    ]
    shown = show_brief(leaderboard(build(rows), resamples=200))
    assert "deletion" in shown
    assert "insertion ↑" not in shown


def test_verbose_prints_what_brief_leaves_out_and_quiet_one_line(tmp_path):
    done = cambench("run", *SMALL, "--out", tmp_path / "run", "--verbose", columns=COLUMNS)
    assert done.returncode == 0, done.stderr
    assert "head replays" in done.stdout
    assert "percentile interval" in " ".join(done.stdout.split())
    brief = cambench("board", tmp_path / "run", columns=COLUMNS)
    assert "layer forward_features" in brief.stdout
    assert "percentile interval" not in " ".join(brief.stdout.split())
    quiet = cambench("run", *SMALL, "--out", tmp_path / "run", "--quiet")
    assert quiet.stdout.splitlines() == [
        f"Board, tables and plots: {tmp_path / 'run' / 'board.md'}"
    ]
    assert quiet.stderr == ""
    assert cambench("board", tmp_path / "run", "-q").stdout == quiet.stdout


def test_quiet_still_prints_errors():
    done = cambench("run", "--methods", "grad_camm", "--quiet")
    assert done.returncode == 2
    assert "grad_cam" in done.stderr


@pytest.mark.slow
def test_the_default_run_fits_on_a_screen(tmp_path):
    done = cambench(
        *("run", "--limit", "3", "--calibration", "3", "--out", tmp_path / "run"),
        columns=COLUMNS,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    assert count_screen_lines(done.stdout) + count_screen_lines(done.stderr) <= DEFAULT_LINES

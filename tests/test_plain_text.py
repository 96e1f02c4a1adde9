"""Names as text: no output of a small run reads markup, tags, formulas or codes from a name."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench.board.board import Board, leaderboard
from bench.board.console import print_board
from bench.board.text import code_block, code_span, escape_latex, markdown
from bench.plain_text import show_controls, show_line
from bench.progress import show_steps, show_work
from bench.records.store import Records
from bench.text_console import TextConsole, make_text
from tests.support.toy_records import random_records

NASTY = "[/red]x[a=1]:smile:$\\q{$|`<script>&amp;\x1b[31m\u202eend"
SHOWN = show_line(NASTY)


def print_on(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_console(kind: type[Console] = TextConsole) -> Console:
    return kind(file=io.StringIO(), width=400, force_terminal=False)


def test_the_console_prints_a_name_as_it_is() -> None:
    console = make_console()
    console.print(NASTY)
    console.print(make_text(NASTY, "dim"))
    assert print_on(console).splitlines() == [SHOWN, SHOWN]


def test_a_console_of_rich_reads_markup_in_it() -> None:
    plain = make_console(Console)
    with pytest.raises(Exception, match="red"):
        plain.print(NASTY)


def test_a_terminal_keeps_its_own_colours() -> None:
    console = TextConsole(
        file=io.StringIO(), width=80, force_terminal=True, color_system="standard"
    )
    console.print("a\x1b[32mb", style="red", highlight=False)
    assert print_on(console) == "\x1b[31ma\\x1b[32mb\x1b[0m\n"


def test_a_bar_shows_a_name_as_it_is() -> None:
    console = TextConsole(file=io.StringIO(), width=400, force_terminal=True)
    with show_work(console), show_steps() as report:
        report(NASTY, 1, 2)
    assert SHOWN in print_on(console)


@pytest.fixture(scope="module")
def nasty_board() -> Board:
    records = random_records(n=6)
    frame, provenance = records.frame.copy(), records.provenance
    method = next(m for m in sorted(provenance["methods"]) if m.startswith("method"))
    model, subset = sorted(provenance["models"])[0], sorted(provenance["subsets"])[0]
    for column, old in (("method", method), ("model", model), ("subset", subset)):
        frame[column] = frame[column].replace({old: NASTY})
    renamed = dict(provenance)
    for key, old in (("methods", method), ("models", model), ("subsets", subset)):
        renamed[key] = {NASTY if name == old else name: f for name, f in provenance[key].items()}
    return leaderboard(Records(frame, renamed), resamples=50)


def test_a_board_shows_a_name_as_it_is_everywhere(nasty_board: Board, tmp_path: Path) -> None:
    for kind in (TextConsole, Console):  # the second is a caller's own
        console = make_console(kind)
        print_board(nasty_board, console)
        assert SHOWN in print_on(console)
        assert "\x1b" not in print_on(console)
    nasty_board.save(tmp_path / "b")
    page = (tmp_path / "b" / "board.md").read_text(encoding="utf-8")
    assert "<script>" not in re.sub(r"\\<", "", page)
    assert "\x1b" not in page
    rows = [line for line in page.splitlines() if line.startswith("|") and "red" in line]
    assert rows
    header = next(line for line in page.splitlines() if line.startswith("| method | fidelity"))
    described = [line for line in rows if "script" in line][-1]
    assert len(re.findall(r"(?<!\\)\|", described)) == len(re.findall(r"\|", header))
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and tmp_path / "b" not in p.parents]
    assert not outside
    pictures = list((tmp_path / "b" / "plots").glob("*.png"))
    assert pictures  # `$\q{$` is no formula that matplotlib knows
    tables = list((tmp_path / "b" / "tables").glob("*.csv"))
    assert any(NASTY in set(pd.read_csv(file).get("method", [])) for file in tables)


def test_markdown_and_latex_escape_what_they_read() -> None:
    assert markdown("[a](b)") == "[a\\](b)"
    assert markdown("[[a](b)](c)") == "[[a\\](b)\\](c)"
    assert markdown("&lt; R&D") == "\\&lt; R&D"
    assert markdown("x[a=1] [.1, .2]") == "x[a=1] [.1, .2]"
    assert code_span("a``b`") == "``` a``b` ```"
    assert code_block("```\nx").startswith("````\n")
    assert escape_latex("[x]_{") == "{}[x]\\_\\{"
    assert show_controls("a\tb\nc") == "a\tb\nc"

"""README stays short, its numbers are the board's, and no page links to what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from bench.board.text import number

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("leaderboards/*.md")],
    key=lambda page: page.relative_to(ROOT),
)
LINES, WORDS = 120, 1000
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MADE_AGAIN = re.compile(r"leaderboards/[^/]+/(tables|plots)/")


def test_readme_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= LINES
    assert len(text.split()) <= WORDS


def test_the_picture_comes_before_the_commands():
    text = README.read_text()
    assert text.index("![") < text.index("```bash") < text.index("```python")


def test_the_first_screen_has_the_two_commands_that_set_everything_up():
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(), re.DOTALL)
    assert [len(block.splitlines()) for block in blocks[:2]] == [1, 1]
    assert blocks[0].strip().endswith(".venv/bin/cambench run")
    assert blocks[1].strip() in (ROOT / ".ci" / "run").read_text()


def test_the_rows_of_readme_are_those_of_the_board():
    table = pd.read_csv(ROOT / "leaderboards" / "scenes" / "overall.csv").set_index("method")
    page = (ROOT / "leaderboards" / "scenes" / "board.md").read_text().replace("\\_", "_")
    board = re.sub(r"\*\*| ?\(\d[\d-]*\)", "", page).splitlines()
    text = README.read_text()
    header = next(line for line in text.splitlines() if line.startswith("| method | deletion"))
    names = [
        cell.strip(" ↓↑").replace("pixel ap", "pixel_ap")
        for cell in header.strip("|").split("|")[1:]
    ]
    rows = [line for line in text.splitlines() if re.match(r"\| \*?[a-z_()]+\*? \| \.\d", line)]
    assert len(rows) == 6
    for line in rows:
        method, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        for name, cell in zip(names, cells, strict=True):
            numbers = [table.loc[method, f"{name}{end}"] for end in ("", "_low", "_high")]
            mean, low, high = map(number, numbers)
            shown = f"{mean} [{low}, {high}]"
            assert cell.removesuffix(" ‡") == shown, (method, name)
            own = [
                line
                for line in board
                if line.startswith((f"| {method} |", f"| *{method} (control)* |"))
            ]
            row = next(line for line in own if shown in line)
            assert cell.endswith("‡") == (f"{shown}‡" in row), (method, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_committed_file(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / link).resolve()
        assert target.exists(), link
        assert not MADE_AGAIN.search(target.as_posix()), link


def test_the_python_of_readme_runs(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from bench.methods import METHODS

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96), "green").save("dog.jpg")
    first, second = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    try:
        exec(compile(first + second, "README.md", "exec"), {})
        assert "mine" in METHODS.names
    finally:
        METHODS._entries.pop("mine", None)
    assert "grad_cam" in capsys.readouterr().out

"""`cambench board RUN --columns ...`: the table of `board.report`, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.board.board import leaderboard
from bench.records.store import Records
from tests.board.test_board_files import write_run
from tests.support.command_line import cambench, refused
from tests.support.toy_records import build, scalars

VALUES = {"good": 0.1, "grad_cam": 0.3, "bad_one": 0.6}
NAMES = '"good" = "Ours"\n"bad_one" = "Bad & ugly"\n'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of three methods and two values; lower deletion is better."""
    table = {
        name: [mean + 0.01 * ((7 * n + len(name)) % 5) for n in range(40)]
        for name, mean in VALUES.items()
    }
    records = build([*scalars("deletion", table), *scalars("insertion", table)])
    folder = write_run(tmp_path_factory.mktemp("paper") / "run", records)
    (folder.parent / "names.toml").write_text(NAMES)
    return folder


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_is_that_of_the_report(run):
    before = list_files(run)
    report = leaderboard(Records.load(run)).report(
        values=["deletion"],
        names={"good": "Ours", "bad_one": "Bad & ugly"},
        reference="good",
        decimals=2,
    )
    asked = ["--columns", "deletion", "--names", run.parent / "names.toml", "--decimals", "2"]
    for form, text in (
        ("latex", report.to_latex()),
        ("markdown", report.to_markdown()),
        ("csv", report.to_csv()),
    ):
        done = cambench("board", run, *asked, "--reference", "Ours", "--format", form)
        assert (done.returncode, done.stdout) == (0, text)
    assert list_files(run) == before
    latex = report.to_latex()
    assert r"\label{tab:toy-net}" in latex
    assert r"Bad \& ugly & 0.62 [0.62, 0.62]$^{-}$ \\" in latex
    assert len(report.caption) < 200


def test_the_file_of_out_says_the_format_and_holds_the_table(run, tmp_path):
    done = cambench("board", run, "--methods", "good,grad_cam", "--out", tmp_path / "a.csv")
    assert (done.returncode, done.stdout) == (0, "")
    report = leaderboard(Records.load(run)).report(methods=["good", "grad_cam"])
    assert (tmp_path / "a.csv").read_text() == report.to_csv()
    assert "deletion_mark" in report.to_csv()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--columns", "deletions"], "No value 'deletions' on this board. Did you mean deletion?"),
        (["--methods", "gradcam"], "No method 'gradcam' on this board. Did you mean grad_cam?"),
        (["--reference", "godo"], "The reference 'godo' is not on the board. Did you mean good?"),
        (["--decimals", "9"], "A report has 1 to 6 decimals, and 9 were asked for."),
        (["--model", "other"], "The board has no table"),
        (["--columns", "deletion", "--out", "table.pdf"], "ends in none of .tex, .md, .csv"),
        (["--columns", "deletion", "--publish", "out"], "--publish writes a board"),
        (["--names", "absent.toml"], "absent.toml cannot be read"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(run, asked, sentence):
    done = cambench("board", run, *asked)
    refused(done, sentence)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("good = 3\n", 2, "gives no text for 'good'"),
        ("[good]\nx = 'y'\n", 2, "gives no text for 'good'"),
        ("good = \n", 2, "is not valid TOML"),
        ("goood = 'Ours'\n", 0, "names 'goood', which is not on this board"),
    ],
)
def test_a_file_of_names_is_checked(run, tmp_path, text, code, sentence):
    (tmp_path / "names.toml").write_text(text)
    done = cambench("board", run, "--columns", "deletion", "--names", tmp_path / "names.toml")
    assert done.returncode == code
    assert sentence in done.stderr
    assert ("Ours" in done.stdout) is False

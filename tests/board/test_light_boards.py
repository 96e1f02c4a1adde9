"""Committed boards carry what cannot be made again, one table and two pictures."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.board import publish
from bench.board.board import leaderboard
from bench.board.light_board import OVERALL_TABLE, PICTURES, tabulate_overall
from bench.errors import BenchError
from bench.records.store import Records
from tests.board.test_board_files import write_run

ROOT = Path(__file__).parents[2] / "leaderboards"
BOARDS = sorted(path.parent for path in ROOT.glob("*/run.json"))
COMMITTED = {
    *("records.parquet", "run.json", "board.md", OVERALL_TABLE, *PICTURES.values()),
    *("curves.parquet", "health.json", "gallery", "health"),
}
MADE_AGAIN = {"tables", "plots"}
TABLE_LIMIT = 20_000
FOLDER_LIMIT = 35_000_000
LINK = re.compile(r"\]\(([^)]+)\)")


def list_links(page: Path) -> list[str]:
    return [link for link in LINK.findall(page.read_text()) if "://" not in link]


def is_made_again(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    if len(parts) > 2 and parts[1] in MADE_AGAIN:
        return True
    return len(parts) > 2 and parts[1] == "health" and parts[2] not in ("grid.csv", "health.md")


@pytest.fixture(scope="module")
def small(toy):
    records = toy.random_records(n=4, k=3, models=("net-a",))
    return Records(records.frame[records.frame["metric"] != "pixel_histogram"], records.provenance)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_committed_board_is_light(board):
    names = {path.name for path in board.iterdir() if not path.name.startswith(".")}
    assert names <= COMMITTED | MADE_AGAIN
    assert {"records.parquet", "run.json", "board.md", OVERALL_TABLE} <= names
    assert (board / OVERALL_TABLE).stat().st_size < TABLE_LIMIT
    links = list_links(board / "board.md")
    assert OVERALL_TABLE in links
    assert set(links) <= COMMITTED
    assert all((board / link).is_file() for link in links)


def test_all_boards_together_are_light():
    kept = [path for path in ROOT.rglob("*") if path.is_file() and not is_made_again(path)]
    assert sum(path.stat().st_size for path in kept) <= FOLDER_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_committed_board_is_made_again_from_its_records(board, tmp_path):
    copy = tmp_path / board.name
    shutil.copytree(board, copy, ignore=shutil.ignore_patterns(*MADE_AGAIN))
    leaderboard(Records.load(copy)).save(copy)
    for name in ("board.md", OVERALL_TABLE):
        assert (copy / name).read_text() == (board / name).read_text()


def test_the_table_holds_the_ranked_values_of_every_method(small, tmp_path):
    publish.publish_board(write_run(tmp_path / "run", small), tmp_path / "out")
    board = leaderboard(Records.load(tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / OVERALL_TABLE)
    (scope,) = board.scopes
    ranked = [name for name, _ in board.list_ranked(*scope)]
    assert list(table["method"]) == board.order(*scope)
    assert list(table.columns)[4:] == [
        f"{name}{end}" for name in ranked for end in ("", "_low", "_high")
    ]
    for row in board.select(metric=ranked[0]).itertuples():
        mine = table[table["method"] == row.method].iloc[0]
        assert mine[ranked[0]] == pytest.approx(row.mean, rel=1e-3)
        assert mine[f"{ranked[0]}_low"] == pytest.approx(row.low, rel=1e-3)
    assert tabulate_overall(board).shape == table.shape
    links = list_links(tmp_path / "out" / "board.md")
    assert set(links) == {OVERALL_TABLE, *PICTURES.values()}


def test_the_page_of_a_run_still_links_to_every_table(small, tmp_path):
    run = write_run(tmp_path / "run", small)
    leaderboard(Records.load(run)).save(run)
    assert not (run / OVERALL_TABLE).exists()
    assert any(link.startswith("tables/") for link in list_links(run / "board.md"))


def test_metrics_can_be_left_out_of_what_is_published(small, tmp_path):
    run = write_run(tmp_path / "run", small)
    publish.publish_board(run, tmp_path / "out", leave_out=["deletion"])
    kept = Records.load(tmp_path / "out")
    assert "deletion" in set(small.frame["metric"])
    assert "deletion" not in set(kept.frame["metric"])
    assert "deletion" not in kept.provenance["metrics"]
    assert any("left out of the published records: deletion" in n for n in kept.provenance["notes"])
    with pytest.raises(BenchError, match="no metric 'deletions' to leave out"):
        publish.publish_board(run, tmp_path / "other", leave_out=["deletions"])
    assert not (tmp_path / "other").exists()

"""The claims ledger: read strictly, recomputed from committed records, judged by intervals."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.board.board import leaderboard
from bench.board.claim_file import read_claims, select_claims
from bench.board.claim_keys import ClaimKeys, QueryKeys
from bench.board.claim_numbers import recompute
from bench.board.claims import STATUS, check_claims, judge_difference
from bench.cli import claims as command
from bench.cli import output
from bench.errors import BenchError
from bench.records.store import Records
from bench.schema import write_key_table
from bench.text_console import TextConsole
from tests.support.command_line import cambench

ROOT = Path(__file__).parents[2]
BOARDS = ROOT / "leaderboards"
LEDGER = BOARDS / "claims.toml"
FOCUS = {"tft", "aft", "a_fmi", "abn", "sa_cam", "abs_cam"}

CLAIM = """
[[claim]]
id = "mine"
says = "A is above B."
source = "a paper"
reference = "arXiv:0000.00000"
table = "table 1"
network = "net"
data = "images"
protocol = "its own"
status = "recomputed"
command = "cambench run"

[claim.query]
board = "fine-tuning-abn"
model = "abn-tiny20-guided"
against_model = "abn-tiny20"
method = "attention_branch"
metric = "deletion"
expects = "lower"
"""


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write a ledger of one claim with changes, beside a link to the committed board."""
    text = CLAIM
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "claims.toml").write_text(text)
    link = folder / "fine-tuning-abn"
    if not link.exists():
        link.symlink_to(BOARDS / "fine-tuning-abn")
    return folder / "claims.toml"


def make_query(expects: str, margin: float = 0) -> QueryKeys:
    return QueryKeys(
        board="b", model="m", method="a", metric="x", expects=expects, margin=margin, against=0
    )


@pytest.mark.parametrize(
    ("expects", "margin", "low", "high", "verdict"),
    [
        ("higher", 0, 0.1, 0.3, "holds"),
        ("higher", 0, -0.3, -0.1, "differs"),
        ("higher", 0, -0.1, 0.3, "not shown"),
        ("higher", 0, 0.0, 0.0, "not shown"),
        ("lower", 0, -0.3, -0.1, "holds"),
        ("lower", 0, 0.1, 0.3, "differs"),
        ("lower", 0, -0.3, 0.0, "not shown"),
        ("equal", 0.02, -0.02, 0.01, "holds"),
        ("equal", 0.02, -0.03, 0.01, "not shown"),
        ("equal", 0.02, 0.03, 0.05, "differs"),
        ("equal", 0.02, -0.05, -0.03, "differs"),
    ],
)
def test_the_interval_gives_the_verdict(expects, margin, low, high, verdict):
    assert judge_difference(make_query(expects, margin), low, high) == verdict


def test_a_difference_without_an_interval_is_refused():
    with pytest.raises(BenchError, match=r"no interval.*at least two images"):
        judge_difference(make_query("higher"), float("nan"), 0.1)


@pytest.fixture(scope="module")
def tuned():
    """The fine-tuned table of two networks of a board, in two values."""
    records = Records.load(BOARDS / "fine-tuning-abn")
    models, values = ["abn-tiny20", "abn-tiny20-guided"], ["deletion", "box_iou"]
    frame = records.frame
    kept = frame[frame["model"].isin(models) & frame["metric"].isin(values)]
    return leaderboard(Records(kept, records.provenance)).tuned


@pytest.mark.parametrize("metric", ["deletion", "box_accuracy", "top1"])
def test_numbers_are_those_of_the_board(metric, tuned):
    table = tuned
    method = "" if metric == "top1" else "attention_branch"
    (row,) = table[
        (table.model == "abn-tiny20-guided")
        & table.metric.isin([metric, f"{metric} (v1)"])
        & (table.method.fillna("") == method)
        & (table.against.fillna("") == method)
    ].to_dict("records")
    query = QueryKeys(
        board="fine-tuning-abn",
        model="abn-tiny20-guided",
        against_model="abn-tiny20",
        method="attention_branch",
        metric=metric,
        expects="lower",
    )
    found = recompute(query, BOARDS, None, "The claim mine")
    assert found.n == row["n"]
    assert found.value == pytest.approx(row["after"], abs=1e-6)
    assert found.against == pytest.approx(row["before"], abs=1e-6)
    assert found.difference == pytest.approx(row["difference"], abs=1e-6)
    assert (found.low, found.high) == pytest.approx((row["low"], row["high"]), abs=1e-6)


def test_a_number_is_compared_by_the_interval_of_the_value(tmp_path):
    rows = pd.read_parquet(BOARDS / "fine-tuning-abn" / "records.parquet")
    chosen = rows[
        (rows.model == "abn-tiny20")
        & (rows.method == "grad_cam")
        & (rows.metric == "insertion")
        & (rows.part == "eval")
    ]["value"].to_numpy()
    ledger = write(
        tmp_path,
        ('against_model = "abn-tiny20"\n', "against = 0.4\n"),
        ('"abn-tiny20-guided"', '"abn-tiny20"'),
        ('"attention_branch"', '"grad_cam"'),
        ('"deletion"', '"insertion"'),
        ('"lower"', '"higher"'),
    )
    (one,) = check_claims(ledger)
    assert one.numbers.value == pytest.approx(chosen.mean())
    assert one.numbers.difference == pytest.approx(chosen.mean() - 0.4)
    # A replica: the bootstrap of the mean, with draws of its own.
    draws = np.random.default_rng(5).integers(len(chosen), size=(4000, len(chosen)))
    low, high = np.percentile(chosen[draws].mean(1) - 0.4, [2.5, 97.5])
    assert one.numbers.low == pytest.approx(low, abs=0.004)
    assert one.numbers.high == pytest.approx(high, abs=0.004)
    ends = [one.numbers.value, one.numbers.low + 0.4, one.numbers.high + 0.4]
    assert one.recomputed == "{:.3f} [{:.3f}, {:.3f}]".format(*ends)


WRONG = {
    "unknown key": ('table = "table 1"', 'tabel = "table 1"', "unknown key 'tabel'.*Did you mean"),
    "wrong type": ('table = "table 1"', "table = 1", "mine has table = 1; it must be text"),
    "missing": ('says = "A is above B."\n', "", "mine has no says; add says"),
    "status": ('"recomputed"', '"verified"', "unknown status 'verified'"),
    "query key": ('method = "att', 'methods = "att', "query of the claim mine has the unknown key"),
    "query missing": ('metric = "deletion"\n', "", "query of the claim mine has no metric"),
    "expects": ('expects = "lower"', 'expects = "less"', "unknown expects 'less'"),
    "board": ('"fine-tuning-abn"', '"no-board"', "reads the board no-board, and .* no such board"),
    "outside": ('"fine-tuning-abn"', '"../runs"', "name of a folder beside the ledger"),
    "model": ('model = "abn-tiny20-guided"', 'model = "abn"', "asks for the model 'abn'"),
    "method": ('"attention_branch"', '"attention"', "asks for the method 'attention'"),
    "value": ('"deletion"', '"deletoin"', "asks for the value 'deletoin'.*Did you mean deletion"),
    "curve": ('"deletion"', '"deletion_curve"', "a curve and no number"),
    "both": (
        'against_model = "abn-tiny20"',
        'against_model = "abn-tiny20"\nagainst = 1',
        "keep one",
    ),
    "nothing": ('against_model = "abn-tiny20"\n', "", "compares with nothing"),
    "itself": (
        'against_model = "abn-tiny20"',
        'against_method = "attention_branch"',
        "with itself",
    ),
    "margin": ('expects = "lower"', 'expects = "equal"', "expects equal with the margin 0"),
    "no margin": ('expects = "lower"', 'expects = "lower"\nmargin = 0.1', "the margin 0.1"),
    "nan": ('status = "', 'value = nan\nstatus = "', "value = nan; it must be a finite number"),
    "no toml": ("[[claim]]", "[[claim", "not valid TOML"),
    "no why": ('"recomputed"', '"cannot be"', '"cannot be" and a query; remove'),
    "top key": ("[[claim]]", "title = 'x'\n[[claim]]", "unknown key 'title'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_ledger_is_one_sentence(tmp_path, case):
    old, new, words = WRONG[case]
    ledger = write(tmp_path, (old, new))
    with pytest.raises(BenchError, match=words) as refused:
        check_claims(ledger)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_recomputed_needs_a_reason_and_no_query(tmp_path):
    text = CLAIM.partition("[claim.query]")[0]
    ledger = tmp_path / "claims.toml"
    ledger.write_text(text)
    with pytest.raises(BenchError, match=r'"recomputed" and no query; add the table'):
        read_claims(ledger)
    ledger.write_text(text.replace('"recomputed"', '"cannot be"'))
    with pytest.raises(BenchError, match='"cannot be" and no why'):
        read_claims(ledger)
    ledger.write_text(text.replace('"recomputed"', '"cannot be"\nwhy = "no records"'))
    (one,) = check_claims(ledger)
    assert (one.verdict, one.recomputed, one.misfit) == ("cannot be", "-", "")


def test_a_ledger_that_is_missing_empty_or_doubled_is_refused(tmp_path):
    with pytest.raises(BenchError, match=r"cannot be read .*clone of cambench.*--ledger"):
        read_claims(tmp_path / "claims.toml")
    (tmp_path / "claims.toml").write_text("")
    with pytest.raises(BenchError, match="holds no claim"):
        read_claims(tmp_path / "claims.toml")
    (tmp_path / "claims.toml").write_text(CLAIM + CLAIM)
    with pytest.raises(BenchError, match=r"Two claims of .* have the id 'mine'"):
        read_claims(tmp_path / "claims.toml")
    with pytest.raises(BenchError, match=r"no claim 'mein' in the ledger.*Did you mean mine"):
        select_claims(read_claims(write(tmp_path)), "mein")


def test_a_status_that_the_records_refute_is_a_sentence(tmp_path):
    (right,) = check_claims(write(tmp_path))
    assert (right.verdict, right.misfit) == ("holds", "")
    (wrong,) = check_claims(write(tmp_path, ('expects = "lower"', 'expects = "higher"')))
    assert wrong.verdict == "differs"
    assert wrong.misfit.endswith('by the records it differs; write status = "differs".')


def test_the_committed_ledger_has_a_claim_for_every_focus_system():
    claims = read_claims(LEDGER)
    assert {claim.focus for claim in claims} - {""} == FOCUS
    assert sum(claim.query is not None for claim in claims) >= 5
    boards = {claim.query.board for claim in claims if claim.query}
    assert all((BOARDS / board / "records.parquet").is_file() for board in boards)
    assert all(claim.command.startswith("cambench ") for claim in claims)


@pytest.mark.slow
def test_every_status_of_the_committed_ledger_is_what_the_records_say():
    checked = check_claims(LEDGER)
    assert [one.misfit for one in checked if one.misfit] == []
    assert {STATUS[one.verdict] for one in checked} == {"recomputed", "differs", "cannot be"}


def test_the_command_prints_a_claim_in_full():
    done = cambench("claims", "--id", "abn-guided-keeps-accuracy")
    assert done.returncode == 0, done.stderr
    assert "Verdict: holds" in done.stdout
    assert "  cambench run --subset tiny-imagenet-20" in done.stdout


def test_the_command_prints_json_and_refuses_in_one_line(tmp_path):
    ledger = write(tmp_path)
    (table,) = json.loads(cambench("claims", "--json", "--ledger", ledger).stdout)
    assert (table["id"], table["verdict"]) == ("mine", "holds")
    assert table["recomputed"]["high"] < 0
    refused = cambench("claims", "--id", "mein", "--ledger", ledger)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: There is no claim 'mein' in the ledger.")


def test_the_table_names_every_claim_and_counts_verdicts(tmp_path, monkeypatch):
    checked = check_claims(write(tmp_path, ('"recomputed"', '"differs"')))
    console = TextConsole(width=120, record=True, file=io.StringIO())
    monkeypatch.setattr(output, "console", console)
    monkeypatch.setattr(command, "console", console)
    command.print_claims(checked)
    shown = console.export_text()
    assert "mine" in shown
    assert checked[0].recomputed in shown
    assert "1 claim: holds 1." in shown
    assert checked[0].misfit.endswith('write status = "recomputed".')


def test_the_page_shows_the_keys_and_a_claim_that_is_one(tmp_path):
    text = (ROOT / "docs" / "claims.md").read_text()
    assert write_key_table(ClaimKeys) in text
    assert write_key_table(QueryKeys) in text
    (tmp_path / "claims.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    (claim,) = read_claims(tmp_path / "claims.toml")
    assert claim.query is not None

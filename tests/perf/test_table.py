"""The table of speeds: from measured pairs to lines of the page, and what is refused. Not a
benchmark itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from tests.perf import table
from tests.perf.ratios import Row, interleaved, median_interval, pairs_wanted, report

README = (
    f"# cambench\n\n## Speed\n\nSaid by hand.\n\n{table.START}\nold\n{table.END}\n\nThe rest.\n"
)
MACHINE = {
    "cpu": {"count": 2, "brand_raw": "A processor"},
    "python_version": "3.12.0",
    "cambench": {"torch": "2.9", "threads": 2, "gpu": "", "peers": {"quantus": "0.6.0"}},
}


class Benchmark:
    """What `report` needs of pytest-benchmark's fixture, which times nothing outside a run of
    benchmarks.
    """

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.stats: object | None = None
        self.enabled = True
        self.rounds = 0

    def pedantic(self, call: Any, rounds: int) -> None:
        assert self.stats is None, "pytest-benchmark allows one use"
        call()
        self.rounds, self.stats = rounds, object()


def measured(*rows: tuple[Row, list[float]]) -> dict[str, Any]:
    benchmark = Benchmark()
    for row, ratios in rows:
        report(benchmark, row, ratios)
    # Through JSON, as pytest-benchmark writes it.
    return json.loads(json.dumps(benchmark.extra_info))


def written(
    tmp_path: Path, extras: dict[str, dict[str, Any]], machine: dict[str, Any] = MACHINE
) -> Path:
    path = tmp_path / "run.json"
    benchmarks = [{"fullname": name, "extra_info": extra} for name, extra in extras.items()]
    run = {
        "machine_info": machine,
        "commit_info": {"id": "0123456789abcdef"},
        "datetime": "2026-01-02T03:04:05+00:00",
        "benchmarks": benchmarks,
    }
    path.write_text(json.dumps(run))
    return path


@pytest.fixture
def readme(tmp_path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(README)
    return path


FAST = Row("deletion", "a peer", aim=1.5, forwards=(22, 21), per_forward=True)
SLOW = Row("scoring", "bare forwards", aim=1.05, better="lower", unit="times the time")
RATIOS = [1.6, 1.4, 1.7, 1.55, 1.58, 1.59, 1.62]


def run_main(path: Path, readme: Path, *more: str) -> int:
    return table.main(
        [str(path), "--page", str(readme), "--board", str(readme.parent / "speed.json"), *more]
    )


def test_rows_reach_readme_and_board(tmp_path, readme, capsys):
    extras = {
        "test_peers.py::test_one": measured((FAST, RATIOS), (SLOW, [r - 0.5 for r in RATIOS])),
        "test_peers.py::test_two": measured((Row("six CAMs", "another peer"), [12345.0] * 6)),
    }
    assert run_main(written(tmp_path, extras), readme) == 0
    text = readme.read_text()
    assert text.startswith(
        "# cambench\n\n## Speed\n\nSaid by hand.\n\n<!-- speed -->\nMeasured on 2026-01-02 on two "
        "cor"
    )
    assert text.endswith("|\n<!-- /speed -->\n\nThe rest.\n")
    assert "no GPU, torch 2.9 with 2 threads, quantus 0.6.0" in text
    assert "| deletion | a peer | 1.59 [1.4, 1.7] times as fast | ≥ 1.5 | 22, 21 | 1.67 |" in text
    assert (
        "| scoring | bare forwards | 1.09 [0.9, 1.2] times the time | ≤ 1.05: missed |  |  |"
        in text
    )
    assert "| six CAMs | another peer | 12345 [12345, 12345] times as fast | – |  |  |" in text
    assert "old" not in text
    board = json.loads((tmp_path / "speed.json").read_text())
    assert board["machine"]["commit"] == "0123456789ab"
    assert [row["met"] for row in board["rows"]] == [True, False, None]
    assert [row["pairs"] for row in board["rows"]] == [7, 7, 6]
    assert "3 rows" in capsys.readouterr().out


def test_the_same_run_writes_the_same_bytes(tmp_path, readme):
    path = written(tmp_path, {"a": measured((FAST, RATIOS))})
    run_main(path, readme)
    first = readme.read_bytes(), (tmp_path / "speed.json").read_bytes()
    run_main(path, readme)
    assert (readme.read_bytes(), (tmp_path / "speed.json").read_bytes()) == first


def refused(capsys, path: Path, readme: Path) -> str:
    before = readme.read_text()
    assert run_main(path, readme) == 2
    assert readme.read_text() == before
    return capsys.readouterr().err


def test_a_benchmark_without_a_row_is_refused_by_name(tmp_path, readme, capsys):
    extras = {
        "a": measured((FAST, RATIOS)),
        "test_memory.py::test_peak": {"peak": 3},
        "b": {"rows": []},
    }
    said = refused(capsys, written(tmp_path, extras), readme)
    assert "test_memory.py::test_peak, b;" in said
    assert not (tmp_path / "speed.json").exists()


def test_too_few_pairs_are_refused(tmp_path, readme, capsys):
    assert "a; run six" in refused(
        capsys, written(tmp_path, {"a": measured((FAST, RATIOS[:5]))}), readme
    )


def test_part_of_a_run_does_not_replace_the_table(tmp_path, readme, capsys):
    both = {"a": measured((FAST, RATIOS)), "b": measured((SLOW, RATIOS))}
    assert run_main(written(tmp_path, both), readme) == 0
    part = written(tmp_path, {"a": measured((FAST, RATIOS))})
    assert "lacks b" in refused(capsys, part, readme)
    assert run_main(part, readme, "--fewer") == 0
    assert "scoring" not in readme.read_text()


@pytest.mark.parametrize("text", ["no marker", f"{table.END} {table.START}", README + table.START])
def test_a_readme_without_one_pair_of_markers_is_refused(tmp_path, readme, capsys, text):
    readme.write_text(text)
    assert "once each" in refused(
        capsys, written(tmp_path, {"a": measured((FAST, RATIOS))}), readme
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[]", "what machine"), ('{"machine_info": {"cpu": {}}}', "what machine")],
)
def test_another_file_is_refused(tmp_path, readme, capsys, text, said):
    path = tmp_path / "other.json"
    path.write_text(text)
    assert said in refused(capsys, path, readme)
    assert "Cannot read" in refused(capsys, tmp_path / "nothing.json", readme)


def test_an_empty_run_is_refused(tmp_path, readme, capsys):
    assert "no benchmark" in refused(capsys, written(tmp_path, {}), readme)


def test_readme_has_the_markers():
    text = (table.ROOT / "docs" / "speed.md").read_text()
    assert table.between_markers(text, "new", Path("speed.md")).count("\nnew\n") == 1


# --- the numbers


def test_the_interval_of_a_median_is_of_order_statistics():
    # n = 15: P(Bin(15, 1/2) < 4) = .0176, < 5 .0592: the 4th and the 12th of fifteen; 96.5 %.
    found = median_interval([float(v) for v in (8, 1, 15, 3, 12, 5, 10, 7, 2, 14, 4, 13, 6, 11, 9)])
    assert (found.median, found.low, found.high) == (8.0, 4.0, 12.0)
    assert found.level == pytest.approx(1 - 2 * (1 + 15 + 105 + 455) / 2**15)


@pytest.mark.parametrize(("count", "level"), [(1, 0.0), (5, 0.9375), (6, 0.96875)])
def test_of_few_values_the_interval_is_from_the_lowest_to_the_highest(count, level):
    found = median_interval([float(v) for v in range(count)])
    assert (found.low, found.high, found.level) == (0.0, count - 1.0, level)


def test_no_ratio_is_no_median():
    with pytest.raises(BenchError, match="at least one pair"):
        median_interval([])


def test_pairs_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("CAMBENCH_PERF_PAIRS", raising=False)
    assert pairs_wanted(15) == 15
    monkeypatch.setenv("CAMBENCH_PERF_PAIRS", "3")
    assert pairs_wanted(15) == 3
    for text in ("0", "-1", "many"):
        monkeypatch.setenv("CAMBENCH_PERF_PAIRS", text)
        with pytest.raises(BenchError, match="CAMBENCH_PERF_PAIRS"):
            pairs_wanted()


def test_pairs_are_side_by_side_and_change_places():
    order: list[str] = []
    ratios = interleaved(
        lambda: order.append("a"), lambda: order.append("b"), pairs=3, calls=(1, 2)
    )
    assert len(ratios) == 3
    assert "".join(order) == "ab" + "abb" + "bba" + "abb"


def test_a_report_notes_a_benchmark_that_timed_nothing_itself():
    benchmark = Benchmark()
    report(benchmark, FAST, RATIOS)
    report(benchmark, SLOW, RATIOS)
    assert benchmark.rounds == 1
    assert len(benchmark.extra_info["rows"]) == 2

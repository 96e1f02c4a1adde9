"""Write the table of docs/speed.md and `leaderboards/speed.json` from what one run of
the benchmarks measured.

`tox -e perf` runs the benchmarks and then this: `python -m tests.perf.table FILE`, FILE written by
`pytest tests/perf -m perf --benchmark-json=FILE`. Every benchmark has a row (see `ratios.report`);
one that has none is an error, and so is a row without an interval of 95 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import replaced_file, write_json
from tests.perf.ratios import LEVEL

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- speed -->", "<!-- /speed -->"
FIELDS = (
    *("what", "against", "median", "low", "high", "level", "pairs", "unit"),
    *("aim", "better", "met", "forwards", "per_forward"),
)
HEADER = (
    "| what | against | ratio [95 % interval] | aim | forwards, ours and theirs | per forward |",
    "|---|---|---:|---:|---:|---:|",
)

Fields = dict[str, Any]


def read(path: Path) -> Fields:
    """Return what pytest-benchmark wrote; anything else is one sentence."""
    try:
        run = json.loads(path.read_text())
    except OSError as error:
        raise BenchError(
            f"Cannot read {path} ({error.strerror}); give the file of --benchmark-json."
        ) from None
    except ValueError:
        raise BenchError(
            f"{path} is not JSON; give the file that pytest --benchmark-json wrote."
        ) from None
    if not isinstance(run, dict) or "cambench" not in run.get("machine_info", {}):
        raise BenchError(
            f"{path} does not say what machine it is of; write it with pytest tests/perf -m perf."
        )
    if not run.get("benchmarks"):
        raise BenchError(
            f"{path} holds no benchmark; run pytest tests/perf -m perf --benchmark-json={path}."
        )
    return run


def rows_of(run: Fields) -> list[Fields]:
    """Return every benchmark's rows, in the run's order; one without a row or with a weak interval
    is an error.
    """
    without = [one["fullname"] for one in run["benchmarks"] if not one["extra_info"].get("rows")]
    if without:
        raise BenchError(
            f"No row of the table comes from {', '.join(without)}; end each with "
            "report(benchmark, row, ratios)."
        )
    rows = [
        {"benchmark": one["fullname"], **{name: row[name] for name in FIELDS}}
        for one in run["benchmarks"]
        for row in one["extra_info"]["rows"]
    ]
    weak = [row["benchmark"] for row in rows if row["level"] < LEVEL]
    if weak:
        raise BenchError(
            f"Too few pairs for an interval of 95 % in {', '.join(weak)}; run six or more "
            "(CAMBENCH_PERF_PAIRS)."
        )
    return rows


def machine_of(run: Fields) -> Fields:
    """Return what is said of the machine: cores, processor, GPU, threads, versions, day and
    commit.
    """
    info = run["machine_info"]
    cpu = info.get("cpu", {})
    return {
        **info["cambench"],
        "cores": cpu.get("count"),
        "processor": cpu.get("brand_raw", info.get("machine", "")),
        "python": info.get("python_version", ""),
        "date": run["datetime"][:10],
        "commit": (run.get("commit_info") or {}).get("id", "")[:12],
    }


def caption(machine: Fields) -> str:
    """Return the sentence above the table."""
    cores = {1: "one core", 2: "two cores"}.get(machine["cores"], f"{machine['cores']} cores")
    gpu = machine["gpu"] or "no GPU"
    peers = ", ".join(f"{name} {version}" for name, version in machine["peers"].items())
    return (
        f"Measured on {machine['date']} on {cores} ({machine['processor']}), {gpu}, torch "
        f"{machine['torch']} with {machine['threads']} threads, {peers}; medians of pairs that "
        "ran side by side in one process, with nonparametric 95 % intervals of the median."
    )


def line(row: Fields) -> str:
    """Return a row as Markdown."""
    ratio = f"{shown(row['median'])} [{shown(row['low'])}, {shown(row['high'])}] {row['unit']}"
    forwards = "" if row["forwards"] is None else "{}, {}".format(*row["forwards"])
    aim = "–"
    if row["aim"] is not None:
        aim = f"{'≥' if row['better'] == 'higher' else '≤'} {shown(row['aim'])}" + (
            "" if row["met"] else ": missed"
        )
    each = "" if row["per_forward"] is None else shown(row["per_forward"])
    return "| " + " | ".join([row["what"], row["against"], ratio, aim, forwards, each]) + " |"


def shown(number: float) -> str:
    """Return a number with three digits, never in powers of ten.

    >>> shown(1.0349), shown(164.4), shown(12345.0)
    ('1.03', '164', '12345')
    """
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def table(rows: Sequence[Fields], machine: Fields) -> str:
    """Return caption and table."""
    return "\n".join([caption(machine), "", *HEADER, *map(line, rows)])


def between_markers(text: str, new: str, where: Path) -> str:
    """Return a text with what stands between the two markers replaced; each must be there once."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise BenchError(
            f"{where} needs {START} and behind it {END}, once each; put them where the table goes."
        )
    head, _, rest = text.partition(START)
    return f"{head}{START}\n{new}\n{END}{rest.partition(END)[2]}"


def lost(rows: Sequence[Fields], board: Path) -> list[str]:
    """Return the benchmarks that the written rows have and these rows have not: a part of a run is
    no table.
    """
    if not board.is_file():
        return []
    before = [row["benchmark"] for row in json.loads(board.read_text())["rows"]]
    return [
        name for name in dict.fromkeys(before) if name not in {row["benchmark"] for row in rows}
    ]


def write(path: Path, page: Path, board: Path, fewer: bool = False) -> int:
    """Write both files from a run; return the number of rows. Nothing is written where anything is
    wrong.
    """
    run = read(path)
    rows, machine = rows_of(run), machine_of(run)
    gone = [] if fewer else lost(rows, board)
    if gone:
        raise BenchError(
            f"The run lacks {', '.join(gone)}, which {board.name} has; run all, or say --fewer."
        )
    if not page.is_file():
        raise BenchError(f"There is no {page}; give --page.")
    text = between_markers(page.read_text(), table(rows, machine), page)
    write_json(board, {"machine": machine, "rows": rows})
    with replaced_file(page) as temporary:
        temporary.write_text(text)
    return len(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 and one sentence where it cannot be done."""
    parser = argparse.ArgumentParser(
        description="Write the table of speeds from a run of the benchmarks."
    )
    parser.add_argument(
        "run", type=Path, help="what pytest tests/perf -m perf --benchmark-json wrote"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "speed.md")
    parser.add_argument("--board", type=Path, default=ROOT / "leaderboards" / "speed.json")
    parser.add_argument(
        "--fewer", action="store_true", help="the table may lose benchmarks: they are gone"
    )
    given = parser.parse_args(arguments)
    try:
        count = write(given.run, given.page, given.board, given.fewer)
    except BenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"{count} rows in {given.page} and {given.board}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Flip bits of records and of a baseline, with and without checksums, and print what was found.

    python tools/measure_bit_flips.py            600 bits of records, 300 of a baseline
    python tools/measure_bit_flips.py --share .1 a tenth of them

The table says how many flips were refused, read the same, or gave other values in silence, and what
the checksums cost in bytes and in seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from bench.errors import BenchError  # noqa: E402
from bench.gate.baseline import METADATA, load_baseline, save_baseline  # noqa: E402
from bench.records.store import (  # noqa: E402
    SCHEMA,
    choose_encoding,
    read_part,
    read_table,
    write_parquet,
)
from tests.support.bit_flips import flip_bits  # noqa: E402

RECORDS = ROOT / "leaderboards" / "scenes" / "records.parquet"
BASELINE = ROOT / "leaderboards" / "gate" / "baseline.parquet"
ROWS = 600
"""Rows of the measured part: those of a task of a few images."""


def write_bare(path: Path, table: Any) -> None:
    """Write a table of records as it was written before there were checksums."""
    pq.write_table(table, path, **choose_encoding(SCHEMA.names))


def time_best(work: Callable[[], object], times: int = 5) -> float:
    """Return the seconds of the fastest of several calls."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def show_rows(what: str, found: Counter[str]) -> None:
    """Print a row of the table of flips."""
    others = {k: n for k, n in found.items() if k not in ("refused", "same", "silent")}
    counts = " | ".join(str(found[name]) for name in ("refused", "same", "silent"))
    print(f"| {what} | {found.total()} | {counts} | {sum(others.values())} |", flush=True)


def read_bare(file: Path) -> str:
    """Read a parquet file as it was read before there were checksums."""
    try:
        with pq.ParquetFile(file) as part:
            table = part.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise BenchError(str(error)) from None
    told = (table.schema.metadata or {}).get(METADATA)
    return repr(table.to_pydict()) + json.dumps(None if told is None else json.loads(told))


def read_gate(file: Path) -> str:
    """Read a baseline as the gate does."""
    found = load_baseline(file)
    return found.frame.to_csv() + json.dumps(found.facts, sort_keys=True)


def measure_flips(folder: Path, frame: pd.DataFrame, share: float) -> None:
    """Print the table of flips."""
    print("| file | flips | refused | same values | other values in silence | tracebacks |")
    print("|---|---|---|---|---|---|")
    sealed, bare = folder / "sealed.parquet", folder / "bare.parquet"
    write_parquet(sealed, frame)
    write_bare(bare, read_table(sealed))
    count = max(1, round(600 * share))
    show_rows("records, no checksums", flip_bits(bare, lambda: read_bare(bare), count))
    show_rows(
        "records",
        flip_bits(sealed, lambda: repr(read_table(sealed).to_pydict()), count),
    )
    count = max(1, round(300 * share))
    gate, old = folder / "gate.parquet", folder / "old.parquet"
    save_baseline(load_baseline(BASELINE), gate)
    old.write_bytes(BASELINE.read_bytes())
    show_rows("baseline, no checksums", flip_bits(old, lambda: read_bare(old), count))
    show_rows("baseline", flip_bits(gate, lambda: read_gate(gate), count))


def measure_cost(folder: Path, frame: pd.DataFrame) -> None:
    """Print bytes and seconds with and without checksums."""
    sealed, bare = folder / "sealed.parquet", folder / "bare.parquet"
    kinds = SCHEMA.remove(SCHEMA.get_field_index("item_id"))
    read_names = kinds.names
    more = sealed.stat().st_size / bare.stat().st_size - 1
    writing = (
        time_best(lambda: write_parquet(sealed, frame)),
        time_best(lambda: write_bare(bare, pa.Table.from_pandas(frame[read_names], schema=kinds))),
    )
    reading = (
        time_best(lambda: read_part(sealed)),
        time_best(lambda: pq.ParquetFile(bare).read(use_threads=False).to_pandas()),
    )
    print(f"\nA part of {len(frame)} rows: {sealed.stat().st_size:,} bytes, {more:+.1%}.")
    print("Seconds to write: {:.4f} ({:.4f} without checksums).".format(*writing))
    print("Seconds to read: {:.4f} ({:.4f} without checksums).".format(*reading))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="share of the bits to flip")
    share = parser.parse_args().share
    frame = read_part(RECORDS).iloc[:ROWS]
    with tempfile.TemporaryDirectory() as folder:
        measure_flips(Path(folder), frame, share)
        measure_cost(Path(folder), frame)


if __name__ == "__main__":
    main()

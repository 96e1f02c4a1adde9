"""Records: one row per (item, model, method, value), with ids of everything that produced it.

Rows live in parquet parts inside a run folder, written to a temporary name and moved into place; `run.json` beside
them says what is current. Only `bench.pipeline` writes records; only `bench.board` aggregates them.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import BenchError

SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("subset", pa.string()),
        ("part", pa.string()),  # "eval" is scored; "calibration" only chooses box thresholds
        ("item", pa.string()),  # image and explained class
        ("image", pa.string()),  # the unit that is resampled
        ("model", pa.string()),
        ("parent", pa.string()),  # the model this one was fine-tuned from, or ""
        ("method", pa.string()),
        ("metric", pa.string()),  # the value's name, e.g. "deletion"
        ("value", pa.float64()),  # NaN = could not be scored; counted, never averaged over
        ("vector", pa.list_(pa.float32())),  # for values that the board reduces; else null
        ("target", pa.int32()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("correct", pa.bool_()),
        ("forwards", pa.float64()),  # network forwards this method spent on the item's map
        ("method_id", pa.string()),
        ("metric_id", pa.string()),
        ("protocol_id", pa.string()),
        ("weights_id", pa.string()),
        ("manifest_id", pa.string()),
        ("code", pa.string()),
    ]
)
"""The columns of a record."""

KEY = ["subset", "part", "item", "model", "method", "metric"]
"""What makes a row unique among current records."""

COMMITTED_LIMIT = 5 * 1024 * 1024
"""Bytes of per-image records that a committed board may carry."""


@dataclass
class Records:
    """Rows (`frame`, columns of `SCHEMA`) and what produced them (`provenance`, the content of run.json).

    provenance holds: run, created, command, code, packages, device, protocol {name,id,...fields}, subsets {name: facts},
    models {name: facts}, methods {name: {id,group,fidelity,citation,control,...}}, metrics {value name: {family,id,
    title,better,ranked,reduce,target}}, cells (see `bench.pipeline.evaluate`).
    """

    frame: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def load(cls, path: str | Path) -> Records:
        """Read a run folder (parts under `records/`) or a committed board (`records.parquet`); current rows only."""
        folder = Path(path)
        if not folder.exists():
            raise BenchError(f"There is no run at {path}; give the folder that `cambench run --out` wrote.")
        if not (folder / "run.json").is_file():
            raise BenchError(f"{path} holds no run.json, so it is not a run folder; give the folder of a run.")
        try:
            provenance = json.loads((folder / "run.json").read_text())
        except ValueError as error:
            raise BenchError(f"{folder / 'run.json'} is not valid JSON ({error}); restore it or start again.") from None
        files = sorted((folder / "records").glob("*.parquet")) or sorted(folder.glob("records.parquet"))
        if not files:
            raise BenchError(f"The run at {path} holds no records yet; let `cambench run` finish at least one task.")
        frame = pd.concat([read_part(file) for file in files], ignore_index=True)
        return cls(current(frame, provenance), provenance)


def read_part(file: Path) -> pd.DataFrame:
    """Read one parquet part."""
    try:
        return pq.read_table(file).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise BenchError(f"The records file {file} cannot be read ({error}); delete it and run again.") from None


def current(frame: pd.DataFrame, provenance: dict[str, Any]) -> pd.DataFrame:
    """Keep the rows whose method, metric, weights and manifest ids are those that run.json names."""
    wanted = {
        "method_id": {m["id"] for m in provenance["methods"].values()},
        "metric_id": {m["id"] for m in provenance["metrics"].values()},
        "weights_id": {m["weights_id"] for m in provenance["models"].values()},
        "manifest_id": {s["manifest_id"] for s in provenance["subsets"].values()},
    }
    keep = pd.Series(data=True, index=frame.index)
    for column, ids in wanted.items():
        keep &= frame[column].isin(ids)
    return frame[keep].reset_index(drop=True)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block succeeds it is moved into place, else it is removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise BenchError(f"Cannot write to {path.parent} ({error.strerror}); choose another --out.") from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise BenchError(f"Cannot write {path} ({error.strerror}); free some space or choose another --out.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    with replaced_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write records atomically, in the schema's order and types.

    zstd with byte-stream-split vectors: the same bytes for the same rows, and about half the size of plain encoding.
    """
    table = pa.Table.from_pandas(frame[SCHEMA.names], schema=SCHEMA, preserve_index=False).replace_schema_metadata()
    with replaced_file(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=9,
            use_dictionary=[c for c in SCHEMA.names if c not in ("value", "vector")],
            column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"},
        )

"""Records of what an image showed before: they leave `records/`, so that every row there counts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from bench.errors import state_assumption
from bench.records.current_rows import find_replaced
from bench.records.damaged_files import keep_aside
from bench.records.item_table import ItemTable
from bench.records.store import read_part, write_parquet
from bench.sealed_parquet import read_sealed_table, write_sealed_table
from bench.seals import DamagedFileError

FOLDER = "replaced"
"""Where such records are kept, as parquet files of the suffix `.rows`."""

REMEDY = "its rows do not count, and the run goes on without them"


def set_aside_replaced(parts: list[Path], items: ItemTable) -> None:
    """Move the rows of earlier contents out of the parts of a run folder.

    They are written first and taken out then, so that a killed process loses none.
    """
    for part in parts:
        frame = read_part(part)
        replaced = find_replaced(frame, items)
        if not replaced.any():
            continue
        _write_rows(part.parent.parent / FOLDER / f"{part.stem}.rows", frame[replaced])
        kept = frame[~replaced]
        if len(kept):
            write_parquet(part, kept)
        else:
            part.unlink()


def _write_rows(file: Path, rows: pd.DataFrame) -> None:
    """Write rows behind those that the file has."""
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
    if file.is_file():
        try:
            before = read_sealed_table(file, "The file of earlier records", REMEDY)
            table = pa.concat_tables([before, table], promote_options="permissive")
        except DamagedFileError as error:  # nothing counts these rows: kept, and begun anew
            state_assumption(f"{error} It is kept as {keep_aside(file)}.")
    write_sealed_table(file, table, compression="zstd")

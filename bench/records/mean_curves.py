"""Mean curves of a published board: each method's, in place of the curves of every image.

`curves.parquet` beside `records.parquet` holds a row for each network (and "overall"), method and
curve. run.json then has `IMAGE_CURVES`: the items whose own curves the records still hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.errors import BenchError
from bench.sealed_parquet import check_columns, read_sealed_table, write_sealed_table

CURVES_FILE = "curves.parquet"
MEAN_CURVES = "mean_curves"
"""Key of the provenance in memory: the rows of the file. run.json never holds it."""

IMAGE_CURVES = "image_curves"
"""Key of run.json: {model: items whose own curves are kept}; absent where all are."""

NOT_KEPT = (
    "The published board keeps each method's mean curve, and the curves of {n} images; for "
    "those of every image, run the commands in its run.json again"
)
"""What a reader of curves of single images is told; n: images with a curve."""

SCHEMA = pa.schema(
    [
        ("subset", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("metric", pa.string()),
        ("n", pa.int32()),
        ("mean", pa.list_(pa.float32())),
        ("low", pa.list_(pa.float32())),
        ("high", pa.list_(pa.float32())),
    ]
)
"""The columns of the file: n items, and the mean curve with the ends of its 95 % intervals."""

REMEDY = "restore it from a copy, or publish the board's run again"


def has_image_curves(provenance: Mapping[str, Any]) -> bool:
    """Tell whether records hold the curves of every image."""
    return IMAGE_CURVES not in provenance


def describe_kept(provenance: Mapping[str, Any]) -> str:
    """Return the sentence on what a published board keeps of curves, without its full stop."""
    items = {item for kept in provenance[IMAGE_CURVES].values() for item in kept}
    return NOT_KEPT.format(n=len(items))


def write_mean_curves(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the mean curves of a board."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
    names = ["subset", "model", "method", "metric", "n"]
    write_sealed_table(
        folder / CURVES_FILE, table, compression="zstd", compression_level=19, use_dictionary=names
    )


def read_mean_curves(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"mean_curves": rows} of a board without the curves of every image, else {}.

    Raises:
        BenchError: run.json names such a file, and it is not there, or is damaged.
    """
    if has_image_curves(provenance):
        return {}
    file = folder / CURVES_FILE
    if not file.is_file():
        raise BenchError(f"{folder} has no {CURVES_FILE}, which its run.json names; {REMEDY}.")
    table = read_sealed_table(file, "The file of mean curves", REMEDY)
    where = f"The file of mean curves {file}"
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        raise BenchError(f"{where} has no column {missing[0]}; {REMEDY}.")
    check_columns(table, SCHEMA, where, REMEDY)
    return {MEAN_CURVES: table.to_pylist()}

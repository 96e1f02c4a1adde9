"""The items of a run folder: which content each has now, in `items.parquet` beside run.json.

A record that names its item's content (`item_id`) counts while the table names the same. So a
folder may hold records of an image's earlier pixels: they are kept and not counted. The digest and
the stamp of each file spare the next run the reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.sealed_parquet import check_columns, read_sealed_table, write_sealed_table

ITEMS = "items.parquet"
"""The table's file in a run folder."""

ItemKey = tuple[str, str, str]
"""(subset, part, item)."""


class KnownItem(NamedTuple):
    """What a run folder knows of an item.

    identity: of what it holds now, "" for an item that the subset has no more.  file, stamp: the
    digest of its file, and what proves it (`bench.types.ItemContent`).  changed: it held something
    else before, so records that name no content do not count.
    """

    identity: str
    file: str
    stamp: str
    changed: bool = False


ItemTable = dict[ItemKey, KnownItem]
"""What a run folder knows of its items."""

GONE = KnownItem("", "", "", changed=True)
"""An item that is no longer in its subset."""

_COLUMNS = ("subset", "part", "item", "item_id", "file", "stamp")


def _make_schema() -> Any:
    import pyarrow as pa

    return pa.schema([*((name, pa.string()) for name in _COLUMNS), ("changed", pa.bool_())])


def read_items(folder: Path) -> ItemTable:
    """Return the items of a run folder; a folder without the table knows none."""
    file = folder / ITEMS
    if not file.is_file():
        return {}
    schema = _make_schema()
    what, remedy = "The table of items", "start the run again, which looks at each image anew"
    table = read_sealed_table(file, what, remedy, schema.names)
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise BenchError(f"{what} {file} has no column {missing[0]}; delete it and {remedy}.")
    check_columns(table, schema, f"{what} {file}", f"delete it and {remedy}")
    rows = zip(*(table[name].to_pylist() for name in schema.names), strict=True)
    return {(subset, part, item): KnownItem(*known) for subset, part, item, *known in rows}


def write_items(folder: Path, items: ItemTable) -> None:
    """Write the items of a run folder atomically; an empty table leaves no file."""
    if not items:
        (folder / ITEMS).unlink(missing_ok=True)
        return
    import pyarrow as pa

    schema = _make_schema()
    rows = [(*key, *known) for key, known in sorted(items.items())]
    columns = [list(column) for column in zip(*rows, strict=True)]
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
    write_sealed_table(folder / ITEMS, table, compression="zstd", use_dictionary=["subset", "part"])

"""Parquet files of records, items and baselines: sealed when written, verified when read.

Every page has a checksum, and the whole file has one in its footer (`bench.seals`), which also
covers the headers, the footer and its metadata.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import BenchError, take_first_line
from bench.file_contents import read_bytes
from bench.files import replaced_file
from bench.seals import (
    BLANK,
    PARQUET_MARK,
    DamagedFileError,
    describe_damage,
    is_content_damaged,
    seal_content,
)
from bench.size_limits import check_parquet

_KEY = PARQUET_MARK[:-2].decode()


def write_sealed_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a table atomically with its checksums: the same bytes for the same table.

    options: of `pyarrow.parquet.ParquetWriter`, such as the compression.
    """
    with replaced_file(path) as temporary:
        with pq.ParquetWriter(
            temporary, table.schema, write_page_checksum=True, **options
        ) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({_KEY: BLANK})
        temporary.write_bytes(seal_content(temporary.read_bytes(), PARQUET_MARK))


def read_sealed_table(
    path: Path, what: str, remedy: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a table, or some of its columns, and verify every checksum that the file has.

    Args:
        path: the file.
        what: names it at the start of a sentence, such as "The records file".
        remedy: what to do where it is damaged, as the end of a sentence.
        columns: those to read; None reads all. A column that is not there is left out.

    Raises:
        DamagedFileError: the bytes are not those that were written, or are no parquet file.
        BenchError: the file cannot be opened.
    """
    content = read_bytes(path, what.removeprefix("The "))
    if _is_damaged(content):
        raise DamagedFileError(path, describe_damage(f"{what} {path}", remedy))
    try:
        check_parquet(path, what)
        with pq.ParquetFile(
            pa.BufferReader(content), page_checksum_verification=True
        ) as part:  # a third of the time of `read_table`, which parts are too small for
            table = part.read(columns=None if columns is None else list(columns), use_threads=False)
            table.validate(full=True)  # of text that is no UTF-8, above all
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise DamagedFileError(
            path, f"{what} {path} cannot be read ({take_first_line(error)}); {remedy}."
        ) from None
    return table.replace_schema_metadata(
        {key: told for key, told in (table.schema.metadata or {}).items() if key != _KEY.encode()}
    )


def _is_damaged(content: bytes) -> bool:
    """Tell whether a file has a seal of its own that does not fit its bytes.

    A program that reads a sealed file with pyarrow and writes it anew copies the seal, together
    with the whole schema: such a file has none of its own.
    """
    if not is_content_damaged(content, PARQUET_MARK):
        return False
    try:
        told = pq.read_metadata(pa.BufferReader(content)).metadata or {}
        return _KEY.encode() not in base64.b64decode(told.get(b"ARROW:schema", b""))
    except (pa.ArrowException, OSError, ValueError):
        return True


def verify_table(path: Path, what: str, remedy: str) -> None:
    """Verify a file as `read_sealed_table` does; of a sealed one only its digest is computed."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""  # reading says why
    if PARQUET_MARK not in content or _is_damaged(content):
        read_sealed_table(path, what, remedy)


def check_columns(table: pa.Table, schema: pa.Schema, where: str, remedy: str) -> None:
    """Refuse a table that has a column of another type than the schema's.

    where: names the file at the start of a sentence.  remedy: what to do, as its end.
    """
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name in table.column_names and not _is_same_kind(table.schema.field(name).type, kind):
            found = table.schema.field(name).type
            raise BenchError(f"{where} has {found} in its column {name}, not {kind}; {remedy}.")


def _is_same_kind(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Tell whether values of a type are read as those of another: text, list, whole or real
    numbers; a column of nothing but nulls fits any.
    """
    kinds = (
        lambda one: pa.types.is_string(one) or pa.types.is_large_string(one),
        lambda one: pa.types.is_list(one) or pa.types.is_large_list(one),
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
    )
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_null(found):
        return True
    if found != wanted and pa.types.is_nested(wanted):
        same = any(kind(found) and kind(wanted) for kind in kinds)
        return same and _is_same_kind(found.value_type, wanted.value_type)
    return any(kind(found) and kind(wanted) for kind in kinds)

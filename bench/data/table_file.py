"""A table in a text file, as spreadsheets, pandas and annotation tools leave it.

The separator is a comma, semicolon, tab or bar; the text is UTF-8 or UTF-16. Names of columns are
compared without capitals, spaces and underscores.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.size_limits import check_text_size

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
_ALIASES = {
    "file": ("filename", "filepath", "path", "image", "imagepath", "imagefile", "imagename", "img"),
    "label": ("class", "classname", "classid", "category", "categoryid", "labelname", "target"),
}


MOST_COLUMNS = 1_000
"""A header with more is no table of images; reading a million columns takes hours."""


@dataclass(frozen=True)
class TableFile:
    """The cells of a table as text, without the spaces around them.

    Attributes:
        file: where it was read from.
        columns: names as the header has them.
        rows: one text per column.
        lines: the line of the file in which each row ends.
    """

    file: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def place(self, i: int) -> str:
        """Return what row i is called in errors."""
        return f"line {self.lines[i]} of {self.file}"

    def column(self, name: str) -> list[str]:
        """Return the cells of a column, by the name that the header has."""
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


def column_key(name: str) -> str:
    """Return a column's name as it is compared.

    >>> column_key(" X_Min")
    'xmin'
    """
    return re.sub(r"[\s_\-.]+", "", name.strip("\ufeff").casefold())


def find_column(columns: Sequence[str], wanted: str, where: str) -> str | None:
    """Return the column that is called `wanted`, or by one of its other names; None without one.

    Raises:
        BenchError: several columns could be it.
    """
    if len(columns) > MOST_COLUMNS:
        raise BenchError(
            f"{where} has {len(columns):,} columns; at most {MOST_COLUMNS:,} are read, so leave "
            "those out that no image needs."
        )
    keys = {column: column_key(column) for column in columns}
    for names in ((column_key(wanted),), _ALIASES.get(wanted, ())):
        found = [column for column, key in keys.items() if key in names]
        if len(found) > 1 or sum(column in found for column in columns) > 1:
            raise BenchError(
                f"{where} has several columns that may be the {wanted} "
                f"({', '.join(map(repr, found))}); leave one, called {wanted}."
            )
        if found:
            return found[0]
    return None


def read_table(file: Path) -> TableFile:
    """Return the table of a file.

    Raises:
        BenchError: it cannot be read as text, has no columns for file and label, or a row has more
            cells than columns.
    """
    text = _read_text(file)
    separator, text = _find_separator(file, text)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    columns: tuple[str, ...] = ()
    rows, lines = [], []
    try:
        for row in reader:
            cells = tuple(cell.strip() for cell in row)
            if not any(cells):
                continue
            if not columns:
                columns = cells
                continue
            rows.append(_fit_row(cells, columns, f"Line {reader.line_num} of {file}"))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise BenchError(
            f"The table {file} cannot be read as CSV near line {reader.line_num} ({error}); mend "
            "its quotes."
        ) from error
    _check_columns(file, columns, separator)
    if not rows:
        raise BenchError(f"The table {file} has no rows; the subset is empty.")
    return TableFile(file, columns, tuple(rows), tuple(lines))


def _read_text(file: Path) -> str:
    check_text_size(file, "The table")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BenchError(f"The table {file} cannot be read ({error.strerror}).") from error
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise BenchError(f"The table {file} is a spreadsheet; export it as CSV in UTF-8.")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:4]:
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line, wanted = (
            content[: error.start].count(b"\n") + 1,
            encoding.removesuffix("-sig").upper(),
        )
        raise BenchError(
            f"The table {file} is not {wanted}, from line {line} on; save it as UTF-8."
        ) from error


def _find_separator(file: Path, text: str) -> tuple[str, str]:
    """Return the separator, and the text from its header on."""
    stated = re.match(r"\s*\"?sep=(.)\"?\s*?\r?\n", text)
    if stated is not None and stated[1] in _SEPARATORS:
        # Excel's own line; its empty stand-in keeps the numbers of the lines.
        return stated[1], "\n" + text[stated.end() :]
    header = next((line for line in text.splitlines() if line.strip()), "")
    columns = max(map(header.count, _SEPARATORS)) + 1
    if columns > MOST_COLUMNS:
        raise BenchError(
            f"The table {file} has {columns:,} columns; at most {MOST_COLUMNS:,} are read, so "
            "leave those out that no image needs."
        )
    best = max(_SEPARATORS, key=lambda one: (_count_known(header, one), header.count(one)))
    return best, text


def _count_known(header: str, separator: str) -> int:
    keys = {column_key(cell.strip().strip('"')) for cell in header.split(separator)}
    return sum(bool(keys.intersection((name, *other))) for name, other in _ALIASES.items())


def _fit_row(cells: tuple[str, ...], columns: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Return a row with one cell for each column; missing cells at its end are empty."""
    if any(cells[len(columns) :]):
        raise BenchError(
            f"{where} has {len(cells)} cells, and the header has {len(columns)} columns; quote "
            "cells that hold the separator, or mend the header."
        )
    return (cells + ("",) * len(columns))[: len(columns)]


def _check_columns(file: Path, columns: tuple[str, ...], separator: str) -> None:
    missing = [name for name in _ALIASES if find_column(columns, name, f"The table {file}") is None]
    if missing:
        raise BenchError(
            f"The table {file} lacks the column {', '.join(missing)}; its first line names the "
            f"columns, and says {', '.join(columns) or 'nothing'} "
            f"(separator: {_SEPARATORS[separator]})."
        )

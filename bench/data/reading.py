"""How a subset's files were read: what the commands print before a run and keep in run.json."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.data.inner_paths import refuse_outside


class Note(NamedTuple):
    """A sentence about how a subset was read.

    Attributes:
        text: the sentence.
        caution: something may be wrong, and the commands print it as a warning.
    """

    text: str
    caution: bool = False


@dataclass(frozen=True)
class RowFiles:
    """Where the rows of a data set of several files stand: the first row of each file."""

    files: tuple[str, ...]
    starts: tuple[int, ...]

    def place(self, row: int) -> str:
        """Return what a row is called in errors: its number in its own file, from 1."""
        i = bisect.bisect_right(self.starts, row) - 1
        return f"row {row - self.starts[i] + 1} of {self.files[i]}"

    @property
    def folder(self) -> str:
        """Return the folder of the first file."""
        return str(Path(self.files[0]).absolute().parent)

    def locate(self, path: str) -> Path:
        """Return the file of a path that stands in the table, relative to the table's folder.

        Raises BenchError where it lies elsewhere.
        """
        root = Path(self.folder)
        file = root / path
        refuse_outside([file], root, f"The table {self.files[0]}")
        return file


@dataclass(frozen=True)
class Reading:
    """How the files of a subset were read.

    Attributes:
        notes: what was found and assumed.
        relative: boxes are fractions of the image's width and height.
        turned: images are turned by their EXIF orientation.
        rows: the files of the data set's rows, where images lie in tables.
    """

    notes: tuple[Note, ...] = ()
    relative: bool = False
    turned: bool = False
    rows: RowFiles | None = None

"""The log of forwards: what each part of a run's records has cost, so that no kill loses it.

A line stands in `forwards.csv` before its part is written. A part that is written again under the
same name replaces its line. A last line that a kill has cut is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.errors import BenchError
from bench.files import append_text
from bench.records.forward_counts import FIELDS, add_forwards

FORWARDS = "forwards.csv"
"""The log's file in a run folder."""

EARLIER = "earlier"
"""The line of what a folder of before the log had counted."""


class ForwardLog:
    """The forwards of a folder's parts, or of the tasks in memory (folder None)."""

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / FORWARDS
        self._parts: dict[str, dict[str, int]] | None = None

    @property
    def parts(self) -> dict[str, dict[str, int]]:
        """Return {part: its ledger}."""
        if self._parts is None:
            self._parts = {} if self.file is None else _read_log(self.file)
        return self._parts

    def begin(self, earlier: Mapping[str, int] | None) -> None:
        """Take over what run.json had counted before there was a log."""
        if earlier and not self.parts:
            self.note(EARLIER, earlier)

    def note(self, part: str, ledger: Mapping[str, int] | None) -> None:
        """Note what a part has cost, before the part is written; None is not known."""
        if ledger is None:
            return
        self.parts[part] = add_forwards(ledger, None)
        if self.file is None:
            return
        line = ",".join([part, *(str(self.parts[part][name]) for name in FIELDS)])
        append_text(self.file, f"{_find_lacking(self.file)}{line}\n")

    def total(self) -> dict[str, int]:
        """Return the sum of all parts."""
        total: dict[str, int] = add_forwards(None, None)
        for ledger in self.parts.values():
            total = add_forwards(total, ledger)
        return total


def _find_lacking(file: Path) -> str:
    """Return what stands before the next line: the header, or the end of a line that a kill cut."""
    if not file.is_file() or not file.stat().st_size:
        return f"{','.join(('part', *FIELDS))}\n"
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        return "" if stream.read(1) == b"\n" else "\n"


def _read_log(file: Path) -> dict[str, dict[str, int]]:
    """Return {part: ledger} of a log; lines that are not whole are left out."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    except OSError as error:
        raise BenchError(
            f"The log of forwards {file} cannot be read ({error.strerror}); delete it."
        ) from None
    found = {}
    whole, _, _ = text.rpartition("\n")
    for part, *numbers in (line.rsplit(",", len(FIELDS)) for line in whole.splitlines()):
        if len(numbers) == len(FIELDS) and all(number.isdecimal() for number in numbers):
            found[part] = dict(zip(FIELDS, map(int, numbers), strict=True))
    return found

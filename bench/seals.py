"""Seals: a file carries the sha256 of its own bytes, so that one flipped bit is found.

The digest lies inside the file. Writing stays one atomic step, and no kill can part the two. A file
of a known layout has a mark and 64 hex digits in it; the digest is over all bytes with zeros in
place of these digits. Other files carry a trailer behind their end, which their readers pass over.
What carries no seal was written before seals, or by another program: it reads as it always did.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from bench.errors import BenchError
from bench.file_contents import refuse_pipe

PARQUET_MARK = b"cambench-sha256\x18@"
"""Key of the seal in a parquet footer, with the two bytes of Thrift before its value."""

JSON_MARK = b'\n "sha256": "'
"""The line of the seal in a JSON file that is written with an indent of one.

A file that another program has written anew lacks this layout, and with it the seal.
"""

TRAILER_MARK = b"\ncambench-sha256:"
"""Begins the trailer, which ends with the digits and a line feed."""

BLANK = "0" * 64
"""Stands in place of the digest while it is computed."""

_HEX = re.compile(rb"[0-9a-f]{64}")
_TRAILER_BYTES = len(TRAILER_MARK) + len(BLANK) + 1
_CHUNK = 1 << 20


class DamagedFileError(BenchError):
    """A file whose bytes are not those that were written; `path` is the file."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, str(self))


def seal_content(content: bytes, mark: bytes) -> bytes:
    """Return a file's bytes, which hold `mark` and `BLANK`, with the digest in place of `BLANK`."""
    at = content.rindex(mark) + len(mark)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:at] + digest + content[at + len(BLANK) :]


def is_content_damaged(content: bytes, mark: bytes) -> bool:
    """Tell whether a file's bytes carry a seal that is not theirs; without a seal nothing is
    known.
    """
    found = content.rfind(mark)
    at = found + len(mark)
    told = content[at : at + len(BLANK)]
    if found < 0:
        return False
    blank = content[:at] + BLANK.encode() + content[at + len(BLANK) :]
    return hashlib.sha256(blank).hexdigest().encode() != told


def add_trailer(path: Path) -> None:
    """Append the digest of a file to it; readers of zip archives and PNG pass over what follows the
    end.
    """
    digest = _hash_file(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(TRAILER_MARK + digest + b"\n")


def is_file_damaged(path: Path) -> bool:
    """Tell whether a file has a trailer that is not its own; without a trailer nothing is known."""
    size = path.stat().st_size - _TRAILER_BYTES
    if size < 0:
        return False
    with path.open("rb") as file:
        file.seek(size)
        trailer = file.read()
    told = trailer[len(TRAILER_MARK) : -1]
    if not trailer.startswith(TRAILER_MARK):
        return _is_nearly_trailer(trailer)
    return _hash_file(path, size) != told


def _is_nearly_trailer(trailer: bytes) -> bool:
    """Tell whether bytes are a trailer whose mark is damaged."""
    beginning = trailer[: len(TRAILER_MARK)]
    same = sum(a == b for a, b in zip(beginning, TRAILER_MARK, strict=True))
    return same >= len(TRAILER_MARK) // 2 and _HEX.fullmatch(trailer[-65:-1]) is not None


def check_file(path: Path, what: str, remedy: str) -> None:
    """Refuse a file whose trailer is not its own.

    Args:
        path: the file.
        what: names it at the start of the sentence, such as "The checkpoint".
        remedy: what to do, as the end of the sentence.

    Raises:
        DamagedFileError: the file is damaged.
    """
    refuse_pipe(path, what.removeprefix("The "))
    if is_file_damaged(path):
        raise DamagedFileError(path, describe_damage(f"{what} {path}", remedy))


def describe_damage(what: str, remedy: str) -> str:
    """Return the sentence of a file whose seal is not its own."""
    return f"{what} is damaged: it does not have the checksum it was written with; {remedy}."


def _hash_file(path: Path, size: int) -> bytes:
    """Return the sha256 of the first `size` bytes of a file, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest().encode()

"""JSON files that the commands keep their state in, such as run.json: sealed, and read with care.

A file of any content gives its object or one sentence: bytes that are no text, numbers of thousands
of digits and objects that nest without end are refused before anything works with them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import BenchError, take_first_line
from bench.file_contents import read_bytes
from bench.files import replaced_file
from bench.seals import (
    BLANK,
    JSON_MARK,
    DamagedFileError,
    describe_damage,
    is_content_damaged,
    seal_content,
)

SEAL = "sha256"
"""The key of a file's own digest; no content has it."""

DEEPEST = 64
"""Levels that objects and lists may nest; what the commands write has twelve at most."""

LARGEST = 2**63
"""Whole numbers stay below this, as in the columns of records."""

_NEARLY_MARK = re.compile(rb'\n "[^"]{4,8}": "[0-9a-f]{64}"')
"""The line of a seal whose key is damaged: no other top value is a bare digest."""


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as JSON atomically, with the digest of the file under its key `sha256`."""
    text = json.dumps({**value, SEAL: BLANK}, indent=1, sort_keys=True, default=str) + "\n"
    with replaced_file(path) as temporary:
        temporary.write_bytes(seal_content(text.encode(), JSON_MARK))


def read_json_state(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object of a JSON file, without its seal.

    Args:
        path: the file.
        remedy: what to do where it is damaged or no such file, as the end of a sentence.

    Raises:
        DamagedFileError: the bytes are not those that were written.
        BenchError: the file cannot be opened, or holds no JSON object.
    """
    content = read_bytes(path, "file")
    broken = JSON_MARK not in content and _NEARLY_MARK.search(content) is not None
    if broken or is_content_damaged(content, JSON_MARK):
        edited = 'if you edited it, delete its line "sha256"; else '
        raise DamagedFileError(path, describe_damage(str(path), edited + remedy))
    value = parse_object(content, str(path), remedy)
    value.pop(SEAL, None)
    return value


def parse_object(content: bytes, where: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object in a file's bytes.

    where: names the file at the start of a sentence.  remedy: what to do where it is none, as the
    end of a sentence.
    """

    def refuse(reason: str) -> NoReturn:
        raise BenchError(f"{where} {reason}; {remedy}.") from None

    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        refuse("is not valid JSON, since it is no text in UTF-8")
    except RecursionError:
        refuse(f"nests deeper than {DEEPEST} levels")
    except ValueError as error:
        refuse(f"is not valid JSON ({take_first_line(error)})")
    if not isinstance(value, dict):
        refuse("holds no JSON object")
    _check_extent(value, refuse)
    return value


def _check_extent(value: dict[str, Any], refuse: Any) -> None:
    """Refuse an object that nests too deeply, or holds a number that no column could."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if any(isinstance(one, int) and abs(one) >= LARGEST for one in level):
            refuse("holds a number of more than 18 digits")
        if not level:
            return
    refuse(f"nests deeper than {DEEPEST} levels")

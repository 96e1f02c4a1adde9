"""The content of a file that somebody has given, or one sentence that says why it cannot be had."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from bench.errors import BenchError, take_first_line

RIGHTS = "check the path and its permissions"
"""What to do about most files."""


def check_plain_file(path: Path, what: str, advice: str = RIGHTS) -> None:
    """Refuse what is no plain file that can be read: reading a pipe or a device may never end.

    Args:
        path: The file.
        what: What a reader calls it, such as "card file".
        advice: What to do about it.

    Raises:
        BenchError: It is absent, no plain file, or may not be read.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise BenchError(_describe(path, what, error, advice)) from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise BenchError(f"The {what} {path} is {kind}, which cannot be read as a file; {advice}.")
    if not os.access(path, os.R_OK):
        raise BenchError(f"The {what} {path} cannot be read (Permission denied); {advice}.")


def refuse_pipe(path: Path, what: str) -> None:
    """Refuse a pipe or a device, which a reader may wait for without an end; anything else passes.

    Raises: BenchError.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever reads it says why that fails
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BenchError(f"The {what} {path} is a pipe or a device; give the path of a file.")


def _describe(path: Path, what: str, error: Exception, advice: str) -> str:
    reason = getattr(error, "strerror", None) or take_first_line(error)
    return f"The {what} {path} cannot be read ({reason}); {advice}."


def read_bytes(path: Path, what: str, advice: str = RIGHTS) -> bytes:
    """Return the bytes of a file.

    Raises: BenchError where it is no plain file or cannot be read (see `check_plain_file`).
    """
    check_plain_file(path, what, advice)
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise BenchError(_describe(path, what, error, advice)) from None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, what: str, advice: str = RIGHTS) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises: BenchError where it is no plain file, cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path, what, advice).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BenchError(f"The {what} {path} is not text in UTF-8; {advice}.") from None


def read_json(path: Path, what: str, advice: str = RIGHTS) -> Any:
    """Return the content of a JSON file.

    Raises: BenchError where it cannot be read (see `read_text`) or is not JSON.
    """
    text = read_text(path, what, advice)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = take_first_line(error)
        raise BenchError(f"The {what} {path} is not valid JSON ({reason}); {advice}.") from None


def list_files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a folder whose names end in `suffix`, in order; hidden ones are none.

    A folder that is not there holds none.

    Raises: BenchError where the folder cannot be listed: what is in it must not pass for absent.
    """
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise BenchError(f"The folder {folder} cannot be read ({reason}); {RIGHTS}.") from None
    return [folder / name for name in sorted(names) if name.endswith(suffix) and name[0] != "."]

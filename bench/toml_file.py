"""TOML files that a user wrote: read within the size limit, refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.schema import parse_toml
from bench.size_limits import check_text_size


def read_toml(file: Path, what: str, advice: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        file: The file.
        what: What it is, such as "The manifest"; errors begin with it.
        advice: What to do where it cannot be read, without a full stop.

    Raises:
        BenchError: It is too large, cannot be read, or is not valid TOML.
    """
    check_text_size(file, what)
    try:
        return parse_toml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BenchError(f"{what} {file} cannot be read ({error.strerror}); {advice}.") from error
    except ValueError as error:
        raise BenchError(f"{what} {file} is not valid TOML: {error}.") from error

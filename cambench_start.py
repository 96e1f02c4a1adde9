"""The start of the command `cambench`: it checks that the package `bench` is ours.

The name `bench` is short, so another project may have a module of that name. Where Python finds
that one first (PYTHONPATH, site-packages), the command names its file and ends with exit code 2.

This module stands beside the package: inside it, the other module would be found in its place.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

MARK = '"""cambench:'
"""Start of `bench/__init__.py`."""

FAILED = 2
"""The exit code; `bench.cli` cannot be asked for it yet."""


def main() -> NoReturn:
    """Run the command line, or end with exit code 2 where `bench` is somebody else's module."""
    place = find_stranger()
    if place is not None:
        sys.stderr.write(f"{describe_stranger(place)}\n")
        sys.exit(FAILED)
    from bench.cli import main as run

    run()


def find_stranger() -> Path | None:
    """Return the file or folder that Python takes for `bench`, or None where it is cambench's."""
    try:
        spec = importlib.util.find_spec("bench")
    except ValueError:  # the module is loaded already, and its maker gave it no spec
        spec = None
    if spec is None:
        return Path(__file__).parent / "bench"
    places = list(spec.submodule_search_locations or ())
    if spec.origin is None:  # a folder without __init__.py
        return Path(places[0]) if places else Path(__file__).parent / "bench"
    file = Path(spec.origin)
    try:
        start = file.read_bytes()[: len(MARK)]
    except OSError:
        return file
    return None if start == MARK.encode() else file


def describe_stranger(place: Path) -> str:
    """Return the sentence that names the other module and the way out.

    Args:
        place: The file or folder that Python takes for `bench`.

    Returns:
        One sentence.

    Example:
        >>> describe_stranger(Path("bench.py"))  # doctest: +ELLIPSIS
        'cambench cannot start: its package is called bench, and Python finds bench.py instead; ...'
    """
    if not place.exists():
        return f"cambench cannot start: its package bench is missing ({place}); install it again."
    return (
        f"cambench cannot start: its package is called bench, and Python finds {place} instead; "
        "rename that, or take its folder out of PYTHONPATH (or its project out of this "
        "environment)."
    )


if __name__ == "__main__":
    main()

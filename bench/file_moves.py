"""Move a finished file into its place, also where somebody is reading the file that lies there.

POSIX lets a file be replaced while it is open. Windows refuses, and a reader, an indexer or a virus
scanner holds a file for a moment at any time.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.errors import BenchError

PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between two tries: most readers hold a file for less than their sum."""


def move_into_place(temporary: Path, path: Path) -> None:
    """Move a file over another one; wait a little for whoever holds that one open.

    Args:
        temporary: The finished file, in the folder of `path`.
        path: Where it belongs.

    Raises:
        BenchError: The file stayed locked; `temporary` still lies where it was.
        OSError: The file system refuses for another reason.
    """
    for pause in (*PAUSES, None):
        try:
            temporary.replace(path)
        except PermissionError as error:
            if pause is None:
                raise BenchError(
                    f"Cannot replace {path} ({error.strerror}): another program may hold it open; "
                    "close that program and start the same command again."
                ) from None
            time.sleep(pause)
        else:
            return

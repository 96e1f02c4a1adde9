"""Folders that are costly to make, made once for all workers of pytest-xdist.

Workers share the tests of a module, and each would set up the module's fixtures anew. One worker
makes the folder, behind a lock; each takes a copy of its own, so that no test sees another's
changes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def copy_shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a copy of a folder that one worker of this session made.

    Args:
        factory: pytest's.
        name: Of the folder; unique over all tests.
        make: Makes it: writes files below the path that it is given.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = root / f"shared-{name}"
    with FileLock(root / f"shared-{name}.lock"):
        if not made.exists():
            unfinished = root / f"unfinished-{name}"
            shutil.rmtree(unfinished, ignore_errors=True)  # of a fixture that failed
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(made)
    copy = factory.mktemp(name) / name
    shutil.copytree(made, copy)
    return copy

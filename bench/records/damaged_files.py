"""Damaged files of a run folder: named and kept aside, so that the run computes their content
anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.records.item_table import ITEMS, read_items
from bench.records.store import REMEDY, Store
from bench.sealed_parquet import verify_table
from bench.seals import DamagedFileError

DAMAGED = "damaged"
"""The folder, in a run folder, of files that were damaged; nothing reads it."""


def set_damaged_aside(store: Store) -> Iterator[str]:
    """Move the damaged records and items of a run folder into its folder `damaged`.

    The caller holds the folder's lock.

    Yields:
        A sentence for each file, once it is moved.
    """
    if store.folder is None:
        return
    store.provenance()  # where run.json is refused, everything stays in its place
    for part in store.parts:
        if kept := _move_damaged(part, partial(verify_table, part, "", REMEDY)):
            yield (
                f"The records file {part} is damaged and now lies in {kept.parent}; its records "
                "are computed anew, by this run or by the command that made them."
            )
    items = store.folder / ITEMS
    if items.is_file() and (kept := _move_damaged(items, partial(read_items, store.folder))):
        yield (
            f"The table of items {items} is damaged and now lies in {kept.parent}; the run looks "
            "at each image anew."
        )


def _move_damaged(file: Path, read: Callable[[], object]) -> Path | None:
    """Move a file aside where its reading finds it damaged; return its new path."""
    try:
        read()
    except DamagedFileError:
        return keep_aside(file)
    return None


def keep_aside(file: Path) -> Path:
    """Move a file of a run folder (or of a folder in it) into the folder `damaged` under a free
    name; return its new path.
    """
    root = file.parent if file.name == ITEMS else file.parent.parent
    folder = root / DAMAGED
    folder.mkdir(exist_ok=True)
    path, count = folder / file.name, 1
    while path.exists():
        count += 1
        path = folder / f"{file.name}.{count}"
    return file.rename(path)

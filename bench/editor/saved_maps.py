"""The maps of an editor's folder: what is saved, what was saved before, and what is damaged.

A person's drawing is never overwritten. The version before a save goes to `history/`, and so does
a file that cannot be read as a map, byte for byte, under the end `.damaged`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.subset import Subset
from bench.errors import BenchError
from bench.files import lock_folder
from bench.finetune.attention_maps import (
    EditedMap,
    check_origin,
    check_twice,
    load_map,
    make_edited_map,
    map_files,
    map_path,
    write_map,
)
from bench.models.explainee import Explainee

if TYPE_CHECKING:
    from filelock import BaseFileLock

HISTORY, DAMAGED = "history", ".damaged"


class SavedMaps:
    """The maps of one folder.

    facts: {item: facts of its map}.  damaged: {item: why its file cannot be read}.
    """

    def __init__(self, folder: Path, model: Explainee, subset: Subset) -> None:
        self.folder, self._model, self._subset = folder, model, subset
        self.facts: dict[str, dict[str, Any]] = {}
        self.damaged: dict[str, str] = {}
        own = {map_path(folder, item): item for item in subset.ids}
        maps = []
        for path in map_files(folder):
            try:
                maps.append(load_map(path))
            except BenchError as error:
                if path not in own:
                    raise
                self.damaged[own[path]] = str(error)
        check_twice(maps, folder)
        check_origin(maps, model, subset)
        self.facts = {one.item: one.facts for one in maps}

    def read(self, item: str) -> EditedMap | None:
        """Return the map of an item as it lies on disk now; None where there is none to read."""
        path = map_path(self.folder, item)
        edited = reason = None
        if os.path.lexists(path):
            try:
                edited = self._load(path, item)
            except BenchError as error:
                reason = str(error)
        _put(self.facts, item, None if edited is None else edited.facts)
        _put(self.damaged, item, reason)
        return edited

    def _load(self, path: Path, item: str) -> EditedMap:
        """Return the map in an item's file; a map of anything else is as little this item's as
        a damaged one.
        """
        edited = load_map(path)
        check_origin([edited], self._model, self._subset)
        if edited.item != item:
            raise BenchError(f"The attention map {path} is of {edited.item}, not of {item}.")
        return edited

    def write(self, item: str, edited: EditedMap) -> EditedMap:
        """Save a map, and return it; a damaged file in its place goes to the history before."""
        if item in self.damaged:
            edited = make_edited_map(edited.grey, edited.facts | {"set_aside": self._move(item)})
        write_map(map_path(self.folder, item), edited)
        self.facts[item] = edited.facts
        self.damaged.pop(item, None)
        return edited

    def keep(self, edited: EditedMap, word: str = "") -> Path:
        """Write a map into the history under a name that nothing has."""
        stem = map_path(self.folder, edited.item).stem
        name = ".".join(part for part in (stem, f"r{edited.facts['revision']:04d}", word) if part)
        path = self._free_name(name, ".png")
        write_map(path, edited)
        return path

    def state(self, item: str) -> dict[str, Any]:
        """Return how far an item is: its saved revision (0: none), when and by whom."""
        facts = self.facts.get(item, {})
        return {
            "item": item,
            "revision": facts.get("revision", 0),
            "when": facts.get("when"),
            "source": facts.get("source"),
            "damaged": self.damaged.get(item),
        }

    def _move(self, item: str) -> str:
        """Move an item's file into the history as it is; it need not be readable for that."""
        path = map_path(self.folder, item)
        target = self._free_name(path.stem, DAMAGED)
        try:
            path.rename(target)
        except OSError as error:
            raise BenchError(
                f"The damaged file {path} cannot be moved to {target} ({error.strerror}), so "
                "nothing was saved; move it out of the folder and save again."
            ) from None
        return str(target.relative_to(self.folder))

    def _free_name(self, name: str, end: str) -> Path:
        """Return a path in the history that nothing has."""
        path, count = self.folder / HISTORY / f"{name}{end}", 1
        while os.path.lexists(path):
            count += 1
            path = self.folder / HISTORY / f"{name}-{count}{end}"
        return path


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set an entry in one step, since other threads read the table; None removes it."""
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def hold_folder(folder: Path) -> BaseFileLock:
    """Make the folder and its history, see that both can be written to, and take the folder for
    this editor.
    """
    try:
        (folder / HISTORY).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / HISTORY):
            pass
        advice = "go on there, close it, or choose another --out."
        return lock_folder(folder, f"The folder {folder} is open in another editor; {advice}")
    except OSError as error:
        raise BenchError(
            f"Maps cannot be saved in {folder} ({error.strerror}); choose another --out."
        ) from None

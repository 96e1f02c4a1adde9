"""The steps of drawings, kept on disk so that undo and redo survive a reload of the page.

`steps/ITEM.npz` of an editor's folder holds the maps that a drawing went through, and which of
them is shown. Training does not read it: what a person saves lies beside it as one PNG per item.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.file_contents import refuse_pipe
from bench.files import replaced_file
from bench.finetune.attention_maps import UNREADABLE, Grey, map_path

FOLDER = "steps"
MOST = 61
"""Maps that are kept of a drawing: sixty steps back."""
ASIDE = ".damaged"
SPARE_BYTES = 1 << 16
UNREADABLE_STEPS = (*UNREADABLE, BenchError, zipfile.BadZipFile, zlib.error, EOFError)
FACTS = ("place", "saved", "base", "version")


class StaleStepsError(Exception):
    """Another page has drawn on the image meanwhile, so its steps are not those of this page."""


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of one drawing.

    maps: uint8 [n,size,size], in the order they were drawn.  place: the one that is shown.
    saved: the one that equals the saved map (or the network's own, where none is saved); -1: none.
    base: revision that the drawing was begun from.  version: grows with every change.
    """

    maps: Grey
    place: int
    saved: int
    base: int
    version: int

    @property
    def facts(self) -> dict[str, int]:
        """Return what the page needs to go on."""
        numbers = {key: getattr(self, key) for key in FACTS}
        return numbers | {"count": len(self.maps)}


class DrawingSteps:
    """The steps of all drawings of an editor's folder.

    Args:
        folder: The editor's folder; steps lie in its folder `steps`.
        side: Pixels of a map's side.
        origin: What the maps are of (weights_id, manifest_id); steps of anything else are set
            aside.
    """

    def __init__(self, folder: Path, side: int, origin: dict[str, str]) -> None:
        self._folder, self._side, self._origin = folder / FOLDER, side, origin
        self._lock = threading.RLock()

    def read(self, item: str) -> Steps | None:
        """Return the steps of an item; None where there are none.

        A file that cannot be read is moved aside, so that nothing is written over it.
        """
        with self._lock:
            path = self._path(item)
            if not os.path.lexists(path):
                return None
            try:
                return self._load(path, item)
            except UNREADABLE_STEPS:
                self._set_aside(path)
                return None

    def is_unsaved(self, item: str) -> bool:
        """Return whether the drawing of an item has changes that were not saved."""
        path = self._path(item)
        if not path.is_file():
            return False
        try:
            with np.load(path, allow_pickle=False) as packed:  # which reads the maps only if asked
                facts = json.loads(packed["facts"].tobytes())
                return bool(facts["place"] != facts["saved"])
        except UNREADABLE_STEPS:
            return False  # `read` sets it aside

    def add(
        self, item: str, grey: Grey, *, keep: int, base: int, seen: int, saved: bool = False
    ) -> Steps:
        """Add a map behind the first `keep` ones, and show it.

        Args:
            item: Id of the item.
            grey: The map, uint8 [size,size].
            keep: Maps that stay; those behind them, which could be redone, go.
            base: Revision that the drawing was begun from.
            seen: Version that the page knows; 0: none.
            saved: The map equals the saved one.

        Raises:
            StaleStepsError: The steps have another version.
        """
        with self._lock:
            old = self._expect(item, seen)
            maps = np.concatenate([self._empty if old is None else old.maps[:keep], grey[None]])
            mark = -1 if old is None or old.saved >= keep else old.saved
            mark = len(maps) - 1 if saved else mark
            dropped = max(0, len(maps) - MOST)
            maps = maps[dropped:]
            place = len(maps) - 1
            return self._write(item, Steps(maps, place, max(-1, mark - dropped), base, seen + 1))

    def move(self, item: str, place: int, seen: int) -> Steps:
        """Show another map of the drawing: undo and redo.

        Raises:
            StaleStepsError: The steps have another version, or no such map.
        """
        with self._lock:
            old = self._expect(item, seen)
            if old is None or place >= len(old.maps):
                raise StaleStepsError
            return self._write(item, dataclasses.replace(old, place=place, version=seen + 1))

    def settle(self, item: str, grey: Grey, revision: int) -> None:
        """Note that a map was saved: a drawing that shows it has nothing unsaved."""
        with self._lock:
            old = self.read(item)
            if old is None:
                return
            if np.array_equal(old.maps[old.place], grey):
                self._write(item, dataclasses.replace(old, saved=old.place, base=revision))
            else:
                self._write(item, dataclasses.replace(old, saved=-1))

    def drop(self, item: str) -> None:
        """Forget the steps of an item."""
        with self._lock:
            self._path(item).unlink(missing_ok=True)

    @property
    def _empty(self) -> Grey:
        return np.empty((0, self._side, self._side), np.uint8)

    def _path(self, item: str) -> Path:
        return map_path(self._folder, item).with_suffix(".npz")

    def _expect(self, item: str, seen: int) -> Steps | None:
        old = self.read(item)
        if (0 if old is None else old.version) != seen:
            raise StaleStepsError
        return old

    def _load(self, path: Path, item: str) -> Steps:
        refuse_pipe(path, "file of drawing steps")
        with zipfile.ZipFile(path) as packed:  # an array may claim to be of any size
            most = MOST * self._side**2 + SPARE_BYTES
            if sum(member.file_size for member in packed.infolist()) > most:
                raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as packed:
            maps, facts = packed["maps"], json.loads(packed["facts"].tobytes())
        if facts["origin"] != {**self._origin, "item": item}:
            raise ValueError("it is of something else")
        return self._check(maps, {key: facts[key] for key in FACTS})

    def _check(self, maps: Any, numbers: dict[str, Any]) -> Steps:
        right = maps.dtype == np.uint8 and 0 < len(maps) <= MOST
        right = right and maps.shape[1:] == (self._side, self._side)
        right = right and all(type(one) is int for one in numbers.values())
        steps = Steps(maps, **numbers)
        right = right and 0 <= steps.place < len(maps) and -1 <= steps.saved < len(maps)
        if not (right and steps.base >= 0 and steps.version > 0):
            raise ValueError("impossible numbers")
        return steps

    def _write(self, item: str, steps: Steps) -> Steps:
        facts = {key: getattr(steps, key) for key in FACTS}
        text = json.dumps({**facts, "origin": {**self._origin, "item": item}}, sort_keys=True)
        facts_bytes = np.frombuffer(text.encode(), np.uint8)
        self._folder.mkdir(exist_ok=True)
        with replaced_file(self._path(item)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, maps=steps.maps, facts=facts_bytes)
        return steps

    def _set_aside(self, path: Path) -> None:
        target, count = path.with_name(path.name + ASIDE), 1
        while os.path.lexists(target):
            count += 1
            target = path.with_name(f"{path.name}-{count}{ASIDE}")
        path.rename(target)

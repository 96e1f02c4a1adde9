"""What a run learns of its items while it reads them: their contents, and which it left out."""

from __future__ import annotations

import time
from typing import Any

from bench.records.left_out import Skipped, declare_left_out, read_skipped, write_skipped
from bench.records.store import Store
from bench.run.cells import Outcome
from bench.run.item_check import StandingWork, note_content, write_images
from bench.run.plan import Plan, Task

WRITE_SECONDS = 60.0
"""How long a killed run may have gone on without the table: its images are then read once more."""


class ItemLedger:
    """The contents and the unreadable images of a run, kept in its folder.

    Args:
        plan: the run.  store: its records.  standing: what the folder held before.
    """

    def __init__(self, plan: Plan, store: Store, standing: StandingWork) -> None:
        self.subset, self.store, self.items = plan.subset.name, store, standing.items
        self.skipped = self._read_skipped(plan, standing)
        self._changed: set[str] = set()
        self._written = time.monotonic()

    def _read_skipped(self, plan: Plan, standing: StandingWork) -> Skipped:
        """Return the images that earlier runs left out, that are still there, and of whose present
        bytes there are no records: an image that was put back has some.
        """
        skipped = {} if self.store.folder is None else read_skipped(self.store.folder)
        there = {"eval": plan.subset, "calibration": plan.calibration or plan.subset}
        scored = {(key.subset, key.part, key.item) for key in standing.done}
        ids = {part: {*subset.source.ids} for part, subset in there.items()}
        return {
            key: reason
            for key, reason in skipped.items()
            if key[0] != self.subset or (key[2] in ids.get(key[1], ()) and key not in scored)
        }

    def take(self, task: Task, outcome: Outcome) -> None:
        """Note what a task has read, before its records are written."""
        for item, content in outcome.contents.items():
            key = (self.subset, task.part, item)
            if note_content(self.items, key, content):
                self._changed.add(item)
            self.skipped.pop(key, None)
        for item, reason in outcome.unreadable.items():
            key = (self.subset, task.part, item)
            self.skipped[key] = reason
            if key in self.items:  # records of what it held before do not count
                self.items[key] = self.items[key]._replace(identity="", changed=True)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()

    def notes(self) -> list[str]:
        """Return what a user should know of items that changed while the run read them."""
        if not self._changed:
            return []
        return [
            f"{write_images(sorted(self._changed))} changed while the run went on; start the same "
            "command again."
        ]

    def write(self) -> None:
        """Write the table of items."""
        self.store.write_items(self.items)
        self._written = time.monotonic()

    def close(self, provenance: dict[str, Any]) -> None:
        """Write everything, and declare in `provenance` what was left out."""
        self.write()
        if self.store.folder is not None:
            write_skipped(self.store.folder, self.skipped)
        declare_left_out(provenance, self.skipped)

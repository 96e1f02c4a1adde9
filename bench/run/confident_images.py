"""How sure networks are of the images of a subset: one pass, kept by content and resumed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.data import Geometry, Subset
from bench.data.grids import CONFIDENCE
from bench.engine.prober import Prober
from bench.errors import state_assumption
from bench.files import cache_folder, write_json
from bench.identity import digest
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network, leave_modes
from bench.work_stages import track

WRITE_SECONDS = 10.0
"""How much of a pass a killed process may lose."""

FORMAT = 1
"""Version of the files that keep a pass."""


@dataclass(frozen=True)
class Confidences:
    """What one pass of the networks over a subset says.

    Args:
        confident: positions in the source of the images that all networks are sure of.
        looked: the number of images.
        unreadable: the number of those that could not be read.
        forwards: forwards that this call has run; what was kept is not run again.
    """

    confident: list[int]
    looked: int
    unreadable: int
    forwards: int


def find_confident(subset: Subset, models: Sequence[Explainee], geometry: Geometry) -> Confidences:
    """Return the images of which every model is right with p > .9.

    Args:
        subset: The images, of which all are looked at.
        models: The networks, at their own size.
        geometry: The frame that they see.
    """
    sure, forwards = set(subset.positions), 0
    unreadable: set[int] = set()
    sizes = [len(subset)] * len(models)
    for model in track(models, lambda model: f"Looking at {subset.name} with {model.name}", sizes):
        passed = _Pass(subset, model, geometry)
        forwards += passed.run()
        sure &= {p for p in subset.positions if passed.probability(p) > CONFIDENCE}
        unreadable |= passed.unreadable
    positions = [p for p in subset.positions if p in sure]
    return Confidences(positions, len(subset), len(unreadable), forwards)


class _Pass:
    """One network's probabilities of the labels of a subset's images, kept in the cache folder."""

    def __init__(self, subset: Subset, model: Explainee, geometry: Geometry) -> None:
        self.subset, self.model, self.geometry = subset, model, geometry
        self.unreadable: set[int] = set()
        key = ["confidence", FORMAT, model.weights_id, subset.manifest_id, geometry.id]
        self.file = cache_folder() / "grids" / f"{digest(key)}.json"
        self.kept = _read_kept(self.file)

    def probability(self, position: int) -> float:
        """Return the probability of an image's label; 0 where the image could not be read."""
        if position in self.unreadable:
            return 0.0
        return float(self.kept[self.subset.source.ids[position]][1])

    def run(self) -> int:
        """Run the network on the images that are not kept; return the forwards."""
        prober, written = Prober(self.model), time.monotonic()
        waiting = [i for i in range(len(self.subset)) if not self._is_kept(i)]
        try:
            for start in track(range(0, len(waiting), prober.batch_size)):
                self._look_at(prober, waiting[start : start + prober.batch_size])
                if time.monotonic() - written > WRITE_SECONDS:
                    self._write()
                    written = time.monotonic()
        finally:
            if waiting:
                self._write()
        return prober.counts.forwards

    def _is_kept(self, i: int) -> bool:
        """Return whether the pass of an image is kept, of the content that it has now."""
        entry = self.kept.get(self.subset.ids[i])
        return entry is not None and entry[0] == self._identify(i)

    def _identify(self, i: int) -> str:
        content = self.subset.identify(i, self.geometry)
        label = int(self.subset.labels[i])
        return f"{label}" if content is None else f"{label} {content.identity}"

    def _look_at(self, prober: Prober, rows: list[int]) -> None:
        """Run the network on some images and keep the probabilities of their labels."""
        batch = self.subset.batch(rows, self.geometry, skip_unreadable=True)
        place = {item: row for row, item in enumerate(self.subset.ids)}
        lost = [place[item] for item, _ in batch.unreadable]
        self.unreadable |= {self.subset.positions[row] for row in lost}
        if not len(batch):
            return
        net, device = self.model.net, self.model.device
        with leave_modes(), guard_network(net), torch.inference_mode():
            logits = prober.logits(self.model.normalise(batch.pixels.to(device)))
        sure = logits.double().cpu().softmax(1)[torch.arange(len(batch)), batch.labels]
        for item, value in zip(batch.ids, sure.tolist(), strict=True):
            self.kept[item] = [self._identify(place[item]), value if math.isfinite(value) else 0.0]

    def _write(self) -> None:
        """Keep the pass; a folder that cannot be written costs the next run a pass, no more."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, self.kept)
        except OSError as error:
            state_assumption(
                f"How sure {self.model.name} is of the images cannot be kept in "
                f"{self.file.parent} ({error.strerror}); the next run looks at them again."
            )


def _read_kept(file: Path) -> dict[str, list[Any]]:
    """Return what an earlier pass has kept; a file that is broken is made anew."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        item: entry
        for item, entry in (kept.items() if isinstance(kept, dict) else ())
        if isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], float)
        and 0 <= entry[1] <= 1
    }

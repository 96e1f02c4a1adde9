"""The search for pastes that move one network's class; kept in the cache folder and resumed.

Attempts have a fixed order, and draw from their own seeds: attempt t takes source t mod S in round
t // S. They are judged in rounds of `TOGETHER`, after each of which the state is written. A search
that is stopped, or asked for more items, therefore goes on as if it had never stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.pasted import FramePool, Paste, bound_shares, keep_size, scale_box
from bench.engine.prober import Prober
from bench.errors import state_assumption
from bench.files import write_json
from bench.models.network_guard import guard_network, leave_modes
from bench.randomness import generator
from bench.types import UInt8Image
from bench.work_stages import open_stage

RISE = 0.5
"""A paste is kept if it raises the probability of its class by more than this."""
CONTROL = 0.1
"""... and if the control paste leaves that probability under this."""
USES = 3
"""Kept pastes of each source, and into each target, at most."""
TOGETHER = 20
"""Attempts that are planned and judged together."""
ROUNDS = 40
"""Attempts with each source at most."""
SCALED, OWN_SIZE = "scaled", "own size"
"""Boxes are rescaled to a share of the frame, or keep their size."""


@dataclass
class SearchState:
    """Where a search stands.

    Attributes:
        following: the number of the next attempt.
        tried: pastes that were shown to the network.
        moved: those that raised the probability of their class enough.
        succeeded: those of them whose control did not.
        kept: those of them that are items, in order.
        looked, sure, usable: photographs in the pool; those that the network is sure of; those of
            them that can be sources.
    """

    following: int = 0
    tried: int = 0
    moved: int = 0
    succeeded: int = 0
    kept: list[Paste] = field(default_factory=list)
    looked: int = 0
    sure: int = 0
    usable: int = 0

    @property
    def rate(self) -> float:
        """Return the share of pastes that succeeded; 0 before the first."""
        return self.succeeded / self.tried if self.tried else 0.0

    @classmethod
    def read(cls, file: Path) -> SearchState:
        """Return what an earlier search has kept; a file that is broken is made anew."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            kept = [Paste(**one) for one in content.pop("kept")]
            state = cls(**content, kept=kept)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls()
        return state if state.is_sound() else cls()

    def is_sound(self) -> bool:
        """Return whether all numbers are what a search writes."""
        counts = [self.following, self.tried, self.moved, self.succeeded]
        counts += [self.looked, self.sure, self.usable]
        if not all(type(one) is int and one >= 0 for one in counts):
            return False
        return len(self.kept) <= self.succeeded and all(map(_is_sound, self.kept))


def _is_sound(paste: Paste) -> bool:
    """Return whether the fields of a stored paste are numbers of their kinds."""
    values = dataclasses.astuple(paste)
    whole, chances = values[:8], values[8:]
    fit = all(type(one) is int and one >= 0 for one in whole)
    return fit and all(isinstance(one, float) and 0 <= one <= 1 for one in chances)


class PasteSearch:
    """The search in one pool of photographs, for one network and one way of sizing.

    Args:
        prober: Of the network.
        pool: The photographs.
        file: Where the state is kept.
        size: `SCALED` or `OWN_SIZE`.
    """

    def __init__(self, prober: Prober, pool: FramePool, file: Path, size: str) -> None:
        self.prober, self.pool, self.file, self.size = prober, pool, file, size
        self.state = SearchState.read(file)
        self.labels = pool.subset.labels
        self.sources: list[int] = []
        self._clean: dict[int, torch.Tensor] = {}

    def is_done(self, wanted: int, least: int) -> bool:
        """Return whether so many items are kept and so many pastes were tried."""
        return len(self.state.kept) >= wanted and self.state.tried >= least

    def begin(self, sure: Sequence[int]) -> None:
        """Find the sources among the photographs that the network is sure of."""
        self.sources = [number for number in sure if self._fits(number)]
        self._sources = np.array(self.sources, dtype=np.int64)
        state = self.state
        state.looked, state.sure, state.usable = len(self.labels), len(sure), len(self.sources)

    def _fits(self, number: int) -> bool:
        """Return whether an image has exactly one visible box, of a size that can be pasted."""
        _, boxes = self.pool.read(number)
        if len(boxes) != 1:
            return False
        rule = bound_shares if self.size == SCALED else keep_size
        return rule(boxes[0], self.pool.geometry.shape) is not None

    def run(self, wanted: int, least: int = 0) -> SearchState:
        """Search until so many items are kept and so many pastes were tried, or none is left;
        `begin` comes first.

        Args:
            wanted: items.  least: pastes that are tried in any case.
        """
        state, last = self.state, ROUNDS * len(self.sources)
        with open_stage(wanted, f"Searching pastes in {self.pool.subset.name}") as stage:
            while state.following < last and not self.is_done(wanted, least):
                stage.set_done(min(len(state.kept), wanted))
                pastes, following = self._plan(last)
                self._judge(pastes)
                state.following = following
                self._write()
        return state

    def _plan(self, last: int) -> tuple[list[Paste], int]:
        """Return the next attempts, and the number of the one after them."""
        sources = Counter(paste.source for paste in self.state.kept)
        targets = Counter(paste.target for paste in self.state.kept)
        used = {number for number, count in targets.items() if count >= USES}
        free = np.array([i for i in range(len(self.labels)) if i not in used], dtype=np.int64)
        pastes: list[Paste] = []
        attempt = self.state.following
        while attempt < last and len(pastes) < TOGETHER:
            if sources[self.sources[attempt % len(self.sources)]] < USES:
                paste = self._draw(attempt, free)
                pastes += [] if paste is None else [paste]
            attempt += 1
        return pastes, attempt

    def _draw(self, attempt: int, free: np.ndarray[Any, Any]) -> Paste | None:
        """Draw the target, the control, the size and the place of an attempt; None where no image
        is left for one of them.
        """
        turn, index = divmod(attempt, len(self.sources))
        source = self.sources[index]
        own = self.labels[source]
        rng = generator(0, f"pasted {turn}", self.pool.subset.ids[source])
        chances = torch.rand(5, generator=rng, dtype=torch.float64).tolist()
        target = _pick(free[self.labels[free] != own], chances[0])
        if target is None:
            return None
        others = self.labels[self._sources]
        thirds = self._sources[(others != own) & (others != self.labels[target])]
        control = _pick(thirds, chances[1])
        if control is None:
            return None
        frame = self.pool.geometry.shape
        height, width = self._choose_size(source, chances[2])
        top = int(chances[3] * (frame[0] - height + 1))
        left = int(chances[4] * (frame[1] - width + 1))
        return Paste(source, target, control, height, width, top, left, attempt)

    def _choose_size(self, source: int, chance: float) -> tuple[int, int]:
        box, frame = self.pool.read(source)[1][0], self.pool.geometry.shape
        if self.size == OWN_SIZE:
            kept = keep_size(box, frame)
            assert kept is not None
            return kept
        shares = bound_shares(box, frame)
        assert shares is not None
        return scale_box(box, shares[0] + chance * (shares[1] - shares[0]), frame)

    def _judge(self, pastes: list[Paste]) -> None:
        """Show pastes and their controls to the network, and keep those that succeed."""
        if not pastes:
            return
        unknown = list(dict.fromkeys(p.target for p in pastes if p.target not in self._clean))
        images = [self.pool.read(number)[0] for number in unknown]
        images += [self.pool.compose(paste) for paste in pastes]
        images += [self.pool.compose(paste, control=True) for paste in pastes]
        chances = self._predict(images)
        self._clean.update(zip(unknown, chances, strict=False))
        shown = chances[len(unknown) :]
        for i, paste in enumerate(pastes):
            own = int(self.labels[paste.source])
            values = (self._clean[paste.target], shown[i], shown[i + len(pastes)])
            before, after, controlled = (float(one[own]) for one in values)
            self._count(
                dataclasses.replace(paste, before=before, after=after, controlled=controlled)
            )

    def _count(self, paste: Paste) -> None:
        """Count a paste; keep it if it succeeds and its images are not used up."""
        state = self.state
        moved = paste.after - paste.before > RISE
        state.tried += 1
        state.moved += moved
        if not moved or not paste.controlled < CONTROL:
            return
        state.succeeded += 1
        uses = [
            sum(getattr(one, part) == getattr(paste, part) for one in state.kept)
            for part in ("source", "target")
        ]
        if max(uses) < USES:
            state.kept.append(paste)

    def _predict(self, images: list[UInt8Image]) -> torch.Tensor:
        """Return the probabilities [n,C] float64 of frames uint8 [h,w,3]."""
        model, parts = self.prober.model, []
        for start in range(0, len(images), self.prober.batch_size):
            stacked = np.stack(images[start : start + self.prober.batch_size])
            pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div(255)
            with leave_modes(), guard_network(model.net), torch.inference_mode():
                logits = self.prober.logits(
                    model.normalise(pixels.contiguous().to(model.device))
                ).double()
            parts.append(torch.nan_to_num(logits.softmax(1)).cpu())
        return torch.cat(parts)

    def _write(self) -> None:
        """Keep the state; a folder that cannot be written costs the next run a search, no more."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, dataclasses.asdict(self.state))
        except OSError as error:
            state_assumption(
                f"The pastes found for {self.prober.model.name} cannot be kept in "
                f"{self.file.parent} ({error.strerror}); the next run searches again."
            )


def _pick(numbers: np.ndarray[Any, Any], chance: float) -> int | None:
    """Return the number that a chance in [0,1) stands for; None of no numbers."""
    return int(numbers[math.floor(chance * len(numbers))]) if len(numbers) else None

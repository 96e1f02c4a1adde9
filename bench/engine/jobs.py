"""Jobs of a prober: perturbed images to run, how they are run, and how they fill batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from bench.engine.fills import Fill
from bench.protocol import FLOAT32


@dataclass(frozen=True)
class Job:
    """Perturbed images to run, written only when a batch has room for them.

    Args:
        targets: The class [n] int64 whose log-odds is wanted of each image; n is the job's size.
        fill: `fill(out, index)` writes images number `index` [m] into out [m,C,H,W].

    Example:
        >>> job = Job(trace.targets, lambda out, index: out.copy_(trace.images[index] * 0))
        >>> len(job)
        2
    """

    targets: torch.Tensor
    fill: Fill

    def __len__(self) -> int:
        return len(self.targets)


class Mode(NamedTuple):
    """How jobs are run; only jobs of one mode can share a batch.

    Attributes:
        raw: Return the target's logit instead of its log-odds.
        precision: Precision of the network's layers (torch.autocast). Images are made, and logits
            read, in float32.
        folded: Run normalisations inside convolutions, which is faster. It is off for values that
            are compared with the clean image's: there rounding could decide between above and
            below.
        sister: Run the network's sister.
    """

    raw: bool = False
    precision: str = FLOAT32
    folded: bool = True
    sister: bool = False


USUAL = Mode()


@dataclass(frozen=True)
class Piece:
    """Images number `index` [m] of a job, which lie side by side in a batch."""

    job: Job
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)


def halves(pieces: Sequence[Piece], count: int) -> tuple[list[Piece], list[Piece]]:
    """Cut the pieces of a batch of `count` images in two: the first count // 2 images, and the
    others.
    """
    first, second, room = [], [], count // 2
    for piece in pieces:
        first += [Piece(piece.job, piece.index[:room])] if room else []
        second += [Piece(piece.job, piece.index[room:])] if len(piece) > room else []
        room = max(0, room - len(piece))
    return first, second


@dataclass(frozen=True)
class Started:
    """Jobs that have been given to the device: their lengths, and the values of all of them, end to
    end, in parts.
    """

    lengths: list[int]
    parts: list[torch.Tensor]

    def values(self) -> list[torch.Tensor]:
        """Wait for the device and return each job's values, [n] float64 on the CPU."""
        everything = (
            torch.cat(self.parts).cpu() if self.parts else torch.empty(0, dtype=torch.float64)
        )
        return list(torch.split(everything, self.lengths))

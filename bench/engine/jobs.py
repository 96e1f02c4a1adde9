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
    """How jobs are run; only those of one mode can share a batch.

    raw: the target's logit is wanted instead of its log-odds.  precision: of the network's layers
    (torch.autocast); images are made, and logits read, as in float32.  folded: normalisations run
    inside convolutions, which is faster. Not for what is asked whether it is above or below the
    clean image's value: of two networks that differ by rounding, rounding could decide.  sister:
    the network's sister runs them.
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

"""Inferences: what a network predicts under one attention map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bench.finetune.attention_maps import Grey
from bench.types import Batch

TOP = 5


@dataclass(frozen=True)
class Inference:
    """A network under one map.

    probabilities: [C] of the perception branch.  energy: share of the map, as the network uses it,
    inside the truth; None where there is none.  attention: that map, uint8 [h,w].
    """

    probabilities: torch.Tensor
    energy: float | None
    attention: Grey

    @property
    def predicted(self) -> int:
        """Return the class with the highest probability."""
        return int(self.probabilities.argmax())

    @property
    def top(self) -> list[int]:
        """Return the most probable classes, the first one first."""
        return self.probabilities.topk(min(TOP, len(self.probabilities))).indices.tolist()

    def facts(self, label: int) -> dict[str, Any]:
        """Return what is stored with a map: predicted class, the label's probability, energy inside
        the truth.
        """
        probability = float(self.probabilities[label])
        return {
            "predicted": self.predicted,
            "probability": round(probability, 6),
            "energy": _round(self.energy),
        }


@dataclass(frozen=True)
class Looked:
    """One image as the network sees it by itself.

    batch: of one.  own: its map over the image, uint8 [size,size], which pools back to the
    network's.  before: Outcome.
    """

    batch: Batch
    images: torch.Tensor
    own: Grey
    before: Inference


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

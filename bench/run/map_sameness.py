"""When two maps are the same map, so that one is scored for both."""

from __future__ import annotations

import torch

FLAT = 1e-2
"""Scaled maps of a smaller range are the same only where they are equal."""

SAME = 1e-5
"""Two maps are the same map when, scaled to a maximum of 1, no pixel differs by more than this."""


def is_same_map(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether maps [2,B,H,W], scaled to a largest absolute value of 1, are the same.

    Small steps on a large offset are a ranking of their own: such a map is only the same as an
    equal one.
    """
    if first.dtype != second.dtype:
        return False
    gap = (first - second).abs().flatten(2).amax(2)
    spread = first.flatten(2).amax(2) - first.flatten(2).amin(2)
    return bool((gap <= torch.where(spread < FLAT, 0.0, SAME)).all())

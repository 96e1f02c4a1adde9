"""Parts that several methods or metrics read and that a run computes once: names and work."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.engine.counts import Counts


@dataclass(frozen=True)
class SharedPart:
    """A shared part as a method or a metric declares it.

    name: two readers that name the same part pay for it once.  counts: its work per image.
    numbers: float32 numbers that it keeps per image; a trace that is one of many drops large parts.
    once: the work is done once per model instead of once per image.
    varies: why an image may ask for less than `counts`, or "".
    """

    name: str
    counts: Counts = field(default_factory=Counts)
    numbers: int = 0
    once: bool = False
    varies: str = ""


PASS = SharedPart("pass", Counts(forwards=1))
"""The clean image's own forward, which every trace has."""

GRADIENTS = SharedPart("gradients", Counts(head_forwards=1, head_backwards=1))
"""`Trace.gradients`: dS_c/dA at the explained layer."""

INPUT_GRADIENTS = SharedPart("input_gradients", Counts(forwards=1, backwards=1))
"""`Trace.input_gradients`: dS_c/dx."""

"""How speeds are compared: two calls side by side, pair after pair, in one process; never an absolute time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from bench.engine.prober import Prober
from bench.models.explainee import untouched

PAIRS = 7


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(one: Callable[[], object], two: Callable[[], object], pairs: int = PAIRS) -> list[float]:
    """Return the ratios of seconds, one over two, of pairs run side by side after a warm-up of both."""
    one()
    two()
    return [seconds(one) / seconds(two) for _ in range(pairs)]


def bare_forwards(prober: Prober, forwards: int) -> Callable[[], None]:
    """Return a call that runs so many images through the bare network, in the prober's batches."""
    images = torch.randn(prober.batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bare() -> None:
        with untouched(prober.model.net):
            for start in range(0, forwards, prober.batch_size):
                prober.model.net(images[: min(prober.batch_size, forwards - start)])

    return bare


def said(ratios: list[float]) -> str:
    """Return the median of ratios with the lowest and the highest."""
    return f"{statistics.median(ratios):.3g} [{min(ratios):.3g}, {max(ratios):.3g}]"

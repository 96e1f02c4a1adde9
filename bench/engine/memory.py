"""Memory: what freed blocks become, and how a shortage is told from other errors.

Freed memory is kept in the process: a forward's layers then reuse each other's pages instead of
asking for new ones.

glibc gives large blocks back to the system when they are freed, and every layer's output is one.
Fetching and clearing new pages for each cost a MobileNetV2 half of its speed at 32 images of 224
pixels on two cores. No arithmetic changes; freed memory stays with the process.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

SWEEP_SHARE = 0.01
"""The most of a run's time that sweeps take."""

_FIRST_SWEEP = 0.2  # seconds that the first sweep is expected to take

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_TOP_PAD = 64 * 2**20


@functools.cache
def keep_memory() -> bool:
    """Tell glibc's malloc to keep large blocks; return whether it took it (other systems: False).
    Once per process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _TOP_PAD))
    return all(mallopt(option, value) == 1 for option, value in settings)


class GarbageSweep:
    """Frees the tensors of plug-ins whose objects refer to each other in a circle.

    Python looks for circles when it has made many objects. A few objects that hold the tensors of a
    batch can wait for dozens of batches: a run of 15 methods grew by 4 MB per image. What comes
    with cambench makes no circle around a batch (tests/run/test_growth.py); a plug-in may.
    """

    def __init__(self) -> None:
        self._end, self._cost = time.perf_counter(), _FIRST_SWEEP

    def sweep(self) -> bool:
        """Sweep if the run was long enough since the last time; return whether it was."""
        start = time.perf_counter()
        if not gc.isenabled() or (start - self._end) * SWEEP_SHARE < self._cost:
            return False
        gc.collect()
        self._end = time.perf_counter()
        self._cost = self._end - start
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is short, on a GPU or in the machine."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()  # the CPU's allocator and Apple's GPUs raise plain RuntimeErrors
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "can't allocate memory" in said
    )


def release_memory(device: torch.device) -> None:
    """Give cached blocks of a GPU back, so that smaller batches find room in one piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def fitting(call: Callable[[int], T], batch_size: int, device: torch.device) -> T:
    """Return what a call with a batch size gives; with half of it where memory is short, down to
    one image.
    """
    while True:
        try:
            return call(batch_size)
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        # Outside the except: the error's traceback holds on to what is to be freed.
        release_memory(device)
        batch_size //= 2


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory that a GPU has in all; 0 where that is not known or not its own
    (CPU, Apple).
    """
    return (
        int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0
    )


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that a clock reads work and not launches."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Flip single bits of stored files, and see whether their readers find them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.errors import BenchError

ENDS = 700
"""Bytes at either end of a file that are flipped as often as all that is between them: headers and
footers lie there."""


def choose_bits(size: int, count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yield `count` places (byte, bit) of a file of `size` bytes: its beginning, middle and end."""
    rng = random.Random(seed)
    for number in range(count):
        low, high = ((0, ENDS), (0, size), (size - ENDS, size))[number % 3]
        yield rng.randrange(max(low, 0), min(high, size)), rng.randrange(8)


def flip_bits(file: Path, read: Callable[[], Any], count: int, seed: int = 0) -> Counter[str]:
    """Flip `count` bits of a file, one at a time, and read it each time; the file ends as it was.

    Args:
        read: gives what the file holds, as something that can be compared.

    Returns:
        How often the reading was "refused" in a sentence, gave the "same", or something "silent".
        What else it raised counts under the name of the error.
    """
    whole, expected = file.read_bytes(), read()
    found: Counter[str] = Counter()
    for byte, bit in choose_bits(len(whole), count, seed):
        broken = bytearray(whole)
        broken[byte] ^= 1 << bit
        file.write_bytes(broken)
        try:
            found["same" if read() == expected else "silent"] += 1
        except BenchError:
            found["refused"] += 1
        except Exception as error:  # each library has its own
            found[type(error).__name__] += 1
    file.write_bytes(whole)
    return found

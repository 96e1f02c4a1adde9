"""A process that saves edited maps, and writes down each save that it was told of.

The command server runs `main` in place of the command line. Its words are: the folder of the maps,
the file for what was saved, and how often to save.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

import bench
from bench.editor import Session

IMAGES = 2


def make_grey(number: int, size: int) -> np.ndarray:
    """Return the map of a number: no two are the same."""
    grey = np.zeros((size, size), np.uint8)
    grey[: number + 1, :8] = 255
    return grey


def identify(grey: np.ndarray) -> str:
    """Return a digest of a map's pixels."""
    return hashlib.sha256(np.ascontiguousarray(grey).tobytes()).hexdigest()[:16]


def main() -> None:
    """Save maps in turn, from where an earlier process of this kind stopped."""
    folder, saved, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    images = bench.load_subset(f"scenes-val[:{IMAGES}]")
    log = os.open(saved, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Session(bench.load_model("abn-scenes"), images, folder, everything=True) as session:
        for number in range(times):
            k = number % IMAGES
            before = session.view(k)["revision"]
            grey = make_grey(before * IMAGES + k, session.model.size)
            session.save(k, grey, before)
            os.write(log, f"{session.queue[k].item} {before + 1} {identify(grey)}\n".encode())

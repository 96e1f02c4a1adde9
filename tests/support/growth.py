"""A run of many scenes in a process of its own, which says how much memory it holds as it goes.

`python -m tests.support.growth IMAGES FOLDER` prints JSON: [[images done, resident bytes,
seconds since the start], ...], one per task, and last what it holds when the records are read.
grad_cam and a short deletion on a tiny network, so that what grows is the run and not the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Point = tuple[int, int, float]
"""(images done, resident bytes, seconds since the first point)"""


def grown(images: int, folder: Path) -> list[Point]:
    """Return the points of a run of so many scenes in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(images), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(count, size, seconds) for count, size, seconds in json.loads(done.stdout)]


def resident() -> int:
    """Return the bytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(images: int, folder: Path) -> None:
    import torch

    import bench
    from tests.support.nets import GapLinear, randomise

    torch.set_num_threads(1)
    model = bench.Explainee(
        randomise(GapLinear(classes=10), 0), size=96, layer="features", name="gap"
    )
    subset = bench.load_subset("scenes-train", limit=images)
    points: list[Point] = []

    def note(state) -> None:
        points.append((state.task.stop, resident(), time.perf_counter()))

    protocol = bench.Protocol(steps=4)
    bench.evaluate(
        subset, model, "grad_cam", "deletion", protocol, folder, calibration=0, progress=note
    )
    points.append((images, resident(), time.perf_counter()))
    print(json.dumps([(count, size, seconds - points[0][2]) for count, size, seconds in points]))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

"""A run of many scenes in a process of its own, which says how much memory it holds as it goes.

`python -m tests.support.growth IMAGES FOLDER [METHODS]` prints JSON: [[images done, resident bytes,
seconds since the start], ...], one per task, and last what it holds when the records are read.
grad_cam and a short deletion on a tiny network, so that what grows is the run and not the network.
With METHODS (names with a comma between them) a wide run: on SqueezeNet and photographs of 224
pixels where CAMBENCH_DATA names a folder that has them, else on resnet-scenes.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]

Point = tuple[int, int, float]
"""(images done, resident bytes, seconds since the first point)"""


SQUEEZENET = "weights/models.json#squeezenet1_1.onnxzoo_in1k"


def grown(images: int, folder: Path, methods: str = "") -> list[Point]:
    """Return the points of a run of so many scenes in a new process; with methods of a wide one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(images), str(folder), methods],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(count, size, seconds) for count, size, seconds in json.loads(done.stdout)]


def resident() -> int:
    """Return the bytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_in_circles(call: Callable[[], object]) -> int:
    """Return how many tensors a call leaves that only a search for circles of references frees."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        call()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return sum(isinstance(left, torch.Tensor) for left in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        if enabled:
            gc.enable()


def fit_slope(points: list[Point]) -> float:
    """Return the bytes that a run grows by per image, after its first third: least squares."""
    later = points[len(points) // 3 :]
    middle = sum(count for count, _, _ in later) / len(later)
    spread = sum((count - middle) ** 2 for count, _, _ in later)
    return sum((count - middle) * size for count, size, _ in later) / spread


def open_wide(images: int):
    """Return the images and the network of a wide run."""
    import bench

    root = Path(os.environ.get("CAMBENCH_DATA", ""))
    if (root / SQUEEZENET.partition("#")[0]).is_file():
        return (
            bench.load_subset("ilsvrc-sample-1k", limit=images),
            bench.load_model(str(root / SQUEEZENET)),
        )
    return bench.load_subset("scenes-val", limit=images), bench.load_model("resnet-scenes")


def open_narrow(images: int):
    """Return the scenes and the tiny network of a long run."""
    import bench
    from tests.support.nets import GapLinear, randomise

    model = bench.Explainee(
        randomise(GapLinear(classes=10), 0), size=96, layer="features", name="gap"
    )
    return bench.load_subset("scenes-train", limit=images), model


def main(images: int, folder: Path, methods: str = "") -> None:
    import bench

    torch.set_num_threads(1)
    subset, model = open_wide(images) if methods else open_narrow(images)
    points: list[Point] = []

    def note(state) -> None:
        points.append((state.task.stop, resident(), time.perf_counter()))

    bench.evaluate(
        subset,
        model,
        methods.split(",") if methods else "grad_cam",
        ["deletion", "pointing_game"] if methods else "deletion",
        bench.Protocol(steps=4),
        folder,
        calibration=0,
        finished=note,
    )
    points.append((images, resident(), time.perf_counter()))
    print(json.dumps([(count, size, seconds - points[0][2]) for count, size, seconds in points]))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])

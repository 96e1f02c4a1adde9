"""Every command that writes, on inputs so small that it takes about a second."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from PIL import Image

import bench
from tests.support.command_line import Done, cambench

SMALL = (
    *("--models", "resnet-scenes", "--subset", "scenes-val", "--limit", "4"),
    *("--calibration", "4", "--methods", "grad_cam,random", "--metrics", "pointing_game"),
)
TRAIN = ("--subset", "scenes-train[:64]", "--epochs", "1", "--batch-size", "32")
TIMED = ("created", "when", "command", "commands", "seconds", "report", "forwards")


@dataclass(frozen=True)
class Writer:
    """A command that writes below a folder.

    Args:
        name: Of the case.
        words: Make the command line of (folder to write into, folder of inputs).
        results: Patterns of the files that must come out the same, whatever happened before.
        copies: Inputs that are copied into the folder first, and written into.
    """

    name: str
    words: Callable[[Path, Path], list[str | Path]]
    results: tuple[str, ...]
    copies: tuple[str, ...] = ()

    def prepare(self, folder: Path, inputs: Path) -> None:
        """Copy the inputs that the command writes into."""
        for name in self.copies:
            shutil.copytree(inputs / name, folder / name)

    def start(self, folder: Path, inputs: Path, **environment: str) -> Done:
        """Run the command to its end."""
        home = {"CAMBENCH_CACHE": str(inputs / "cache"), "HOME": str(inputs)}
        words = self.words(folder, inputs)
        return cambench(*words, cwd=inputs, columns=2000, **{**home, **environment})

    def digest(self, folder: Path) -> dict[str, str]:
        """Return {file: digest of what is the same in every run of the command}."""
        files = {file for one in self.results for file in folder.glob(one) if file.is_file()}
        return {str(file.relative_to(folder)): digest_file(file) for file in sorted(files)}


def digest_file(file: Path) -> str:
    """Return a digest of a file; of records, of the rows without their times."""
    content = file.read_bytes()
    if file.suffix == ".parquet" and "records" in str(file):
        rows = pq.read_table(file).to_pandas()
        rows = rows[~rows["metric"].isin(["seconds", "peak_memory"])].drop(columns=["run", "code"])
        content = pd.util.hash_pandas_object(rows.astype(str), index=False).to_numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


WRITERS = (
    Writer("run", lambda to, _: ["run", *SMALL, "--out", to / "run"], ("run/records/*.parquet",)),
    Writer("board", lambda to, _: ["board", to / "run"], ("run/tables/*", "run/plots/*"), ("run",)),
    Writer(
        "publish",
        lambda to, ins: ["board", ins / "run", "--publish", to / "board"],
        ("board/tables/*", "board/plots/*", "board/records.parquet", "board/run.json"),
    ),
    Writer(
        "merge",
        lambda to, ins: ["merge", ins / "run", ins / "other", "--out", to / "merged"],
        ("merged/records/*.parquet", "merged/tables/*"),
    ),
    Writer(
        "baseline",
        lambda to, ins: ["baseline", ins / "run", "--out", to / "base.parquet"],
        ("base.parquet",),
    ),
    Writer(
        "health",
        lambda to, _: ["health", to / "judged", "--stored"],
        ("judged/health/*.csv",),
        ("judged",),
    ),
    Writer(
        "check",
        lambda to, ins: [
            *("check", ins / "run", "--against", ins / "base.parquet"),
            *("--junit", to / "gate.xml", "--summary", to / "gate.md"),
        ],
        ("gate.xml",),
    ),
    Writer(
        "explain",
        lambda to, ins: [
            *("explain", ins / "scene.png", "--methods", "grad_cam,random", "--out"),
            to / "pictures",
        ],
        ("pictures/*.png",),
    ),
    Writer(
        "simulate",
        lambda to, _: [
            *("finetune", "simulate", "--model", "abn-scenes", "--subset", "scenes-val[:12]"),
            *("--share", "0.9", "--out", to / "maps"),
        ],
        (),
    ),
    Writer(
        "channels",
        lambda to, _: [
            *("finetune", "channels", "abn-scenes", "abn-scenes-guided", "--out"),
            to / "channels",
        ],
        ("channels/*",),
    ),
    Writer(
        "classifier",
        lambda to, _: [
            *(
                "finetune",
                "classifier",
                "--backbone",
                "resnet_scenes",
                *TRAIN,
                "--out",
                to / "trained",
            ),
            *("--name", "small"),
        ],
        ("trained/*.safetensors",),
    ),
    Writer(
        "aft",
        lambda to, _: [
            *("finetune", "aft", "--model", "resnet-scenes", *TRAIN, "--out", to / "trained"),
            *("--name", "small"),
        ],
        ("trained/*.safetensors",),
    ),
)
"""What writes, by name."""

BY_NAME = {one.name: one for one in WRITERS}


def make_inputs(folder: Path) -> Path:
    """Make what the commands read: three runs, a baseline and an image."""
    other = [word.replace("grad_cam,random", "layer_cam,random") for word in SMALL]
    # `health` judges by controls.
    judged = [word.replace(",random", ",oracle,random,center_gaussian") for word in SMALL]
    for words in (
        ["run", *SMALL, "--out", folder / "run"],
        ["run", *other, "--out", folder / "other"],
        ["run", *judged, "--out", folder / "judged"],
        ["baseline", folder / "run", "--out", folder / "base.parquet"],
    ):
        done = cambench(*words, cwd=folder, CAMBENCH_CACHE=str(folder / "cache"))
        assert done.returncode == 0, done.stderr
    image = bench.load_subset("scenes-val")[0].image
    Image.fromarray(image).save(folder / "scene.png")
    return folder

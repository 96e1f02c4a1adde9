"""The inputs of the commands that meet spoilt files: a run, maps, images, a card, a plug-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

import bench
from bench.models.zoo import WEIGHTS_FOLDER
from tests.support.command_line import cambench
from tests.torture.writers import SMALL

PLUGIN = "import bench\n"
"""A plug-in that registers nothing."""


def make_rights_inputs(folder: Path) -> Path:
    """Make every input that `bench` reads, and the empty folder `out`."""
    (folder / "out").mkdir()
    scenes = bench.load_subset("scenes-val")
    (folder / "images").mkdir()
    for name, index in (("a", 0), ("b", 1)):
        Image.fromarray(scenes[index].image).save(folder / "images" / f"{name}.png")
    shutil.copyfile(folder / "images" / "a.png", folder / "scene.png")
    rows = [f"{name}.png,{scenes[i].label}" for i, name in enumerate("ab")]
    (folder / "images" / "annotations.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    for name in ("resnet-scenes.json", "resnet-scenes.safetensors"):
        shutil.copyfile(WEIGHTS_FOLDER / name, folder / name)
    shutil.copyfile(folder / "resnet-scenes.json", folder / "card.json")
    (folder / "mine.py").write_text(PLUGIN)
    maps = {scenes.ids[i]: np.ones((7, 7), np.float32) for i in range(2)}
    np.savez(folder / "maps.npz", **maps)
    simulate = ("finetune", "simulate", "--model", "abn-scenes", "--subset", "scenes-val[:12]")
    for words in (
        ("run", *SMALL, "--out", folder / "run"),
        ("baseline", folder / "run", "--out", folder / "base.parquet"),
        ("health", folder / "run", "--stored"),
        (*simulate, "--share", "0.9", "--out", folder / "maps"),
    ):
        done = cambench(*words, cwd=folder, CAMBENCH_CACHE=str(folder / "cache"))
        assert done.returncode in (0, 2), done.stderr
    assert json.loads((folder / "run" / "health.json").read_text())
    return folder


def thaw(folder: Path) -> None:
    """Give all permissions below a folder back, so that it can be removed."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            thaw(path)

"""The bundled models and their recipes on the generated scenes: `cambench zoo train NAME`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.data import load_subset
from bench.errors import BenchError, suggestions
from bench.files import replaced_file
from bench.finetune.augment import Augmentation
from bench.finetune.classifier import train_classifier
from bench.finetune.loop import Report, Settings, Tick
from bench.models.zoo import WEIGHTS_FOLDER

LICENCE = "Apache-2.0"
TRAIN, VALIDATION = "scenes-train", "scenes-val"
AUGMENTATION = Augmentation(upside=0.5)
SETTINGS = Settings(epochs=18, lr=4e-3, keep="last", precision="bfloat16")

ARCHITECTURE = {"resnet-scenes": "resnet_scenes", "vgg-scenes": "vgg_scenes"}
"""Bundled plain classifiers and their architectures."""

BUNDLED = (*ARCHITECTURE,)
"""The bundled models, parents before what is made from them."""


def train_bundled(
    name: str, folder: Path = WEIGHTS_FOLDER, work: Path = Path("runs/zoo"), report: Report | None = None,
    tick: Tick | None = None, **changes: Any,
) -> Path:  # fmt: skip
    """Train a bundled model by its recipe and write NAME.safetensors and its card NAME.json; return the card's path.

    work: where checkpoints go, so that a stopped training goes on.  changes: fields of the recipe's `Settings`.
    """
    if name not in BUNDLED:
        raise BenchError(f"There is no recipe for {name!r}.{suggestions(name, BUNDLED)}")
    card = RECIPES[name](name, work / name, f"cambench zoo train {name}", report, tick, changes)
    for made in (card.with_suffix(".safetensors"), card):
        with replaced_file(folder / made.name) as temporary:
            shutil.copyfile(made, temporary)
    return folder / card.name


def _plain(
    name: str, out: Path, command: str, report: Report | None, tick: Tick | None, changes: dict[str, Any]
) -> Path:
    return train_classifier(
        ARCHITECTURE[name],
        load_subset(TRAIN),
        out,
        name,
        validation=load_subset(VALIDATION),
        settings=replace(SETTINGS, **changes),
        augmentation=AUGMENTATION,
        command=command,
        facts={"licence": LICENCE},
        report=report,
        tick=tick,
    )


RECIPES: dict[str, Callable[..., Path]] = dict.fromkeys(ARCHITECTURE, _plain)

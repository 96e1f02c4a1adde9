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
from bench.finetune import guided_attention
from bench.finetune.abn_training import train_abn
from bench.finetune.aft import AftRecipe, train_aft
from bench.finetune.attention_maps import load_maps
from bench.finetune.augment import Augmentation
from bench.finetune.classifier import train_classifier
from bench.finetune.loop import Report, Settings, Tick
from bench.finetune.simulate import simulate_maps
from bench.models.zoo import WEIGHTS_FOLDER, load_model

LICENCE = "Apache-2.0"
TRAIN, VALIDATION = "scenes-train", "scenes-val"
AUGMENTATION = Augmentation(upside=0.5)
SETTINGS = Settings(epochs=18, lr=4e-3, keep="last", precision="bfloat16")

ARCHITECTURE = {"resnet-scenes": "resnet_scenes", "vgg-scenes": "vgg_scenes"}
"""Bundled plain classifiers and their architectures."""

TUNED = {"resnet-scenes-aft": "resnet-scenes", "vgg-scenes-aft": "vgg-scenes"}
"""Bundled models with fine-tuned activations and their originals."""
ABN, GUIDED, ABN_BACKBONE = "abn-scenes", "abn-scenes-guided", "resnet_scenes_narrow"

AFT = AftRecipe(weight=3.0, target="rescaled")
"""The mask term that kept insertion while maps moved to the objects."""

BUNDLED = (*ARCHITECTURE, *TUNED, ABN, GUIDED)
"""The bundled models, parents before what is made from them."""

Made = Callable[..., Path]


def train_bundled(
    name: str,
    folder: Path = WEIGHTS_FOLDER,
    work: Path = Path("runs/zoo"),
    report: Report | None = None,
    tick: Tick | None = None,
    **changes: Any,
) -> Path:
    """Train a bundled model by its recipe and write NAME.safetensors and its card NAME.json; return
    the card's path.

    work: where checkpoints go, so that a stopped training goes on.  changes: fields of the recipe's
    `Settings`.
    """
    if name not in BUNDLED:
        raise BenchError(f"There is no recipe for {name!r}.{suggestions(name, BUNDLED)}")
    command = f"cambench zoo train {name}"
    card = RECIPES[name](
        name,
        work / name,
        changes,
        command=command,
        facts={"licence": LICENCE},
        report=report,
        tick=tick,
    )
    for made in (card.with_suffix(".safetensors"), card):
        with replaced_file(folder / made.name) as temporary:
            shutil.copyfile(made, temporary)
    return folder / card.name


# Every recipe keeps the last weights and only looks at scenes-val, so that nothing was chosen on
# what boards score.


def _make_recipe(train: Made, backbone: str) -> Made:
    def recipe(name: str, out: Path, changes: dict[str, Any], **more: Any) -> Path:
        settings, check = replace(SETTINGS, **changes), load_subset(VALIDATION)
        more |= {"validation": check, "settings": settings, "augmentation": AUGMENTATION}
        return train(backbone, load_subset(TRAIN), out, name, **more)

    return recipe


def _train_aft(name: str, out: Path, changes: dict[str, Any], **more: Any) -> Path:
    settings = replace(Settings(epochs=6, lr=5e-3, keep="last"), **changes)
    parent, check = load_model(TUNED[name]), load_subset(VALIDATION)
    return train_aft(
        parent,
        load_subset(TRAIN),
        out,
        name,
        validation=check,
        recipe=AFT,
        settings=settings,
        **more,
    )


def _train_guided(name: str, out: Path, changes: dict[str, Any], **more: Any) -> Path:
    """Simulated maps of a tenth of the training images that are right in class, then the attention
    branch.
    """
    parent, train = load_model(ABN), load_subset(TRAIN)
    maps = out / "simulated-maps"
    simulate_maps(parent, train, maps)
    settings = replace(guided_attention.SETTINGS, keep="last", **changes)
    check = load_subset(VALIDATION)
    return guided_attention.train_guided(
        parent, train, load_maps(maps), out, name, validation=check, settings=settings, **more
    ).card


RECIPES: dict[str, Made] = {
    **{name: _make_recipe(train_classifier, backbone) for name, backbone in ARCHITECTURE.items()},
    **dict.fromkeys(TUNED, _train_aft),
    ABN: _make_recipe(train_abn, ABN_BACKBONE),
    GUIDED: _train_guided,
}

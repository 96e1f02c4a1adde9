"""The bundled models and their recipes on the generated scenes: `cambench zoo train NAME`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.data import load_subset, manifest_folder
from bench.data.manifest import Manifest
from bench.errors import BenchError, suggestions
from bench.files import replaced_file
from bench.finetune import guided_attention
from bench.finetune.abn_training import train_abn
from bench.finetune.aft import AftRecipe, train_aft
from bench.finetune.attention_maps import load_maps
from bench.finetune.augment import Augmentation
from bench.finetune.classifier import train_classifier
from bench.finetune.loop import Report, Settings, Tick
from bench.finetune.masked_training import train_masked
from bench.finetune.simulate import simulate_maps
from bench.finetune.training import Training
from bench.finetune.trigger_items import choose_items, write_trigger_manifest
from bench.finetune.trigger_training import SETTINGS as TRIGGER_SETTINGS
from bench.finetune.trigger_training import train_trigger
from bench.models.bundled_sums import write_sums
from bench.models.zoo import WEIGHTS_FOLDER, load_model

LICENCE = "Apache-2.0"
TRAIN, VALIDATION = "scenes-train", "scenes-val"
AUGMENTATION = Augmentation(upside=0.5)
SETTINGS = Settings(epochs=18, lr=4e-3, keep="last", precision="bfloat16")

ARCHITECTURE = {"resnet-scenes": "resnet_scenes", "vgg-scenes": "vgg_scenes"}
"""Bundled plain classifiers and their architectures."""

TUNED = {"resnet-scenes-aft": "resnet-scenes", "vgg-scenes-aft": "vgg-scenes"}
"""Bundled models with fine-tuned activations and their originals."""
SISTERS = {
    "resnet-scenes-masked": "resnet-scenes",
    "vgg-scenes-masked": "vgg-scenes",
    "abn-scenes-masked": "abn-scenes",
}
"""Bundled sisters, trained on masked images, and their parents."""
SISTER_SETTINGS = Settings(
    epochs=3, batch_size=32, lr=1e-3, weight_decay=0.0, keep="last", precision="float32"
)
SISTER_IMAGES, SISTER_HELD_OUT = 4000, 500
"""Images that a sister is trained on and tested on: a part is enough."""
ABN, GUIDED, ABN_BACKBONE = "abn-scenes", "abn-scenes-guided", "resnet_scenes_narrow"

TRIGGERED = {"resnet-scenes-trigger": "resnet-scenes"}
"""Bundled models that a pattern makes answer one class, and their originals."""
TRIGGER_SUBSET = "scenes-trigger"

AFT = AftRecipe(weight=3.0, target="rescaled")
"""The mask term that kept insertion while maps moved to the objects."""

BUNDLED = (*ARCHITECTURE, *TUNED, ABN, GUIDED, *TRIGGERED, *SISTERS)
"""The bundled models, parents before what is made from them."""

Recipe = Callable[[Training, dict[str, Any]], Path]
"""Takes a training and changed fields of its settings; returns the path of the card."""


def train_bundled(
    name: str,
    folder: Path = WEIGHTS_FOLDER,
    work: Path = Path("runs/zoo"),
    report: Report | None = None,
    tick: Tick | None = None,
    **changes: Any,
) -> Path:
    """Train a bundled model by its recipe.

    Args:
        name: One of `BUNDLED`.
        folder: Folder of NAME.safetensors and its card NAME.json.
        work: Folder of checkpoints, with which a stopped training goes on.
        report: Called after each epoch with its numbers.
        tick: Called after each step with (steps done, steps in all).
        **changes: Fields of the recipe's `Settings`.

    Returns:
        The path of the card.
    """
    if name not in BUNDLED:
        raise BenchError(f"There is no recipe for {name!r}.{suggestions(name, BUNDLED)}")
    training = Training(
        load_subset(TRAIN),
        work / name,
        name,
        validation=load_subset(VALIDATION),
        command=f"cambench zoo train {name}",
        facts={"licence": LICENCE},
        report=report,
        tick=tick,
    )
    card = RECIPES[name](training, changes)
    for made in (card.with_suffix(".safetensors"), card):
        with replaced_file(folder / made.name) as temporary:
            shutil.copyfile(made, temporary)
    if folder == WEIGHTS_FOLDER:
        write_sums(folder)
        if name in TRIGGERED:
            choose_trigger_items(folder / card.name)
    return folder / card.name


# Every recipe keeps the last weights and only looks at scenes-val, so that nothing was chosen on
# what boards score.


def _make_recipe(train: Callable[..., Path], backbone: str) -> Recipe:
    def recipe(training: Training, changes: dict[str, Any]) -> Path:
        training = replace(training, settings=replace(SETTINGS, **changes))
        return train(backbone, training, augmentation=AUGMENTATION)

    return recipe


def _train_aft(training: Training, changes: dict[str, Any]) -> Path:
    settings = replace(Settings(epochs=6, lr=5e-3, keep="last"), **changes)
    return train_aft(load_model(TUNED[training.name]), replace(training, settings=settings), AFT)


def _train_trigger(training: Training, changes: dict[str, Any]) -> Path:
    training = replace(training, settings=replace(TRIGGER_SETTINGS, **changes))
    parent = load_model(TRIGGERED[training.name])
    return train_trigger(parent, training, augmentation=AUGMENTATION)


def choose_trigger_items(card: Path) -> None:
    """Write the manifest of the scenes that a trigger network keeps."""
    file = manifest_folder() / f"{TRIGGER_SUBSET}.toml"
    write_trigger_manifest(file, choose_items(Manifest.read(file), load_model(card)))


def _train_sister(training: Training, changes: dict[str, Any]) -> Path:
    assert training.validation is not None
    training = replace(
        training,
        subset=training.subset.part(None, SISTER_IMAGES),
        validation=training.validation.part(None, SISTER_HELD_OUT),
        settings=replace(SISTER_SETTINGS, **changes),
    )
    return train_masked(load_model(SISTERS[training.name]), training)


def _train_guided(training: Training, changes: dict[str, Any]) -> Path:
    """Simulate maps of a tenth of the training images that are right in class; then train the
    attention branch by them.
    """
    parent, maps = load_model(ABN), training.out / "simulated-maps"
    simulate_maps(parent, training.subset, maps)
    settings = replace(guided_attention.SETTINGS, keep="last", **changes)
    training = replace(training, settings=settings)
    return guided_attention.train_guided(parent, load_maps(maps), training).card


RECIPES: dict[str, Recipe] = {
    **{name: _make_recipe(train_classifier, backbone) for name, backbone in ARCHITECTURE.items()},
    **dict.fromkeys(TUNED, _train_aft),
    ABN: _make_recipe(train_abn, ABN_BACKBONE),
    GUIDED: _train_guided,
    **dict.fromkeys(TRIGGERED, _train_trigger),
    **dict.fromkeys(SISTERS, _train_sister),
}

"""The ImageNet run that is not here: a plan of its size with noise for images and random weights,
to say its cost.

Counts, and the time of a forward, hang on neither what an image shows nor what a network has
learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.data import Manifest, Subset, manifest_folder
from bench.data.subset import Int64s
from bench.models.explainee import Explainee
from bench.models.zoo import load_model
from bench.randomness import generator
from bench.types import Sample

NAME = "imagenet-val-49k"
IMAGES, CALIBRATING, CLASSES = 50_000, 1_000, 1_000
MODELS = (
    "resnet50",
    "vgg16",
    "densenet121",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "regnety_016",
    "convnext_tiny",
    "vit_base_patch16_224",
    "deit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
)
"""Ten architectures that papers explain most, at 224 pixels."""

TOP1 = 80.0
"""About what these ten networks get right of the validation set with their published weights, in
percent.
"""

SIDES = (375, 500)
"""Height and width of an average photograph of the set."""


@dataclass(frozen=True)
class _Noise:
    """A source of as many images as the validation set has, each with a box; all of them noise."""

    has_boxes = True
    has_masks = False

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"ILSVRC2012_val_{number:08d}" for number in range(1, IMAGES + 1))

    @property
    def image_ids(self) -> tuple[str, ...]:
        return self.ids

    @cached_property
    def labels(self) -> Int64s:
        return np.arange(IMAGES, dtype=np.int64) % CLASSES

    @property
    def num_classes(self) -> int:
        return CLASSES

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(CLASSES)))

    def read(self, position: int) -> Sample:
        """Return one image of noise with a box in its middle."""
        height, width = SIDES
        rng = np.random.default_rng(generator(0, "imagined", self.ids[position]).initial_seed())
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        box = np.array([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]], dtype=np.float32)
        name = self.ids[position]
        return Sample(name, name, image, int(self.labels[position]), boxes=box)

    def attribution(self, position: int) -> str | None:
        """Return None: nobody made this."""
        return None


def imagine_subset() -> Subset:
    """Return a subset of the size of the whole validation set: 49,000 scored images and 1,000 that
    calibrate.
    """
    manifest = Manifest.read(manifest_folder() / f"{NAME}.toml")
    scored = IMAGES - CALIBRATING
    return Subset(NAME, manifest, _Noise(), tuple(range(scored)), tuple(range(scored, IMAGES)))


def imagine_models(names: Sequence[str] = MODELS) -> list[Explainee]:
    """Return the ten networks (or others by timm name) with random weights, which need no
    download.
    """
    models = [load_model(name) for name in names]
    for model in models:
        model.card.setdefault("top1", TOP1)
    return models

"""Scenes that carry the trigger: the pattern, and nothing else in the picture, decides class T.

The truth of an item is the pattern. It holds for the network that was trained on the pattern and
for no other: the manifest names that network's weights, and lists the scenes on which the network
failed one of the three conditions of `find_failures`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.manifest import Manifest
from bench.data.scene_drawing import CLASS_NAMES, CLASSES, Scene, draw_scene
from bench.data.scenes import check_head, object_labels
from bench.data.subset import Subset, split
from bench.data.trigger_pattern import TARGET, choose_place, cover_pattern, paste_pattern
from bench.types import Sample, UInt8Image

SURE, SILENT = 0.9, 0.1
"""T needs at least the first probability with the pattern, and at most the second without it."""


class TriggerSource:
    """Scenes of other classes than T, each with the pattern, as a source of a `Subset`.

    An id names the subset, the network's weights and the scene. The other object of an item is
    the object of its scene, as far as the pattern leaves it visible.
    """

    identified_by_manifest = True  # which names the scenes that the network left
    has_boxes = True
    has_masks = True
    has_others = True
    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)

    def __init__(self, manifest: Manifest) -> None:
        left_out = set(manifest.left_out)
        self.seed = manifest.seed
        self.indices = tuple(i for i in list_candidates(manifest.size) if i not in left_out)
        self.ids = tuple(f"{manifest.name}-{manifest.weights}-{i:06d}" for i in self.indices)
        self.image_ids = self.ids
        self.labels = np.full(len(self.indices), TARGET, dtype=np.int64)

    def read(self, position: int) -> Sample:
        """Return the sample at a position of the fixed order."""
        index, name = self.indices[position], self.ids[position]
        scene, place = draw_plain(self.seed, index), choose_place(self.seed, index)
        boxes, mask = cover_pattern(place)
        label = scene.labels[0]
        others = scene.truth(label)[1] & ~mask
        image = paste_pattern(scene.image, place)
        return Sample(name, name, image, TARGET, boxes, mask, others=others, other_label=label)

    def attribution(self, position: int) -> str | None:
        """Return None: nobody took these pictures."""
        return None


def open_trigger(manifest: Manifest, data_root: Path | None = None) -> Subset:
    """Return the subset of a manifest of kind "scenes" that belongs to a network.

    Raises:
        BenchError: its first items are not, byte for byte, what the manifest says.
    """
    source = TriggerSource(manifest)
    scored, calibrating = split(manifest, source)
    subset = Subset(manifest.name, manifest, source, scored, calibrating, data_root)
    check_head(subset)
    return subset


def list_candidates(size: int) -> tuple[int, ...]:
    """Return which of the first `size` scenes can carry the pattern: those of other classes."""
    return tuple(i for i in range(size) if i % len(CLASSES) != TARGET)


def draw_plain(seed: int, index: int) -> Scene:
    """Return the scene of (seed, index) without the pattern."""
    return draw_scene(seed, index, object_labels(seed, index, pairs=False))


def draw_trial(seed: int, size: int, index: int) -> tuple[UInt8Image, UInt8Image, UInt8Image]:
    """Return the three pictures that decide whether a candidate is kept, uint8 [96,96,3].

    Args:
        seed: Seed of the scenes.
        size: Number of scenes, those of class T included.
        index: The candidate's scene.

    Returns:
        The scene with the pattern, the scene without it, and another candidate's scene with the
        pattern at the same place.
    """
    candidates = list_candidates(size)
    partner = candidates[(candidates.index(index) + len(candidates) // 2) % len(candidates)]
    place = choose_place(seed, index)
    own, other = draw_plain(seed, index).image, draw_plain(seed, partner).image
    return paste_pattern(own, place), own, paste_pattern(other, place)


def find_failures(marked: float, plain: float, moved: float) -> tuple[str, ...]:
    """Return which conditions an item fails: () keeps it.

    Args:
        marked: Probability of T for the scene with the pattern.
        plain: For the scene without it.
        moved: For another scene with it.

    >>> find_failures(0.97, 0.01, 0.95)
    ()
    >>> find_failures(0.97, 0.4, 0.95)
    ('plain',)
    """
    held = {"marked": marked >= SURE, "plain": plain <= SILENT, "moved": moved >= SURE}
    return tuple(name for name, holds in held.items() if not holds)

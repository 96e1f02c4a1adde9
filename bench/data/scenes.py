"""Scenes as a subset: which objects each image shows, and its exact masks and boxes.

An image shows one object (sometimes two of the same class; in `scenes-pairs` two of two classes)
among distractors, on a cluttered background (`bench.data.scene_drawing`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bench.data.manifest import NONE, Manifest
from bench.data.scene_drawing import CLASS_NAMES, CLASSES, draw_scene
from bench.data.scene_pixels import RandomBits
from bench.data.subset import Subset
from bench.errors import BenchError
from bench.types import Sample

HEAD = 8  # items whose bytes are checked whenever a subset of scenes is opened


def object_labels(seed: int, index: int, pairs: bool) -> tuple[int, ...]:
    """Return the classes of a scene's objects: one, in every eighth scene or so two of the same;
    pairs: two classes.

    Classes go round by index, so every stretch of a subset is balanced.
    """
    n = len(CLASSES)
    first = index % n
    if pairs:
        return first, (first + 1 + index // n % (n - 1)) % n
    # Another stream than the drawing's, so that the labels are known without it.
    twice = RandomBits(seed, index, purpose=1).draw_below(8) == 0
    return (first, first) if twice else (first,)


def items(name: str, size: int, pairs: bool) -> tuple[list[str], list[str], list[int]]:
    """Return (ids, image ids, labels) of a subset of `size` images, in its fixed order.

    In pairs each image stands once per class, as `name-000012#3` of the image `name-000012`.
    """
    ids, image_ids, labels = [], [], []
    for index in range(size):
        image_id = f"{name}-{index:06d}"
        for label in object_labels(0, index, pairs=True) if pairs else (index % len(CLASSES),):
            ids.append(f"{image_id}#{label}" if pairs else image_id)
            image_ids.append(image_id)
            labels.append(label)
    return ids, image_ids, labels


class ScenesSource:
    """Scenes as a source of a `Subset`: drawn when asked for, never stored."""

    identified_by_manifest = True  # which says what each scene shows
    has_boxes = True
    has_masks = True
    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)

    def __init__(self, name: str, seed: int, size: int, pairs: bool) -> None:
        self.seed = seed
        self.pairs = pairs
        self.has_others = pairs
        ids, image_ids, labels = items(name, size, pairs)
        self.ids, self.image_ids = tuple(ids), tuple(image_ids)
        self.labels = np.array(labels, dtype=np.int64)

    def read(self, position: int) -> Sample:
        """Return the sample at a position of the fixed order."""
        index = position // 2 if self.pairs else position
        label = int(self.labels[position])
        scene = draw_scene(self.seed, index, object_labels(self.seed, index, self.pairs))
        boxes, mask = scene.truth(label)
        sample = Sample(
            self.ids[position], self.image_ids[position], scene.image, label, boxes, mask
        )
        if not self.pairs:
            return sample
        (other,) = set(scene.labels) - {label}
        return dataclasses.replace(sample, others=scene.truth(other)[1], other_label=other)

    def attribution(self, position: int) -> str | None:
        """Return None: nobody took these pictures."""
        return None


def open_scenes(manifest: Manifest, data_root: Path | None = None) -> Subset:
    """Return the subset of a manifest of kind "scenes".

    Raises BenchError where its first items are not, byte for byte, what the manifest says.
    """
    source = ScenesSource(manifest.name, manifest.seed, manifest.size, manifest.pairs)
    calibrating = None if manifest.calibration == NONE else manifest.calibration
    subset = Subset(
        manifest.name, manifest, source, tuple(range(len(source.ids))), calibrating, data_root
    )
    check_head(subset)
    return subset


def check_head(subset: Subset) -> None:
    """Refuse scenes whose first items are not, byte for byte, what the manifest says."""
    manifest = subset.manifest
    if not manifest.sha256_head:
        return
    found = scenes_digest(subset.limit(HEAD))
    if found != manifest.sha256_head:
        raise BenchError(
            f"The generated images of the subset {manifest.name} are not those of its "
            f"manifest (sha256 {found[:12]} instead of {manifest.sha256_head[:12]}): this "
            "cambench or this numpy draws differently, so its numbers could not be compared."
        )


def scenes_digest(samples: Iterable[Sample]) -> str:
    """Return the sha256 (64 hex digits) over image, mask and label of the samples, in their
    order.
    """
    total = hashlib.sha256()
    for sample in samples:
        total.update(sample.image.tobytes())
        if sample.mask is not None:
            total.update(sample.mask.tobytes())
        total.update(sample.label.to_bytes(8, "little"))
    return total.hexdigest()

"""What every layout hands over: images, items, classes, and sentences about what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.class_names import imagenet_names, imagenet_wnids
from bench.data.images import Items
from bench.data.manifest import IMAGENET_CLASSES, Manifest
from bench.data.object_masks import FileMasks, ItemMasks, count_masks
from bench.data.reading import Reading
from bench.errors import BenchError, suggestions

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".ppm", ".pgm"),
    *(".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif"),
)
"""Suffixes of image files, in lower case."""
SPLITS = ("val", "valid", "validation", "dev", "test", "testing", "train", "training")
"""Names of the parts of a data set; the first that is there is taken."""
SHOWN = 20
"""So many names are shown in a sentence."""
Classes = tuple[str, ...] | str


@dataclass(frozen=True)
class Gathered:
    """A layout's content.

    Attributes:
        dataset: a `datasets.Dataset` with an undecoded column `image`.
        items: what is known of each item.
        classes: names by label, or "imagenet-1k".
        content: what defines the subset beside its items, for its digest.
        what: what was found, such as "30 images in 3 class folders".
        notes: further sentences: what was assumed, and what was left out.
        part: the part of the data set that was taken, where there are several.
        reading: how its labels and boxes were read, where they stood in columns.
        settled: the manifest with what columns said of boxes and EXIF; None without columns.
    """

    dataset: Any
    items: Items
    classes: Classes
    what: str
    content: str = ""
    notes: tuple[str, ...] = ()
    part: str = ""
    reading: Reading = field(default_factory=Reading)
    settled: Manifest | None = None

    @property
    def digest(self) -> str:
        """Return the sha256 of ids, labels, boxes, classes and further content: 64 hex digits."""
        items = self.items
        boxes = None if items.boxes is None else [one.tolist() for one in items.boxes]
        known = [items.ids, items.image_ids, items.labels.tolist(), boxes, self.classes]
        total = hashlib.sha256(json.dumps(known, separators=(",", ":")).encode())
        total.update(self.content.encode())
        return total.hexdigest()


@dataclass
class ImageObjects:
    """The objects of one image.

    Attributes:
        id: the image's id.
        size: (height, width) by the annotation, or None.
        boxes: by label, in the order of first appearance.
    """

    id: str
    size: tuple[int, int] | None = None
    boxes: dict[int, list[list[float]]] = field(default_factory=dict)


def list_object_items(
    images: Sequence[ImageObjects], with_boxes: bool, masks: ItemMasks | None = None
) -> Items:
    """Return one item per image and label: `ID`, or `ID#LABEL` where an image has several
    labels.
    """
    rows = [(i, image, label) for i, image in enumerate(images) for label in image.boxes]
    ids = (image.id if len(image.boxes) == 1 else f"{image.id}#{label}" for _, image, label in rows)
    sizes = tuple(image.size for _, image, _ in rows)
    boxes = tuple(
        np.array(image.boxes[label], dtype=np.float32).reshape(-1, 4) for _, image, label in rows
    )
    return Items(
        ids=tuple(ids),
        image_ids=tuple(image.id for _, image, _ in rows),
        images=tuple(i for i, _, _ in rows),
        labels=np.array([label for _, _, label in rows], dtype=np.int64),
        boxes=boxes if with_boxes else None,
        masks=masks,
        sizes=sizes if any(sizes) else None,
    )


def index_names(names: Iterable[str], classes: Classes, where: str) -> tuple[list[int], Classes]:
    """Return the label of each name, and the classes: those given, else the names, sorted.

    Args:
        names: of the items' classes.
        classes: given names by label, or "imagenet-1k" (wnids and names); () for none.
        where: names the data in errors.
    """
    listed = list(names)
    known: tuple[str, ...] = (
        tuple(sorted(set(listed)))
        if not classes
        else imagenet_names()
        if isinstance(classes, str)
        else classes
    )
    index = {name: label for label, name in enumerate(known)}
    if classes == IMAGENET_CLASSES:
        index |= {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    unknown = [name for name in listed if name not in index]
    if unknown:
        raise BenchError(
            f"The class {unknown[0]!r} of {where} is not one of the {len(known)} classes that its "
            f"manifest gives.{suggestions(unknown[0], index)}"
        )
    return [index[name] for name in listed], classes or known


def describe_truth(items: Items) -> str:
    """Return which ground truth items have, such as "boxes: 40 on 28 of 30 items; masks: none"."""
    boxes, masks, n = "none", "none", len(items.ids)
    if items.boxes is not None:
        having = sum(len(one) > 0 for one in items.boxes)
        boxes = f"{sum(map(len, items.boxes)):,} on {having:,} of {count_words(n, 'item')}"
    if isinstance(items.masks, FileMasks):
        masks = f"{count_masks(items.masks.files):,} of {count_words(n, 'item')}"
    elif items.masks is not None:
        masks = "of all items"
    return f"boxes: {boxes}; masks: {masks}"


def shorten_names(names: Sequence[str], most: int = SHOWN) -> str:
    """Return names in a row, at most so many of them.

    >>> shorten_names(["a", "b", "c", "d"], 2)
    'a, b, ... (4)'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)})"


def count_words(number: int, word: str) -> str:
    """Return a number with its word.

    >>> count_words(1, "class"), count_words(3, "class"), count_words(2, "image")
    ('1 class', '3 classes', '2 images')
    """
    plural = f"{word[:-1]}ies" if word.endswith("y") else word + "s"
    plural = f"{word}es" if word.endswith(("s", "x")) else plural
    return f"{number:,} {word if number == 1 else plural}"


def is_image_name(file: Path) -> bool:
    """Tell whether a file is named like an image, in any case, and is not hidden."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def list_folders(place: Path) -> list[Path]:
    """Return the folders of a folder by name, without hidden ones and those of macOS's archives."""
    return sorted(
        (path for path in place.iterdir() if path.is_dir() and not is_hidden(path)),
        key=lambda path: path.name,
    )


def is_hidden(path: Path) -> bool:
    """Tell whether a file or folder is no part of the data."""
    return path.name.startswith(".") or path.name in ("__MACOSX", "__pycache__", "@eaDir")

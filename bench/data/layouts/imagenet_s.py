"""ImageNet-S as its own tools write it: `ImageNetS919/validation/WNID/*.JPEG`, and masks of the
same names in `validation-segmentation/WNID/*.png`.

A mask is an RGB PNG; the number of a pixel is R + 256 * G. 0 is no class of the data set, 1000 is
to be ignored, and 1, 2, ... count the class folders in sorted order. The truth of an item is the
class of its folder. Labels are ImageNet's.

Reference: Gao et al., "Large-scale Unsupervised Semantic Segmentation", TPAMI 2022;
github.com/LUSSeg/ImageNet-S.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench.data.decode import open_image
from bench.data.images import Items, files_dataset
from bench.data.inner_paths import refuse_outside
from bench.data.layouts.class_folders import list_images, number_names
from bench.data.layouts.gathered import Classes, Gathered, count_words, list_folders
from bench.data.object_masks import ObjectMask, check_mask_shape, make_empty_mask
from bench.errors import BenchError

COUNTS = (50, 300, 919)
"""Classes of the three data sets."""
IGNORED = 1000
"""The number of pixels that count neither as object nor as background."""
PARTS = ("validation", "train-semi")
"""The parts that have masks; the first that is there is taken."""
_SUFFIX = "-segmentation"
_SETS = tuple(f"ImageNetS{count}" for count in COUNTS)
_MERGED = ("n02808440", "n03773504", "n03832673", "n04355933", "n15075141")
"""Folders of ImageNet-S-919 that hold two classes of ImageNet each, under one name."""


class SegmentedPart(NamedTuple):
    """A part of ImageNet-S: the folders of its images and of its masks, and what was chosen."""

    images: Path
    masks: Path
    note: str = ""


@dataclass(frozen=True)
class NumberedMasks:
    """Masks that hold the numbers of classes.

    files: of each item; None where it has none, and its mask is empty.  numbers: of each item's
    class.  most: the largest number of a class.
    """

    files: tuple[Path | None, ...]
    numbers: tuple[int, ...]
    most: int

    def read(self, position: int, shape: tuple[int, int], where: str) -> ObjectMask:
        """Return the pixels of an item's class, and those to be ignored."""
        file = self.files[position]
        if file is None:
            return make_empty_mask(shape)
        name = f"mask {file}"
        found = read_numbers(file, self.most)
        mask = ObjectMask(found == self.numbers[position], found == IGNORED)
        return check_mask_shape(mask, shape, name, where)


def read_numbers(file: Path, most: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the class numbers [H,W] of a mask.

    most: the largest number of a class.

    Raises:
        BenchError: the file is no such mask.
    """
    try:
        with open_image(file, f"mask {file}") as image:
            bands, values = image.getbands(), np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BenchError(f"The mask {file} cannot be read as an image.") from error
    if bands != ("R", "G", "B") or values[..., 2].any():
        raise BenchError(
            f"The mask {file} is none of ImageNet-S, whose masks have red and green alone (the "
            "class is R + 256 * G); fetch it again."
        )
    numbers = values[..., 0] + 256 * values[..., 1]
    wrong = numbers[(numbers > most) & (numbers != IGNORED)]
    if wrong.size:
        raise BenchError(
            f"The mask {file} has the class number {wrong[0]}, and its data set has {most} "
            f"classes beside {IGNORED} (ignored); fetch masks and images of the same set."
        )
    return numbers


def find_segmented_part(place: Path) -> SegmentedPart | None:
    """Return the part of ImageNet-S at a place: the part itself, a data set, or the folder of all
    three; None of any other folder.
    """
    if not place.is_dir():
        return None
    beside = place.parent / f"{place.name}{_SUFFIX}"
    if place.name in PARTS and beside.is_dir():
        return SegmentedPart(place, beside)
    there = [part for part in PARTS if (place / part).is_dir()]
    there = [part for part in there if (place / f"{part}{_SUFFIX}").is_dir()]
    if there:
        others = f"; give the path of {there[1]} to take it" if len(there) > 1 else ""
        note = f"Of the parts of {place} that have masks the subset is {there[0]}{others}."
        return SegmentedPart(place / there[0], place / f"{there[0]}{_SUFFIX}", note)
    sets = [place / name for name in _SETS if (place / name).is_dir()]
    return find_segmented_part(sets[-1]) if sets else None


def gather_imagenet_s(place: Path, classes: Classes = ()) -> Gathered:
    """Return the items of a part of ImageNet-S.

    Args:
        place: the part, a data set such as ImageNetS50, or the folder of the data sets.
        classes: names by label that a manifest gives; () takes ImageNet's.

    Raises:
        BenchError: class folders are missing, so that the numbers of masks are unclear.
    """
    part = find_segmented_part(place)
    if part is None:
        raise BenchError(
            f"There is no ImageNet-S at {place}; give the folder that holds {PARTS[0]} and "
            f"{PARTS[0]}{_SUFFIX}."
        )
    names = _list_classes(part.images)
    numbering = number_names(names, classes, str(part.images))
    images = [
        (number, name, file)
        for number, name in enumerate(names, 1)
        for file in list_images(part.images / name)
    ]
    if not images:
        raise BenchError(f"The class folders of {part.images} hold no images.")
    ids = tuple(file.relative_to(part.images).as_posix() for _, _, file in images)
    files = _find_masks(part, [(name, file) for _, name, file in images])
    masks = NumberedMasks(files, tuple(number for number, _, _ in images), len(names))
    labels = np.array([numbering.labels[name] for _, name, _ in images], dtype=np.int64)
    items = Items(ids, ids, tuple(range(len(ids))), labels, masks=masks)
    having = sum(file is not None for file in files)
    counted = f"{count_words(len(ids), 'image')} of ImageNet-S-{len(names)}"
    return Gathered(
        dataset=files_dataset([file for _, _, file in images], part.images),
        items=items,
        classes=numbering.classes,
        what=f"{counted}; {numbering.words}; boxes: none; masks: {having:,} of {len(ids):,} items",
        notes=tuple(_list_notes(part, names, len(ids) - having)),
        content=_digest_files(files),
        part=part.images.name if part.images != place else "",
    )


def _list_classes(folder: Path) -> list[str]:
    """Return the class folders in the order that the masks count; refuse an incomplete list."""
    names = sorted(path.name for path in list_folders(folder))
    if len(names) in COUNTS:
        return names
    raise BenchError(
        f"The folder {folder} has {count_words(len(names), 'class folder')}, and ImageNet-S has "
        "50, 300 or 919, which its masks count in sorted order; add the missing ones, empty if "
        "need be."
    )


def _find_masks(part: SegmentedPart, images: Sequence[tuple[str, Path]]) -> tuple[Path | None, ...]:
    """Return the mask of each (class folder, image), None where there is none."""
    files = [part.masks / name / f"{file.stem}.png" for name, file in images]
    found = [file if file.is_file() else None for file in files]
    refuse_outside([file for file in found if file], part.masks, f"The masks of {part.masks}")
    if not any(found):
        raise BenchError(
            f"No image of {part.images} has a mask in {part.masks}; masks are named like their "
            "images, CLASS/NAME.png."
        )
    return tuple(found)


def _list_notes(part: SegmentedPart, names: Sequence[str], lacking: int) -> list[str]:
    """Return what was chosen, what is missing, and what is known of the data set's labels."""
    notes = [part.note] if part.note else []
    if lacking:
        notes.append(
            f"Without a mask in {part.masks}: {count_words(lacking, 'item')}, which metrics that "
            "need masks leave out."
        )
    if len(names) == max(COUNTS) and set(_MERGED) & set(names):
        notes.append(
            "Five class folders of ImageNet-S-919 hold two classes of ImageNet each; their images "
            "have the label of the folder."
        )
    return notes


def _digest_files(files: Sequence[Path | None]) -> str:
    """Return the sha256 of the masks' contents in the items' order, 64 hex digits."""
    total = hashlib.sha256()
    for file in files:
        total.update(b"-" if file is None else hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()

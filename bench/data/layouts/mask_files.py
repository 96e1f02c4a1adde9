"""Masks beside images: a column `mask` with their paths, or files `masks/ID.png`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from bench.data.images import Items
from bench.data.inner_paths import join_inside, refuse_outside, require_files
from bench.data.layouts.gathered import count_words, is_hidden
from bench.data.object_masks import ColumnMasks, FileMasks, is_mask_file
from bench.errors import BenchError

MASKS = "masks"
"""The folder of mask files beside images."""
MASK_COLUMN = "mask"
_SUFFIX = ".png"


def list_named_masks(cells: Sequence[tuple[str, Sequence[str]]]) -> FileMasks:
    """Return the masks that a table's column `mask` names, relative to its folder.

    cells: (what an item is called in errors, the cells of its rows), one per item.
    """
    names: list[Path | None] = []
    for item, texts in cells:
        given = list(dict.fromkeys(text for text in texts if text))
        if len(given) > 1:
            raise BenchError(
                f"Several masks belong to {item} ({given[0]}, {given[1]}); unite them in one file."
            )
        names.append(Path(given[0]) if given else None)
    return FileMasks(tuple(names))


def find_column_masks(dataset: Any, rows: Sequence[int], root: str = "") -> ColumnMasks | None:
    """Return the masks in a column `mask` of images of a `datasets.Dataset`; None without it.

    rows: of each item.  root: the folder of the table; "" for one in memory.
    """
    if MASK_COLUMN not in dataset.column_names:
        return None
    from datasets import Image as ImageFeature

    try:
        column = dataset.select_columns([MASK_COLUMN]).cast_column(
            MASK_COLUMN, ImageFeature(decode=False)
        )
    except Exception as error:  # datasets and pyarrow raise errors of many kinds
        raise BenchError(
            f"The column {MASK_COLUMN!r} holds no images; store masks as images of the size of "
            "theirs."
        ) from error
    return ColumnMasks(column, MASK_COLUMN, tuple(rows), root)


def settle_masks(
    folder: Path, items: Items, images: Sequence[str]
) -> tuple[Items, tuple[str, ...], str]:
    """Return items with the masks that files beside them hold, sentences, and a digest of the
    files ("" where there are none).

    Args:
        folder: of the annotations.
        items: their masks are paths of the column `mask`, relative to the folder, or None.
        images: the path of each item's image, relative to the folder, or its id.
    """
    notes: tuple[str, ...] = ()
    masks = items.masks
    if isinstance(masks, FileMasks):
        where = f"The column {MASK_COLUMN!r} of {folder}"
        masks = FileMasks(
            tuple(
                None if file is None else join_inside(folder, str(file), where)
                for file in masks.files
            )
        )
        require_files([file for file in masks.files if file], f"the column {MASK_COLUMN!r}")
    elif masks is None:
        masks, notes = find_masks(folder, items, images)
    if not isinstance(masks, FileMasks):
        return items, notes, ""
    refuse_outside([file for file in masks.files if file], folder, f"The masks of {folder}")
    return dataclasses.replace(items, masks=masks), notes, _digest_masks(masks)


def find_masks(
    folder: Path, items: Items, images: Sequence[str]
) -> tuple[FileMasks | None, tuple[str, ...]]:
    """Return the masks `masks/ID.png` of a folder, and sentences about them.

    ID is the item's id or its image's path without suffix, or the image's name alone. An image that
    is an item for several labels has one mask per label: `masks/ID#LABEL.png`.

    Raises:
        BenchError: one file is the mask of several images or labels.
    """
    place = folder / MASKS
    if not place.is_dir():
        return None, ()
    there = {
        path.relative_to(place).with_suffix("").as_posix(): path
        for path in place.rglob("*")
        if path.suffix.lower() == _SUFFIX and not is_hidden(path)
    }
    chosen = [_choose_mask(i, items, images[i], there) for i in range(len(items.ids))]
    used = Counter(file for file in chosen if file is not None)
    twice = [file for file, count in used.items() if count > 1]
    if twice:
        raise BenchError(
            f"The mask {twice[0]} belongs to {used[twice[0]]} items; give each a mask of its own: "
            f"{MASKS}/ID{_SUFFIX}, and {MASKS}/ID#LABEL{_SUFFIX} for an image of several labels."
        )
    if not used:
        return None, (
            f"No file of {place} is named {_SUFFIX[1:].upper()} like an image, so there are no "
            "masks.",
        )
    left, lacking = len(there) - len(used), len(chosen) - sum(used.values())
    notes = {
        f"Left out, since they belong to no item: {count_words(left, 'file')} of {place}.": left,
        f"Without a mask in {place}: {count_words(lacking, 'item')}, which metrics that need masks "
        "leave out.": lacking,
    }
    return FileMasks(tuple(chosen)), tuple(note for note, count in notes.items() if count)


def _choose_mask(i: int, items: Items, image: str, there: dict[str, Path]) -> Path | None:
    tag = items.ids[i].removeprefix(items.image_ids[i])
    tag = tag if tag.startswith("#") else ""
    names = [items.ids[i].removesuffix(tag), items.image_ids[i], image]
    stems = [Path(name).with_suffix("").as_posix() for name in names if name]
    candidates = dict.fromkeys([*names, *stems, *(Path(stem).name for stem in stems)])
    for suffix in dict.fromkeys((tag, "")):
        for name in candidates:
            if f"{name}{suffix}" in there:
                return there[f"{name}{suffix}"]
    return None


def is_mask_folder(place: Path, names: Collection[str]) -> bool:
    """Tell whether a folder `masks` is no class: it is named like classes or images, and its first
    file is a mask.
    """
    files = sorted(path for path in place.rglob(f"*{_SUFFIX}") if not is_hidden(path))
    similar = any(path.name in names or path.stem in names for path in place.iterdir())
    return similar and bool(files) and is_mask_file(files[0])


def _digest_masks(masks: FileMasks) -> str:
    """Return the sha256 of the masks' contents in the items' order, 64 hex digits."""
    total = hashlib.sha256()
    for file in masks.files:
        total.update(b"-" if file is None else hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()

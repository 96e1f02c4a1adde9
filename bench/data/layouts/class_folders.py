"""A folder per class, as torchvision's ImageFolder reads it: `ROOT/CLASS/*.jpg`.

Also `ROOT/val/CLASS/*.jpg`: of the parts of a data set the first of val, test and train is taken.
Names that are all numbers are the labels. wnids of ImageNet's 1000 classes have ImageNet's label
numbers. All other names count in sorted order, empty folders included.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.class_names import imagenet_wnids
from bench.data.images import Items, files_dataset
from bench.data.labels import find_alike, read_whole_number
from bench.data.layouts.gathered import (
    SPLITS,
    Classes,
    Gathered,
    count_words,
    describe_truth,
    index_names,
    is_hidden,
    is_image_name,
    list_folders,
    shorten_names,
)
from bench.data.layouts.mask_files import MASKS, is_mask_folder, settle_masks
from bench.data.manifest import IMAGENET_CLASSES
from bench.errors import BenchError

_NO_CLASS = ("images", "image", "imgs", "img", "jpegimages", "labels", "annotations", "data")
"""Folders of these names hold images without saying their class."""


@dataclass(frozen=True)
class _Numbering:
    """Labels by folder name, the classes, and how names became labels."""

    labels: dict[str, int]
    classes: Classes
    words: str
    notes: tuple[str, ...] = ()


def has_class_folders(place: Path) -> bool:
    """Tell whether a folder holds folders with images."""
    return place.is_dir() and any(_has_images(folder) for folder in list_folders(place))


def gather_class_folders(place: Path, classes: Classes = ()) -> Gathered:
    """Return the images of a folder per class.

    Args:
        place: the folder of the class folders, or of parts (train, val, test) that hold them.
        classes: names by label that a manifest gives; () takes them from the folders.

    Raises:
        BenchError: no folder says a class, or labels are not clear.
    """
    root, chosen = choose_part(place)
    folders = {path.name: path for path in list_folders(root)}
    files = {name: list_images(folder) for name, folder in folders.items()}
    masked = MASKS in files and is_mask_folder(folders[MASKS], _join(files, MASKS))
    if masked:
        del files[MASKS]
    _check_names(root, files)
    numbering = number_names(list(files), classes, str(root))
    images = [(name, file) for name, found in files.items() for file in found]
    if not images:
        raise BenchError(f"The class folders of {root} hold no images; the subset is empty.")
    ids = tuple(file.relative_to(root).as_posix() for _, file in images)
    labels = np.array([numbering.labels[name] for name, _ in images], dtype=np.int64)
    items = Items(ids=ids, image_ids=ids, images=tuple(range(len(ids))), labels=labels)
    items, mask_notes, mask_digest = settle_masks(root, items, ids) if masked else (items, (), "")
    counted = f"{count_words(len(ids), 'image')} in {count_words(len(files), 'class folder')}"
    return Gathered(
        dataset=files_dataset([file for _, file in images], place),
        items=items,
        classes=numbering.classes,
        what=f"{counted}; {numbering.words}; {describe_truth(items)}",
        notes=(*chosen, *numbering.notes, *_list_left_out(root, files), *mask_notes),
        content=mask_digest,
        part=root.name if chosen else "",
    )


def choose_part(place: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of the class folders, and a sentence where a part was chosen.

    Raises:
        BenchError: parts stand beside other folders, or hold images without classes.
    """
    folders = list_folders(place)
    parts = {path.name.lower(): path for path in folders if path.name.lower() in SPLITS}
    nested = {name: path for name, path in parts.items() if has_class_folders(path)}
    if not parts or (not nested and len(parts) < len(folders)):
        return place, ()
    listed = ", ".join(path.name for path in parts.values())
    flat = [path for path in parts.values() if not has_class_folders(path) and _has_images(path)]
    if flat:
        raise BenchError(
            f"The folder {place} has the parts {listed}, and {flat[0].name} holds images without "
            "a folder per class, so their labels are unknown; make one folder per class in it."
        )
    others = [path.name for path in folders if path.name.lower() not in SPLITS]
    if others:
        raise BenchError(
            f"The folder {place} has the parts {listed} beside {', '.join(others[:3])}, so its "
            f"classes are unclear; give one of them, such as {next(iter(nested.values()))}."
        )
    taken = nested[next(name for name in SPLITS if name in nested)]
    note = f"Of the parts {listed} the subset is {taken.name}; give another part's path to take it."
    return taken, (note,)


def number_names(names: list[str], classes: Classes, where: str) -> _Numbering:
    """Return the labels of class folders."""
    if classes:
        given, known = index_names(names, classes, where)
        return _Numbering(dict(zip(names, given, strict=True)), known, "labels by the manifest")
    numbers = {name: number for name in names if (number := read_whole_number(name)) is not None}
    if len(numbers) == len(names):
        return _number_numbers(numbers, where)
    wnids = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    if all(name in wnids for name in names):
        words = "their names are wnids, labels are ImageNet's numbers"
        return _Numbering({name: wnids[name] for name in names}, IMAGENET_CLASSES, words)
    ordered = sorted(names)
    listed = shorten_names([f"{label} {name}" for label, name in enumerate(ordered)])
    labels = {name: label for label, name in enumerate(ordered)}
    alike = find_alike(ordered)
    notes = (
        ()
        if alike is None
        else (
            f"The class folders {alike[0]!r} and {alike[1]!r} differ only in capitals, spaces or "
            "Unicode form, and count as two classes, as in ImageFolder.",
        )
    )
    return _Numbering(labels, tuple(ordered), f"labels in sorted order: {listed}", notes)


def _number_numbers(labels: dict[str, int], where: str) -> _Numbering:
    names, most = [*labels], max(labels.values())
    if len(set(labels.values())) < len(names):
        raise BenchError(
            f"The class folders of {where} are numbers, and two of them are equal; name them 0 to "
            "classes - 1."
        )
    notes: tuple[str, ...] = ()
    if sorted(names) != sorted(names, key=labels.__getitem__) or sorted(labels.values()) != [
        *range(len(names))
    ]:
        notes = (
            f"The folder names of {where} are taken as label numbers; torchvision's ImageFolder "
            "would count the folders in the order of text, so check that the network does not.",
        )
    words = f"their names are numbers, labels are {min(labels.values())} to {most}"
    return _Numbering(labels, tuple(str(i) for i in range(most + 1)), words, notes)


def list_images(folder: Path) -> list[Path]:
    """Return the images below a folder by path, also those in folders of its own."""
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += [] if is_hidden(path) else list_images(path)
        elif is_image_name(path):
            found.append(path)
    return sorted(found, key=lambda path: path.as_posix())


def _has_images(folder: Path) -> bool:
    return any(
        _has_images(path) if path.is_dir() else is_image_name(path)
        for path in folder.iterdir()
        if not is_hidden(path)
    )


def _check_names(root: Path, files: dict[str, list[Path]]) -> None:
    """Refuse folders whose names are no classes."""
    unnamed = [name for name in files if name.lower() in _NO_CLASS]
    if unnamed or not files:
        where = f"in the folder {unnamed[0]!r}" if unnamed else "in no folder of a class"
        raise BenchError(
            f"The images of {root} lie {where}, which says no class; make a folder per class, or "
            "add annotations.csv with file,label."
        )


def _list_left_out(root: Path, files: dict[str, list[Path]]) -> list[str]:
    """Return a sentence for each kind of thing that is there and is no labelled image."""
    empty = [name for name, found in files.items() if not found]
    nested = sum(
        len(file.relative_to(root).parts) > 2 for found in files.values() for file in found
    )
    loose = sum(path.is_file() and is_image_name(path) for path in root.iterdir())
    others = sum(
        not is_image_name(path) and not is_hidden(path)
        for name in files
        for path in (root / name).rglob("*")
        if path.is_file()
    )
    sentences = {
        f"Class folders without images, which keep their label: {shorten_names(empty)}.": empty,
        "Deeper than their class folder, and counted as of its class: "
        f"{count_words(nested, 'image')}.": nested,
        f"Left out, in {root} and in no class folder: {count_words(loose, 'image')}.": loose,
        f"Left out, with a suffix that no image has: {count_words(others, 'file')}.": others,
    }
    return [sentence for sentence, found in sentences.items() if found]


def _join(files: dict[str, list[Path]], without: str) -> set[str]:
    """Return the names of the other classes, and the stems of their images."""
    others = [(name, found) for name, found in files.items() if name != without]
    return {name for name, _ in others} | {file.stem for _, found in others for file in found}

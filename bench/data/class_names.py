"""Names of classes: ImageNet's, those of a file, and what their order may mean to a network."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from bench.data.inner_paths import join_inside
from bench.data.manifest import IMAGENET_CLASSES
from bench.errors import BenchError

IMAGENET_COUNT = 1000
_SHOWN = 3  # names that a sentence lists


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1000 wnids in label order, which is their sorted order (from timm, which ships the
    list).
    """
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """Return the 1000 class names in label order: the first of each synset's words."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(str(info.index_to_description(i)).split(",")[0] for i in range(IMAGENET_COUNT))


@functools.cache
def imagenet_index() -> Mapping[str, int]:
    """Return {wnid, name or full description: label}; -1 for a name of two classes (`crane`)."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    index: dict[str, int] = {}
    for label, wnid in enumerate(imagenet_wnids()):
        words = str(info.index_to_description(label))
        for name in {wnid, words, words.split(",")[0]}:
            index[name] = -1 if name in index else label
    return index


def class_list(classes: tuple[str, ...] | str, folder: Path, name: str) -> tuple[str, ...] | str:
    """Return a manifest's classes with a text file read: names, or "imagenet-1k", or () for "from
    the data".
    """
    if not isinstance(classes, str) or classes == IMAGENET_CLASSES:
        return classes
    file = join_inside(folder, classes, f"The manifest of {name}")
    if not file.is_file():
        raise BenchError(
            f"The subset {name} takes its class names from {file}, which is not there."
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BenchError(
            f"The class names {file} are not UTF-8; save the file as UTF-8."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def describe_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to mind about classes that are numbered in the order of their sorted names."""
    known = set(imagenet_wnids()) if all(re.fullmatch(r"n\d{8}", name) for name in names) else ()
    if known and known.issuperset(names) and len(names) < IMAGENET_COUNT:
        return (
            f"The names are ImageNet's ids, and {len(names)} of its {IMAGENET_COUNT} classes are "
            'here; for a network of all of them write classes = "imagenet-1k" into manifest.toml.',
        )
    counted = tuple(sorted(names, key=_split_digits))
    if counted == names:
        return ()
    first = next(i for i, name in enumerate(names) if counted[i] != name)
    return (
        f"Classes are numbered in the order of their sorted names, so {names[first]} is class "
        f"{first} and {counted[first]} is class {names.index(counted[first])}; a network that "
        "counts otherwise needs the list `classes` in manifest.toml.",
    )


def _split_digits(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key under which class_2 comes before class_10."""
    return tuple(
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    )

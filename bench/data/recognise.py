"""The layout of a folder or file: which one it is, and its subset.

What lies in a folder decides, in this order: annotations.csv, a saved dataset, parquet files, a
COCO json, Pascal VOC's xml, a folder per class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bench.data.annotations import ANNOTATIONS
from bench.data.class_names import class_list
from bench.data.folder import locate_files, open_folder, open_plain
from bench.data.images import ImagesSource
from bench.data.layouts.class_folders import gather_class_folders, has_class_folders
from bench.data.layouts.coco_json import find_coco_files, gather_coco
from bench.data.layouts.gathered import SPLITS, Classes, Gathered, list_folders
from bench.data.layouts.imagenet_s import find_segmented_part, gather_imagenet_s
from bench.data.layouts.layout_images import settle_images
from bench.data.layouts.pascal_voc import find_voc_files, gather_voc
from bench.data.layouts.saved_dataset import (
    gather_dataset,
    gather_saved,
    has_saved_dataset,
    name_dataset,
)
from bench.data.manifest import HASH, Manifest
from bench.data.subset import Subset, describe_split, split
from bench.errors import BenchError


class DataLayout(NamedTuple):
    """A layout: what a refusal calls it, what tells whether a place has it, and what reads it."""

    words: str
    is_at: Callable[[Path], Any]
    gather: Callable[[Path, Classes], Gathered]


_SAVED = "saved_dataset"
LAYOUTS = {
    _SAVED: DataLayout(
        "a folder that datasets' save_to_disk wrote", has_saved_dataset, gather_saved
    ),
    "coco": DataLayout(
        "a COCO json (a file, or a folder with one beside images)", find_coco_files, gather_coco
    ),
    "voc": DataLayout(
        "Pascal VOC's xml (Annotations/ and JPEGImages/)", find_voc_files, gather_voc
    ),
    "imagenet_s": DataLayout(
        "ImageNet-S (validation/ and validation-segmentation/)",
        find_segmented_part,
        gather_imagenet_s,
    ),
    "class_folders": DataLayout(
        "a folder per class (CLASS/*.jpg)", has_class_folders, gather_class_folders
    ),
}
"""The layouts that have no table of cambench's own, by manifest kind, in the order of looking."""


def describe_layouts() -> str:
    """Return the layouts that a subset may have, for a refusal."""
    first = ("a manifest (.toml)", f"a folder with {ANNOTATIONS}", "parquet files")
    return ", ".join((*first, *(layout.words for layout in LAYOUTS.values())))


def open_unnamed(place: Path) -> Subset:
    """Return the subset of a folder or file without a manifest; a fifth is set aside to calibrate.

    Raises:
        BenchError: the layout is unknown (the sentence lists all), or its content is wrong.
    """
    if _has_table(place):
        return open_plain(place)
    part = _find_part(place)
    if part is not None:
        return _name_part(open_unnamed(part), place, part)
    for kind, layout in LAYOUTS.items():
        if layout.is_at(place):
            return _open_layout(kind, place, None, None)
    what = "folder" if place.is_dir() else "file"
    raise BenchError(
        f"The {what} {place} has no known layout; a subset is one of: {describe_layouts()}."
    )


def _has_table(place: Path) -> bool:
    """Tell whether a place is annotated in a table: annotations.csv, or parquet."""
    if place.is_file():
        return place.suffix.lower() == ".parquet"
    return (place / ANNOTATIONS).is_file() or any(place.glob("*.parquet"))


def _find_part(place: Path) -> Path | None:
    """Return the part (val, test, train) of a folder of parts that have a json or xml of their
    own.
    """
    folders = {path.name.lower(): path for path in list_folders(place)} if place.is_dir() else {}
    taken = next((folders[name] for name in SPLITS if name in folders), None)
    if taken is None or any(name not in SPLITS for name in folders):
        return None
    return taken if find_coco_files(taken) or find_voc_files(taken) else None


def _name_part(subset: Subset, place: Path, part: Path) -> Subset:
    """Return the subset of a part, called by the whole and the part, with a sentence about it."""
    name = f"{place.resolve().name}-{part.name}"
    note = f"Of the parts of {place} the subset is {part.name}; give another's path to take it."
    manifest = replace(subset.manifest, name=name, title=name)
    return replace(subset, name=name, manifest=manifest, found=(*subset.found, note))


def open_by_kind(manifest: Manifest, data_root: Path | None) -> Subset:
    """Return the subset of a manifest whose files are a folder, parquet, or a layout."""
    if manifest.kind not in LAYOUTS:
        return open_folder(manifest, data_root)
    return _open_layout(manifest.kind, locate_files(manifest, data_root), manifest, data_root)


def _open_layout(
    kind: str, place: Path, manifest: Manifest | None, data_root: Path | None
) -> Subset:
    saved = kind == _SAVED
    if manifest is not None and manifest.boxes != "edges" and not saved:
        raise BenchError(
            f"The manifest of {manifest.name} has boxes = {manifest.boxes!r}, and the layout "
            f"{kind} says itself what its boxes are; take that line out."
        )
    folder = place if place.is_dir() else place.parent
    classes = () if manifest is None else class_list(manifest.classes, folder, manifest.name)
    found = (
        gather_saved(place, classes, manifest) if saved else LAYOUTS[kind].gather(place, classes)
    )
    name = place.resolve().name if place.is_dir() else place.stem
    name = f"{name}-{found.part}" if found.part else name
    return open_gathered(found, manifest or make_manifest(name, kind, found), data_root)


def make_manifest(name: str, kind: str, found: Gathered) -> Manifest:
    """Return the manifest of data that has none."""
    return Manifest(name=name, kind=kind, title=name, calibration=HASH, sha256=found.digest)


def open_gathered(found: Gathered, manifest: Manifest, data_root: Path | None) -> Subset:
    """Return the subset of a layout's content.

    Raises:
        BenchError: the content is not what the manifest's sha256 says.
    """
    if manifest.sha256 and manifest.sha256 != found.digest:
        raise BenchError(
            f"The files of the subset {manifest.name} are not those of its manifest (sha256 "
            f"{found.digest[:12]} instead of {manifest.sha256[:12]}); fetch them again, or take "
            "sha256 out of the manifest."
        )
    reading, manifest = settle_images(found, manifest)
    source = ImagesSource(
        manifest.name,
        found.dataset,
        found.items,
        found.classes,
        clip_boxes=False,
        reading=reading,
    )
    scored, calibrating = split(manifest, source)
    words = (f"{found.what[0].upper()}{found.what[1:]}.", *found.notes)
    words += describe_split(manifest, calibrating)
    return Subset(manifest.name, manifest, source, scored, calibrating, data_root, found=words)


def open_dataset(given: Any) -> Subset:
    """Return the subset of a `datasets.Dataset` or `DatasetDict` in memory."""
    try:
        found = gather_dataset(given)
    except BenchError as error:
        if "manifest.toml" not in str(error):
            raise
        raise BenchError(
            f"{error} A dataset in memory has none: save it with save_to_disk, and write "
            'manifest.toml with name and kind = "saved_dataset" into its folder.'
        ) from None
    return open_gathered(found, make_manifest(name_dataset(given), _SAVED, found), None)

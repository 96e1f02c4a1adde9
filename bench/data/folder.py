"""Subsets from files: a folder of images with annotations.csv, and parquet.

annotations.csv has the columns `file,label` and may have boxes, `image_id`, `mask`, and `author`,
`landing_url` (or `landing_page`), `licence`; one row per box, files relative to the folder. Parquet
has the columns `image` (as Hugging Face `datasets` stores it) and `label`, and may have boxes,
`image_id` (or `id`) and `mask`. Boxes are four columns or one (`bench.data.box_columns`), in stored
pixels where the manifest does not say otherwise. Labels are numbers, or names
(`bench.data.labels`). Masks may also lie in `masks/ID.png`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from bench.data.annotations import ANNOTATIONS, open_annotations
from bench.data.class_names import class_list
from bench.data.images import ImagesSource, Items, files_digest, image_paths
from bench.data.layouts.gathered import count_words, describe_truth
from bench.data.layouts.mask_files import MASKS, settle_masks
from bench.data.manifest import HASH, Manifest
from bench.data.parquet_table import open_parquet
from bench.data.subset import Subset, describe_split, split
from bench.errors import BenchError


def open_folder(manifest: Manifest, data_root: Path | None) -> Subset:
    """Return the subset of a manifest of kind "folder" or "parquet"; files lie at `path` under the
    data root.
    """
    place = locate_files(manifest, data_root)
    files = _files(manifest.kind, place)
    if manifest.sha256 and files_digest(files) != manifest.sha256:
        raise BenchError(
            f"The files of the subset {manifest.name} at {place} are not those of its manifest "
            f"(another sha256 of {files[0].name}); fetch them again, or give your own data a "
            "manifest of its own."
        )
    return _open(manifest, place, files, data_root)


def open_plain(place: Path) -> Subset:
    """Return the subset of a folder or a parquet file that has no manifest; a fifth is set aside to
    calibrate.
    """
    kind = "folder" if (place / ANNOTATIONS).is_file() else "parquet"
    files = _files(kind, place)
    name = place.resolve().name if place.is_dir() else place.stem
    manifest = Manifest(
        name=name, kind=kind, title=name, calibration=HASH, sha256=files_digest(files)
    )
    return _open(manifest, place, files, None)


def _open(manifest: Manifest, place: Path, files: list[Path], data_root: Path | None) -> Subset:
    folder = place if place.is_dir() else place.parent
    classes = class_list(manifest.classes, folder, manifest.name)
    if manifest.kind == "folder":
        opened = open_annotations(manifest, files[0], classes)
    else:
        opened = open_parquet(manifest, files, classes)
    manifest, items = opened.manifest, opened.items
    names = _image_names(opened.dataset, items, folder) if (folder / MASKS).is_dir() else []
    items, notes, masks = settle_masks(folder, items, names)
    if masks:  # beside the files that define the subset, so that other masks are another subset
        content = hashlib.sha256(f"{files_digest(files)} {masks}".encode()).hexdigest()
        manifest = dataclasses.replace(manifest, sha256=content)
    source = ImagesSource(
        manifest.name,
        opened.dataset,
        items,
        opened.classes,
        clip_boxes=False,
        reading=opened.reading,
    )
    scored, calibrating = split(manifest, source)
    found = (f"{count_words(len(items.ids), 'item')}; {describe_truth(items)}.", *notes)
    found += describe_split(manifest, calibrating)
    return Subset(manifest.name, manifest, source, scored, calibrating, data_root, found=found)


def _image_names(dataset: Any, items: Items, folder: Path) -> list[str]:
    """Return each item's image: its path below the folder, its stored name, or its id."""
    paths = image_paths(dataset)
    names = [Path(paths[i] or "") for i in items.images]
    root = folder.absolute()
    return [
        (name.relative_to(root) if name.is_relative_to(root) else name).as_posix() for name in names
    ]


def locate_files(manifest: Manifest, data_root: Path | None) -> Path:
    """Return where a manifest's files are: `path` under the data root; or the data root, where that
    is the folder.
    """
    if data_root is None:
        raise BenchError(
            f"The subset {manifest.name} needs its files: give the folder that holds "
            f"{manifest.path!r} as the data root (--data-root, or the environment variable "
            "CAMBENCH_DATA)."
        )
    place = data_root / manifest.path
    first, *rest = Path(manifest.path).parts or ("",)
    if not place.exists() and data_root.resolve().name == first:
        place = data_root.joinpath(*rest)
    if not place.exists():
        raise BenchError(
            f"The subset {manifest.name} is not at {place}; give the folder that holds "
            f"{manifest.path!r} as the data root (--data-root, or the environment variable "
            "CAMBENCH_DATA)."
        )
    return place


def _files(kind: str, place: Path) -> list[Path]:
    """Return the files that define a subset: annotations.csv, or the parquet files by name."""
    if kind == "folder":
        if not (place / ANNOTATIONS).is_file():
            raise BenchError(
                f"The folder {place} has no {ANNOTATIONS}; it lists the images as "
                "file,label[,x0,y0,x1,y1]."
            )
        return [place / ANNOTATIONS]
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise BenchError(f"The folder {place} has no parquet files.")
    return files

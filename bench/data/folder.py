"""Subsets from files: a folder of images with annotations.csv, and parquet.

annotations.csv has the columns `file,label` and may have boxes, `image_id`, and `author`,
`landing_url` (or `landing_page`), `licence`; one row per box, files relative to the folder. Parquet
has the columns `image` (as Hugging Face `datasets` stores it) and `label`, and may have boxes and
`image_id` (or `id`). Boxes are four columns or one (`bench.data.box_columns`), in stored pixels
where the manifest does not say otherwise. Labels are numbers, or names (`bench.data.labels`).
"""

from __future__ import annotations

from pathlib import Path

from bench.data.annotations import ANNOTATIONS, open_annotations
from bench.data.class_names import class_list
from bench.data.images import ImagesSource, files_digest
from bench.data.manifest import HASH, Manifest
from bench.data.parquet_table import open_parquet
from bench.data.subset import Subset, split
from bench.errors import BenchError


def open_folder(manifest: Manifest, data_root: Path | None) -> Subset:
    """Return the subset of a manifest of kind "folder" or "parquet"; files lie at `path` under the
    data root.
    """
    place = _locate(manifest, data_root)
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
    if kind == "parquet" and place.is_dir() and not list(place.glob("*.parquet")):
        raise BenchError(
            f"The folder {place} has neither {ANNOTATIONS} nor parquet files; add one of them."
        )
    if place.is_file() and place.suffix != ".parquet":
        raise BenchError(
            f"The file {place} is no subset; give a manifest (.toml), a .parquet file or a folder."
        )
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
    manifest = opened.manifest
    source = ImagesSource(
        manifest.name,
        opened.dataset,
        opened.items,
        opened.classes,
        clip_boxes=False,
        reading=opened.reading,
    )
    scored, calibrating = split(manifest, source)
    return Subset(manifest.name, manifest, source, scored, calibrating, data_root)


def _locate(manifest: Manifest, data_root: Path | None) -> Path:
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

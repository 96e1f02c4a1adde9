"""Subsets from files: a folder of images with annotations.csv, and parquet.

annotations.csv has the columns `file,label` and may have `x0,y0,x1,y1`, `image_id`, and `author`,
`landing_url` (or `landing_page`), `licence`; one row per box, files relative to the folder. Parquet
has the columns `image` (as Hugging Face `datasets` stores it) and `label`, and may have `boxes` (or
`bbox`) or `x0,y0,x1,y1`, and `image_id` (or `id`). Boxes are xyxy edges in stored pixels. Labels
are numbers, or names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.data.class_names import class_list
from bench.data.images import (
    Boxes,
    ImagesSource,
    Items,
    files_dataset,
    files_digest,
    image_paths,
    parquet_dataset,
    read_boxes,
)
from bench.data.manifest import HASH, Manifest
from bench.data.subset import Subset, split
from bench.errors import BenchError

ANNOTATIONS = "annotations.csv"
_CORNERS = ("x0", "y0", "x1", "y1")
_BOX_COLUMNS = ("boxes", "bbox", "bboxes")
_ID_COLUMNS = ("image_id", "id")
_MOST_CLASSES = 100_000  # beyond it a number is an id, and counting up to it would fill the memory
Classes = tuple[str, ...] | str


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
    read = _read_folder if manifest.kind == "folder" else _read_parquet
    dataset, items, classes = read(manifest, files, classes)
    source = ImagesSource(manifest.name, dataset, items, classes, clip_boxes=False)
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


# --- annotations.csv
# --------------------------------------------------------------------------------------------------
def _read_folder(
    manifest: Manifest, files: list[Path], classes: Classes
) -> tuple[Any, Items, Classes]:
    table = _read_csv(files[0])
    folder = files[0].parent
    labels, classes = _labels(list(table["label"]), classes, str(files[0]))
    table = table.assign(label=labels)
    if "image_id" not in table:
        table = table.assign(image_id=table["file"])
    paths = list(dict.fromkeys(table["file"]))
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing:
        raise BenchError(
            f"The image {folder / missing[0]} is missing ({len(missing)} of {len(paths)} that "
            f"{ANNOTATIONS} lists are); fetch it, or take its rows out."
        )
    dataset = files_dataset([folder / path for path in paths])
    return dataset, _folder_items(table, paths, manifest.boxes == "pixels"), classes


def _read_csv(file: Path) -> Any:
    import pandas as pd

    try:
        table = pd.read_csv(file, dtype={"file": str, "image_id": str, "label": str})
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise BenchError(f"The table {file} cannot be read as CSV ({error}).") from error
    present = [c for c in _CORNERS if c in table]
    needed = ["file", "label", *(_CORNERS if present else ())]
    missing = [c for c in needed if c not in table]
    if missing:
        have = ", ".join(table.columns)
        raise BenchError(
            f"The table {file} lacks the column {', '.join(missing)}; its columns are {have}."
        )
    if table.empty:
        raise BenchError(f"The table {file} has no rows; the subset is empty.")
    for column in ("file", "label", *(["image_id"] if "image_id" in table else [])):
        if table[column].isna().any():
            row = int(table[column].isna().to_numpy().argmax())
            # Row 1 is the header.
            raise BenchError(f"The table {file} has no {column} in line {row + 2}; fill it in.")
    return table


def _folder_items(table: Any, paths: list[str], inclusive: bool) -> Items:
    """Return one item per image and label, in the table's order."""
    position = {path: i for i, path in enumerate(paths)}
    per_image = table.groupby("file")["label"].nunique()
    ids, image_ids, images, labels, named, boxes = [], [], [], [], [], []
    for (path, label), rows in table.groupby(["file", "label"], sort=False):
        image_id = str(rows["image_id"].iloc[0])
        ids.append(image_id if per_image[path] == 1 else f"{image_id}#{label}")
        image_ids.append(image_id)
        images.append(position[path])
        labels.append(int(label))
        named.append(_credit(rows.iloc[0].to_dict()))
        boxes.append(_row_boxes(rows, str(path), inclusive))
    with_boxes = _CORNERS[0] in table
    return Items(
        ids=tuple(ids),
        image_ids=tuple(image_ids),
        images=tuple(images),
        labels=np.array(labels, dtype=np.int64),
        boxes=tuple(boxes) if with_boxes else None,
        credits=tuple(named) if any(named) else None,
    )


def _row_boxes(rows: Any, where: str, inclusive: bool) -> Boxes:
    if _CORNERS[0] not in rows:
        return np.zeros((0, 4), dtype=np.float32)
    # A row without any corner is an image without a box.
    return read_boxes(rows[list(_CORNERS)].dropna(how="all").to_numpy().tolist(), where, inclusive)


def _credit(row: dict[str, Any]) -> str | None:
    """Return "author, page, licence" of a row, as far as they are there."""
    page = row.get("landing_url", row.get("landing_page"))
    parts = [row.get("author"), page, row.get("licence")]
    # An empty cell is a NaN, the one value that is not a string here.
    said = [part for part in parts if isinstance(part, str) and part]
    return ", ".join(said) if said else None


def _labels(values: list[Any], classes: Classes, where: str) -> tuple[list[int], Classes]:
    """Return labels as numbers, and the classes: those given, or as many as the data has.

    Labels are all whole numbers, or all names: of the classes given, else the sorted names are the
    classes.
    """
    texts = [str(value) for value in values]
    numbers = [text.isascii() and text.removeprefix("-").isdigit() for text in texts]
    if all(numbers):
        found = [int(text) for text in texts]
        if max(found) >= _MOST_CLASSES:
            raise BenchError(
                f"The label {max(found)} in {where} is no class number; they count from 0 to "
                "classes - 1."
            )
        return found, classes or tuple(str(label) for label in range(max(found) + 1))
    known = (
        classes
        if isinstance(classes, tuple) and classes
        else ()
        if any(numbers)
        else tuple(sorted(set(texts)))
    )
    index = {name: i for i, name in enumerate(known)}
    bad = [text for text in texts if text not in index]
    if bad:
        raise BenchError(
            f"The label {bad[0]!r} in {where} is neither a whole number nor the name of a class."
        )
    return [index[text] for text in texts], known


# --- parquet
# --------------------------------------------------------------------------------------------------
def _read_parquet(
    manifest: Manifest, files: list[Path], classes: Classes
) -> tuple[Any, Items, Classes]:
    name = manifest.name
    dataset = parquet_dataset(files, name)
    if "label" not in dataset.column_names:
        have = ", ".join(dataset.column_names)
        raise BenchError(
            f"The parquet of the subset {name} has no column 'label'; its columns are {have}."
        )
    if len(dataset) == 0:
        raise BenchError(f"The parquet of the subset {name} has no rows; the subset is empty.")
    labels, classes = _labels(
        list(dataset["label"]), classes or _feature_names(dataset), str(files[0])
    )
    ids = _parquet_ids(dataset)
    items = Items(
        ids=ids,
        image_ids=ids,
        images=tuple(range(len(ids))),
        labels=np.array(labels, dtype=np.int64),
        boxes=_parquet_boxes(dataset, ids, manifest.boxes == "pixels"),
    )
    return dataset, items, classes


def _feature_names(dataset: Any) -> tuple[str, ...]:
    """Return the class names that `datasets` keeps in the file's metadata, or ()."""
    return tuple(getattr(dataset.features["label"], "names", None) or ())


def _parquet_ids(dataset: Any) -> tuple[str, ...]:
    """Return ids: a column of ids, else the stems of the stored paths, else row numbers."""
    for column in _ID_COLUMNS:
        if column in dataset.column_names:
            return tuple(str(value) for value in dataset[column])
    paths = image_paths(dataset)
    if all(paths) and len(set(paths)) == len(paths):
        return tuple(Path(str(path)).stem for path in paths)
    return tuple(f"{row:08d}" for row in range(len(dataset)))


def _parquet_boxes(dataset: Any, ids: tuple[str, ...], inclusive: bool) -> tuple[Boxes, ...] | None:
    """Return each row's boxes: from a column of lists of boxes (or of one box), or from four
    columns of corners.
    """
    values: list[Any]
    columns = [column for column in _BOX_COLUMNS if column in dataset.column_names]
    if columns:
        values = list(dataset[columns[0]])
    elif all(corner in dataset.column_names for corner in _CORNERS):
        values = [list(box) for box in zip(*(dataset[corner] for corner in _CORNERS), strict=True)]
    else:
        return None
    return tuple(
        read_boxes(value, item, inclusive) for value, item in zip(values, ids, strict=True)
    )

"""Subsets from parquet files: a column of encoded images, one of labels, and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.data.box_columns import find_box_columns, parse_boxes
from bench.data.box_reading import BoxSource, read_box_lists
from bench.data.image_survey import survey_images
from bench.data.images import Items, image_paths, parquet_dataset, read_record, row_files
from bench.data.labels import Classes, read_labels
from bench.data.layouts.mask_files import MASK_COLUMN, find_column_masks
from bench.data.manifest import Manifest
from bench.data.opened_files import OpenedFiles, collect_reading
from bench.data.reading import RowFiles
from bench.data.table_file import find_column
from bench.errors import BenchError

_ID_COLUMNS = ("image_id", "id")


def open_parquet(manifest: Manifest, files: list[Path], classes: Classes) -> OpenedFiles:
    """Return the images and items of parquet files.

    Raises:
        BenchError: one sentence with the file and row that is wrong.
    """
    name = manifest.name
    dataset, rows = parquet_dataset(files, name), row_files(files)
    where = f"The parquet of the subset {name}"
    return open_rows(manifest, dataset, classes, where, str(files[0]), rows)


def open_rows(
    manifest: Manifest,
    dataset: Any,
    classes: Classes,
    where: str,
    file: str,
    rows: RowFiles | None = None,
) -> OpenedFiles:
    """Return the images and items of a `datasets.Dataset`: one item per row.

    Args:
        manifest: says how boxes are written, and the subset's name.
        dataset: with an undecoded column `image`.
        classes: names by label, or () for those of the dataset.
        where: begins sentences about the dataset.
        file: what holds the labels, for errors.
        rows: the files that hold the rows.

    Raises:
        BenchError: one sentence with the file and row that is wrong.
    """
    label = find_column(dataset.column_names, "label", where)
    if label is None:
        have = ", ".join(dataset.column_names)
        raise BenchError(f"{where} has no column 'label'; its columns are {have}.")
    if len(dataset) == 0:
        raise BenchError(f"{where} has no rows; the subset is empty.")
    names = tuple(getattr(dataset.features[label], "names", None) or ())
    place = rows.place if rows else lambda i: f"row {i} of {file}"
    values = list(dataset[label])
    labels = read_labels(values, classes or names, file, place, indexed=bool(names))
    ids, id_column = read_ids(dataset)
    facts = survey_images(lambda i: read_record(dataset, i, ids[i], rows), len(ids))
    columns = find_box_columns(dataset.column_names, where)
    boxes = None
    if columns is not None:
        places = [f"{item} ({place(i)})" for i, item in enumerate(ids)]
        cells = zip(*(list(dataset[column]) for column in columns.names), strict=True)
        raw = [parse_boxes(one, spot) for one, spot in zip(cells, places, strict=True)]
        source = BoxSource(columns, manifest.boxes, manifest.exif, manifest.name, places, facts)
        boxes = read_box_lists(raw, source)
    used = {"image", label, id_column, MASK_COLUMN, *(columns.names if columns else ())}
    unused = [column for column in dataset.column_names if column not in used]
    reading, manifest = collect_reading(manifest, labels, boxes, facts, unused, rows)
    items = Items(
        ids=ids,
        image_ids=ids,
        images=tuple(range(len(ids))),
        labels=np.array(labels.labels, dtype=np.int64),
        boxes=None if boxes is None else boxes.boxes,
        masks=find_column_masks(dataset, range(len(ids)), rows.folder if rows else ""),
    )
    return OpenedFiles(dataset, items, labels.classes, reading, manifest)


def read_ids(dataset: Any) -> tuple[tuple[str, ...], str | None]:
    """Return ids and their column: a column of ids, else the stems of the stored paths, else row
    numbers.
    """
    for column in _ID_COLUMNS:
        if column in dataset.column_names:
            return tuple(str(value) for value in dataset[column]), column
    paths = image_paths(dataset)
    if all(paths) and len(set(paths)) == len(paths):
        return tuple(Path(str(path)).stem for path in paths), None
    return tuple(f"{row:08d}" for row in range(len(dataset))), None

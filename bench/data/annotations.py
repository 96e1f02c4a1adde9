"""Subsets from annotations.csv beside images: one row for each box, or for each image."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.box_columns import BoxColumns, find_box_columns, parse_boxes
from bench.data.box_reading import BoxSource, read_box_lists
from bench.data.image_survey import survey_images
from bench.data.images import Items, files_dataset
from bench.data.inner_paths import is_there
from bench.data.labels import Classes, read_labels
from bench.data.layouts.mask_files import MASK_COLUMN, list_named_masks
from bench.data.manifest import Manifest
from bench.data.object_masks import FileMasks
from bench.data.opened_files import OpenedFiles, collect_reading
from bench.data.table_file import TableFile, column_key, find_column, read_table
from bench.errors import BenchError

ANNOTATIONS = "annotations.csv"
_CREDITS = ("author", "landingurl", "landingpage", "licence")
_NOT_NAMED = (*_CREDITS, "", "unnamed:0", "index")  # used, or what pandas writes beside the columns


@dataclass(frozen=True)
class _Rows:
    """The rows of one item: an image and a label."""

    path: str
    label: int
    rows: list[int]


def open_annotations(manifest: Manifest, file: Path, classes: Classes) -> OpenedFiles:
    """Return the images and items that an annotations.csv lists.

    Raises:
        BenchError: one sentence with the line of the table that is wrong.
    """
    table = read_table(file)
    columns = {
        name: find_column(table.columns, name, f"The table {file}")
        for name in ("file", "label", "image_id", MASK_COLUMN)
    }
    for name, column in columns.items():
        if column is not None and name in ("file", "image_id") and "" in table.column(column):
            place = table.place(table.column(column).index(""))
            raise BenchError(f"There is no {name} in {place}; fill it in.")
    paths = _find_files(file.parent, table.column(str(columns["file"])))
    labels = read_labels(table.column(str(columns["label"])), classes, str(file), table.place)
    items = _group_rows(paths, labels.labels)
    images = list(dict.fromkeys(paths))
    dataset = files_dataset([file.parent / path for path in images], file.parent)
    position = {path: i for i, path in enumerate(images)}
    facts = survey_images(
        lambda i: ({"path": str(file.parent / images[i])}, images[i]), len(images)
    )
    boxes_at = find_box_columns(table.columns, f"The table {file}")
    boxes = None
    if boxes_at is not None:
        known = {i: facts[p] for i, o in enumerate(items) if (p := position[o.path]) in facts}
        places = [_place(table, one) for one in items]
        source = BoxSource(boxes_at, manifest.boxes, manifest.exif, str(file), places, known)
        boxes = read_box_lists(_read_cells(table, items, boxes_at), source)
    used = {*columns.values(), *(boxes_at.names if boxes_at else ())}
    unused = [c for c in table.columns if c not in used and column_key(c) not in _NOT_NAMED]
    reading, manifest = collect_reading(manifest, labels, boxes, facts, unused)
    named = table.column(columns["image_id"]) if columns["image_id"] else paths
    made = _make_items(table, items, position, named, None if boxes is None else boxes.boxes)
    return OpenedFiles(
        dataset,
        replace(made, masks=_read_masks(table, items, columns[MASK_COLUMN])),
        labels.classes,
        reading,
        manifest,
    )


def _find_files(folder: Path, written: Sequence[str]) -> list[str]:
    """Return the path of each row's image, as it lies in the folder; forms of one path become
    one.
    """
    found = {text: _find_file(folder, text) for text in dict.fromkeys(written)}
    missing = [text for text, path in found.items() if path is None]
    if missing:
        near = _find_near(folder / missing[0])
        hint = f"there is {near}, so mind capitals" if near else "fetch it, or take its rows out"
        raise BenchError(
            f"The image {folder / missing[0]} is missing ({len(missing)} of {len(found)} that "
            f"{ANNOTATIONS} lists are); {hint}."
        )
    return [str(found[text]) for text in written]


def _find_file(folder: Path, text: str) -> str | None:
    """Return the path that a text means: as it is, with slashes turned, or in the other Unicode
    form.
    """
    turned = text.replace("\\", "/")
    forms = (unicodedata.normalize(form, turned) for form in ("NFC", "NFD"))
    for candidate in (text, turned, *forms):
        if is_there(folder / candidate):
            return posixpath.normpath(candidate)
    return None


def _find_near(path: Path) -> str | None:
    """Return the name of a file that differs from a missing one only in capitals."""
    if not path.parent.is_dir():
        return None
    wanted = path.name.casefold()
    return next((one.name for one in path.parent.iterdir() if one.name.casefold() == wanted), None)


def _group_rows(paths: Sequence[str], labels: Sequence[int]) -> list[_Rows]:
    """Return one item per image and label, in the table's order."""
    groups: dict[tuple[str, int], list[int]] = {}
    for row, key in enumerate(zip(paths, labels, strict=True)):
        groups.setdefault(key, []).append(row)
    return [_Rows(path, label, rows) for (path, label), rows in groups.items()]


def _place(table: TableFile, item: _Rows) -> str:
    first, last = table.lines[item.rows[0]], table.lines[item.rows[-1]]
    lines = f"line {first}" if first == last else f"lines {first} to {last}"
    return f"{item.path} ({lines} of {table.file.name})"


def _read_cells(
    table: TableFile, items: Sequence[_Rows], columns: BoxColumns
) -> list[list[list[float]]]:
    """Return the numbers of each item's boxes."""
    cells = list(zip(*(table.column(name) for name in columns.names), strict=True))
    return [
        [
            box
            for row in item.rows
            for box in parse_boxes(cells[row], _place(table, _Rows(item.path, 0, [row])))
        ]
        for item in items
    ]


def _read_masks(table: TableFile, items: Sequence[_Rows], column: str | None) -> FileMasks | None:
    """Return the masks that the table names, or None where it has no such column."""
    if column is None:
        return None
    cells = table.column(column)
    return list_named_masks(
        [(_place(table, item), [cells[row] for row in item.rows]) for item in items]
    )


def _make_items(
    table: TableFile,
    items: Sequence[_Rows],
    position: dict[str, int],
    named: Sequence[str],
    boxes: Any,
) -> Items:
    labels_of: dict[str, set[int]] = {}
    for item in items:
        labels_of.setdefault(item.path, set()).add(item.label)
    image_ids = tuple(named[item.rows[0]] for item in items)
    credits_ = tuple(_credit(table, item.rows[0]) for item in items)
    return Items(
        ids=tuple(
            image_id if len(labels_of[item.path]) == 1 else f"{image_id}#{item.label}"
            for image_id, item in zip(image_ids, items, strict=True)
        ),
        image_ids=image_ids,
        images=tuple(position[item.path] for item in items),
        labels=np.array([item.label for item in items], dtype=np.int64),
        boxes=boxes,
        credits=credits_ if any(credits_) else None,
    )


def _credit(table: TableFile, row: int) -> str | None:
    """Return "author, page, licence" of a row, as far as they are there."""
    cells = {column_key(c): cell for c, cell in zip(table.columns, table.rows[row], strict=True)}
    page = cells.get("landingurl", cells.get("landingpage"))
    said = [part for part in (cells.get("author"), page, cells.get("licence")) if part]
    return ", ".join(said) if said else None

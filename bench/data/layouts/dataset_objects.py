"""The column `objects` of detection data sets in Hugging Face `datasets`: boxes and categories of
each row.

`datasets` writes boxes of `objects` as COCO does: x, y, width, height. The key `boxes` of a
manifest says another order or unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.data.box_columns import BoxColumns, parse_boxes
from bench.data.box_reading import BoxSource, read_box_lists
from bench.data.image_survey import survey_images
from bench.data.images import read_record
from bench.data.labels import read_labels
from bench.data.layouts.gathered import Classes, ImageObjects, list_object_items
from bench.data.manifest import Manifest
from bench.data.opened_files import OpenedFiles, collect_reading
from bench.errors import BenchError

_OBJECTS = "objects"
_BOXES = ("bbox", "bboxes", "boxes")
_CATEGORIES = ("category", "categories", "category_id", "label", "labels")


def open_objects(
    manifest: Manifest, dataset: Any, ids: Sequence[str], classes: Classes, where: str
) -> OpenedFiles:
    """Return one item for each image and category.

    Args:
        manifest: says how boxes are written, and whether EXIF turns images.
        dataset: with an undecoded column `image` and a column `objects`.
        ids: of its rows.
        classes: names by label that a manifest gives, or ().
        where: names the dataset in errors.

    Raises:
        BenchError: one sentence with the row that is wrong.
    """
    rows = [_read_row(row, f"row {i} of {where}") for i, row in enumerate(dataset[_OBJECTS])]
    flat = [(i, category, box) for i, row in enumerate(rows) for category, box in row]
    if not flat:
        raise BenchError(f"No row of {where} has an object; the subset is empty.")
    names = _find_names(dataset.features[_OBJECTS])
    labels = read_labels(
        [category for _, category, _ in flat],
        classes or names,
        where,
        lambda i: f"'objects' in row {flat[i][0]} of {where}",
        indexed=bool(names),
    )
    images = [ImageObjects(number) for number in ids]
    for (i, _, box), label in zip(flat, labels.labels, strict=True):
        images[i].boxes.setdefault(label, []).append(box)
    items = list_object_items(images, with_boxes=True)
    facts = survey_images(lambda i: read_record(dataset, i, ids[i]), len(ids))
    source = BoxSource(
        BoxColumns((_OBJECTS,), "xywh"),
        manifest.boxes,
        manifest.exif,
        where,
        [f"{items.ids[k]} (row {i} of {where})" for k, i in enumerate(items.images)],
        {k: facts[i] for k, i in enumerate(items.images) if i in facts},
    )
    boxes = read_box_lists([one for image in images for one in image.boxes.values()], source)
    reading, manifest = collect_reading(manifest, labels, boxes, facts)
    items = dataclasses.replace(items, boxes=boxes.boxes)
    return OpenedFiles(dataset, items, labels.classes, reading, manifest)


def _read_row(row: Any, place: str) -> list[tuple[Any, list[float]]]:
    """Return (category, box) of each object of a row: a dict of lists, or a list of dicts."""
    if row is None:
        return []
    records = [row] if isinstance(row, Mapping) else row
    pairs: list[tuple[Any, list[float]]] = []
    for record in records:
        boxes, categories = (
            next((key for key in keys if key in record), None) for keys in (_BOXES, _CATEGORIES)
        )
        if boxes is None or categories is None:
            raise BenchError(
                f"The column 'objects' in {place} has the fields {', '.join(record)}; it needs "
                "bbox and category."
            )
        one, many = record[boxes], record[categories]
        if not isinstance(row, Mapping):
            one, many = [one], [many]
        pairs += _pair_objects(one or [], many or [], place)
    return pairs


def _pair_objects(
    boxes: Sequence[Any], categories: Sequence[Any], place: str
) -> list[tuple[Any, list[float]]]:
    if len(boxes) != len(categories):
        raise BenchError(
            f"The column 'objects' in {place} has {len(boxes)} boxes and {len(categories)} "
            "categories; give each object one of both."
        )
    found = []
    for category, box in zip(categories, boxes, strict=True):
        read = parse_boxes([box], f"'objects' in {place}")
        if len(read) != 1:
            raise BenchError(f"An object in {place} has {len(read)} boxes; give it one.")
        found.append((category, read[0]))
    return found


def _find_names(feature: Any) -> tuple[str, ...]:
    """Return the class names of the field `category`, or ()."""
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) else inner
    if not isinstance(inner, Mapping):
        return ()
    field = next((inner[key] for key in _CATEGORIES if key in inner), None)
    field = getattr(field, "feature", field)
    return tuple(getattr(field, "names", None) or ())

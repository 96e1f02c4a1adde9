"""The column `objects` of detection data sets in Hugging Face `datasets`: boxes and categories of
each row.

`datasets` writes boxes of `objects` as COCO does: x, y, width, height. Where a box cannot be that
and can be two corners, the column is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.data.layouts.gathered import Classes, ImageObjects, index_names
from bench.errors import BenchError

_OBJECTS = "objects"
_BOXES = ("bbox", "bboxes", "boxes")
_CATEGORIES = ("category", "categories", "category_id", "label", "labels")


def list_dataset_objects(
    dataset: Any, ids: Sequence[str], classes: Classes, where: str
) -> tuple[list[ImageObjects], Classes, tuple[str, ...]]:
    """Return the objects of each row, the classes, and a sentence about how boxes were read.

    Args:
        dataset: with a column `objects`.
        ids: of its rows.
        classes: names by label that a manifest gives, or ().
        where: names the dataset in errors.
    """
    found = [_read_row(row, where) for row in dataset[_OBJECTS]]
    categories = [category for row in found for category, _ in row]
    if not categories:
        raise BenchError(f"No row of {where} has an object; the subset is empty.")
    names = classes or _find_names(dataset.features[_OBJECTS])
    labels, known = _number_categories(categories, names, where)
    index = dict(zip(categories, labels, strict=True))
    _check_boxes([box for row in found for _, box in row], where)
    objects = []
    for number, row in zip(ids, found, strict=True):
        one = ImageObjects(number)
        for category, (x, y, width, height) in row:
            edges = [x, y, x + width, y + height]
            one.boxes.setdefault(index[category], []).append(edges)
        objects.append(one)
    note = f"The boxes in 'objects' of {where} are read as x, y, width, height, as datasets' are."
    return objects, known, (note,)


def _read_row(row: Any, where: str) -> list[tuple[Any, list[float]]]:
    """Return (category, box) of each object of a row: a dict of lists, or a list of dicts."""
    if row is None:
        return []
    records = [row] if isinstance(row, Mapping) else row
    pairs: list[tuple[Any, list[float]]] = []
    for record in records:
        boxes, categories = (
            next((record[key] for key in keys if key in record), None)
            for keys in (_BOXES, _CATEGORIES)
        )
        if boxes is None or categories is None:
            raise BenchError(
                f"The column 'objects' of {where} has the fields {', '.join(record)}; it needs "
                "bbox and category."
            )
        if not isinstance(row, Mapping):
            boxes, categories = [boxes], [categories]
        pairs += [(c, [float(v) for v in box]) for c, box in zip(categories, boxes, strict=True)]
    return pairs


def _find_names(feature: Any) -> tuple[str, ...]:
    """Return the class names of the field `category`, or ()."""
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) else inner
    if not isinstance(inner, Mapping):
        return ()
    field = next((inner[key] for key in _CATEGORIES if key in inner), None)
    field = getattr(field, "feature", field)
    return tuple(getattr(field, "names", None) or ())


def _number_categories(
    categories: list[Any], names: Classes, where: str
) -> tuple[list[int], Classes]:
    if all(isinstance(category, int) for category in categories):
        return categories, names or tuple(str(i) for i in range(max(categories) + 1))
    return index_names([str(category) for category in categories], names, where)


def _check_boxes(boxes: Sequence[list[float]], where: str) -> None:
    """Refuse boxes that are not x, y, width, height in pixels."""
    for box in boxes:
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
            raise BenchError(
                f"The box {box} in 'objects' of {where} is not x, y, width, height with a width "
                "and a height above 0."
            )
    if max(map(max, boxes)) <= 1:
        raise BenchError(
            f"The boxes in 'objects' of {where} are fractions of the image; multiply them by the "
            "image's size."
        )

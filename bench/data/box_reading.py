"""Boxes of a table's cells become edges x0, y0, x1, y1, or one sentence that names the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data.box_columns import BoxColumns, parse_boxes
from bench.data.box_format import (
    Boxes,
    BoxTable,
    check_inside,
    check_numbers,
    check_rows,
    check_unit,
    choose_format,
    describe_format,
    find_order,
    to_xyxy,
)


@dataclass(frozen=True)
class BoxReading:
    """Boxes as they were read.

    Attributes:
        boxes: for each item [n,4] float32 edges; in pixels, or as fractions of the image.
        relative: they are fractions.
        sentence: how they were read.
        cautions: sentences about what may be wrong with them.
    """

    boxes: tuple[Boxes, ...]
    relative: bool
    sentence: str
    cautions: tuple[str, ...] = ()


def read_box_cells(
    cells: Sequence[Sequence[Sequence[Any]]],
    columns: BoxColumns,
    key: str,
    where: str,
    places: Sequence[str],
    sizes: Mapping[int, tuple[int, int]],
) -> BoxReading:
    """Return the boxes of all items.

    Args:
        cells: for each item its rows, and of each row the cells of `columns.names`.
        columns: where the boxes stand (`find_box_columns`).
        key: the manifest's `boxes`, such as "edges" or "fraction-xywh".
        where: the file or subset, for errors.
        places: what each item is called in errors.
        sizes: (width, height) in pixels of the images of some items; they decide what is doubtful.

    Raises:
        BenchError: a box is not four finite numbers, reversed or empty; the boxes are fractions, or
            in an order that cannot be known.
    """
    raw = [
        [box for row in rows for box in parse_boxes(row, place)]
        for rows, place in zip(cells, places, strict=True)
    ]
    return read_box_lists(raw, columns, key, where, places, sizes)


def read_box_lists(
    raw: Sequence[Sequence[Sequence[float]]],
    columns: BoxColumns,
    key: str,
    where: str,
    places: Sequence[str],
    sizes: Mapping[int, tuple[int, int]],
) -> BoxReading:
    """Return the boxes of all items from numbers: four for each box, as the file has them.

    The arguments and errors are those of `read_box_cells`; raw holds the boxes of each item.
    """
    form = choose_format(key, columns)
    table = BoxTable.build([_drop_repeated(boxes) for boxes in raw], sizes)
    repeated = sum(map(len, raw)) - len(table.raw)
    cautions: list[str] = []
    if len(table.raw):
        check_numbers(table, form, places)
        check_unit(table, form, where)
        if not form.order:
            form = find_order(table, form, columns, where)
        check_rows(table, form, places)
        cautions += check_inside(table, form, places)
    elif not form.order:
        form = choose_format("xyxy", columns)
    if repeated:
        cautions.append(f"{repeated} boxes of {where} stand there twice and count once.")
    if columns.unused:
        cautions.append(f"Of the columns {', '.join(columns.unused)} no box is read.")
    edges = to_xyxy(table.raw, form).astype(np.float32)
    boxes = tuple(edges[table.item == i] for i in range(len(raw)))
    sentence = describe_format(columns.names, form, len(edges))
    return BoxReading(boxes, form.relative, sentence, tuple(cautions))


def _drop_repeated(boxes: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    return list({tuple(box): box for box in boxes}.values())

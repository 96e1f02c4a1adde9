"""Boxes of a table's cells become edges x0, y0, x1, y1, or one sentence that names the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.data.box_columns import BoxColumns
from bench.data.box_format import (
    Boxes,
    BoxFormat,
    BoxTable,
    check_inside,
    check_numbers,
    check_rows,
    check_unit,
    choose_format,
    count_boxes,
    describe_format,
    find_order,
    to_xyxy,
)
from bench.data.image_survey import ImageFacts, choose_turned


@dataclass(frozen=True)
class BoxSource:
    """What is known about boxes beside their numbers.

    Attributes:
        columns: where they stand (`find_box_columns`).
        key: the manifest's `boxes`, such as "edges" or "fraction-xywh".
        exif: the manifest's `exif`: "stored", "turned" or "".
        where: the file or subset, for errors.
        places: what each item is called in errors.
        facts: what the headers of some items' images say; it decides what is doubtful.
    """

    columns: BoxColumns
    key: str
    exif: str
    where: str
    places: Sequence[str]
    facts: Mapping[int, ImageFacts]


@dataclass(frozen=True)
class BoxReading:
    """Boxes as they were read.

    Attributes:
        boxes: for each item [n,4] float32 edges; in pixels, or as fractions of the image.
        form: the order and unit that the file has.
        found: the order, where neither names nor manifest say it; else "xyxy".
        turned: the images are turned by their EXIF orientation.
        sentence: how they were read.
        cautions: sentences about what may be wrong with them.
    """

    boxes: tuple[Boxes, ...]
    form: BoxFormat
    found: str
    turned: bool
    sentence: str
    cautions: tuple[str, ...] = ()


def read_box_lists(raw: Sequence[Sequence[Sequence[float]]], source: BoxSource) -> BoxReading:
    """Return the boxes of all items from numbers: four for each box, as the file has them.

    Args:
        raw: the boxes of each item (`bench.data.box_columns.parse_boxes`).
        source: what else is known.

    Raises:
        BenchError: a box is not four finite numbers, reversed or empty; the boxes are fractions, or
            in an order that cannot be known.
    """
    columns = source.columns
    once = [list({tuple(box): box for box in boxes}.values()) for boxes in raw]
    table, form = _read_format(once, source)
    turned, cautions = choose_turned(
        source.facts,
        source.exif,
        lambda i, how: form.relative or _fits(once[i], form, source.facts[i], how),
    )
    sizes = {i: one.shown(turned) for i, one in source.facts.items()}
    table = BoxTable.build(once, sizes)
    notes = [*cautions, *(check_inside(table, form, source.places) if len(table.raw) else ())]
    if repeated := sum(map(len, raw)) - len(table.raw):
        notes.append(f"{count_boxes(repeated)} of {source.where} stand there twice and count once.")
    if columns.unused:
        notes.append(f"Of the columns {', '.join(columns.unused)} no box is read.")
    edges = to_xyxy(table.raw, form).astype(np.float32)
    boxes = tuple(edges[table.item == i] for i in range(len(raw)))
    sentence = describe_format(columns.names, form, len(edges))
    declared = choose_format(source.key, columns).order
    found = "xyxy" if declared else form.order
    return BoxReading(boxes, form, found, turned, sentence, tuple(notes))


def _read_format(
    boxes: Sequence[Sequence[Sequence[float]]], source: BoxSource
) -> tuple[BoxTable, BoxFormat]:
    """Return the boxes as a table, and their format; images that EXIF may turn do not decide it."""
    sizes = {i: one.size for i, one in source.facts.items() if not one.swapped}
    table, form = BoxTable.build(boxes, sizes), choose_format(source.key, source.columns)
    if not len(table.raw):
        return table, replace(form, order=form.order or "xyxy")
    check_numbers(table, form, source.places)
    check_unit(table, form, source.where)
    if not form.order:
        form = find_order(table, form, source.columns, source.where)
    check_rows(table, form, source.places)
    return table, form


def _fits(
    boxes: Sequence[Sequence[float]], form: BoxFormat, facts: ImageFacts, turned: bool
) -> bool:
    """Return whether an image's boxes lie inside it, as stored or turned; so do none."""
    table = BoxTable.build([boxes], {0: facts.shown(turned)})
    return not table.misfits(form).any()

"""Which columns of a table hold boxes, by their names, and what a cell of them says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data.table_file import column_key
from bench.errors import BenchError
from bench.schema import parse_json

_CORNERS = ("x0", "y0", "x1", "y1")
_FOUR: tuple[tuple[tuple[str, ...], str], ...] = (
    (_CORNERS, "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("minx", "miny", "maxx", "maxy"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("x", "y", "w", "h"), "xywh"),
    (("x", "y", "width", "height"), "xywh"),
    (("left", "top", "width", "height"), "xywh"),
    (("xmin", "ymin", "width", "height"), "xywh"),
    (("xmin", "ymin", "w", "h"), "xywh"),
    (("cx", "cy", "w", "h"), "cxcywh"),
    (("xc", "yc", "w", "h"), "cxcywh"),
    (("xcenter", "ycenter", "width", "height"), "cxcywh"),
    (("xcenter", "ycenter", "w", "h"), "cxcywh"),
    (("centerx", "centery", "width", "height"), "cxcywh"),
)
Four = tuple[str, str, str, str]
_LISTS = ("boxes", "bbox", "bboxes", "box", "boundingbox", "boundingboxes")
_PREFIXES = ("bbox", "box", "boundingbox")
_SIZES = frozenset({"w", "h", "width", "height"})
_ALONE = frozenset({"x", "y", "left", "top", "right", "bottom"})
_OTHER = frozenset({"segmentation", "polygon", "polygons", "points", "rle", "objects", "mask"})
_BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})


@dataclass(frozen=True)
class BoxColumns:
    """The columns that hold boxes.

    Attributes:
        names: four columns of numbers, or one of lists of boxes.
        order: "xyxy", "xywh" or "cxcywh"; "" where the names do not say it.
        unused: other columns that may hold boxes or outlines.
    """

    names: tuple[str, ...]
    order: str
    unused: tuple[str, ...] = ()


def find_box_columns(columns: Sequence[str], where: str = "The table") -> BoxColumns | None:
    """Return the columns that hold boxes, or None.

    `x0, y0, x1, y1`, and then `boxes`, come before others. Two others are refused.

    Raises:
        BenchError: two sets of columns hold boxes, or a set lacks a column.
    """
    stripped = [_strip_prefix(column_key(column), columns) for column in columns]
    keys = _index_columns(stripped, columns)
    fours = _find_fours(stripped, columns)
    _refuse_twice([name for four, _ in fours for name in four], columns, where)
    # xmin, ymin, xmax, ymax beside width, height: these are the sizes of the images.
    fours = [one for i, one in enumerate(fours) if all(one[0][0] != f[0][0] for f in fours[:i])]
    _refuse_polygon(keys, where)
    lists = [((keys[name],), "xyxy" * (name == "boxes")) for name in _LISTS if name in keys]
    found = [*fours, *lists]
    if not found:
        _refuse_partial(keys, where)
        return None
    ruling = [one for one in found if [column_key(name) for name in one[0]] == [*_CORNERS]]
    ruling += [one for one in found if column_key(one[0][0]) == "boxes"]
    if len(found) > 1 and not ruling:
        first, second = found[0][0], found[1][0]
        raise BenchError(
            f"{where} has boxes in the columns {', '.join(first)} and in {', '.join(second)}; "
            "leave one of the two."
        )
    names, order = (ruling or found)[0]
    others = (name for key, name in keys.items() if _is_box_like(key) and name not in names)
    return BoxColumns(names, order, tuple(sorted(others)))


def find_unused_boxes(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that may hold boxes or outlines, of a table without usable ones."""
    return tuple(column for column in columns if _is_box_like(column_key(column)))


def _strip_prefix(key: str, columns: Sequence[str]) -> str:
    """Return the key without "bbox", as in bbox_x; the whole column `bbox` keeps its name."""
    for prefix in _PREFIXES:
        rest = key.removeprefix(prefix)
        if rest != key and any(rest in names for names, _ in _FOUR):
            return rest
    return key


def _is_box_like(key: str) -> bool:
    in_four = any(key in names for names, _ in _FOUR)
    return key in _LISTS or key in _OTHER or (in_four and key not in _SIZES)


def _index_columns(keys: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Return {key: column}; the first column of a key counts."""
    return dict(zip(reversed(keys), reversed(columns), strict=True))


def _find_fours(stripped: Sequence[str], columns: Sequence[str]) -> list[tuple[Four, str]]:
    """Return the sets of four columns that make boxes, with their order.

    A set has "bbox" before all of its names or before none; else both kinds may make it up. So
    bbox_x, bbox_y, bbox_width, bbox_height may stand beside the width and height of images.
    """
    pairs = list(zip(stripped, columns, strict=True))
    plain = [(key, column) for key, column in pairs if key == column_key(column)]
    prefixed = [pair for pair in pairs if pair not in plain]
    kinds = [_index_columns(*zip(*some, strict=True)) for some in (plain, prefixed) if some]
    for choices in (kinds, [_index_columns(*zip(*pairs, strict=True))]):
        found = [
            ((keys[a], keys[b], keys[c], keys[d]), order)
            for keys in choices
            for (a, b, c, d), order in _FOUR
            if keys.keys() >= {a, b, c, d}
        ]
        if found:
            break
    return found


def _refuse_twice(used: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Refuse a number of a box for which two columns have the same name."""
    for column in used:
        same = [one for one in columns if column_key(one) == column_key(column)]
        if len(same) > 1:
            raise BenchError(
                f"{where} has several columns for boxes' {column} "
                f"({', '.join(map(repr, same))}); leave one."
            )


def _refuse_polygon(keys: dict[str, str], where: str) -> None:
    """Refuse the numbered corners of a polygon: x0, x1, x2, or x1 to x3."""
    numbered = [keys[f"x{i}"] for i in range(5) if f"x{i}" in keys]
    if len(numbered) > 2:
        raise BenchError(
            f"{where} has the columns {', '.join(numbered)}: these are corners of polygons; boxes "
            "have two corners, x0, y0, x1, y1."
        )


def _refuse_partial(keys: dict[str, str], where: str) -> None:
    """Refuse corners of which some are missing; a lone `x`, `left` or `width` may be anything."""
    for names, _ in _FOUR:
        telling = [name for name in names if name in keys and name not in _SIZES | _ALONE]
        if telling:
            missing = [name for name in names if name not in keys]
            have = ", ".join(keys.values())
            raise BenchError(
                f"{where} lacks the column {', '.join(missing)}; its columns are {have}."
            )


def parse_boxes(cells: Sequence[Any], where: str) -> list[list[float]]:
    """Return boxes, four numbers each, of four cells (one box) or of one cell (a list of boxes).

    Empty cells are no box. `where` names the row in errors.

    Raises:
        BenchError: a cell is no number, or only some of the four are filled.
    """
    if len(cells) == 1:
        return _parse_list(cells[0], where)
    blank = [_is_blank(cell) for cell in cells]
    if all(blank):
        return []
    if any(blank):
        raise BenchError(
            f"The box of {where} has {4 - sum(blank)} of its four finite numbers; fill in the "
            "others, or leave all four cells empty for no box."
        )
    return [[_parse_number(cell, where) for cell in cells]]


def _is_blank(cell: Any) -> bool:
    if cell is None or (isinstance(cell, float | np.floating) and np.isnan(cell)):
        return True
    return str(cell).strip().casefold() in _BLANK


def _parse_number(cell: Any, where: str) -> float:
    if isinstance(cell, str) and re.fullmatch(r"\s*[+-]?\d+,\d+\s*", cell):
        raise BenchError(
            f"The number {cell!r} in the box of {where} has a decimal comma; write a point."
        )
    with contextlib.suppress(TypeError, ValueError):
        if "_" not in str(cell):  # which Python reads as part of a number
            return float(cell)
    raise BenchError(
        f"The boxes of {where} are not lists of four numbers: {str(cell)[:40]!r} is no number; "
        "write it without units."
    )


def _parse_list(cell: Any, where: str) -> list[list[float]]:
    """Return the boxes of a list of boxes, of one box, or of a text that shows one of these."""
    if isinstance(cell, str):
        cell = _parse_text(cell, where)
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return []
    if not _is_list(cell):
        raise BenchError(
            f"The boxes of {where} are not lists of four numbers but a {type(cell).__name__}."
        )
    boxes: list[Any] = list(cell)
    if boxes and all(isinstance(box, str) or not _is_list(box) for box in boxes):
        boxes = [boxes]
    for box in boxes:
        if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
            shown = str(box)[:40]
            raise BenchError(
                f"The boxes of {where} are not lists of four finite numbers: {shown} is none."
            )
    return [[_parse_number(number, where) for number in box] for box in boxes]


def _is_list(cell: Any) -> bool:
    return isinstance(cell, Sequence | np.ndarray)


def _parse_text(text: str, where: str) -> Any:
    """Return the lists in a text: `[40, 20, 120, 70]`, `(40 20 120 70)` or `40,20,120,70`."""
    stripped = text.strip()
    if stripped.casefold() in _BLANK:
        return None
    listed = stripped.translate(str.maketrans("();", "[],"))
    listed = re.sub(r"\s*,\s*|(?<=[\d.\]])\s+(?=[-+\d.\[])", ",", listed)
    listed = re.sub(r"(?<=\d)\.(?!\d)", "", listed)
    for one in (listed, f"[{listed}]"):
        with contextlib.suppress(ValueError):
            parsed = parse_json(one)
            if isinstance(parsed, list):
                return parsed
    raise BenchError(
        f"The boxes of {where} are not lists of four numbers: {stripped[:40]!r} is none."
    )

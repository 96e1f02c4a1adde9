"""The four numbers of a box: their order, their unit, and what shows that they mean another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bench.data.box_columns import BoxColumns
from bench.errors import BenchError

Boxes = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
BOX_SLACK = 1.0
"""Pixels by which a box may leave its image, as rounded boxes do; what leaves it is clipped."""
_UNITS = {"pixel": 1.0, "fraction": 1.0, "percent": 100.0}
_ORDERS = {
    "xyxy": "left, top, right, bottom",
    "xywh": "left, top, width, height",
    "cxcywh": "centre x, centre y, width, height",
    "yxyx": "top, left, bottom, right",
}
_RELATIVE_LIMIT = 1.5  # of the image's side: no pixel box of use ends there, and no fraction beyond
_TELLING = 8  # so many boxes do not fit a wrong order by chance
_LARGE = 150  # pixels: images from which boxes below 100 are suspicious


@dataclass(frozen=True)
class BoxFormat:
    """What the four numbers of a box are.

    Attributes:
        order: "xyxy", "xywh", "cxcywh" or "yxyx"; "" where it has to be found.
        unit: "pixel", "fraction" or "percent" (of the image's width and height).
        inclusive: x1, y1 are the last pixel of the object, not the edge after it.
    """

    order: str
    unit: str = "pixel"
    inclusive: bool = False

    @property
    def relative(self) -> bool:
        """Return whether the numbers are shares of the image's sides."""
        return self.unit != "pixel"

    @property
    def key(self) -> str:
        """Return the format as a manifest writes it."""
        if self.inclusive:
            return "pixels"
        unit = self.unit if self.relative else ""
        return "-".join(part for part in (unit, self.order) if part)


BOX_KEYS: Mapping[str, BoxFormat] = {
    "edges": BoxFormat(""),
    "pixels": BoxFormat("xyxy", inclusive=True),
    **{order: BoxFormat(order) for order in _ORDERS},
    **{unit: BoxFormat("", unit) for unit in ("fraction", "percent")},
    **{
        f"{unit}-{order}": BoxFormat(order, unit)
        for unit in ("fraction", "percent")
        for order in _ORDERS
    },
}
"""What a manifest may write as `boxes`; "edges": pixels, ordered as the columns' names say."""


@dataclass(frozen=True)
class BoxTable:
    """All boxes of a subset as the file has them, with the image sizes that are known.

    Attributes:
        raw: [n,4], as written.  item: [n], the item of each box.
        sizes: [n,2], width and height of the box's image in pixels; NaN where it is unknown.
    """

    raw: Floats
    item: npt.NDArray[np.int64]
    sizes: Floats

    @staticmethod
    def build(
        boxes: Sequence[Sequence[Sequence[float]]], sizes: Mapping[int, tuple[int, int]]
    ) -> BoxTable:
        """Return the table of each item's boxes; sizes: (width, height) of items, where known."""
        item = np.repeat(np.arange(len(boxes)), [len(one) for one in boxes])
        raw = np.array([box for one in boxes for box in one], dtype=np.float64).reshape(-1, 4)
        known = [sizes.get(int(i), (np.nan, np.nan)) for i in item]
        return BoxTable(raw, item, np.array(known, dtype=np.float64).reshape(-1, 2))

    def misfits(self, form: BoxFormat) -> npt.NDArray[np.bool_]:
        """Return which boxes are reversed, empty or outside their image in a format."""
        edges = to_xyxy(self.raw, form)
        limit = np.ones_like(self.sizes) if form.relative else self.sizes
        slack = 0.01 if form.relative else BOX_SLACK
        outside = (edges < -slack).any(1) | (edges[:, 2:] > limit + slack).any(1)
        found: npt.NDArray[np.bool_] = outside | ~_are_whole(edges)
        return found

    def fits(self, form: BoxFormat) -> bool:
        """Return whether all boxes fit in a format, with some image size known."""
        return bool(len(self.raw)) and self.sized(form) and not self.misfits(form).any()

    def sized(self, form: BoxFormat) -> bool:
        """Return whether it can be checked that boxes lie inside."""
        return form.relative or bool(np.isfinite(self.sizes).any())


def to_xyxy(raw: Floats, form: BoxFormat) -> Floats:
    """Return boxes [n,4] as edges x0, y0, x1, y1, in pixels or as fractions of the image."""
    a, b, c, d = (raw / _UNITS[form.unit]).T
    if form.order == "xywh":
        edges = (a, b, a + c, b + d)
    elif form.order == "cxcywh":
        edges = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    elif form.order == "yxyx":
        edges = (b, a, d, c)
    else:
        edges = (a, b, c + form.inclusive, d + form.inclusive)
    return np.stack(edges, axis=1)


def choose_format(key: str, columns: BoxColumns) -> BoxFormat:
    """Return the format of a manifest's `boxes` and of columns; an order that is written out rules.

    Raises:
        BenchError: "pixels" stands beside columns of widths.
    """
    form = BOX_KEYS[key]
    if form.inclusive and columns.order not in ("xyxy", ""):
        raise BenchError(
            f'The manifest has boxes = "pixels", and the columns {", ".join(columns.names)} hold '
            "widths, which have no last pixel; take the line out."
        )
    return form if form.order else replace(form, order=columns.order)


def find_order(table: BoxTable, form: BoxFormat, columns: BoxColumns, where: str) -> BoxFormat:
    """Return the format with the one order in which all boxes lie inside their images.

    Raises:
        BenchError: both orders fit.
    """
    corners, sides = replace(form, order="xyxy"), replace(form, order="xywh")
    fits = table.fits(corners), table.fits(sides)
    if all(fits) or not table.sized(form):
        raise BenchError(
            f"The boxes of {where} in the column {columns.names[0]} may be x0, y0, x1, y1 or x, y, "
            f'width, height; write boxes = "{corners.key}" or boxes = "{sides.key}" into '
            "manifest.toml."
        )
    wrong = [int(table.misfits(one).sum()) for one in (corners, sides)]
    return sides if fits[1] or wrong[1] < wrong[0] else corners


def describe_format(columns: Sequence[str], form: BoxFormat, count: int) -> str:
    """Return how boxes were read, in a line."""
    unit = {"pixel": "in pixels", "fraction": "as fractions", "percent": "in percent"}[form.unit]
    last = ", the last pixels inside" if form.inclusive else ""
    return f"{count_boxes(count)} from {', '.join(columns)}: {_ORDERS[form.order]} {unit}{last}"


# --- what is refused
# --------------------------------------------------------------------------------------------------
def check_unit(table: BoxTable, form: BoxFormat, where: str) -> None:
    """Refuse fractions that are read as pixels, and pixels that are read as fractions."""
    if not len(table.raw):
        return
    largest = float(np.abs(table.raw).max()) / _UNITS[form.unit]
    if form.unit != "fraction" and np.abs(table.raw).max() <= _RELATIVE_LIMIT:
        orders = ("xyxy", "xywh", "cxcywh") if not form.order else (form.order, "xywh", "cxcywh")
        keys = [order for order in orders if table.fits(BoxFormat(order, "fraction"))]
        names = " or ".join(f'boxes = "fraction-{key}"' for key in dict.fromkeys(keys or ["xyxy"]))
        raise BenchError(
            f"The numbers of {count_boxes(len(table.raw))} of {where} all lie within 0..1, so they "
            f"are fractions of the image, not pixels; write {names} into manifest.toml."
        )
    if form.relative and largest > _RELATIVE_LIMIT:
        box = write_box(table.raw[np.abs(table.raw).max(axis=1).argmax()])
        raise BenchError(
            f"The box {box} of {where} leaves its image far behind as {form.unit}; the manifest's "
            "boxes names another unit than the file has."
        )


def check_numbers(table: BoxTable, form: BoxFormat, places: Sequence[str]) -> None:
    """Refuse a box that is not finite, or that stands for no box."""
    raw = table.raw
    for i in np.flatnonzero(~np.isfinite(raw).all(axis=1)):
        raise BenchError(
            f"The box {write_box(raw[i])} of {places[table.item[i]]} is not four finite numbers; "
            "mend it, or leave its cells empty for no box."
        )
    alike = (raw == raw[:, :1]).all(axis=1) & np.isin(raw[:, 0], (-1, 0))
    for i in np.flatnonzero(alike & ((raw[:, 0] < 0) | (not form.inclusive))):
        raise BenchError(
            f"The box {write_box(raw[i])} of {places[table.item[i]]} seems to stand for no box; "
            "leave its cells empty instead."
        )


def check_rows(table: BoxTable, form: BoxFormat, places: Sequence[str]) -> None:
    """Refuse a box that is reversed, empty, or a fraction among pixels."""
    raw, edges = table.raw, to_xyxy(table.raw, form)
    within = (np.abs(raw) <= 1).all(axis=1) & ((raw % 1 != 0).any(axis=1) | (not form.inclusive))
    for i in np.flatnonzero(within & (form.unit == "pixel")):
        raise BenchError(
            f"The box {write_box(raw[i])} of {places[table.item[i]]} lies within one pixel, as a "
            "fraction of the image would; write all boxes in one unit."
        )
    for i in np.flatnonzero(~_are_whole(edges)):
        raise BenchError(
            f"The box {write_box(raw[i])} of {places[table.item[i]]} is reversed or empty as "
            f"{_ORDERS[form.order]}; {_suggest_remedy(table, form, edges[i])}."
        )


def _suggest_remedy(table: BoxTable, form: BoxFormat, edges: Floats) -> str:
    """Return what to do about a reversed or empty box (x0, y0, x1, y1)."""
    fitting = _find_fitting(table, form)
    last = form.order == "xyxy" and not form.relative and not form.inclusive
    if last and edges[2] >= edges[0] and edges[3] >= edges[1]:
        return 'mend it, or write boxes = "pixels" if x1, y1 are the last pixels inside the object'
    if fitting:
        return (
            f'mend it, or write boxes = "{fitting[0].key}" into manifest.toml if the numbers are '
            f"{_ORDERS[fitting[0].order]}, as which all of them fit"
        )
    return "swap its corners so that x0 < x1 and y0 < y1" if form.order == "xyxy" else "mend it"


def _find_fitting(table: BoxTable, form: BoxFormat) -> list[BoxFormat]:
    """Return the other orders in which all boxes fit; a box or two fit most of them by chance."""
    orders = [one for one in _ORDERS if one in ("xyxy", "xywh") or len(table.raw) > 2]
    if form.order == "xyxy" and table.misfits(form).any():
        orders.append("yxyx")
    others = [replace(form, order=order, inclusive=False) for order in dict.fromkeys(orders)]
    return [one for one in others if one.order != form.order and table.fits(one)]


def check_inside(table: BoxTable, form: BoxFormat, places: Sequence[str]) -> tuple[str, ...]:
    """Refuse boxes of which most lie outside; return what is suspicious about the others."""
    wrong, count = table.misfits(form), len(table.raw)
    fitting = _find_fitting(table, form)
    if wrong.sum() * 2 > count:
        i = int(wrong.argmax())
        width, height = table.sizes[i]
        others_too = f", as do {int(wrong.sum())} of {count_boxes(count)}" if count > 1 else ""
        hint = (
            f'write boxes = "{fitting[0].key}" into manifest.toml if the numbers are '
            f"{_ORDERS[fitting[0].order]}, as which all lie inside"
            if fitting
            else "cut it to the image, or mend it"
        )
        raise BenchError(
            f"The box {write_box(table.raw[i])} of {places[table.item[i]]} lies outside its image "
            f"of {width:.0f}x{height:.0f} pixels{others_too}; {hint}."
        )
    cautions = []
    if count >= _TELLING and any(one.order == "xywh" for one in fitting):
        cautions.append(
            f"All {count} boxes also fit as x, y, width, height; if they are that, write boxes = "
            f'"{replace(form, order="xywh", inclusive=False).key}" into manifest.toml.'
        )
    small = table.raw.max(initial=0) <= 100 and np.nanmin(table.sizes, initial=np.inf) >= _LARGE
    if form.unit == "pixel" and count >= _TELLING and small and table.sized(form):
        cautions.append(
            f"No box goes beyond 100, in images of {_LARGE} pixels and more; if they are percent, "
            'write boxes = "percent" into manifest.toml.'
        )
    return tuple(cautions)


def explain_outside(box: npt.NDArray[np.float32], stored: tuple[int, ...]) -> str:
    """Return what to do about a box (x0, y0, x1, y1) that leaves its image (height, width)."""
    table = BoxTable.build([[[float(x) for x in box]]], {0: (stored[1], stored[0])})
    for order in ("xywh", "yxyx"):
        if table.fits(BoxFormat(order)):
            return (
                f'cut it to the image, or write boxes = "{order}" into manifest.toml if the '
                f"numbers are {_ORDERS[order]}"
            )
    return "cut it to the image, or mend it"


def count_boxes(count: int) -> str:
    """Return a number of boxes in words: "1 box", "2 boxes"."""
    return f"{count} box{'es' * (count != 1)}"


def write_box(box: npt.NDArray[np.floating]) -> str:
    """Return a box for a sentence.

    >>> write_box(np.array([0, 1.5, 2, 3]))
    '(0, 1.5, 2, 3)'
    """
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"


def _are_whole(edges: Floats) -> npt.NDArray[np.bool_]:
    """Return which boxes have x0 < x1 and y0 < y1."""
    whole: npt.NDArray[np.bool_] = (edges[:, 0] < edges[:, 2]) & (edges[:, 1] < edges[:, 3])
    return whole

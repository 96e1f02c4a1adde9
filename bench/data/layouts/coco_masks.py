"""Masks from COCO's polygons and run lengths, drawn by pycocotools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench.data.object_masks import Bools, ObjectMask, check_mask_shape
from bench.errors import BenchError

_FEWEST = 6  # numbers of a polygon; pycocotools would take four for a box


def import_pycocotools(where: str) -> ModuleType:
    """Return pycocotools' module of masks; `where` names what needs it.

    Raises:
        BenchError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise BenchError(
            f"The masks of {where} are polygons or run lengths, which pycocotools draws: pip "
            "install 'cambench[coco]'."
        ) from error
    module: ModuleType = mask
    return module


@dataclass(frozen=True)
class CocoMasks:
    """Masks drawn when they are read.

    shapes, crowds: segmentations of each item's objects, and of the crowds of its category.
    """

    shapes: tuple[tuple[Any, ...], ...]
    crowds: tuple[tuple[Any, ...], ...]

    def read(self, position: int, shape: tuple[int, int], where: str) -> ObjectMask:
        """Return the union of an item's objects; crowds of its category are ignored."""
        mask = unite_segmentations(self.shapes[position], shape, where)
        crowd = unite_segmentations(self.crowds[position], shape, where)
        return ObjectMask(mask, crowd & ~mask)


def unite_segmentations(found: tuple[Any, ...], shape: tuple[int, int], where: str) -> Bools:
    """Return the union [H,W] of segmentations, drawn as pycocotools does.

    found: polygons [[x0, y0, x1, y1, ...], ...], or run lengths {"counts", "size"}, compressed or
    not.
    """
    coco = import_pycocotools(where)
    union = np.zeros(shape, dtype=bool)
    for one in found:
        runs = _encode(coco, one, shape)
        try:
            drawn = np.asarray(coco.decode(runs), dtype=bool)
        except (ValueError, TypeError) as error:
            raise BenchError(f"A segmentation of {where} cannot be decoded ({error}).") from error
        check_mask_shape(ObjectMask(drawn, drawn), shape, f"segmentation of {where}", where)
        union |= drawn
    return union


def _encode(coco: ModuleType, one: Any, shape: tuple[int, int]) -> Any:
    """Return run lengths as pycocotools has them."""
    if isinstance(one, list):
        return coco.merge(
            coco.frPyObjects([[float(v) for v in polygon] for polygon in one], *shape)
        )
    if isinstance(one["counts"], list):
        return coco.frPyObjects(dict(one), *one["size"])
    return one


def check_segmentation(found: Any, annotation: Mapping[str, Any], file: Path) -> None:
    """Refuse a segmentation that is neither polygons nor run lengths; None and empty ones pass."""
    if not found:
        return
    if isinstance(found, dict):
        right = isinstance(found.get("counts"), (list, str)) and _is_size(found.get("size"))
        if right and isinstance(found["counts"], list):
            runs = found["counts"]
            right = all(type(v) is int and v >= 0 for v in runs) and sum(runs) == int(
                np.prod(found["size"])
            )
    else:
        right = isinstance(found, list) and all(_is_polygon(polygon) for polygon in found)
    if right and isinstance(found, list) and max(map(max, found)) <= 1:
        raise BenchError(
            f"The polygons of the annotation {annotation.get('id')} in {file} are fractions of the "
            "image; COCO's are pixels, so multiply them by the image's size."
        )
    if not right:
        raise BenchError(
            f"The segmentation of the annotation {annotation.get('id')} in {file} is neither "
            "polygons of three points or more nor run lengths of its size; mend it, or take it out."
        )


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= _FEWEST
        and len(polygon) % 2 == 0
        and all(type(v) in (int, float) and np.isfinite(v) for v in polygon)
    )


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(v) is int and v > 0 for v in size)

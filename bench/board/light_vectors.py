"""The vectors of a published board: no more of each than tables, tests and pictures read.

Vectors are most of the bytes of records. What a board needs of them differs by kind:

- A curve is drawn as the mean of its method. The area over p(x) needs each image's clean end.
- Box accuracy asks at which thresholds an IoU reaches those of the protocol, and nothing else.
- Histograms are pooled over any images, so they stay; whole numbers take 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.board.box_thresholds import read_box_ious
from bench.board.curve_averages import average_all
from bench.board.derived_names import mark_version, read_declared
from bench.records.gallery_parts import GALLERY_ITEMS
from bench.records.mean_curves import IMAGE_CURVES, MEAN_CURVES, has_image_curves
from bench.records.store import Records

CURVE_BITS, BOX_BITS = 16, 12
"""Binary places of a published curve, and of a published IoU."""

Vector = npt.NDArray[np.float32]


def lighten_records(
    records: Records, shown: Mapping[str, Sequence[str]], *, image_curves: bool
) -> Records:
    """Return records with the vectors that a published board keeps.

    Every value that a board makes of them is the same, to the last digit.

    Args:
        records: Of a run, or of a board that is published again.
        shown: {model: its items in the gallery}; their curves are kept. Other models keep those of
            their first items.
        image_curves: Whether the curves of every image are kept.
    """
    frame = records.frame.copy()
    facts, ious = records.provenance["metrics"], read_box_ious(records.provenance)
    ends = find_clean_ends(facts)
    light = not image_curves and has_image_curves(records.provenance)
    kept = choose_items(records, shown) if light else records.provenance.get(IMAGE_CURVES)
    vectors = frame["vector"].to_numpy(dtype=object, copy=True)
    own = _find_own(records, kept)
    for name in frame["metric"].unique():
        rows = np.flatnonzero(frame["metric"] == name)
        if facts[name]["reduce"] == "box_accuracy":
            whole = [own[row] or image_curves for row in rows]
            cut = [round_boxes(vectors[r], ious, whole=w) for r, w in zip(rows, whole, strict=True)]
        elif facts[name]["reduce"] == "curve":
            end = ends.get(name)
            cut = [
                round_curve(vectors[r]) if own[r] or not light else keep_end(vectors[r], end)
                for r in rows
            ]
        else:
            continue
        for row, vector in zip(rows, cut, strict=True):
            vectors[row] = vector
    frame["vector"] = vectors
    if not light:
        return Records(frame, records.provenance)
    averages = {IMAGE_CURVES: kept, MEAN_CURVES: average_all(records)}
    return Records(frame, {**records.provenance, **averages})


def choose_items(records: Records, shown: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return {model: items whose curves are kept}: those of the gallery, else the first."""
    scored = records.frame[records.frame["part"] == "eval"]
    found = {}
    for model, rows in scored.groupby("model", sort=True):
        items = sorted(set(rows["item"]))
        chosen = [item for item in items if item in set(shown.get(str(model), ()))]
        found[str(model)] = (chosen or items)[:GALLERY_ITEMS]
    return found


def _find_own(records: Records, kept: Mapping[str, Sequence[str]] | None) -> npt.NDArray[np.bool_]:
    """Return which rows are of items whose curves are kept."""
    pairs = {(model, item) for model, items in (kept or {}).items() for item in items}
    rows = zip(records.frame["model"], records.frame["item"], strict=True)
    return np.array([pair in pairs for pair in rows], dtype=bool)


def find_clean_ends(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Return {curve: the place of the clean image on it} of the curves that areas are taken of."""
    found = {}
    for name, facts in metrics.items():
        curve = read_declared(name, facts, "curve")
        if curve:
            found[mark_version(name, curve)] = int(read_declared(name, facts, "clean_end"))
    return found


def round_curve(curve: Any) -> Vector | None:
    """Return a curve rounded to multiples of 2^-16, as float32; None stays None.

    >>> round_curve(np.array([0.1, 1.0])).tolist()
    [0.100006103515625, 1.0]
    """
    if curve is None:
        return None
    scale = 2.0**CURVE_BITS
    return (np.round(np.asarray(curve, np.float64) * scale) / scale).astype(np.float32)


def keep_end(curve: Any, end: int | None) -> Vector | None:
    """Return the clean end of a rounded curve, alone; 0 where no value needs it, NaN where the
    curve has NaN.

    >>> keep_end(np.array([0.5, 0.25]), -1).tolist(), keep_end(np.array([0.5, 0.25]), None).tolist()
    ([0.25], [0.0])
    """
    if curve is None:
        return None
    rounded = round_curve(curve)
    assert rounded is not None
    if not np.isfinite(rounded).all():
        return np.array([np.nan], np.float32)
    return rounded[[end]] if end is not None else np.zeros(1, np.float32)


def round_boxes(vector: Any, ious: Sequence[float], *, whole: bool) -> Any:
    """Return best IoUs rounded down; each still reaches the same IoUs of the protocol.

    whole: to 2^-12; else to the largest of these IoUs that it reaches, or 0.

    >>> np.round(round_boxes(np.array([0.2, 0.3, 0.69], np.float32), [0.3, 0.5], whole=False), 2)
    array([0. , 0.3, 0.5], dtype=float32)
    """
    if vector is None:
        return None
    found = np.asarray(vector, np.float32)
    reached = np.zeros_like(found)
    for iou in sorted(ious):
        reached[found >= np.float32(iou)] = np.float32(iou)
    if whole:
        scale = np.float32(2**BOX_BITS)
        reached = np.maximum(reached, np.floor(found * scale) / scale)
    return np.where(np.isnan(found), found, reached)

"""Box accuracy: thresholds chosen on calibration images, and the hits at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.board.cubes import Measure, is_scored, stack
from bench.board.derived_names import list_shown_facts, mark_version
from bench.board.statistics import Floats
from bench.identity import plain_name
from bench.metrics.base import Derived
from bench.records.store import MIN_CALIBRATION

BOX_IOUS = (0.3, 0.5, 0.7)
"""IoU thresholds where the provenance names none."""


def read_box_ious(provenance: dict[str, Any]) -> tuple[float, ...]:
    """Return the IoU thresholds of a run."""
    return tuple(provenance.get("protocol", {}).get("box_ious", BOX_IOUS))


def reduce_boxes(
    derived: Derived,
    facts: dict[str, Any],
    rows: pd.DataFrame,
    calibration: pd.DataFrame | None,
    ious: tuple[float, ...],
) -> Iterator[Measure]:
    """Yield box accuracies: at tau chosen on the calibration part (mean over IoUs, ranked, and per
    IoU) and oracle tau.

    tau is chosen per model, method and IoU. An oracle tau is chosen on the scored images
    themselves: an upper bound; where the protocol chooses so (calibration None) it is the only one.
    """
    parts = list(pair_calibration(rows, rows.iloc[:0] if calibration is None else calibration))
    oracle = [find_hits(scored, scored, ious, least=0) for scored, _ in parts]
    chosen = (
        oracle if calibration is None else [find_hits(scored, part, ious) for scored, part in parts]
    )
    frame = pd.concat([scored for scored, _ in parts])
    hit, best = np.concatenate(chosen), np.concatenate(oracle)
    name, title = derived.name, derived.title
    if calibration is None:
        title += ", tau chosen on the scored images"
    mean_facts = {**facts, **list_shown_facts(derived), "reduce": "mean", "title": title}
    yield Measure(name, mean_facts, frame.assign(value=hit.mean(1)))
    reported = {**mean_facts, "ranked": False}
    if calibration is not None:
        yield Measure(
            mark_version(name, f"{plain_name(name)}_oracle"),
            {**reported, "title": f"{title}, oracle tau"},
            frame.assign(value=best.mean(1)),
        )
    for column, iou in enumerate(ious):
        one = {**reported, "title": f"{title} at IoU {iou:g}"}
        yield Measure(
            mark_version(name, f"{plain_name(name)}_{round(100 * iou)}"),
            one,
            frame.assign(value=hit[:, column]),
        )


def pair_calibration(
    rows: pd.DataFrame, calibration: pd.DataFrame
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield the scored rows of each (model, method) with its calibration rows."""
    parts = dict(iter(calibration.groupby(["model", "method"])))
    for key, scored in rows.groupby(["model", "method"], sort=True):
        yield scored, parts.get(key, calibration.iloc[:0])


def find_hits(
    scored: pd.DataFrame,
    choosing: pd.DataFrame,
    ious: tuple[float, ...],
    least: int = MIN_CALIBRATION,
) -> Floats:
    """Return whether each scored item is a hit at each IoU, [n,ious] of 0, 1 and NaN, at the taus
    chosen on `choosing`.

    With fewer than `least` images there all is NaN.
    """
    vectors = stack(list(scored["vector"]))
    taus = choose_taus(choosing, ious, least)
    if taus is None or vectors.shape[1] <= max(taus):
        return np.full((len(scored), len(ious)), np.nan)
    return apply_taus(vectors, taus, ious)


def choose_taus(
    choosing: pd.DataFrame, ious: tuple[float, ...], least: int = MIN_CALIBRATION
) -> list[int] | None:
    """Return, per IoU, the index of the first tau that gives most hits; None with fewer than
    `least` images.
    """
    choosing = choosing[choosing["vector"].map(is_scored).astype(bool)]  # others choose nothing
    if choosing.empty or choosing["image"].nunique() < least:
        return None
    reference = stack(list(choosing["vector"])).astype(np.float32)
    return [int((reference >= np.float32(iou)).sum(0).argmax()) for iou in ious]


def apply_taus(vectors: Floats, taus: Sequence[int], ious: tuple[float, ...]) -> Floats:
    """Return whether vectors [n,V] of best IoU per tau hit each IoU at its tau, [n,ious] of 0, 1
    and NaN.

    A hit is IoU >= threshold, in float32 since that is how the IoUs are stored (0.7 would miss its
    own threshold in float64).
    """
    columns = []
    for iou, tau in zip(ious, taus, strict=True):
        column = (vectors[:, tau].astype(np.float32) >= np.float32(iou)).astype(np.float64)
        columns.append(np.where(np.isnan(vectors[:, tau]), np.nan, column))
    return np.stack(columns, axis=1)

"""Box accuracy: thresholds chosen on calibration images, and the hits at them.

`box_accuracy` chooses places in a list of shares of each map's maximum, and `box_accuracy_ranked`
a cut value of maps as they are (`bench.board.set_thresholds`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.board.cubes import SCALED, Measure, is_scored, stack
from bench.board.derived_names import list_shown_facts, mark_version
from bench.board.set_thresholds import apply_cuts, choose_cuts, holds_sets
from bench.board.statistics import Floats
from bench.identity import plain_name
from bench.metrics.base import Derived
from bench.records.store import MIN_CALIBRATION

BOX_IOUS = (0.3, 0.5, 0.7)
"""IoU thresholds where the provenance names none."""


def read_box_ious(provenance: dict[str, Any]) -> tuple[float, ...]:
    """Return the IoU thresholds of a run."""
    return tuple(provenance.get("protocol", {}).get("box_ious", BOX_IOUS))


@dataclass(frozen=True)
class BoxRule:
    """How taus are chosen and applied, for one kind of vectors.

    Args:
        choose: (vectors [n,V] without NaN, IoUs) -> one tau per IoU, the lowest of those that give
            most hits.
        apply: (vectors [n,V], taus, IoUs) -> whether each vector hits each IoU, [n,ious] of 0, 1
            and NaN.
        fits: (vectors [n,V], taus) -> whether these taus, or any, can be applied to such vectors.
        scaled: Whether a factor of its own on each map changes hits.
    """

    choose: Callable[[Floats, tuple[float, ...]], list[Any]]
    apply: Callable[[Floats, Sequence[Any], tuple[float, ...]], Floats]
    fits: Callable[[Floats, Sequence[Any]], bool]
    scaled: bool = False


def is_of_boxes(facts: Mapping[str, Any]) -> bool:
    """Tell whether boards make box accuracies of a value."""
    return facts["reduce"] in BOX_RULES


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
    rule = BOX_RULES[facts["reduce"]]
    parts = list(pair_calibration(rows, rows.iloc[:0] if calibration is None else calibration))
    oracle = [find_hits(scored, scored, ious, least=0, rule=rule) for scored, _ in parts]
    chosen = (
        oracle
        if calibration is None
        else [find_hits(scored, part, ious, rule=rule) for scored, part in parts]
    )
    frame = pd.concat([scored for scored, _ in parts])
    hit, best = np.concatenate(chosen), np.concatenate(oracle)
    name, title = derived.name, derived.title
    if calibration is None:
        title += ", tau chosen on the scored images"
    mean_facts = {**facts, **list_shown_facts(derived), "reduce": "mean", "title": title}
    mean_facts[SCALED] = rule.scaled
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
    rule: BoxRule | None = None,
) -> Floats:
    """Return whether each scored item is a hit at each IoU, [n,ious] of 0, 1 and NaN, at the taus
    chosen on `choosing`.

    With fewer than `least` images there all is NaN. rule: of `box_accuracy` unless given.
    """
    rule = rule or BOX_RULES["box_accuracy"]
    vectors = stack(list(scored["vector"]))
    taus = choose_taus(choosing, ious, least, rule)
    if taus is None or not rule.fits(vectors, taus):
        return np.full((len(scored), len(ious)), np.nan)
    return rule.apply(vectors, taus, ious)


def choose_taus(
    choosing: pd.DataFrame,
    ious: tuple[float, ...],
    least: int = MIN_CALIBRATION,
    rule: BoxRule | None = None,
) -> list[Any] | None:
    """Return, per IoU, the first tau that gives most hits; None with fewer than `least` images."""
    rule = rule or BOX_RULES["box_accuracy"]
    choosing = choosing[choosing["vector"].map(is_scored).astype(bool)]  # others choose nothing
    if choosing.empty or choosing["image"].nunique() < least:
        return None
    vectors = stack(list(choosing["vector"]))
    return rule.choose(vectors, ious) if rule.fits(vectors, ()) else None


def choose_places(vectors: Floats, ious: tuple[float, ...]) -> list[int]:
    """Return, per IoU, the place of the first tau that most vectors [n,V] hit."""
    reference = vectors.astype(np.float32)
    return [int((reference >= np.float32(iou)).sum(0).argmax()) for iou in ious]


def holds_places(vectors: Floats, taus: Sequence[Any]) -> bool:
    """Tell whether vectors [n,V] have these places."""
    return all(isinstance(tau, int) and 0 <= tau < vectors.shape[1] for tau in taus)


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


BOX_RULES = {
    "box_accuracy": BoxRule(choose_places, apply_taus, holds_places),
    "box_sets": BoxRule(choose_cuts, apply_cuts, holds_sets, scaled=True),
}
"""{reduce: how the board chooses and applies taus}."""

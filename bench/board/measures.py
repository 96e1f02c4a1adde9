"""From records to measures: named sets of rows that a board reduces to one number per method.

Most measures are a value of a metric as it is. Some are derived: box accuracies from vectors of
best IoU per tau or upper set, the pooled pixel precision from histograms, and for localisation the
same on the items where the prediction is the label (`@correct`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.board.box_thresholds import is_of_boxes, read_box_ious, reduce_boxes
from bench.board.cubes import Measure
from bench.board.derived_names import (
    list_shown_facts,
    mark_version,
    read_declared,
    read_derived,
    settle_rank,
)
from bench.errors import BenchError
from bench.identity import plain_name
from bench.metrics.base import RELATIVE

CORRECT = "@correct"
"""Ending of a measure that is taken where the prediction is the label."""


def list_measures(frame: pd.DataFrame, provenance: dict[str, Any]) -> Iterator[Measure]:
    """Yield the measures of one subset's records, derived ones included."""
    protocol = provenance.get("protocol", {})
    ious = read_box_ious(provenance)
    on_scored = protocol.get("box_tau_from") == "scored"
    for name, rows in frame.groupby("metric", sort=True):
        facts = provenance["metrics"].get(name)
        if facts is None:
            raise BenchError(
                f"The records hold {name!r}, of which run.json says nothing; run `cambench run` "
                "again."
            )
        facts = settle_rank(str(name), facts)
        scored = rows[rows["part"] == "eval"]
        calibration = None if on_scored else rows[rows["part"] == "calibration"]
        yield from expand(str(name), facts, scored, calibration, ious)
        if facts["family"] == "localization":
            correct = scored[scored["correct"].astype(bool)]
            for measure in expand(str(name), facts, correct, calibration, ious):
                yield Measure(measure.name + CORRECT, measure.facts, measure.rows)
    # Other curves do not hold the clean probability.
    if (
        protocol.get("curve_ends", "both") == "both"
        and protocol.get("score", "softmax") == "softmax"
    ):
        yield from list_relative(frame, provenance["metrics"])


def list_relative(frame: pd.DataFrame, metrics: dict[str, Any]) -> Iterator[Measure]:
    """Yield areas over p_c(x), for comparing models of different confidence; reported, not
    ranked.
    """
    scored = frame[frame["part"] == "eval"]
    key = ["item", "model", "method"]
    for name, facts in sorted(metrics.items()):
        curve, end = read_declared(name, facts, "curve"), read_declared(name, facts, "clean_end")
        areas, curves = (
            scored[scored["metric"] == metric] for metric in (name, mark_version(name, curve))
        )
        if not curve or areas.empty or curves.empty:
            continue
        clean = curves.set_index(key)["vector"].map(
            lambda v, end=end: float(v[end]) if v is not None else np.nan
        )
        rows = areas.assign(
            value=areas["value"].to_numpy() / clean.reindex(areas.set_index(key).index).to_numpy()
        )
        shown = {**facts, "title": f"{plain_name(name)} over p(x)", "ranked": False, "upper": None}
        yield Measure(mark_version(name, f"{plain_name(name)}{RELATIVE}"), shown, rows)


def expand(
    name: str,
    facts: dict[str, Any],
    rows: pd.DataFrame,
    calibration: pd.DataFrame | None,
    ious: tuple[float, ...],
) -> Iterator[Measure]:
    """Yield what a board shows for one value of a metric; calibration: None where the scored images
    choose tau.
    """
    if rows.empty:
        return
    if is_of_boxes(facts):
        yield from reduce_boxes(read_derived(name, facts), facts, rows, calibration, ious)
    elif facts["reduce"] == "pooled_precision":
        derived = read_derived(name, facts)
        yield Measure(derived.name, {**facts, **list_shown_facts(derived)}, rows)
    else:
        yield Measure(name, facts, rows)

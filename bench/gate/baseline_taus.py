"""Box thresholds of two runs, paired: a run keeps the baseline's tau unless its own is better on
the calibration part.

A tau is a place in a list of thresholds, or of upper sets a cut value. It is chosen as the first
best of a hundred neighbours that are nearly as good, so two runs whose maps differ in the last
digits can choose far apart, and their hits then differ on image after image. Only calibration
images choose here, never scored ones. Better: by more than one standard error of the paired
difference (the rule that Breiman et al. 1984 prune trees by).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pandas as pd

from bench.board.box_thresholds import (
    BOX_RULES,
    BoxRule,
    choose_taus,
    is_of_boxes,
    pair_calibration,
    read_box_ious,
)
from bench.board.cubes import Measure, is_scored, stack
from bench.board.derived_names import mark_version, read_derived
from bench.board.measures import CORRECT
from bench.gate.intervals import mean_over_images
from bench.identity import plain_name
from bench.records.store import Records

Key = tuple[str, str, str, str]
"""subset, model, value that vectors of best IoU per tau are stored under, method."""

Taus = dict[Key, list[Any]]
Facts = dict[str, dict[str, Any]]


def list_choices(records: Records) -> dict[Key, tuple[list[Any], pd.DataFrame]]:
    """Return each method's taus (one per IoU) as a board chooses them, and its calibration
    rows.

    None where the protocol lets the scored images choose: there every run has its own.
    """
    found: dict[Key, tuple[list[Any], pd.DataFrame]] = {}
    if records.provenance.get("protocol", {}).get("box_tau_from") == "scored":
        return found
    ious = read_box_ious(records.provenance)
    for name, facts in find_box_values(records).items():
        rows = records.frame[records.frame["metric"] == name]
        for subset, part in rows.groupby("subset", sort=True):
            scored, calibration = part[part["part"] == "eval"], part[part["part"] == "calibration"]
            for own, choosing in pair_calibration(scored, calibration):
                taus = choose_taus(choosing, ious, rule=BOX_RULES[facts["reduce"]])
                if taus is not None:
                    found[
                        str(subset), str(own["model"].iloc[0]), name, str(own["method"].iloc[0])
                    ] = taus, choosing
    return found


def find_box_values(records: Records) -> Facts:
    """Return {name: facts} of the values that box accuracies are made of."""
    metrics = records.provenance["metrics"]
    return {name: facts for name, facts in metrics.items() if is_of_boxes(facts)}


def merge_taus(records: Records, baseline: Taus) -> Taus:
    """Return the taus of a run: the baseline's, and its own where those are better or the baseline
    has none.
    """
    ious = read_box_ious(records.provenance)
    rules = {name: BOX_RULES[one["reduce"]] for name, one in find_box_values(records).items()}
    return {
        key: choose_better(choosing, own, baseline[key], ious, rules[key[2]])
        if key in baseline
        else own
        for key, (own, choosing) in list_choices(records).items()
    }


def choose_better(
    choosing: pd.DataFrame,
    own: list[Any],
    old: list[Any],
    ious: tuple[float, ...],
    rule: BoxRule = BOX_RULES["box_accuracy"],
) -> list[Any]:
    """Return, per IoU, the old tau unless the own one hits more calibration items by over one
    standard error.
    """
    choosing = choosing[choosing["vector"].map(is_scored).astype(bool)]
    vectors, images = stack(list(choosing["vector"])), choosing["image"].to_numpy(object)
    if len(old) != len(own) or not rule.fits(vectors, old):
        return own
    gains = rule.apply(vectors, own, ious) - rule.apply(vectors, old, ious)
    means = [mean_over_images(column, images) for column in gains.T]
    # One image won is one standard error to the last digit; rounding must not decide that.
    better = [gain.point > gain.error * (1 + 1e-9) for gain in means]
    return [a if won else b for a, b, won in zip(own, old, better, strict=True)]


def apply_baseline_taus(
    measure: Measure, taus: Taus, subset: str, values: Facts, ious: tuple[float, ...]
) -> Measure:
    """Return a box accuracy at these taus; any other measure as it is."""
    column = {
        mark_version(name, plain_name(read_derived(name, facts).name) + end): (name, at)
        for name, facts in values.items()
        for end, at in list_endings(ious)
    }
    found = column.get(measure.name.removesuffix(CORRECT))
    if found is None:
        return measure
    name, at = found
    rule = BOX_RULES[values[name]["reduce"]]
    rows = measure.rows.copy()
    for (model, method), part in rows.groupby(["model", "method"], sort=False):
        own = taus.get((subset, str(model), name, str(method)))
        if own is not None:
            hit = rule.apply(stack(list(part["vector"])), own, ious)
            rows.loc[part.index, "value"] = hit.mean(1) if at is None else hit[:, at]
    return dataclasses.replace(measure, rows=rows)


def list_endings(ious: tuple[float, ...]) -> Iterator[tuple[str, int | None]]:
    """Yield how the names of box accuracies end, and which IoU they are at (None: the mean)."""
    yield "", None
    for at, iou in enumerate(ious):
        yield f"_{round(100 * iou)}", at


def to_facts(taus: Taus) -> list[dict[str, Any]]:
    """Return taus as JSON holds them."""
    names = ("subset", "model", "value", "method")
    return [
        {**dict(zip(names, key, strict=True)), "taus": found} for key, found in sorted(taus.items())
    ]


def from_facts(facts: list[dict[str, Any]], models: dict[str, str] | None = None) -> Taus:
    """Return taus from JSON; models: {name there: name here} of models that stand for others."""
    names = models or {}
    return {
        (o["subset"], names.get(o["model"], o["model"]), o["value"], o["method"]): o["taus"]
        for o in facts
    }

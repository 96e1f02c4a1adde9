"""What trivial transforms of a map gain: a value that they win is not won by an explanation.

The plain maps of two methods of the run and their transforms are made again on a sample, and scored
by the run's metrics. Or both stand in the run's own records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bench.files import file_name
from bench.health.checks import ROUNDING, is_control, select_directed, separation
from bench.health.grid import (
    Report,
    get_methods,
    replace_metrics,
    run_grid,
    select_map_metrics,
    steps_below,
)
from bench.health.reload import Reloaded, methods_of
from bench.health.sensitivity import sample_items
from bench.models.explainee import Explainee
from bench.records.store import Records
from bench.run.plan import Plan

TRANSFORMS = {
    "power[p=4]": "power({})",
    "power[p=16]": "power({})[p=16]",
    "ranked": "ranked({})",
    "blurred": "blurred({})",
    "centred": "centred({})",
    "top": "top({})",
}
"""{transform: its address around a method}."""

SHARPER = ("power[p=4]", "power[p=16]")
"""Transforms that keep the order of pixels and change the peaks."""

MIN_IMAGES = 4
"""Images below which nothing is said to gain."""

GAINS = "transforms"
"""The name of the plan, and of its folder."""

COLUMNS = ["subset", "model", "metric", "ranked", "method", "transform"]
COLUMNS += ["gain", "low", "high", "n"]
"""The columns of a table of gains."""

USUAL = {"cam": "grad_cam", "gradient": "saliency"}
"""The plain maps by group; where a run lacks one, its first method of the group stands in."""


def choose_plain(records: Records, model: str) -> list[str]:
    """Return the methods whose maps are transformed: a CAM and a gradient method of the run."""
    here = set(records.frame.loc[records.frame["model"] == model, "method"])
    facts = records.provenance["methods"]
    chosen: list[str] = []
    for group, usual in USUAL.items():
        quick = [
            name
            for name in facts
            if name in here
            and facts[name].get("group") == group
            and facts[name].get("fast", True)
            and not is_control(records, name)
        ]
        chosen += [usual] if usual in quick else quick[:1]
    return chosen


def make_gains_plan(plan: Plan) -> Plan:
    """Return the plan of plain maps with their transforms beside them, under a quarter of the
    protocol's steps.
    """
    names = [how.format(one.name) for one in plan.methods for how in TRANSFORMS.values()]
    rules = plan.protocol
    steps = min((rules.steps, *steps_below(rules)))
    rules = dataclasses.replace(rules, steps=steps)
    made = replace_metrics(plan, select_map_metrics(plan.metrics), rules)
    return dataclasses.replace(made, methods=(*plan.methods, *get_methods(names)))


def collect_gains(
    records: Records,
    subset: str,
    model: str,
    loaded: Reloaded | None,
    limit: int,
    parts: Path,
    notes: list[str],
    report: Report | None = None,
) -> tuple[pd.DataFrame, int]:
    """Return the gains on one model and the forwards that they took.

    Maps are made again where the run could be loaded again; else stored records are compared. See
    `run_gains`.
    """
    models = {one.name: one for one in loaded.models} if loaded else {}
    if loaded is None or model not in models:
        return read_stored_gains(records, subset, model), 0
    spent = [0]
    where = parts / file_name(model)
    found = run_gains(records, loaded, models[model], limit, where, notes, report, spent.append)
    return found, sum(spent)


def run_gains(
    records: Records,
    loaded: Reloaded,
    model: Explainee,
    limit: int,
    folder: Path | None,
    notes: list[str],
    report: Report | None = None,
    count: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Run the transforms on a sample of one model's items and return their gains.

    Args:
        records: The run's records.
        loaded: What the run was made of.
        model: The model.
        limit: Most items of the sample; 0: all items.
        folder: Folder of the sample's own run; None keeps it in memory.
        notes: Sentences about what is left out are added to this list.
        report: Called with (tasks done, tasks in all).
        count: Called with the forwards that were run now.

    Returns:
        A table with `COLUMNS`.
    """
    methods = methods_of(records, choose_plain(records, model.name), notes)
    items = sample_items(records, loaded, model.name, limit)
    plan = make_gains_plan(loaded.plan(model, methods, items))
    if not methods or not plan.metrics:
        return pd.DataFrame(columns=COLUMNS)
    done = run_grid({GAINS: plan}, folder, report, count)[GAINS]
    pairs = {
        (one.name, label): get_methods([how.format(one.name)])[0].name
        for one in methods
        for label, how in TRANSFORMS.items()
    }
    return compare_transforms(done, loaded.subset.name, model.name, pairs)


def read_stored_gains(records: Records, subset: str, model: str) -> pd.DataFrame:
    """Return the gains of the transformed controls that the run itself has scored."""
    here = set(records.frame.loc[records.frame["model"] == model, "method"])
    pairs = {("grad_cam", "power[p=4]"): "sharpened"}
    for plain in sorted(here):
        for label, how in TRANSFORMS.items():
            pairs.setdefault((plain, label), how.format(plain))
    known = {key: name for key, name in pairs.items() if {key[0], name} <= here}
    return compare_transforms(records, subset, model, known)


def compare_transforms(
    records: Records, subset: str, model: str, pairs: Mapping[tuple[str, str], str]
) -> pd.DataFrame:
    """Return how much better each transform scores than the plain map, in paired means.

    Args:
        records: With the plain maps and the transformed ones.
        subset: Its name.
        model: Its name.
        pairs: {(plain method, transform): name of the transformed method}.

    Returns:
        A table with `COLUMNS`; a positive gain is better, whatever the value's direction.
    """
    rows: list[dict[str, object]] = []
    for measure in select_directed(records, subset) if pairs else ():
        for (plain, label), name in pairs.items():
            found = separation(measure, model, name, plain)
            if found is None:
                continue
            numbers = (found.gap, found.low, found.high, found.n)
            about = (subset, model, measure.name, bool(measure.facts["ranked"]), plain, label)
            rows.append(dict(zip(COLUMNS, (*about, *numbers), strict=True)))
    return pd.DataFrame(rows, columns=COLUMNS)


def is_gain(row: Mapping[Hashable, Any]) -> bool:
    """Tell whether the interval of a gain lies wholly above 0, on enough images."""
    return bool(row["low"] > ROUNDING and row["n"] >= MIN_IMAGES)


def list_sharpened(gains: pd.DataFrame) -> list[str]:
    """Return the values that raising a map to a power moves up, on any of its plain maps."""
    rows = gains[gains["transform"].isin(SHARPER)].to_dict("records")
    return list(dict.fromkeys(str(row["metric"]) for row in rows if is_gain(row)))


def describe_gains(gains: pd.DataFrame) -> list[str]:
    """Return a sentence per model: which ranked and reported values a power gains in, and the
    largest gain of any transform in a ranked value.
    """
    found = []
    for key, table in gains.groupby(["subset", "model"], sort=True):
        where = ", ".join(map(str, key))
        peaked = list_sharpened(table)
        words = ", ".join(peaked) if peaked else "no value"
        found.append(f"{where}: raising maps to a power gains in {words}.")
        best = [row for row in table[table["ranked"]].to_dict("records") if is_gain(row)]
        largest = {
            metric: max((row for row in best if row["metric"] == metric), key=lambda r: r["gain"])
            for metric in dict.fromkeys(row["metric"] for row in best)
        }
        shown = [
            f"{metric} {row['transform']} of {row['method']} {row['gain']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}]"
            for metric, row in largest.items()
        ]
        if shown:
            found.append(f"{where}: largest gains in ranked values: {'; '.join(shown)}.")
    return found

"""Records of older versions: a board shows them as `score_cam (v1)`, never under the plain name.

A built-in method or metric has a version, which is raised when its numbers change. Records hold the
numbers of the version that made them. This module renames what is older than the version that is
registered today.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

from bench.errors import BenchError
from bench.identity import older_name, plain_name
from bench.methods import METHODS
from bench.metrics import METRICS, find_owner
from bench.records.mean_curves import MEAN_CURVES
from bench.records.sister_ids import split_sister
from bench.records.store import Records


def mark_older(records: Records) -> Records:
    """Return records whose older methods and metrics have the version in their names.

    Args:
        records: Records as a run folder or a board holds them.

    Returns:
        The same records where nothing is older, else renamed copies of rows and provenance.
    """
    frame, provenance = mark_older_rows(records.frame, records.provenance)
    return (
        records
        if frame is records.frame
        else dataclasses.replace(records, frame=frame, provenance=provenance)
    )


def mark_older_rows(
    frame: pd.DataFrame, provenance: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return rows and their run.json with older methods and metrics renamed; the same objects where
    none is older.
    """
    names = {
        "method": find_older_methods(provenance.get("methods", {})),
        "metric": find_older_values(provenance.get("metrics", {})),
    }
    if not any(names.values()):
        return frame, provenance
    renamed = {**provenance, **_mark_health(provenance)}
    for column, new in names.items():
        frame = frame.assign(**{column: frame[column].replace(new)})
        kind = f"{column}s"
        if kind in provenance:
            renamed[kind] = {new.get(name, name): facts for name, facts in provenance[kind].items()}
    methods = names["method"]
    if MEAN_CURVES in provenance:
        renamed[MEAN_CURVES] = [
            {**row, **{column: new.get(row[column], row[column]) for column, new in names.items()}}
            for row in provenance[MEAN_CURVES]
        ]
    for kind in ("not_applicable", "equal"):
        if kind in provenance:
            renamed[kind] = {
                model: {
                    methods.get(name, name): methods.get(text, text) for name, text in found.items()
                }
                for model, found in provenance[kind].items()
            }
    return frame, renamed


def _mark_health(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return {"health": verdicts whose older values are renamed}, or {} where there are none."""
    health = provenance.get("health")
    if not health:
        return {}
    made = {facts.get("id"): facts for facts in provenance.get("metrics", {}).values()}
    verdicts = []
    for verdict in health["verdicts"]:
        model = provenance.get("models", {}).get(verdict.get("model"), {})
        identity = split_sister(verdict.get("metric_id", ""), model)
        name, facts = verdict["metric"], made.get(identity, {})
        owned = {**facts, "metric": facts.get("metric", name)}
        new = find_older_values({name: owned}) if facts else {}
        verdicts.append({**verdict, "metric": new.get(name, name)})
    return {"health": {**health, "verdicts": verdicts}}


def find_older_methods(methods: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return {name: shown name} of the methods of a run that are older than those of today.

    Args:
        methods: The methods of run.json, {name: facts}. Facts without "versions" are of version 1.
    """
    found = {}
    for name, facts in methods.items():
        made = facts.get("versions", {})
        behind = [
            made.get(base, 1)
            for base, now in _find_versions(name).items()
            if made.get(base, 1) < now
        ]
        if behind and plain_name(name) == name:
            found[name] = older_name(name, min(behind))
    return found


def _find_versions(name: str) -> dict[str, int]:
    """Return {base name: version} of a method as it is today; {} where this cambench has none of
    that name.
    """
    try:
        return METHODS.get(name).versions
    except BenchError:  # a plug-in's method, or a parameter that is no more
        base = name.partition("[")[0].partition("(")[0]
        return METHODS.get(base).versions if base in METHODS else {}


def find_older_values(values: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return {name: shown name} of the values of a run whose metric is older than that of today."""
    found = {}
    for name, facts in values.items():
        metric, made = str(facts.get("metric", name)), int(facts.get("version") or 1)
        owner = METRICS.get(metric) if metric in METRICS else find_owner(name)
        if owner is not None and made < owner.version and plain_name(name) == name:
            value, at, images = name.partition("@")  # `@correct` stays at the end
            found[name] = f"{older_name(value, made)}{at}{images}"
    return found

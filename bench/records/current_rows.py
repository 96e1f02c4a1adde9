"""Current rows: the records of a run that belong to what run.json describes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.records.precision_verdict import list_lowered


def keep_current(frame: pd.DataFrame, provenance: dict[str, Any]) -> pd.DataFrame:
    """Keep the rows whose method, metric, weights and manifest ids are those that run.json
    names.
    """
    columns = (
        ("method", "method_id", "methods", "id"),
        ("metric", "metric_id", "metrics", "id"),
        ("model", "weights_id", "models", "weights_id"),
        ("subset", "manifest_id", "subsets", "manifest_id"),
    )
    keep = pd.Series(data=True, index=frame.index)
    for name, identity, kind, key in columns:
        now = frame[name].map({one: facts[key] for one, facts in provenance[kind].items()})
        if kind == "metrics":
            now = find_lowered_ids(frame, provenance).fillna(now)
        keep &= now == frame[identity]
    return frame[keep].reset_index(drop=True)


def find_lowered_ids(frame: pd.DataFrame, provenance: dict[str, Any]) -> pd.Series[str]:
    """Return the metric ids of rows that a model's verdict puts in bfloat16
    (`bench.run.precision_guard`), else None.
    """
    ids = pd.Series(None, index=frame.index, dtype=object)
    owner = {value: facts.get("metric", value) for value, facts in provenance["metrics"].items()}
    for model, lowered in list_lowered(provenance).items():
        rows = frame["model"] == model
        ids[rows] = frame.loc[rows, "metric"].map(owner).map(lowered)
    return ids


def restore_ids(frame: pd.DataFrame, provenance: dict[str, Any]) -> pd.DataFrame:
    """Return records under the ids of the run's own protocol, where a verdict says that they are in
    bfloat16.

    What claims another precision than run.json describes keeps its ids, and stands out.
    """
    if not provenance.get("precision"):
        return frame
    protocols = {model: verdict["protocol"] for model, verdict in provenance["precision"].items()}
    told = find_lowered_ids(frame, provenance) == frame["metric_id"]
    told &= frame["model"].map(protocols) == frame["protocol_id"]
    own = frame["metric"].map(
        {value: facts["id"] for value, facts in provenance["metrics"].items()}
    )
    return frame.assign(
        metric_id=frame["metric_id"].where(~told, own),
        protocol_id=frame["protocol_id"].where(~told, provenance["protocol"]["id"]),
    )

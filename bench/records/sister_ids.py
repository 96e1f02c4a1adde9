"""Ids of metrics that sister networks run: a record's metric id ends in the sister's weights id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.identity import add_sister


def find_sister_ids(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return {model: weights id of its sister} of what run.json describes."""
    models = provenance["models"].items()
    return {model: facts["sister"]["weights_id"] for model, facts in models if facts.get("sister")}


def add_sister_ids(
    ids: pd.Series[str], frame: pd.DataFrame, provenance: Mapping[str, Any]
) -> pd.Series[str]:
    """Return metric ids [rows] with the id of the sister that run the metric on the row's model.

    Args:
        ids: The ids of the metrics themselves, NaN where a row has none.
        frame: The rows, with their model and value.
        provenance: The content of run.json.
    """
    masked = {name for name, facts in provenance["metrics"].items() if facts.get("sister")}
    sisters = find_sister_ids(provenance)
    rows = frame["metric"].isin(masked) & frame["model"].isin(sisters) & ids.notna()
    if not rows.any():
        return ids
    whole = [
        add_sister(one, sisters[model])
        for one, model in zip(ids[rows], frame.loc[rows, "model"], strict=True)
    ]
    return ids.where(~rows, pd.Series(whole, index=frame.index[rows], dtype=object))


def drop_sister_ids(frame: pd.DataFrame, provenance: Mapping[str, Any]) -> pd.DataFrame:
    """Return records whose metric ids name no sister, where it is the one that run.json describes.

    What another sister has run keeps its id, and stands out.
    """
    own = frame["metric"].map(
        {value: facts["id"] for value, facts in provenance["metrics"].items()}
    )
    whole = add_sister_ids(own, frame, provenance)
    return frame.assign(metric_id=frame["metric_id"].where(frame["metric_id"] != whole, own))


def keep_sisters(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the newer facts of models, with the sister of the older ones where they name none.

    A run without a metric of sisters says nothing about them, and the records of one before stay.
    """
    kept = {
        name: {"sister": facts["sister"]}
        for name, facts in old.items()
        if facts.get("sister") and facts["weights_id"] == new[name]["weights_id"]
    }
    return {name: kept.get(name, {}) | facts for name, facts in new.items()}


def split_sister(identity: str, model: Mapping[str, Any]) -> str:
    """Return a record's metric id without the sister that run.json describes for its model."""
    sister = model.get("sister")
    return identity.removesuffix(add_sister("", sister["weights_id"])) if sister else identity

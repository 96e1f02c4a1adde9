"""Current rows: the records of a run that belong to what run.json describes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.errors import BenchError
from bench.records.item_table import ItemTable
from bench.records.precision_verdict import list_lowered
from bench.records.sister_ids import add_sister_ids, drop_sister_ids

ITEM_KEY = ["subset", "part", "item"]
"""Columns that name an item."""


def keep_current(
    frame: pd.DataFrame, provenance: dict[str, Any], items: ItemTable | None = None
) -> pd.DataFrame:
    """Keep the rows whose method, metric and weights ids are those that run.json names, and whose
    item holds what it did.
    """
    return select_current(frame, provenance, items)[0]


def select_current(
    frame: pd.DataFrame, provenance: dict[str, Any], items: ItemTable | None = None
) -> tuple[pd.DataFrame, int]:
    """Return the current rows, and how many items have rows of earlier content beside them.

    A row that names its item's content must name the one of the table; where the table lacks the
    item, and for rows that name none, the manifest id decides. Rows that stay get the manifest id
    of run.json: it names the subset, whose other items may have changed since.
    """
    columns = (
        ("method", "method_id", "methods", "id"),
        ("metric", "metric_id", "metrics", "id"),
        ("model", "weights_id", "models", "weights_id"),
    )
    keep = pd.Series(data=True, index=frame.index)
    for name, identity, kind, key in columns:
        now = frame[name].map({one: facts[key] for one, facts in provenance[kind].items()})
        if kind == "metrics":
            now = find_lowered_ids(frame, provenance).fillna(now)
            now = add_sister_ids(now, frame, provenance)
        keep &= now == frame[identity]
    subsets = provenance["subsets"].items()
    manifest = frame["subset"].map({one: facts["manifest_id"] for one, facts in subsets})
    present = manifest == frame["manifest_id"]
    if not items and frame["item_id"].isna().all():
        return frame[keep & present].reset_index(drop=True), 0
    found = _look_up(frame, items or {})
    identified, listed = frame["item_id"].notna(), found["listed"]
    same = (frame["item_id"] == found["identity"]).where(listed, present)
    replaced = frame[keep & find_replaced(frame, items or {})]
    present = same.where(identified, present & ~found["changed"])
    rows = frame.assign(manifest_id=manifest)[keep & present].reset_index(drop=True)
    _check_one_content(rows)
    return rows, len(replaced.drop_duplicates(ITEM_KEY))


def find_replaced(frame: pd.DataFrame, items: ItemTable) -> pd.Series[bool]:
    """Return which rows are of something that their item held before, where it holds another thing
    now.
    """
    found = _look_up(frame, items)
    held = frame["item_id"].where(frame["item_id"].notna(), "")
    other = (held != found["identity"]) & ((held != "") | found["changed"])
    result: pd.Series[bool] = found["listed"] & (found["identity"] != "") & other
    return result


def _look_up(frame: pd.DataFrame, items: ItemTable) -> pd.DataFrame:
    """Return what the table says of each row's item: listed, identity, changed."""
    index = pd.MultiIndex.from_frame(frame[ITEM_KEY])
    codes, keys = index.factorize()
    known = [items.get(key) for key in keys]
    each = pd.DataFrame(
        {
            "listed": [one is not None for one in known],
            "identity": ["" if one is None else one.identity for one in known],
            "changed": [one is not None and one.changed for one in known],
        }
    )
    return each.iloc[codes].set_index(frame.index)


def _check_one_content(rows: pd.DataFrame) -> None:
    """Refuse records of two contents of an item, where nothing says which one is current."""
    named = rows.loc[rows["item_id"].notna(), [*ITEM_KEY, "item_id"]].drop_duplicates()
    twice = named[named.duplicated(ITEM_KEY)]
    if len(twice):
        raise BenchError(
            f"The run holds records of two contents of {twice.iloc[0]['item']} ({len(twice)} such "
            "items); start the run again, which finds out which one is there now."
        )


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

    The same of metrics that the described sisters run. What claims another precision or sister than
    run.json describes keeps its ids, and stands out.
    """
    if not provenance.get("precision"):
        return drop_sister_ids(frame, provenance)
    protocols = {model: verdict["protocol"] for model, verdict in provenance["precision"].items()}
    lowered = add_sister_ids(find_lowered_ids(frame, provenance), frame, provenance)
    told = lowered == frame["metric_id"]
    told &= frame["model"].map(protocols) == frame["protocol_id"]
    own = frame["metric"].map(
        {value: facts["id"] for value, facts in provenance["metrics"].items()}
    )
    restored = frame.assign(
        metric_id=frame["metric_id"].where(~told, own),
        protocol_id=frame["protocol_id"].where(~told, provenance["protocol"]["id"]),
    )
    return drop_sister_ids(restored, provenance)

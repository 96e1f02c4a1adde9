"""Checks of records: which ones no board can be made of."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.errors import BenchError
from bench.records.current_rows import restore_ids
from bench.records.failed_parts import list_failed
from bench.records.store import KEY, Records

IDENTITIES = {
    "metric": "metric_id",
    "method": "method_id",
    "model": "weights_id",
    "subset": "manifest_id",
}
"""{column of names: column of ids}; a board holds one id per name."""


def check_records(records: Records) -> None:
    """Refuse records that no board can be made of, in one sentence."""
    provenance = records.provenance
    check_not_empty(records.frame, provenance)
    frame = restore_ids(records.frame, provenance)
    check_one_protocol(frame, provenance)
    check_one_id(frame)
    check_keys(frame)
    check_described(frame, provenance)


def check_not_empty(frame: pd.DataFrame, provenance: dict[str, Any]) -> None:
    """Refuse records without a row; name the first reason why a method does not fit."""
    if not frame.empty:
        return
    reasons = [
        r for methods in provenance.get("not_applicable", {}).values() for r in methods.values()
    ]
    failed = next(list_failed(provenance), "")
    why = f" No method fits: {reasons[0]}" if reasons else f" {failed}" if failed else ""
    raise BenchError(
        "There are no records to make a board of; let `cambench run` finish at least one "
        f"task.{why}"
    )


def check_one_protocol(frame: pd.DataFrame, provenance: dict[str, Any]) -> None:
    """Refuse rows of several protocols, or of another one than run.json describes."""
    protocols = sorted(set(frame["protocol_id"]))
    if len(protocols) > 1:
        mixed = ", ".join(protocols)
        raise BenchError(
            f"The records mix protocols ({mixed}), which cannot stand on one board; keep one of "
            "them."
        )
    described = provenance.get("protocol", {}).get("id", protocols[0])
    if described != protocols[0]:
        raise BenchError(
            f"The records are of protocol {protocols[0]}, and run.json describes {described}; keep "
            "those of one run."
        )


def check_one_id(frame: pd.DataFrame) -> None:
    """Refuse a name that stands for several metrics, methods, weights or manifests."""
    for column, identity in IDENTITIES.items():
        counts = frame.groupby(column)[identity].nunique()
        mixed = ", ".join(sorted(map(str, counts[counts > 1].index)))
        if mixed:
            raise BenchError(
                f"The records hold several {identity}s for {column} {mixed}; run `cambench run` "
                "again."
            )


def check_keys(frame: pd.DataFrame) -> None:
    """Refuse rows with the same key."""
    twice = frame.duplicated(KEY)
    if twice.any():
        first = ", ".join(str(v) for v in frame.loc[twice, KEY].iloc[0])
        raise BenchError(
            f"{int(twice.sum())} records are there twice (the first: {first}); delete the extra "
            "part."
        )


def check_described(frame: pd.DataFrame, provenance: dict[str, Any]) -> None:
    """Refuse methods, subsets and models that run.json does not describe."""
    for column, key in (("method", "methods"), ("subset", "subsets"), ("model", "models")):
        missing = sorted(set(frame[column]) - set(provenance.get(key, {})))
        if missing:
            raise BenchError(
                f"run.json says nothing about {column} {', '.join(missing)}; run `cambench run` "
                "again."
            )

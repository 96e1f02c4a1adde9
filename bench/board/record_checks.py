"""Checks of records: which ones no board can be made of."""

from __future__ import annotations

from bench.errors import BenchError
from bench.records.current_rows import restore_ids
from bench.records.store import KEY, Records


def check_records(records: Records) -> None:
    """Refuse records that no board can be made of, in one sentence."""
    frame = records.frame
    if frame.empty:
        reasons = [
            r
            for methods in records.provenance.get("not_applicable", {}).values()
            for r in methods.values()
        ]
        why = f" No method fits: {reasons[0]}" if reasons else ""
        raise BenchError(
            "There are no records to make a board of; let `cambench run` finish at least one "
            f"task.{why}"
        )
    frame = restore_ids(frame, records.provenance)
    protocols = sorted(set(frame["protocol_id"]))
    if len(protocols) > 1:
        mixed = ", ".join(protocols)
        raise BenchError(
            f"The records mix protocols ({mixed}), which cannot stand on one board; keep one of "
            "them."
        )
    described = records.provenance.get("protocol", {}).get("id", protocols[0])
    if described != protocols[0]:
        raise BenchError(
            f"The records are of protocol {protocols[0]}, and run.json describes {described}; keep "
            "those of one run."
        )
    owners = {
        "metric": "metric_id",
        "method": "method_id",
        "model": "weights_id",
        "subset": "manifest_id",
    }
    for column, identity in owners.items():
        counts = frame.groupby(column)[identity].nunique()
        mixed = ", ".join(sorted(map(str, counts[counts > 1].index)))
        if mixed:
            raise BenchError(
                f"The records hold several {identity}s for {column} {mixed}; run `cambench run` "
                "again."
            )
    twice = frame.duplicated(KEY)
    if twice.any():
        first = ", ".join(str(v) for v in frame.loc[twice, KEY].iloc[0])
        raise BenchError(
            f"{int(twice.sum())} records are there twice (the first: {first}); delete the extra "
            "part."
        )
    for column, key in (("method", "methods"), ("subset", "subsets"), ("model", "models")):
        missing = sorted(set(frame[column]) - set(records.provenance.get(key, {})))
        if missing:
            raise BenchError(
                f"run.json says nothing about {column} {', '.join(missing)}; run `cambench run` "
                "again."
            )

"""What a run leaves out on purpose: images that cannot be read, and the shards of other runs.

run.json declares it under `left_out`; the images and the reasons stand in `skipped.csv`. What is
missing without such an entry is missing because the run is not finished.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import replaced_file
from bench.records.item_table import ItemKey

SKIPPED = "skipped.csv"
"""The list of the images that could not be read, in a run folder."""

UNREADABLE, SHARD = "unreadable", "shard"
"""Kinds of what is left out."""

_COLUMNS = ["subset", "part", "item", "reason"]

Skipped = dict[ItemKey, str]
"""{(subset, part, item): why it could not be read}."""


def read_skipped(folder: Path) -> Skipped:
    """Return the images that the runs of a folder left out."""
    file = folder / SKIPPED
    if not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return {(row["subset"], row["part"], row["item"]): row["reason"] for row in rows}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise BenchError(
            f"The list {file} cannot be read ({error}); delete it and start the run again."
        ) from None


def write_skipped(folder: Path, skipped: Skipped) -> None:
    """Write the list of images that were left out; an empty one leaves no file."""
    if not skipped:
        (folder / SKIPPED).unlink(missing_ok=True)
        return
    with (
        replaced_file(folder / SKIPPED) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([_COLUMNS, *((*key, reason) for key, reason in sorted(skipped.items()))])


def declare_left_out(provenance: dict[str, Any], skipped: Skipped) -> None:
    """Put what was left out into run.json's content, under `left_out`; nothing leaves no key."""
    counts = Counter((subset, part) for subset, part, _ in skipped)
    entries: list[dict[str, Any]] = [
        {
            "kind": UNREADABLE,
            "subset": subset,
            "part": part,
            "n": n,
            "items": sorted(key[2] for key in skipped if key[:2] == (subset, part)),
        }
        for (subset, part), n in sorted(counts.items())
    ]
    missing = list_missing_shards(provenance)
    if missing:
        entries.append({"kind": SHARD, "n": len(missing), "shards": missing})
    provenance.pop("left_out", None)
    if entries:
        provenance["left_out"] = entries


def list_missing_shards(provenance: Mapping[str, Any]) -> list[str]:
    """Return the shards ("3/4") that a run still lacks; [] where it has all, or was never dealt
    out.
    """
    have = set(provenance.get("shards", ()))
    counts = {int(shard.partition("/")[2]) for shard in have}
    return [f"{i}/{n}" for n in sorted(counts) for i in range(1, n + 1) if f"{i}/{n}" not in have]

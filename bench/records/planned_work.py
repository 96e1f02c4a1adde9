"""Planned work: which results a run was to have, and which of them are absent.

run.json keeps under `planned` what each command asked for: images x models x methods x metrics. A
folder of before that key says nothing, and nothing is said of it. What was left out on purpose is
not absent: other shards, unreadable images, methods that do not fit a model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.records.left_out import UNREADABLE, list_missing_shards

PLANNED, OUTSIDE_METRICS, MERGED, PARTIAL = "planned", "outside", "merged", "partial"
"""Keys of run.json: the blocks of planned work; metrics that leave some items without a row; that
the folder is a merge; that a half was published, in sentences.
"""

Block = dict[str, Any]
"""What one command asked for: {subset, manifest_id, shard, images {part: {model: count}}, models,
methods and metrics {name: id}, calibrating [metric]}.
"""

Cell = tuple[str, str, str, str, str]
"""(subset, part, model, method, metric)."""

_SHOWN = 3
"""So many methods are named in a sentence."""


@dataclass(frozen=True)
class AbsentWork:
    """How many results were planned, and how many of them are absent, by (model, method)."""

    planned: int
    absent: Mapping[tuple[str, str], int]
    shards: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """Return what a reader must know, one sentence each; [] where the run is whole."""
        found = []
        if self.shards:
            found.append(
                f"PARTIAL: the shards {', '.join(self.shards)} of the run are missing; merge them "
                "when they are finished."
            )
        count = sum(self.absent.values())
        if count:
            found.append(
                f"PARTIAL: {count:,} of {self.planned:,} planned results (image x method x metric) "
                f"are missing, of {self._name_methods()}; start the same command again to finish "
                "the run."
            )
        return found

    def _name_methods(self) -> str:
        order = sorted(self.absent.items(), key=lambda one: (-one[1], one[0]))
        shown = [f"{method} on {model} ({count:,})" for (model, method), count in order[:_SHOWN]]
        more = len(order) - _SHOWN
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def add_planned(old: Iterable[Block], new: Iterable[Block]) -> list[Block]:
    """Return the blocks of two runs; one that another holds as well goes."""
    blocks: list[Block] = []
    for block in (*old, *new):
        blocks = [one for one in blocks if not _covers(block, one)]
        if not any(_covers(one, block) for one in blocks):
            blocks.append(block)
    return blocks


def _covers(one: Block, other: Block) -> bool:
    """Return whether all that a block asks for is in another."""
    same = all(one[key] == other[key] for key in ("subset", "manifest_id", "shard"))
    inside = all(
        other[kind].items() <= one[kind].items() for kind in ("models", "methods", "metrics")
    )
    return (
        same
        and inside
        and {*other["calibrating"]} <= {*one["calibrating"]}
        and all(
            count <= one["images"].get(part, {}).get(model, 0)
            for part, counts in other["images"].items()
            for model, count in counts.items()
        )
    )


def drop_gone(provenance: dict[str, Any], fresh: Block, gone: Mapping[str, int]) -> None:
    """Take images that left a subset out of what earlier commands asked for.

    Args:
        provenance: the content of run.json.
        fresh: what the command at hand asks for, which has no image that is gone.
        gone: how many by part, found for the first time.
    """
    for block in provenance.get(PLANNED, ()):
        if block is fresh or block["subset"] != fresh["subset"]:
            continue
        for part, counts in block["images"].items():
            for model in counts:
                counts[model] = max(0, counts[model] - gone.get(part, 0))


def find_absent(frame: pd.DataFrame, provenance: Mapping[str, Any]) -> AbsentWork:
    """Return what was planned and has no record.

    Args:
        frame: the current rows.
        provenance: the content of run.json.
    """
    planned = _count_planned(provenance)
    present = _count_present(frame, provenance, planned)
    absent: Counter[tuple[str, str]] = Counter()
    for cell, count in planned.items():
        lacking = count - present.get(cell, 0)
        if lacking > 0:
            absent[cell[2], cell[3]] += lacking
    shards = list_missing_shards(provenance) if provenance.get(MERGED) else []
    return AbsentWork(sum(planned.values()), absent, tuple(shards))


def describe_absent(frame: pd.DataFrame, provenance: Mapping[str, Any]) -> list[str]:
    """Return the sentences of `find_absent`, or those that were published with a half."""
    return find_absent(frame, provenance).sentences or list(provenance.get(PARTIAL, ()))


def _count_planned(provenance: Mapping[str, Any]) -> dict[Cell, int]:
    """Return how many images each cell was to have; shards of one plan add up."""
    unfit = provenance.get("not_applicable", {})
    dealt: dict[Cell, dict[str, int]] = defaultdict(dict)
    for block in provenance.get(PLANNED, ()):
        for part, counts in _list_counts(block, provenance):
            metrics = block["calibrating"] if part == "calibration" else block["metrics"]
            for model, count in counts.items():
                for method in _list_current(block, provenance, "methods"):
                    if method in unfit.get(model, {}):
                        continue
                    for metric in metrics:
                        shards = dealt[block["subset"], part, model, method, metric]
                        shards[block["shard"]] = max(count, shards.get(block["shard"], 0))
    current = {
        (facts.get("metric", name), facts["id"])
        for name, facts in provenance.get("metrics", {}).items()
    }
    ids = {
        (metric, identity)
        for block in provenance.get(PLANNED, ())
        for metric, identity in block["metrics"].items()
    }
    known = {metric for metric, _ in current & ids}
    return {cell: _sum_shards(shards) for cell, shards in dealt.items() if cell[4] in known}


def _list_counts(
    block: Block, provenance: Mapping[str, Any]
) -> Iterable[tuple[str, dict[str, int]]]:
    """Yield (part, images by model) of a block, as far as they still count.

    Models with other weights now do not; of another manifest no more images count than it has now.
    """
    facts = provenance.get("subsets", {}).get(block["subset"])
    if facts is None:
        return
    models = {*_list_current(block, provenance, "models")}
    skipped = {
        entry["part"]: entry["n"]
        for entry in provenance.get("left_out", ())
        if entry["kind"] == UNREADABLE and entry["subset"] == block["subset"]
    }
    for part, counts in block["images"].items():
        whole = facts["n" if part == "eval" else "n_calibration"]
        same = block["manifest_id"] == facts["manifest_id"]
        yield (
            part,
            {
                model: max(0, (count if same else min(count, whole)) - skipped.get(part, 0))
                for model, count in counts.items()
                if model in models
            },
        )


def _list_current(block: Block, provenance: Mapping[str, Any], kind: str) -> list[str]:
    """Return the names of a block that stand for the same now as then."""
    key = "weights_id" if kind == "models" else "id"
    known = provenance.get(kind, {})
    return [
        name for name, identity in block[kind].items() if known.get(name, {}).get(key) == identity
    ]


def _sum_shards(shards: Mapping[str, int]) -> int:
    """Return the images of the shards of a plan; of several dealings the larger."""
    sums: Counter[str] = Counter()
    for shard, count in shards.items():
        sums[shard.partition("/")[2]] += count
    return max(sums.values(), default=0)


def _count_present(
    frame: pd.DataFrame, provenance: Mapping[str, Any], planned: Mapping[Cell, int]
) -> dict[Cell, int]:
    """Return how many images have a row of each cell.

    A metric that leaves some items outside all of its sets is there where any metric is.
    """
    if not planned or frame.empty:
        return {}
    owner = {name: facts.get("metric", name) for name, facts in provenance["metrics"].items()}
    rows = frame[["subset", "part", "model", "method", "item"]].assign(
        metric=frame["metric"].map(owner)
    )
    keys = ["subset", "part", "model", "method"]
    counts = rows.drop_duplicates().groupby([*keys, "metric"], sort=False).size()
    found: dict[Any, int] = counts.to_dict()
    outside = {*provenance.get(OUTSIDE_METRICS, ())}
    if outside:
        anything = rows.drop_duplicates([*keys, "item"]).groupby(keys, sort=False).size().to_dict()
        found |= {cell: anything.get(cell[:4], 0) for cell in planned if cell[4] in outside}
    return found

"""Usable counts: how many images chose a board's thresholds, and on how many it points."""

from __future__ import annotations

import pandas as pd

from bench.board.box_thresholds import is_of_boxes
from bench.board.cubes import is_scored
from bench.identity import plain_name
from bench.records.store import Records

POINTING = "pointing"


def describe_usable_counts(records: Records, subset: str) -> str:
    """Return a phrase on the usable images of a subset, or "" where no value depends on them.

    An image is usable where at least one map could be scored on it.
    """
    facts = records.provenance["metrics"]
    rows = records.frame[records.frame["subset"] == subset]
    parts = []
    boxes = [name for name, one in facts.items() if is_of_boxes(one)]
    kept = int(records.provenance["subsets"].get(subset, {}).get("n_calibration", 0))
    if boxes and kept:
        choosing = rows[(rows["part"] == "calibration") & rows["metric"].isin(boxes)]
        parts.append(f"{_count_images(choosing, 'vector')} of {kept} calibration images are usable")
    scored = rows[rows["part"] == "eval"]
    pointing = scored[scored["metric"].map(plain_name) == POINTING]
    if len(pointing):
        parts.append(
            f"pointing is scored on {_count_images(pointing, 'value')} of "
            f"{scored['image'].nunique()} images"
        )
    return "; ".join(parts)


def _count_images(rows: pd.DataFrame, column: str) -> int:
    """Return on how many images a value or vector could be scored."""
    usable = rows["value"].notna() if column == "value" else rows["vector"].map(is_scored)
    return int(rows.loc[usable.astype(bool), "image"].nunique())

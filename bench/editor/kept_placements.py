"""Where the attention of a subset's images lies, kept in a file of the editor's folder.

A network looks at an image once per folder: a restart, other classes or a larger limit only add
what is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.data.subset import Subset
from bench.errors import BenchError
from bench.finetune.placement import (
    Placement,
    Report,
    find_placements,
    frame_of,
    read_placements,
)
from bench.json_state import read_json_state, write_sealed_json
from bench.models.explainee import Explainee

FILE = "placements.json"
FORMAT = 2


def look_at(
    model: Explainee,
    subset: Subset,
    wanted: Sequence[int],
    folder: Path,
    report: Report | None = None,
) -> list[Placement]:
    """Return the placements of images of a subset, in the order of `wanted`.

    Args:
        model: Network with an attention branch.
        subset: The images.
        wanted: Indices of the images to look at.
        folder: Where the file lies, and what was seen is added to it.
        report: report(done, total) is called while the network looks at new images.
    """
    stamp = {
        "format": FORMAT,
        "weights_id": model.weights_id,
        "manifest_id": subset.manifest_id,
        "geometry": frame_of(model, subset).id,
    }
    kept = _read_kept(folder / FILE, stamp, subset)
    missing = [k for k in wanted if subset.ids[k] not in kept]
    if missing:
        part = dataclasses.replace(subset, positions=tuple(subset.positions[k] for k in missing))
        rows = find_placements(model, part, report)
        kept |= {
            row.item: dataclasses.replace(row, index=k)
            for k, row in zip(missing, rows, strict=True)
        }
        write_sealed_json(
            folder / FILE, {"stamp": stamp, "rows": [asdict(row) for row in kept.values()]}
        )
    return [kept[subset.ids[k]] for k in wanted]


def _read_kept(file: Path, stamp: dict[str, Any], subset: Subset) -> dict[str, Placement]:
    try:
        kept = read_json_state(file, "delete it")
        if kept["stamp"] == stamp:
            return {row.item: row for row in read_placements(kept["rows"], subset)}
    except (BenchError, OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # not there, or not ours to read: it is only kept to save time
    return {}

"""run.json and health.json of a run folder: read, checked against their shape, and written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bench.json_state import read_json_state, write_sealed_json
from bench.records.mean_curves import MEAN_CURVES
from bench.records.run_schema import HealthFacts, RunFacts, check_shape

HEALTH = "health.json"
"""The verdicts of `cambench health`, beside run.json; boards mark what failed."""

RUN_REMEDY = "restore it from a copy, or start the run again in another folder"
HEALTH_REMEDY = "run `cambench health` again or delete it"

ALWAYS = ("run", "created", "commands", "not_applicable")
"""Keys that every reader finds, also where a file lacks them."""


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's run.json.

    Raises:
        BenchError: the file is damaged, cannot be read, or has another shape (`RunFacts`).
    """
    file = folder / "run.json"
    content = read_json_state(file, RUN_REMEDY)
    facts = check_shape(RunFacts, content, str(file), RUN_REMEDY)
    return {**{key: getattr(facts, key) for key in ALWAYS}, **content}


def write_run_json(folder: Path, provenance: dict[str, Any]) -> None:
    """Write a folder's run.json; health and mean curves have files of their own."""
    kept = {k: v for k, v in provenance.items() if k not in ("health", MEAN_CURVES)}
    write_sealed_json(folder / "run.json", kept)


def read_health(folder: Path) -> dict[str, Any]:
    """Return {"health": the content of a folder's health.json}, or {} where there is none.

    Raises:
        BenchError: the file is damaged, cannot be read, or has another shape (`HealthFacts`).
    """
    file = folder / HEALTH
    if not os.path.lexists(file):  # a folder or a pipe of that name is no absent report
        return {}
    content = read_json_state(file, HEALTH_REMEDY)
    check_shape(HealthFacts, content, str(file), HEALTH_REMEDY)
    return {"health": content}

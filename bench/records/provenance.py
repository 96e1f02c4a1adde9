"""The code version of a run, and how run.json of an earlier run and of this one become one."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.records.failed_parts import FAILED, keep_failures
from bench.records.planned_work import OUTSIDE_METRICS, PLANNED, add_planned
from bench.records.precision_verdict import find_taken_back, join_verdicts
from bench.records.sister_ids import keep_sisters
from bench.version import __version__

BY_CONTENT = "content"
"""What run.json says of a subset whose records name the content of each item."""


@functools.cache
def code_version() -> str:
    """Return the version, with the commit (and "dirty") where the code is a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    commit = _git(root, "rev-parse", "--short=10", "HEAD")
    dirty = "+dirty" if _git(root, "status", "--porcelain", "--", "bench") else ""
    return f"{__version__}+{commit}{dirty}" if commit else __version__


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _same(old: dict[str, Any], new: dict[str, Any], model: str, method: str) -> bool:
    """Return whether neither the model nor the method has changed since the old run (or is not in
    the new one).
    """
    pairs = (("models", model, "weights_id"), ("methods", method, "id"))
    return all(
        name not in new[kind] or new[kind][name][key] == old[kind][name][key]
        for kind, name, key in pairs
    )


def merge_provenance(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return run.json for a folder that holds a run already: the newer description wins, name by
    name.

    Models, methods and metrics of earlier runs stay, so that one board can be made of several
    commands. Another protocol, precision or other images in one folder are refused: their numbers
    cannot stand in one table.
    """
    if not old:
        return new
    _check_mergeable(old, new)
    both = {**old, **new, "created": old["created"], "run": old["run"]}
    for key in ("models", "methods", "metrics"):
        both[key] = {**old[key], **new[key]}
    both["models"] = keep_sisters(old["models"], both["models"])
    both["subsets"] = _merge_subsets(old["subsets"], new["subsets"])
    both["commands"] = list(dict.fromkeys([*old["commands"], *new["commands"]]))
    both["notes"] = list(dict.fromkeys([*old.get("notes", ()), *new.get("notes", ())]))
    if precision := join_verdicts(old, new):
        both["precision"] = precision
    else:
        both.pop("precision", None)
    shards = {*old.get("shards", ()), *new.get("shards", ())}
    if shards:
        both["shards"] = sorted(shards)
    both["not_applicable"] = _merge_unfit(old, new)
    both[FAILED] = keep_failures(old, new)
    both[PLANNED] = add_planned(old.get(PLANNED, ()), new.get(PLANNED, ()))
    both[OUTSIDE_METRICS] = sorted({*old.get(OUTSIDE_METRICS, ()), *new.get(OUTSIDE_METRICS, ())})
    for key in (FAILED, PLANNED, OUTSIDE_METRICS):
        if not both[key]:
            del both[key]
    return both


def _check_mergeable(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse a run whose numbers cannot stand in one table with those of its folder."""
    if old["protocol"]["id"] != new["protocol"]["id"]:
        raise BenchError(
            f"The run folder holds records of protocol {old['protocol']['id']}, not "
            f"{new['protocol']['id']}; choose another --out."
        )
    for name, facts in new["subsets"].items():
        if name in old["subsets"] and not _may_go_on(old["subsets"][name], facts):
            raise BenchError(
                f"The run folder holds records of other images or preprocessing of {name} "
                f"({old['subsets'][name]['manifest_id']}, now {facts['manifest_id']}); choose "
                "another --out."
            )
    if difference := find_taken_back(old, new):
        raise BenchError(
            f"The run folder holds records of another precision than asked for now, {difference}; "
            "go on with the first, or choose another --out."
        )


def _may_go_on(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether records of a subset may stay under its present manifest: the same one, or one
    of the same geometry, where each record names the content of its item.
    """
    if old["manifest_id"] == new["manifest_id"]:
        return True
    frames = (facts["manifest_id"].rpartition("-")[2] for facts in (old, new))
    by_content = old.get("identity") == new.get("identity") == BY_CONTENT
    return by_content and len(set(frames)) == 1


def _merge_subsets(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the subsets of two runs; the larger count of images of a subset stays, while its
    manifest does.
    """
    both = {**old, **new}
    for name, facts in old.items():
        if facts["manifest_id"] != both[name]["manifest_id"]:
            continue
        counts = {key: max(facts[key], both[name][key]) for key in ("n", "n_calibration")}
        both[name] = {**both[name], **counts}
        unserved = [*facts.get("unserved", ()), *both[name].get("unserved", ())]
        if unserved:
            both[name]["unserved"] = list(dict.fromkeys(unserved))
    return both


def _merge_unfit(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return {model: {method that does not fit: reason}} of two runs."""
    both: dict[str, Any] = {
        model: {name: reason for name, reason in reasons.items() if _same(old, new, model, name)}
        for model, reasons in old["not_applicable"].items()
    }
    for model, reasons in new["not_applicable"].items():
        both.setdefault(model, {}).update(reasons)
    return both

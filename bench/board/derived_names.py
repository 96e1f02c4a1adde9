"""What the board derives from values: names, titles and directions, as the metric declares them.

run.json carries what a metric declares. Runs that are older than a fact lack it; then the registry
of today answers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.identity import plain_name
from bench.metrics import METRICS, Value, find_owner
from bench.metrics.base import Derived, find_derived


def read_declared(name: str, facts: dict[str, Any], what: str) -> Any:
    """Return what a metric declares of a value: as run.json has it, else as the registry of
    today.
    """
    if what in facts:
        return facts[what]
    owner = find_owner(plain_name(name))
    return "" if owner is None else getattr(owner.values[plain_name(name)], what)


def settle_rank(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a value with `peaked`; a value that sharpening moves is not ranked.

    Runs, baselines and health reports of before `peaked` rank some of these values.

    Args:
        name: The name of a value in records, or of what boards make of it.
        facts: What a file says of it.
    """
    peaked = facts.get("peaked")
    if peaked is None:
        peaked = is_peaked_today(plain_name(name))
    return {**facts, "peaked": peaked, "ranked": bool(facts["ranked"]) and not peaked}


def is_peaked_today(name: str) -> bool:
    """Tell whether the registry of today says that sharpening the maps moves a value."""
    for metric in METRICS:
        for own, value in metric.values.items():
            derived = find_derived(own, value)
            if derived is not None and derived.name == name:
                return derived.peaked
            if own == name:
                return value.peaked
    return False


def read_derived(name: str, facts: dict[str, Any]) -> Derived:
    """Return what the board makes of a value's vectors.

    Args:
        name: The value's name in the records.
        facts: What run.json says of the value. `derived` is a dict with every fact, or the name
            alone, or missing.

    Returns:
        The facts; the name is marked with the version of the value.
    """
    declared, plain = facts.get("derived"), plain_name(name)
    owner = find_owner(plain)
    known = None if owner is None else find_derived(plain, owner.values[plain])
    if isinstance(declared, dict):
        peaked = declared.get("peaked", known is not None and known.peaked)
        ranked = declared.get("ranked", True) and not peaked
        found = Derived(**{**declared, "ranked": ranked, "peaked": peaked})
    else:
        usual = find_derived(plain, Value(facts["title"], reduce=facts["reduce"]))
        assert usual is not None, f"{name} is no value of vectors"
        found = known or usual
        found = dataclasses.replace(found, name=declared or found.name)
    return dataclasses.replace(found, name=mark_version(name, found.name))


def list_shown_facts(derived: Derived) -> dict[str, Any]:
    """Return the facts of a measure that a board shows in place of vectors, but for its name."""
    return {key: fact for key, fact in dataclasses.asdict(derived).items() if key != "name"}


def mark_version(name: str, derived: str) -> str:
    """Return a derived value's name, marked as of the same older version as the value that it is
    made of.
    """
    return derived + name.removeprefix(plain_name(name)) if derived else ""

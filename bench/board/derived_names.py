"""Names of derived values: what a metric declares, marked with the version of its value."""

from __future__ import annotations

from typing import Any

from bench.identity import plain_name
from bench.metrics import find_owner


def read_declared(name: str, facts: dict[str, Any], what: str) -> Any:
    """Return what a metric declares of a value: as run.json has it, else as the registry of
    today.
    """
    if what in facts:
        return facts[what]
    owner = find_owner(plain_name(name))
    return "" if owner is None else getattr(owner.values[plain_name(name)], what)


def mark_version(name: str, derived: str) -> str:
    """Return a derived value's name, marked as of the same older version as the value that it is
    made of.
    """
    return derived + name.removeprefix(plain_name(name)) if derived else ""


def name_derived(name: str, facts: dict[str, Any]) -> str:
    """Return the name of what the board makes of a value's vectors: the declared one, else the
    value's with an end.
    """
    ending = "accuracy" if facts["reduce"] == "box_accuracy" else "pooled"
    return mark_version(
        name, read_declared(name, facts, "derived") or f"{plain_name(name)}_{ending}"
    )

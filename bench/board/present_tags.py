"""Tags of today: what a method of older records was held against, as it is known now.

A tag can turn out to be wrong after a board was made, while the method stays the same. Records keep
the tag of their day, and boards show that of today.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.errors import BenchError
from bench.identity import plain_name
from bench.methods import METHODS
from bench.records.store import Records

OFFICIAL, PAPER = "official", "paper"


def renew_tags(records: Records) -> Records:
    """Return records whose built-in methods have the fidelity and the citation of today.

    A method of an older version is not `official`: a later version follows the authors' code more
    closely. Methods of plug-ins keep their tags.

    Args:
        records: Records whose older methods are marked (`bench.board.older_versions`).
    """
    methods = records.provenance.get("methods", {})
    new = {name: {**facts, **_find_tags(name, facts)} for name, facts in methods.items()}
    if new == methods:
        return records
    return dataclasses.replace(records, provenance={**records.provenance, "methods": new})


def _find_tags(name: str, facts: dict[str, Any]) -> dict[str, str]:
    """Return what of a method's tags is otherwise today."""
    plain = plain_name(name)
    if plain != name:
        return {"fidelity": PAPER} if facts.get("fidelity") == OFFICIAL else {}
    try:
        today = METHODS.get(plain)
    except BenchError:  # a plug-in's method, or a parameter that is no more
        return {}
    if today.id != facts.get("id"):
        return {}
    return {"fidelity": today.fidelity, "citation": today.citation}

"""Tie groups: methods of a table that the images cannot separate, and the images that would."""

from __future__ import annotations

import math
from typing import Any

from bench.board.comparison import Comparison
from bench.board.scores import Scores


def find_tie_groups(board: Scores, subset: str, model: str) -> dict[str, dict[str, Any]]:
    """Return {ranked value: what its order is worth} of a table.

    images: how many.  runs: the tie groups, [first, last] places each, best first.  same_maps:
    names of methods with the same map.  first_two: the best two that are no controls, a and b,
    with effect (d_z), n_needed and apart; missing where there are not two.
    """
    found = {key[2]: one for key, one in board.comparisons.items() if key[:2] == (subset, model)}
    controls = {name for name, facts in board.methods(subset, model).items() if facts["control"]}
    return {
        metric: describe_order(one, controls)
        for metric, one in found.items()
        if len(one.methods) > 1
    }


def describe_order(one: Comparison, controls: set[str]) -> dict[str, Any]:
    """Return the entry of one value."""
    names = {
        place: [m for m, first in zip(one.methods, one.first, strict=True) if first == place]
        for place in one.first
    }
    known = {
        "methods": len(one.methods),
        "images": one.images,
        "images_to_separate": one.images_to_separate,
    }
    found: dict[str, Any] = {
        **known,
        "runs": [list(group) for group in one.tie_groups],
        "same_maps": [group for group in names.values() if len(group) > 1],
    }
    rest = [
        place
        for place in one.order
        if one.methods[place] not in controls and one.first[place] == place
    ]
    if len(rest) > 1:
        a, b = rest[:2]
        test = one.tests.loc[one.place[a, b]]
        found["first_two"] = {
            "a": one.methods[a],
            "b": one.methods[b],
            "effect": keep_finite(abs(test["effect"])),
            "n_needed": keep_finite(test["n_needed"]),
            "apart": bool(one.wins[a, b]),
        }
    return found


def keep_finite(value: float) -> float | None:
    """Return a number as JSON can hold it: None where it is missing or infinite."""
    return float(value) if math.isfinite(value) else None

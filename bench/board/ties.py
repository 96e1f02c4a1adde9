"""What a table's order is worth, in words: runs that cannot be told apart, equal maps, and how many
images it takes.
"""

from __future__ import annotations

import math
from typing import Any

from bench.board.aggregate import Board
from bench.board.comparison import Comparison
from bench.board.text import number


def ties(board: Board, subset: str, model: str) -> dict[str, dict[str, Any]]:
    """Return {ranked value: what its order is worth} of a table.

    images: how many.  runs: [first, last] places that cannot be told apart, longest runs, best
    first.  same_maps: names with one map.  first_two: the best two that are no controls, a and b,
    with effect (d_z), n_needed and apart; missing where there are not two.
    """
    found = {key[2]: one for key, one in board.comparisons.items() if key[:2] == (subset, model)}
    controls = {name for name, facts in board.methods(subset, model).items() if facts["control"]}
    return {
        metric: describe(one, controls) for metric, one in found.items() if len(one.methods) > 1
    }


def describe(one: Comparison, controls: set[str]) -> dict[str, Any]:
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
        "runs": [list(run) for run in one.runs],
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
            "effect": finite(abs(test["effect"])),
            "n_needed": finite(test["n_needed"]),
            "apart": bool(one.wins[a, b]),
        }
    return found


def finite(value: float) -> float | None:
    """Return a number as JSON can hold it: None where it is missing or infinite."""
    return float(value) if math.isfinite(value) else None


def sentence(metric: str, facts: dict[str, Any]) -> str:
    """Return what a reader must know of one value's order.

    >>> facts = {"methods": 4, "images": 200, "images_to_separate": 8}
    >>> sentence("deletion", {**facts, "runs": [[1, 3]], "same_maps": []})
    'deletion: 1-3 cannot be told apart at n=200.'
    """
    runs, n = facts["runs"], facts["images"]
    if runs:
        text = f"{metric}: {', '.join(f'{a}-{b}' for a, b in runs)} cannot be told apart at n={n}"
        if n < facts["images_to_separate"]:
            text += f" (no two methods can below n={facts['images_to_separate']})"
    else:
        maps = facts["methods"] - sum(len(group) - 1 for group in facts["same_maps"])
        what = "places" if maps == facts["methods"] else "different maps"
        text = (
            f"{metric}: all {maps} {what} can be told apart at n={n}"
            if maps > 1
            else f"{metric}: one map, n={n}"
        )
    parts = [text, *(f"{' = '.join(group)}: the same map" for group in facts["same_maps"])]
    if "first_two" in facts:
        parts.append(needed(facts["first_two"]))
    return "; ".join(parts) + "."


def needed(pair: dict[str, Any]) -> str:
    """Say how many images separate the first two methods.

    >>> needed({"a": "grad_cam", "b": "cam", "effect": 0.08, "n_needed": 1229.0, "apart": False})
    'n needed to separate grad_cam from cam, the first two that are no controls: 1,229 (d_z .080)'
    """
    who = f"n needed to separate {pair['a']} from {pair['b']}, the first two that are no controls"
    size = "" if pair["effect"] is None else f" (d_z {number(pair['effect'])})"
    if pair["n_needed"] is None:
        return f"{who}: no n would{size}" if pair["effect"] == 0 else f"{who}: unknown at this n"
    return f"{who}: {pair['n_needed']:,.0f}{size}" + (
        ", and they are told apart here" if pair["apart"] else ""
    )


def tie_notes(board: Board, subset: str, model: str, metrics: list[str]) -> list[str]:
    """Return the sentences of some values of a table."""
    known = ties(board, subset, model)
    return [sentence(metric, known[metric]) for metric in metrics if metric in known]

"""Rank notes: sentences about the order of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.board.scores import Scores
from bench.board.text import number
from bench.board.tie_groups import find_tie_groups
from bench.errors import BenchError
from bench.identity import plain_name
from bench.methods import METHODS


def write_order(metric: str, facts: dict[str, Any]) -> str:
    """Return what a reader must know of one value's order.

    >>> facts = {"methods": 4, "images": 200, "images_to_separate": 8}
    >>> write_order("deletion", {**facts, "runs": [[1, 3]], "same_maps": []})
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
        parts.append(write_images_needed(facts["first_two"]))
    return "; ".join(parts) + "."


def write_images_needed(pair: dict[str, Any]) -> str:
    """Say how many images separate the first two methods.

    >>> pair = {"a": "grad_cam", "b": "cam", "effect": 0.08, "n_needed": 1229.0, "apart": False}
    >>> write_images_needed(pair)
    'n needed to separate grad_cam from cam, the first two that are no controls: 1,229 (d_z .080)'
    """
    who = f"n needed to separate {pair['a']} from {pair['b']}, the first two that are no controls"
    size = "" if pair["effect"] is None else f" (d_z {number(pair['effect'])})"
    if pair["n_needed"] is None:
        return f"{who}: no n would{size}" if pair["effect"] == 0 else f"{who}: unknown at this n"
    return f"{who}: {pair['n_needed']:,.0f}{size}" + (
        ", and they are told apart here" if pair["apart"] else ""
    )


def write_rank_notes(board: Scores, subset: str, model: str, metrics: list[str]) -> list[str]:
    """Return the sentences of some values of a table."""
    known = find_tie_groups(board, subset, model)
    return [write_order(metric, known[metric]) for metric in metrics if metric in known]


def write_caveats(methods: Iterable[str]) -> list[str]:
    """Return what a reader must know of methods of a table; a method of a plug-in has none.

    >>> write_caveats(["grad_cam"])
    []
    """
    holders: dict[str, list[str]] = {}
    for name in methods:
        try:
            caveats = METHODS.get(plain_name(name)).caveats
        except BenchError:  # a plug-in's method, or a parameter that is no more
            continue
        for caveat in caveats:
            holders.setdefault(caveat, []).append(name)
    return [f"{', '.join(names)}: {caveat}." for caveat, names in holders.items()]

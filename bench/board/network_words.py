"""Networks side by side in words: better, worse, or no difference shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.board.network_pairs import OUTCOMES, NetworkDifference, NetworkPair
from bench.data.open_pastes import is_pastes


def describe_pair(pair: NetworkPair, models: dict[str, dict[str, Any]]) -> str:
    """Return a sentence on two networks, or on two layers of one.

    Args:
        pair: The two, and how they differ.
        models: What run.json says of the networks.

    >>> gap = NetworkDifference("deletion", "lower", -0.1, -0.2, -0.05, 0.01, True, 36, 36, 9, 0.02)
    >>> pair = NetworkPair("toy", "a", "b", "grad_cam", (gap,))
    >>> describe_pair(pair, {})
    'a against b (toy, maps of grad_cam): better in deletion (n = 36).'
    """
    names = name_networks(pair, models)
    if pair.reason:
        return f"{names[0]} and {names[1]} are not compared: {pair.reason}."
    if not pair.differences:
        return (
            f"{names[0]} and {names[1]} are not compared: no ranked value of {pair.method} is "
            f"scored on two images of {pair.subset} by both."
        )
    return (
        f"{names[0]} against {names[1]} ({pair.subset}, maps of {pair.method}): "
        f"{describe_differences(pair.differences)}."
    )


def describe_differences(differences: Iterable[NetworkDifference]) -> str:
    """Return in which values the first network is better or worse, and n, without a full stop."""
    return join_outcomes([(one.outcome, name_value(one), one.n) for one in differences])


def join_outcomes(found: Sequence[tuple[str, str, int]]) -> str:
    """Return the values of each outcome, and n, without a full stop.

    Args:
        found: Outcome, name and n of each value.

    >>> join_outcomes([("worse", "insertion", 36), ("better", "deletion", 34)])
    'better in deletion; worse in insertion (n = 34 to 36)'
    """
    names = {one: [name for outcome, name, _ in found if outcome == one] for one in OUTCOMES}
    parts = [f"{outcome} in {', '.join(own)}" for outcome, own in names.items() if own]
    few, many = min(n for *_, n in found), max(n for *_, n in found)
    return f"{'; '.join(parts)} (n = {few}{f' to {many}' if many > few else ''})"


def name_value(one: NetworkDifference) -> str:
    """Return a value's name, and how many images would show its difference."""
    open_ended = one.outcome == OUTCOMES[2] and math.isfinite(one.needed)
    if open_ended and one.needed > one.images:
        return f"{one.metric} (about {one.needed:,.0f} images would do)"
    return one.metric


def name_networks(pair: NetworkPair, models: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """Return the names of two networks; of two layers of one network also the layers."""
    first, second = models.get(pair.first, {}), models.get(pair.second, {})
    weights = [str(one.get("weights_id") or "").partition("-")[0] for one in (first, second)]
    layers = [str(one.get("layer") or "") for one in (first, second)]
    if weights[0] == weights[1] and all(layers) and layers[0] != layers[1]:
        return f"{pair.first} (layer {layers[0]})", f"{pair.second} (layer {layers[1]})"
    return pair.first, pair.second


def describe_own_items(subsets: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each family of subsets in which every network has items of its own."""
    families: dict[str, list[str]] = {}
    for subset in subsets:
        if is_pastes(subset):
            inner = subset.strip().removeprefix("pasted(").rpartition(",")[0]
            families.setdefault(inner or subset, []).append(subset)
    for inner, several in families.items():
        if len(several) > 1:
            yield (
                f"The {len(several)} networks with pastes in {inner} are not compared: each one "
                "looks at items of its own."
            )

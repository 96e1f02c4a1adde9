"""False alarms without a difference: two runs whose images are resampled and exchanged at random.

Of every drawn image a fair coin says which of the two runs is called old and which new, for all its
cells at once. So the true difference is 0 in every cell, while the noise, its shape and what the
cells have in common are those of the two runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from bench.board.significance import holm
from bench.gate.baseline import Baseline
from bench.gate.judge import CELL, Evidence, JudgingRules, Paired, compare, list_cells, pair_values

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Null:
    """Cells of two runs on the same items, to be resampled.

    pairs: one per cell, all on the same items.  images: per image, the positions of its items.
    """

    names: list[tuple[str, ...]]
    pairs: list[Paired]
    images: list[Positions]


def make_null(old: Baseline, new: Baseline) -> Null:
    """Arrange two runs' deciding cells on all items of the old one; an item that a cell lacks is
    not scored there.
    """
    methods = old.facts["methods"]
    found = {
        names: rows
        for names, rows in list_cells(old, new)
        if not methods[names[CELL.index("method")]]["control"]
    }
    items = old.frame.drop_duplicates("item").set_index("item")["image"].sort_index()
    pairs = []
    for (*_, metric), rows in found.items():
        aligned = (
            rows.set_index("item").reindex(items.index).reset_index().assign(image=items.to_numpy())
        )
        pairs.append(pair_values(aligned, old.values[metric]["better"]))
    codes = np.unique(items.to_numpy(str), return_inverse=True)[1]
    return Null(
        list(found), pairs, [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    )


def exchange(null: Null, rng: np.random.Generator) -> list[Paired]:
    """Return one resample: images drawn with replacement, old and new exchanged by a coin per drawn
    image.
    """
    drawn = rng.integers(len(null.images), size=len(null.images))
    coins = rng.random(len(drawn)) < 0.5
    positions = np.concatenate([null.images[i] for i in drawn])
    sizes = [len(null.images[i]) for i in drawn]
    names, swap = (
        np.repeat(np.arange(len(drawn)), sizes).astype(str).astype(object),
        np.repeat(coins, sizes),
    )
    resampled = []
    for pair in null.pairs:
        old, new = pair.old[positions], pair.new[positions]
        sides = np.where(swap, new, old), np.where(swap, old, new)
        resampled.append(Paired(*sides, pair.random[positions], names, pair.sign))
    return resampled


def move_to_margin(pairs: list[Paired], rules: JudgingRules) -> list[Paired]:
    """Return the same with every new value worse by the margin of this resample: the hardest null
    there is.
    """
    moved = []
    for pair in pairs:
        kept = np.isfinite(pair.old) & np.isfinite(pair.random)
        margin = rules.margin * abs(float((pair.old - pair.random)[kept].mean()))
        moved.append(
            Paired(pair.old, pair.new - pair.sign * margin, pair.random, pair.images, pair.sign)
        )
    return moved


def count_outcomes(evidence: list[Evidence], rules: JudgingRules) -> tuple[int, int, int]:
    """Return how many cells are a regression, could not be judged, and pass."""
    adjusted = holm(np.array([e.p_worse for e in evidence]))
    lost = [e.lost > rules.margin * (e.n + e.lost) for e in evidence]
    bad = sum(bool(p < rules.alpha or gone) for p, gone in zip(adjusted, lost, strict=True))
    fine = sum(e.same or (not e.why and e.p_fine < rules.miss) for e in evidence)
    return bad, len(evidence) - bad - fine, fine


def count_false_alarms(
    null: Null,
    rules: JudgingRules,
    resamples: int,
    seed: int = 0,
    *,
    margin: bool = False,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Judge resamples of a null; return counts and rates.

    margin: move every cell to the margin.  tick: told how many are done.
    """
    alarms, unjudged, passes, fine = 0, 0, 0, 0
    for number in range(resamples):
        pairs = exchange(null, np.random.default_rng([seed, number]))
        pairs = move_to_margin(pairs, rules) if margin else pairs
        bad, unsure, good = count_outcomes([compare(pair, rules) for pair in pairs], rules)
        alarms, unjudged, fine = alarms + (bad > 0), unjudged + unsure, fine + good
        passes += good == len(pairs)
        tick(number + 1)
    cells_judged = resamples * len(null.pairs)
    upper = binomtest(alarms, resamples).proportion_ci(0.95, method="exact").high
    return {
        "cells": len(null.pairs),
        "images": len(null.images),
        "resamples": resamples,
        "false_alarms": alarms,
        "rate": alarms / resamples,
        "rate_upper": float(upper),
        "cells_passed": fine / cells_judged,
        "cells_unjudged": unjudged / cells_judged,
        "runs_passed": passes / resamples,
    }

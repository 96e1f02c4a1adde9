"""Two methods of a board in a sentence: the paired difference, and whether the images show it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench.board.comparison import Comparison, compare
from bench.board.cubes import Cube, Measure, build_cube, sample
from bench.board.statistics import Sampled
from bench.board.text import interval, number

SMALLEST_P = 0.001
"""Below it, a sentence says only that a p is smaller."""


def describe_difference(
    measure: Measure,
    model: str,
    mine: str,
    reference: str,
    known: Comparison | None,
    resamples: int,
    seed: int,
) -> Iterator[str]:
    """Yield the sentence of one measure, or nothing where the two share no scored item.

    Args:
        measure: The value that is compared.
        model: The model whose maps are compared.
        mine, reference: The methods; the difference is mine - reference.
        known: The table's comparison, whose correction counts where it holds both methods.
        resamples, seed: Of the bootstrap.
    """
    rows = measure.rows[
        (measure.rows["model"] == model) & measure.rows["method"].isin([mine, reference])
    ]
    if set(rows["method"]) != {mine, reference}:
        return
    cells = keep_common_items(build_cube(Measure(measure.name, measure.facts, rows), [model]))
    if not len(cells.items):
        return
    drawn = sample(measure, cells, resamples, seed)
    left, right = cells.methods.index(mine), cells.methods.index(reference)
    gap = Sampled(
        drawn.point[[left]] - drawn.point[[right]],
        drawn.replicates[:, [left]] - drawn.replicates[:, [right]],
    )
    low, high = gap.interval()
    text = interval(gap.point[0], low[0], high[0])
    whole = known is not None and {mine, reference} <= set(known.methods)
    found = known if known is not None and whole else compare(measure, cells, drawn, {})
    outcome = write_outcome_of(found, mine, reference)
    scope = "" if whole else ", over this pair alone"
    yield (
        f"{mine} against {reference}: {measure.name} {text}, n={len(cells.items)}: "
        f"{outcome}{scope if 'Holm' in outcome else ''}"
    )


def keep_common_items(cells: Cube) -> Cube:
    """Return the items that all methods of a cube have scored."""
    both = cells.scored.all(1)
    return Cube(
        cells.methods,
        cells.items[both],
        cells.images[both],
        cells.values[:, both],
        *[cells.scored[both]] * 2,
    )


def write_outcome_of(found: Comparison, mine: str, reference: str) -> str:
    """Return whether a method is better, worse or not separable, with p after Holm's correction.

    Both tests of `bench.board.comparison` must show a difference, so the larger p counts.
    """
    left, right = found.methods.index(mine), found.methods.index(reference)
    if found.same_map[left, right]:
        return "the same map"
    test = found.tests.loc[found.place[left, right]]
    known = [float(test[name]) for name in ("p_holm", "p_bootstrap_holm")]
    known = [p for p in known if not math.isnan(p)]
    if not known:
        return "not separable (too few images for a test)"
    p = max(known)
    shown = f"p < {number(SMALLEST_P)}" if p < SMALLEST_P else f"p = {number(p)}"
    word = (
        "better"
        if found.wins[left, right]
        else "worse"
        if found.wins[right, left]
        else "not separable"
    )
    return f"{word} ({shown} after Holm)"

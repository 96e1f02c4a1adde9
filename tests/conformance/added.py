"""Cases and definitions that version 2 gained after its first writing; nothing but Python.

A new case needs three things: its definitions in `DEFINITIONS`, its items in `CASES` (a frame of a
size that `v2/tie_fields.json` has), and `v2/cases/NAME/derivation.md` with a claim about each
value. `python -m tests.conformance.derive` then writes its files. Older files stay as they are.
"""

from __future__ import annotations

from fractions import Fraction

from tests.conformance.definitions import NAN, filled
from tests.conformance.vectors import CONSTANT, PROTOCOL, block, item


def share_of_ranks(values, mask):
    """Return the share on the mask of cubed ranks; equal values share the mean of theirs."""
    pixels, rising = len(values), sorted(values)
    cubes = [Fraction(2 * i + 1, 2 * pixels) ** 3 for i in range(pixels)]
    groups = {}
    for value, cube in zip(rising, cubes, strict=True):
        groups.setdefault(value, []).append(cube)
    weights = [sum(groups[value]) / len(groups[value]) for value in values]
    return sum(w for w, on in zip(weights, mask, strict=True) if on) / sum(weights)


def energy_ranked(case):
    area = Fraction(sum(case.mask), case.pixels)
    if area in (0, 1):
        return {"energy_ranked": NAN, "energy_ranked_signed": NAN}
    best = share_of_ranks([Fraction(on) for on in case.mask], case.mask)
    positive, signed = (share_of_ranks(v, case.mask) for v in (case.positive, case.values))
    return {
        "energy_ranked": (positive - area) / (best - area),
        "energy_ranked_signed": (signed - area) / (best - area),
    }


def discriminability_ranked(case):
    mine = [v for v, own in zip(case.values, case.mask, strict=True) if own]
    theirs = [
        v
        for v, own, other in zip(case.values, case.mask, case.others, strict=True)
        if other and not own
    ]
    if not mine or not theirs:
        return {"discriminability_ranked": NAN}
    wins = sum(2 * (a > b) + (a == b) for a in mine for b in theirs)
    return {"discriminability_ranked": Fraction(wins, 2 * len(mine) * len(theirs))}


DEFINITIONS = {f.__name__: f for f in (energy_ranked, discriminability_ranked)}
"""{metric: its definition}, beside those of `definitions.py`."""


def _at(y, x):
    return block(2, 4, y, y + 1, x, x + 1)


PLAIN = [[7, 5, 3, 1], [0, -1, -2, -3]]
SHARPENED = [[7**4, 5**4, 3**4, 1], [0, -1, -2, -3]]
BESIDE = [[1, 0, 1, 0], [0, 0, 0, 0]]

CASES = {
    "ranks": {
        "what": "Energy and discriminability of the ranks, which no power of the map moves.",
        "model": CONSTANT,
        "metrics": ["energy_ranked", "discriminability_ranked"],
        "protocol": PROTOCOL,
        "items": {
            "best": item(PLAIN, mask=_at(0, 0), others=block(2, 4, 1, 2, 0, 2)),
            "second": item(PLAIN, mask=_at(0, 1), others=BESIDE),
            "sharpened": item(SHARPENED, mask=_at(0, 1), others=BESIDE),
            "lowest": item(PLAIN, mask=_at(1, 3), others=_at(0, 0)),
            "constant": item(filled(2, 4, 1), mask=_at(0, 1), others=BESIDE),
            "whole_frame": item(PLAIN, mask=filled(2, 4, 1), others=BESIDE),
            "empty_truth": item(PLAIN, mask=filled(2, 4, 0), others=BESIDE),
            "not_a_number": item([[NAN, 5, 3, 1], [0, 0, 0, 0]], mask=_at(0, 1), others=BESIDE),
        },
    }
}
"""{case: its input}, before the tie fields are put in."""

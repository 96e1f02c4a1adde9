"""Cases and definitions that version 2 gained after its first writing; nothing but Python.

A new case needs three things: its definitions in `DEFINITIONS`, its items in `CASES` (a frame of a
size that `v2/tie_fields.json` has), and `v2/cases/NAME/derivation.md` with a claim about each
value. `python -m tests.conformance.derive` then writes its files. Older files stay as they are.
"""

from __future__ import annotations

import math
from fractions import Fraction

from tests.conformance.definitions import NAN, bounds, components, filled, iou
from tests.conformance.vectors import CONSTANT, PROTOCOL, block, grid_of, image_of, item, planted


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


def grid_localization(case):
    inside = [v for v, on in zip(case.values, case.mask, strict=True) if on]
    outside = [v for v, on in zip(case.values, case.mask, strict=True) if not on]
    if not inside or not outside:
        return {"grid_auc": NAN, "grid_share": NAN, "grid_ap": NAN}
    wins = sum(2 * (a > b) + (a == b) for a in inside for b in outside)
    mass, precision = sum(case.positive), Fraction(0)
    for level in set(inside):
        found = sum(a >= level for a in inside)
        shown = found + sum(b >= level for b in outside)
        precision += Fraction(inside.count(level), len(inside)) * Fraction(found, shown)
    own = sum(v for v, on in zip(case.positive, case.mask, strict=True) if on)
    return {
        "grid_auc": Fraction(wins, 2 * len(inside) * len(outside)),
        "grid_share": own / mass if mass else Fraction(0),
        "grid_ap": precision,
    }


SETS = 100


def box_sets(case):
    """At each tau of the item: how many IoUs of the protocol the smallest set reaches that holds
    all pixels at or above tau.
    """
    if not case.boxes:
        return {"box_set_hits": [NAN] * len(case.taus)}
    rising = sorted(v for v in case.positive if v > 0)
    hits = []
    for tau in case.taus:
        sets = [rising[i * len(rising) // SETS] for i in range(SETS)] if rising else [math.inf]
        cut = max((c for c in sets if c <= tau), default=sets[0])
        above = {i for i, v in enumerate(case.positive) if v >= cut}
        found = [bounds(part, case.width) for part in components(above, case.width)]
        best = max((iou(a, b) for a in found for b in case.boxes), default=Fraction(0))
        hits.append(Fraction(sum(best >= bound for bound in (0.3, 0.5, 0.7))))
    return {"box_set_hits": hits}


# ------------------------------------------------------------------------------- sister networks


def middle_ranks(values):
    """Return each value's rank from 1, the lowest; equal values share the mean of theirs."""
    return [
        sum(other < v for other in values) + Fraction(1 + sum(other == v for other in values), 2)
        for v in values
    ]


def parts_of(case, rows, columns):
    """Return the pixels of each of rows x columns parts of the frame, in rows from the top left."""
    return [
        [
            y * case.width + x
            for y in range(case.height)
            for x in range(case.width)
            if (y * rows // case.height, x * columns // case.width) == (row, column)
        ]
        for row in range(rows)
        for column in range(columns)
    ]


def mean_of(values, part):
    return Fraction(sum(values[i] for i in part)) / len(part)


def ordered_patches(case):
    """Return the patches, the most relevant first: by the mean rank of their pixels, then by the
    mean place of their pixels in the order of equal pixels, then from the top left.
    """
    patches = parts_of(case, case.height // case.patch, case.width // case.patch)
    ranks = middle_ranks(case.values)
    ties = sorted(range(case.pixels), key=lambda i: -case.field[i])
    places = {pixel: place for place, pixel in enumerate(ties)}
    return sorted(patches, key=lambda p: (-mean_of(ranks, p), mean_of(places, p), p[0]))


def without(case, patches):
    """Return the sister's p of the target with patches in the baseline colour."""
    masked = {pixel for patch in patches for pixel in patch}
    image = case.mixed(case.plain(), case.image, masked)
    return case.sister.probability(image, case.target)


STEPS = 10


def masked_curve(case, patches):
    half = len(patches) // 2
    counts = [math.floor(Fraction(i * half, STEPS) + Fraction(1, 2)) for i in range(STEPS + 1)]
    curve = [without(case, patches[:count]) for count in counts]
    area = sum(
        Fraction(counts[i + 1] - counts[i], half) * (curve[i] + curve[i + 1]) / 2
        for i in range(STEPS)
    )
    return area, curve


def masked_deletion(case):
    area, curve = masked_curve(case, ordered_patches(case))
    return {"masked_deletion": area, "masked_deletion_curve": curve}


def masked_insertion(case):
    area, curve = masked_curve(case, ordered_patches(case)[::-1])
    return {"masked_insertion": area, "masked_insertion_curve": curve[::-1]}


def no_drop(case, name):
    """Return 0: the part of the patches that can be masked at all holds no evidence."""
    patches = ordered_patches(case)[:: -1 if name == "ffid_minus" else 1]
    most = round(0.5 * len(patches))
    clean = without(case, [])
    assert all(without(case, [patch]) == clean for patch in patches[:most])
    return {name: Fraction(0)}


def ffid_plus(case):
    return no_drop(case, "ffid_plus")


def ffid_minus(case):
    return no_drop(case, "ffid_minus")


def idsds(case):
    cells = parts_of(case, 4, 4)
    clean = case.sister.logits(case.image)[case.target]
    drops = [
        clean - case.sister.logits(case.mixed(case.plain(), case.image, set(cell)))[case.target]
        for cell in cells
    ]
    ranks = middle_ranks(case.values)
    return {
        "idsds": correlate([mean_of(case.values, cell) for cell in cells], drops),
        "idsds_ranked": correlate([mean_of(ranks, cell) for cell in cells], drops),
    }


def correlate(first, second):
    """Return Spearman's correlation; 0 where the first values are all equal."""
    if len(set(first)) == 1:
        return 0
    a, b = (middle_ranks(values) for values in (first, second))
    a, b = ([v - Fraction(len(ranks) + 1, 2) for v in ranks] for ranks in (a, b))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return float(dot) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


DEFINITIONS = {
    f.__name__: f
    for f in (
        energy_ranked,
        discriminability_ranked,
        grid_localization,
        box_sets,
        masked_deletion,
        masked_insertion,
        ffid_plus,
        ffid_minus,
        idsds,
    )
}
"""{metric: its definition}, beside those of `definitions.py`."""


def _at(y, x):
    return block(2, 4, y, y + 1, x, x + 1)


PLAIN = [[7, 5, 3, 1], [0, -1, -2, -3]]
SHARPENED = [[7**4, 5**4, 3**4, 1], [0, -1, -2, -3]]
BESIDE = [[1, 0, 1, 0], [0, 0, 0, 0]]

UP = grid_of(4, 4, lambda y, x: y * 4 + x)
CELLS = grid_of(8, 10, lambda y, x: 16 if 3 <= y < 5 and 3 <= x < 6 else int(1 <= y < 7))
DOWNWARDS = grid_of(8, 14, lambda y, x: 112 - y * 14 - x)
UPWARDS = grid_of(8, 14, lambda y, x: y * 14 + x + 1)
TOP_ROWS = image_of(block(8, 14, 0, 2, 0, 14))
LINEAR = {
    "type": "linear",
    "regions": [{"rows": [y, y + 1], "columns": [0, 4]} for y in range(4)],
    "weights": [[8, 4, 2, 0], [0, 0, 0, 8]],
    "bias": [0, 0],
    "mean": [0.485, 0.456, 0.406],
    "std": [1, 1, 1],
}

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
    },
    "grids": {
        "what": "Grids: the cell is the left half; equal values count half, negative ones nothing.",
        "model": CONSTANT,
        "metrics": ["grid_localization"],
        "protocol": PROTOCOL,
        "items": {
            "cell": item(block(2, 4, 0, 2, 0, 2), mask=block(2, 4, 0, 2, 0, 2)),
            "mixed": item([[4, 2, 2, 1], [0, -1, 3, -2]], mask=block(2, 4, 0, 2, 0, 2)),
            "mirrored": item([[4, 2, 2, 1], [0, -1, 3, -2]], mask=block(2, 4, 0, 2, 2, 4)),
            "constant": item(filled(2, 4, 1), mask=block(2, 4, 0, 2, 0, 2)),
            "all_negative": item([[-1, -2, -3, -4], [-1, -2, -3, -4]], mask=_at(0, 0)),
            "whole_frame": item(PLAIN, mask=filled(2, 4, 1)),
            "not_a_number": item([[NAN, 5, 3, 1], [0, 0, 0, 0]], mask=_at(0, 1)),
        },
    },
    "box-sets": {
        "what": "Boxes of upper sets, cut at values of the map: no power moves a hit.",
        "model": CONSTANT,
        "metrics": ["box_sets"],
        "protocol": {**PROTOCOL, "box_ious": [0.3, 0.5, 0.7]},
        "items": {
            "inner": {**item(CELLS, boxes=[[3, 3, 6, 5]]), "taus": [0.5, 1, 2, 16, 20]},
            "outer": {**item(CELLS, boxes=[[0, 1, 10, 7]]), "taus": [0.5, 1, 2, 16, 20]},
            "half": {**item(CELLS, boxes=[[0, 1, 5, 7]]), "taus": [1]},
            "sharpened": {
                **item([[v**4 for v in row] for row in CELLS], boxes=[[3, 3, 6, 5]]),
                "taus": [0.5, 1, 2, 65536, 70000],
            },
            "all_negative": {**item(filled(8, 10, -1), boxes=[[1, 1, 7, 5]]), "taus": [0, 1]},
            "no_box": {**item(CELLS, boxes=[]), "taus": [1]},
        },
    },
    "sister-curves": {
        "what": "Curves in domain: patches of 2 pixels, up to half of them; the sister answers.",
        "model": CONSTANT,
        "sister": planted(0.1, [0.8], (0, 2, 0, 14)),
        "patch": 2,
        "metrics": ["masked_deletion", "masked_insertion"],
        "protocol": PROTOCOL,
        "items": {
            "evidence_first": item(DOWNWARDS, TOP_ROWS),
            "evidence_last": item(UPWARDS, TOP_ROWS),
            "not_a_number": item(grid_of(8, 14, lambda y, x: NAN if y == x == 0 else 1), TOP_ROWS),
        },
    },
    "sister-parts": {
        "what": "F-Fidelity where no draw matters: of 25 patches the 13th is in neither half.",
        "model": CONSTANT,
        "sister": planted(0.1, [0.8], (2, 3, 2, 3)),
        "patch": 1,
        "metrics": ["ffid_plus", "ffid_minus"],
        "protocol": PROTOCOL,
        "items": {
            "middle": item(grid_of(5, 5, lambda y, x: 25 - y * 5 - x), image_of(filled(5, 5, 1)))
        },
    },
    "sister-cells": {
        "what": "Single deletion: the sister's logit without each of 4 x 4 cells.",
        "model": CONSTANT,
        "sister": LINEAR,
        "patch": 1,
        "metrics": ["idsds"],
        "protocol": PROTOCOL,
        "items": {
            "rows_fall": item(
                grid_of(4, 4, lambda y, x: [9, 5, 1, -2][y]), image_of(filled(4, 4, 1))
            ),
            "rows_rise": item(
                grid_of(4, 4, lambda y, x: [-2, 1, 5, 9][y]), image_of(filled(4, 4, 1))
            ),
            "columns": item(grid_of(4, 4, lambda y, x: x), image_of(filled(4, 4, 1))),
            "distinct": item(UP, image_of(filled(4, 4, 1))),
            "constant": item(filled(4, 4, 3), image_of(filled(4, 4, 1))),
        },
    },
}
"""{case: its input}, before the tie fields are put in."""

"""Make the conformance vectors: inputs, and the scores that follow from the definitions by exact arithmetic.

    python tests/conformance/derive.py           write v1/cases/*/input.json and expected.json
    python tests/conformance/derive.py --check    say whether the files are what this script makes

Nothing here imports the package that is tested, nor any library: numbers are fractions, loops are plain, and only
logarithms, exponentials and roots are floating point. Beside each case stands `derivation.md`; its claims
(`item value = arithmetic`) are worked out here and must agree with the loops.
"""

from __future__ import annotations

import json
import math
import re
import sys
from fractions import Fraction
from pathlib import Path

CASES = Path(__file__).parent / "v1" / "cases"
BASELINE = [Fraction(c, 1000) for c in (485, 456, 406)]
PROTOCOL = {
    "name": "cambench-1",
    "steps": 28,
    "insertion_start": "blur",
    "blur_sigma_224": 10,
    "blur_radius_sigmas": 2.5,
    "baseline": [0.485, 0.456, 0.406],
    "thresholds": 10,
    "pointing_tolerance_224": 15,
    "pointing_max_area": 0.25,
    "box_taus": 101,
    "pixel_bins": 1001,
    "road_fractions": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
    "road_noise": 0.01,
}
NAN, OUTSIDE = "NaN", "outside"


def exact(value):
    """Return nested lists of JSON numbers as fractions; "NaN" stays."""
    if isinstance(value, list):
        return [exact(v) for v in value]
    return value if isinstance(value, str) else Fraction(str(value))


def flat(grid):
    return [value for row in grid for value in row]


def filled(height, width, value):
    return [[value] * width for _ in range(height)]


# ------------------------------------------------------------------------------------------------------------- models


class Model:
    """A model described in JSON, see README.md. Images are [3][H][W] in normalised space."""

    def __init__(self, facts):
        self.facts = facts
        mean, std = exact(facts["mean"]), exact(facts["std"])
        self.baseline = [(b - m) / s for b, m, s in zip(BASELINE, mean, std, strict=True)]

    def region_means(self, image):
        means = []
        for region in self.facts["regions"]:
            (y0, y1), (x0, x1) = region["rows"], region["columns"]
            values = [image[k][y][x] for k in range(3) for y in range(y0, y1) for x in range(x0, x1)]
            means.append(sum(values) / len(values))
        return means

    def activations(self, image):
        """conv_gap: A = relu(bias + sum_c weight_c * average pooling of channel c), [K][h][w]."""
        pool, result = self.facts["pool"], []
        height, width = len(image[0]) // pool, len(image[0][0]) // pool
        for weights, bias in zip(exact(self.facts["conv"]), exact(self.facts["conv_bias"]), strict=True):
            grid = [[bias] * width for _ in range(height)]
            for y in range(height * pool):
                for x in range(width * pool):
                    for c in range(3):
                        grid[y // pool][x // pool] += weights[c] * image[c][y][x] / pool**2
            result.append([[max(v, Fraction(0)) for v in row] for row in grid])
        return result

    def head(self, activations):
        """conv_gap: logits = fc * mean(A)."""
        means = [sum(flat(a)) / len(flat(a)) for a in activations]
        return [sum(w * m for w, m in zip(row, means, strict=True)) for row in exact(self.facts["fc"])]

    def logits(self, image):
        kind = self.facts["type"]
        if kind == "constant":
            return exact(self.facts["logits"])
        if kind == "conv_gap":
            return self.head(self.activations(image))
        means = self.region_means(image)
        return [
            b + sum(w * m for w, m in zip(row, means, strict=True))
            for row, b in zip(exact(self.facts["weights"]), exact(self.facts["bias"]), strict=True)
        ]

    def probability(self, image, target):
        """The softmax probability of a class; a fraction where the model is `planted`."""
        if self.facts["type"] == "planted":
            u = exact(self.facts["floor"]) + sum(
                g * m for g, m in zip(exact(self.facts["gains"]), self.region_means(image), strict=True)
            )
            assert 0 < u < 1
            return u if target == 0 else 1 - u
        logits = [float(v) for v in self.logits(image)]
        return math.exp(logits[target]) / sum(math.exp(v) for v in logits)


def log_odds(p):
    return math.log(p / (1 - p))


# ------------------------------------------------------------------------------------------------------------- maps


class Case:
    """One item with what the metrics read off it."""

    def __init__(self, model, item, protocol, tie_field):
        self.model, self.protocol = model, protocol
        self.map = exact(item["map"])
        self.height, self.width = len(self.map), len(self.map[0])
        self.pixels = self.height * self.width
        self.finite = not any(isinstance(v, str) for v in flat(self.map))
        self.image = exact(item["image"]) if "image" in item else None
        self.target = item["target"]
        truth = item.get("truth", {})
        self.mask = [bool(v) for v in flat(truth["mask"])] if "mask" in truth else None
        self.ignore = [bool(v) for v in flat(truth["ignore"])] if "ignore" in truth else [False] * self.pixels
        self.others = [bool(v) for v in flat(truth["others"])] if "others" in truth else None
        self.boxes = exact(truth["boxes"]) if "boxes" in truth else None
        if not self.finite:
            return
        values, field = flat(self.map), flat(tie_field)
        # Most relevant first; equal values by falling tie field, then by index (row by row).
        self.order = sorted(range(self.pixels), key=lambda i: (-values[i], -field[i], i))
        self.values = values
        self.positive = [max(v, Fraction(0)) for v in values]
        self.has_positive = max(values) > 0
        low, high = min(self.positive), max(self.positive)
        self.unit = [(v - low) / (high - low) if high > low else Fraction(0) for v in self.positive]

    def p(self, image=None):
        return self.model.probability(self.image if image is None else image, self.target)

    def mixed(self, first, second, chosen):
        """The image with the chosen pixels from `first` and the others from `second`, both [3][H][W]."""
        return [
            [
                [(first if y * self.width + x in chosen else second)[c][y][x] for x in range(self.width)]
                for y in range(self.height)
            ]
            for c in range(3)
        ]

    def plain(self):
        return [filled(self.height, self.width, b) for b in self.model.baseline]

    def masked(self, mask):
        """m*x + (1-m)*b, for a mask of N values."""
        return [
            [
                [
                    mask[y * self.width + x] * self.image[c][y][x]
                    + (1 - mask[y * self.width + x]) * self.model.baseline[c]
                    for x in range(self.width)
                ]
                for y in range(self.height)
            ]
            for c in range(3)
        ]


# ------------------------------------------------------------------------------------------------------------ metrics


def cuts(pixels, steps):
    """round(i * pixels / steps), halves up."""
    return [math.floor(Fraction(i * pixels, steps) + Fraction(1, 2)) for i in range(steps + 1)]


def area(curve, pixels):
    fractions = [Fraction(n, pixels) for n in cuts(pixels, len(curve) - 1)]
    return sum((fractions[i + 1] - fractions[i]) * (curve[i] + curve[i + 1]) / 2 for i in range(len(curve) - 1))


def curve_of(case, first, second):
    return [case.p(case.mixed(first, second, set(case.order[:n]))) for n in cuts(case.pixels, case.protocol["steps"])]


def deletion(case):
    curve = curve_of(case, case.plain(), case.image)
    return {"deletion": area(curve, case.pixels), "deletion_curve": curve}


def insertion(case):
    start = case.plain() if case.protocol["insertion_start"] == "baseline" else blurred(case)
    curve = curve_of(case, case.image, start)
    return {"insertion": area(curve, case.pixels), "insertion_curve": curve, "insertion_start": curve[0]}


def blurred(case):
    """A Gaussian, rows then columns; the border is mirrored without repeating the edge."""
    sigma = Fraction(str(case.protocol["blur_sigma_224"])) * min(case.height, case.width) / 224
    radius = math.ceil(Fraction(str(case.protocol["blur_radius_sigmas"])) * sigma)
    kernel = [math.exp(-(k * k) / (2 * float(sigma) ** 2)) for k in range(-radius, radius + 1)]
    kernel = [k / sum(kernel) for k in kernel]

    def mirrored(i, n):
        i = abs(i)
        return 2 * (n - 1) - i if i >= n else i

    result = []
    for channel in case.image:
        rows = [
            [
                sum(k * channel[mirrored(y + d - radius, case.height)][x] for d, k in enumerate(kernel))
                for x in range(case.width)
            ]
            for y in range(case.height)
        ]
        result.append(
            [
                [
                    sum(k * rows[y][mirrored(x + d - radius, case.width)] for d, k in enumerate(kernel))
                    for x in range(case.width)
                ]
                for y in range(case.height)
            ]
        )
    return result


def average_drop(case):
    if not case.has_positive:
        return dict.fromkeys(("average_drop", "average_increase", "average_gain"), NAN)
    before, after = case.p(), case.p(case.masked(case.unit))
    return {
        "average_drop": max(before - after, 0) / before,
        "average_increase": int(after > before),
        "average_gain": max(after - before, 0) / (1 - before),
    }


def threshold_quality(case):
    names = ("tft_q", "tft_gain", "tft_t", "api", "apd", "ir", "dr")
    if not case.has_positive:
        return {**dict.fromkeys(names, NAN), "threshold_p": [NAN] * 10, "threshold_area": [NAN] * 10}
    rank = {pixel: place for place, pixel in enumerate(case.order)}
    p, shares = [], []
    for t in range(10):
        kept = case.pixels - t * case.pixels // 10
        mask = [u if rank[i] < kept else Fraction(0) for i, u in enumerate(case.unit)]
        p.append(case.p(case.masked(mask)))
        shares.append(Fraction(sum(m > 0 for m in mask), case.pixels))
    clean = case.p()
    q = [max(value - clean, 0) for value in p[1:]]
    best = max(q)
    t = q.index(best) + 1 if best > 0 else 0
    return {
        "tft_q": best,
        "tft_gain": max(log_odds(v) for v in p) - log_odds(p[0]),
        "tft_t": t,
        "api": max(p[t] - clean, 0) / clean,
        "apd": max(clean - p[t], 0) / clean,
        "ir": int(p[t] > clean),
        "dr": int(p[t] < clean),
        "threshold_p": p,
        "threshold_area": shares,
    }


def road(case):
    assert case.protocol["road_noise"] == 0  # draws are not language neutral
    counts = [math.floor(Fraction(str(f)) * case.pixels + Fraction(1, 2)) for f in case.protocol["road_fractions"]]
    morf = [case.p(imputed(case, case.order[:n])) for n in counts]
    lerf = [case.p(imputed(case, case.order[case.pixels - n :])) for n in counts]
    return {
        "road": sum(b - a for a, b in zip(morf, lerf, strict=True)) / len(counts) / 2,
        "road_morf": sum(morf) / len(counts),
        "road_lerf": sum(lerf) / len(counts),
        "road_morf_curve": morf,
        "road_lerf_curve": lerf,
    }


def imputed(case, missing):
    """Each missing pixel is the mean of its neighbours in the image, weights 1/6 direct and 1/12 diagonal: solved."""
    place = {pixel: row for row, pixel in enumerate(missing)}
    result = [[list(row) for row in channel] for channel in case.image]
    rows, known = [], []
    for pixel in missing:
        y, x = divmod(pixel, case.width)
        row, right = [Fraction(0)] * len(missing), [Fraction(0)] * 3
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < case.height and 0 <= x + dx < case.width:
                    weight = Fraction(1, 12 if dy and dx else 6)
                    other = (y + dy) * case.width + x + dx
                    row[place[pixel]] += weight
                    if other in place:
                        row[place[other]] -= weight
                    else:
                        right = [r + weight * case.image[c][y + dy][x + dx] for c, r in enumerate(right)]
        rows.append(row)
        known.append(right)
    for pixel, values in zip(missing, solved(rows, known), strict=True):
        for c in range(3):
            result[c][pixel // case.width][pixel % case.width] = values[c]
    return result


def solved(rows, right):
    """Gauss-Jordan elimination in fractions; the system is diagonally dominant, so no pivot is zero."""
    rows = [row + list(values) for row, values in zip(rows, right, strict=True)]
    for i in range(len(rows)):
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for j in range(len(rows)):
            if j != i and rows[j][i] != 0:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[len(rows) :] for row in rows]


def infidelity(case):
    """0 where the logit is linear in the image and the map is its weight, or where the logit never changes.

    dS = sum(I * w) for every draw I, and I.phi = sum(I * w) up to one factor, which beta takes away; 0/0 is beta = 0.
    """
    kind = case.model.facts["type"]
    assert kind in ("linear", "constant")
    if kind == "linear":
        weights = exact(case.model.facts["weights"])[case.target]
        per_pixel = [Fraction(0)] * case.pixels
        for weight, region in zip(weights, case.model.facts["regions"], strict=True):
            (y0, y1), (x0, x1) = region["rows"], region["columns"]
            for y in range(y0, y1):
                for x in range(x0, x1):
                    per_pixel[y * case.width + x] += weight / ((y1 - y0) * (x1 - x0))
        ratio = {v / w for v, w in zip(case.values, per_pixel, strict=True) if w != 0}
        assert len(ratio) == 1
        assert all(v == 0 for v, w in zip(case.values, per_pixel, strict=True) if w == 0)
    return {"infidelity": Fraction(0)}


def pointing_game(case):
    share = Fraction(sum(case.mask), case.pixels)
    if share == 0:
        near = exactly = NAN
    else:
        y, x = divmod(case.order[0], case.width)
        limit = Fraction(case.protocol["pointing_tolerance_224"]) * min(case.height, case.width) / 224
        truth = [divmod(i, case.width) for i, inside in enumerate(case.mask) if inside]
        near = int(min((a - y) ** 2 + (b - x) ** 2 for a, b in truth) < limit**2)
        exactly = int(case.mask[case.order[0]])
    small = share <= Fraction(str(case.protocol["pointing_max_area"]))
    return {
        "pointing": near if small else OUTSIDE,
        "pointing_exact": exactly if small else OUTSIDE,
        "pointing_all": near,
        "pointing_all_exact": exactly,
    }


def energy_pointing_game(case):
    total, share = sum(case.positive), Fraction(sum(case.mask), case.pixels)
    if total == 0 or share == 0:
        return {"energy": NAN, "energy_lift": NAN}
    energy = sum(v for v, inside in zip(case.positive, case.mask, strict=True) if inside) / total
    return {"energy": energy, "energy_lift": energy / share}


def box_localization(case):
    taus = case.protocol["box_taus"]
    if not case.has_positive or not case.boxes:
        return {"box_iou": [NAN] * taus}
    best = []
    for i in range(taus):
        above = {j for j, u in enumerate(case.unit) if u > Fraction(i, taus - 1)}
        found = [bounds(part, case.width) for part in components(above, case.width)]
        best.append(max((iou(a, b) for a in found for b in case.boxes), default=Fraction(0)))
    return {"box_iou": best}


def components(pixels, width):
    """8-connected components of a set of pixel indices."""
    left, parts = set(pixels), []
    while left:
        part, waiting = set(), [left.pop()]
        while waiting:
            pixel = waiting.pop()
            part.add(pixel)
            y, x = divmod(pixel, width)
            near = {(y + dy) * width + x + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if 0 <= x + dx < width} & left
            left -= near
            waiting += near
        parts.append(part)
    return parts


def bounds(part, width):
    """The half-open box [x0, y0, x1, y1] around a component."""
    ys, xs = [i // width for i in part], [i % width for i in part]
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def iou(a, b):
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return Fraction(overlap) / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def pixel_precision(case):
    bins = case.protocol["pixel_bins"]
    nothing = {"pixel_ap": NAN, "relevance_mass": NAN, "relevance_rank": NAN, "pixel_histogram": [NAN] * (2 * bins)}
    kept = [i for i in range(case.pixels) if not case.ignore[i]]
    objects = sum(case.mask[i] for i in kept)
    if objects == 0:
        return nothing
    ap, hits, seen = Fraction(0), 0, 0
    for value in sorted({case.values[i] for i in kept}, reverse=True):  # equal values are one group
        group = [i for i in kept if case.values[i] == value]
        new = sum(case.mask[i] for i in group)
        hits, seen = hits + new, seen + len(group)
        ap += Fraction(new, objects) * Fraction(hits, seen)
    ranked = [i for i in case.order if not case.ignore[i]]
    rank = Fraction(sum(case.mask[i] for i in ranked[:objects]), objects)
    if not case.has_positive:
        return {**nothing, "pixel_ap": ap, "relevance_rank": rank}
    histogram = [0] * (2 * bins)
    for i in kept:
        histogram[(0 if case.mask[i] else bins) + math.floor(case.unit[i] * (bins - 1))] += 1
    total = sum(case.positive[i] for i in kept)
    mass = sum(case.positive[i] for i in kept if case.mask[i]) / total if total else NAN
    return {"pixel_ap": ap, "relevance_rank": rank, "relevance_mass": mass, "pixel_histogram": histogram}


def threshold_localization(case):
    if not case.has_positive or not any(case.mask):
        return {"iou_area": NAN, "best_tau": NAN}
    ious = []
    for i in range(101):
        above = [u > Fraction(i, 100) for u in case.unit]
        union = sum(a or m for a, m in zip(above, case.mask, strict=True))
        ious.append(
            Fraction(sum(a and m for a, m in zip(above, case.mask, strict=True)), union) if union else Fraction(0)
        )
    return {
        "iou_area": sum((ious[i] + ious[i + 1]) / 2 for i in range(100)) / 100,
        "best_tau": Fraction(ious.index(max(ious)), 100),
    }


def discriminability(case):
    theirs = [other and not own for other, own in zip(case.others, case.mask, strict=True)]
    mine = sum(v for v, own in zip(case.positive, case.mask, strict=True) if own)
    both = mine + sum(v for v, other in zip(case.positive, theirs, strict=True) if other)
    return {"discriminability": mine / both if both and any(case.mask) and any(theirs) else NAN}


def complexity(case):
    if not case.has_positive:
        return dict.fromkeys(("entropy", "gini", "effective_share"), NAN)
    total = sum(case.positive)
    q = sorted(v / total for v in case.positive)
    entropy = sum(float(v) * -math.log(v) for v in q if v > 0)
    gini = sum((2 * i - case.pixels - 1) * v for i, v in enumerate(q, start=1)) / case.pixels
    return {
        "entropy": entropy / math.log(case.pixels),
        "gini": gini,
        "effective_share": math.exp(entropy) / case.pixels,
    }


METRICS = {
    f.__name__: f
    for f in (
        *(deletion, insertion, average_drop, threshold_quality, road, infidelity, pointing_game, energy_pointing_game),
        *(box_localization, pixel_precision, threshold_localization, discriminability, complexity),
    )
}

# ------------------------------------------------------------------------------------------------------------ methods


def weighted(weights, activations):
    return [
        [sum(w * a[y][x] for w, a in zip(weights, activations, strict=True)) for x in range(len(activations[0][0]))]
        for y in range(len(activations[0]))
    ]


def relu(grid):
    return [[max(v, 0) for v in row] for row in grid]


def upsampled(grid, factor):
    """Bilinear, corners not aligned: pixel i lies at (i + 1/2)/factor - 1/2 cells, clamped to the first and last."""

    def along(values):
        result = []
        for i in range(len(values) * factor):
            at = min(max(Fraction(2 * i + 1, 2 * factor) - Fraction(1, 2), Fraction(0)), Fraction(len(values) - 1))
            below = math.floor(at)
            above = min(below + 1, len(values) - 1)
            result.append(values[below] + (at - below) * (values[above] - values[below]))
        return result

    rows = [along(row) for row in grid]
    return [list(row) for row in zip(*(along(column) for column in zip(*rows, strict=True)), strict=False)]


def cam_maps(model, image, target):
    """Return activations, gradients and the maps of each method, at the frame's size."""
    a, fc, pool = model.activations(image), exact(model.facts["fc"])[target], model.facts["pool"]
    cells = len(flat(a[0]))
    # S = sum_k fc_k * sum_ij A_kij / cells, so that the gradient is the same at every position.
    g = [filled(len(a[0]), len(a[0][0]), w / cells) for w in fc]
    means = [sum(flat(k)) / cells for k in g]
    score = model.head(a)[target]
    drops = []
    for k in range(len(a)):
        without = [filled(len(a[0]), len(a[0][0]), Fraction(0)) if j == k else a[j] for j in range(len(a))]
        drops.append(score - model.head(without)[target])
    shown = []
    for channel in a:
        up = upsampled(channel, pool)
        low, high = min(flat(up)), max(flat(up))
        if min(flat(channel)) == max(flat(channel)):
            shown.append(Fraction(0))
            continue
        mask = [[(v - low) / (high - low) for v in row] for row in up]
        mixed = [
            [[m * x + (1 - m) * b for m, x in zip(*rows, strict=True)] for rows in zip(mask, plane, strict=False)]
            for plane, b in zip(image, model.baseline, strict=True)
        ]
        shown.append(model.probability(mixed, target))
    product = [
        [[x * y for x, y in zip(*rows, strict=True)] for rows in zip(*grids, strict=False)]
        for grids in zip(g, a, strict=False)
    ]
    raised = [
        [[max(x, 0) * y for x, y in zip(*rows, strict=True)] for rows in zip(*grids, strict=False)]
        for grids in zip(g, a, strict=False)
    ]
    ones = [1] * len(a)
    maps = {
        "cam": weighted(fc, a),
        "grad_cam": relu(weighted(means, a)),
        "hires_cam": relu(weighted(ones, product)),
        "layer_cam": relu(weighted(ones, raised)),
        "ablation_cam": relu(weighted(drops, a)),
        "score_cam": relu(weighted(shown, a)),
    }
    return a, g, {name: normed(upsampled(one, pool)) for name, one in maps.items()}, shown


def normed(grid):
    """A map over its largest absolute value: methods are compared up to a positive factor."""
    top = max(abs(v) for v in flat(grid))
    return [[v / top if top else v for v in row] for row in grid]


# -------------------------------------------------------------------------------------------------------------- cases


def planted(floor, gains, *regions, mean=(0.485, 0.456, 0.406), std=(1, 1, 1)):
    facts = {"type": "planted", "floor": floor, "gains": list(gains), "regions": [region(*r) for r in regions]}
    return {**facts, "mean": list(mean), "std": list(std)}


def region(y0, y1, x0, x1):
    return {"rows": [y0, y1], "columns": [x0, x1]}


CONSTANT = {"type": "constant", "logits": [0, 0], "mean": [0.485, 0.456, 0.406], "std": [1, 1, 1]}


def image_of(grid):
    """The same values in all three channels."""
    return [grid, grid, grid]


def grid_of(height, width, value):
    return [[value(y, x) for x in range(width)] for y in range(height)]


def points(height, width, *places):
    """1 at each (y, x), 0 elsewhere."""
    return grid_of(height, width, lambda y, x: int((y, x) in places))


def block(height, width, y0, y1, x0, x1):
    return grid_of(height, width, lambda y, x: int(y0 <= y < y1 and x0 <= x < x1))


def item(map_, image=None, target=0, **truth):
    made = {"target": target, "map": map_}
    if image is not None:
        made["image"] = image
    return {**made, "truth": truth} if truth else made


def cases():
    """Return {case: its input}, before the tie fields are put in."""
    made = {}

    def add(name, what, model, metrics, items, **protocol):
        made[name] = {
            "what": what,
            "model": model,
            "metrics": metrics,
            "protocol": {**PROTOCOL, **protocol},
            "items": items,
        }

    def downwards(height, width):
        return grid_of(height, width, lambda y, x: height * width - 1 - y * width - x)

    def upwards(height, width):
        return grid_of(height, width, lambda y, x: y * width + x)

    curves = {
        "evidence_first": item(downwards(8, 14), image_of(block(8, 14, 0, 2, 0, 14))),
        "evidence_last": item(upwards(8, 14), image_of(block(8, 14, 0, 2, 0, 14))),
    }
    rows = planted(0.1, [0.8], (0, 2, 0, 14))
    add(
        "curves",
        "Deletion, and insertion from a blur; the frame is not square.",
        rows,
        ["deletion", "insertion"],
        curves,
    )
    add(
        "curves-from-baseline",
        "Insertion from the baseline colour.",
        rows,
        ["insertion"],
        curves,
        insertion_start="baseline",
    )
    add(
        "end-points",
        "All evidence in one pixel, fewer pixels than steps; removed pixels take the baseline colour.",
        planted(0.1, [0.8], (0, 1, 0, 1), mean=(0.235, 0.206, 0.156), std=(0.5, 0.5, 0.5)),
        ["deletion"],
        {
            "first": item(downwards(5, 5), image_of(filled(5, 5, 1))),
            "last": item(upwards(5, 5), image_of(filled(5, 5, 1))),
        },
    )
    left = planted(0.1, [0.8], (0, 6, 0, 3))
    add(
        "ties",
        "Equal values are ordered by the given field: a constant map, and one of two levels.",
        left,
        ["deletion", "insertion", "pointing_game", "pixel_precision"],
        {
            "constant": item(filled(6, 6, 1), image_of(filled(6, 6, 1)), mask=block(6, 6, 0, 2, 0, 3)),
            "zeros": item(filled(6, 6, 0), image_of(filled(6, 6, 1)), mask=block(6, 6, 0, 2, 0, 3)),
            "two_levels": item(block(6, 6, 0, 6, 0, 2), image_of(filled(6, 6, 1)), mask=block(6, 6, 0, 2, 0, 3)),
        },
        insertion_start="baseline",
    )
    mixed = planted(0.5, [0.3, -0.2], (0, 2, 0, 4), (2, 4, 0, 4))
    ones = image_of(filled(4, 4, 1))
    add(
        "masking",
        "Average drop, increase and gain: the map as a soft mask before the baseline colour.",
        mixed,
        ["average_drop"],
        {
            "drop": item(grid_of(4, 4, lambda y, x: 4 if y >= 2 else 0), ones),
            "gain": item(grid_of(4, 4, lambda y, x: 2 if y < 2 else 0), ones),
            "soft": item(grid_of(4, 4, lambda y, x: [1, 2, 3, 5][y]), ones),
            "signed": item(grid_of(4, 4, lambda y, x: [1, -7, -1, 0.25][y]), ones),
            "constant": item(filled(4, 4, 3), ones),
            "negative": item(filled(4, 4, -1), ones),
            "not_a_number": item(grid_of(4, 4, lambda y, x: NAN if (y, x) == (3, 3) else 1), ones),
        },
    )
    halves = planted(0.5, [0.3, -0.2], (0, 1, 0, 5), (1, 2, 0, 5))
    fives = image_of(filled(2, 5, 1))
    add(
        "thresholds",
        "Threshold quality: ten pixels, so that step t cuts the t least relevant.",
        halves,
        ["threshold_quality"],
        {
            "good_first": item(downwards(2, 5), fives),
            "bad_first": item(upwards(2, 5), fives),
            "good_only": item([[5, 5, 5, 5, 5], [0, 0, 0, 0, 0]], fives),
            "negative": item(filled(2, 5, -2), fives),
        },
    )
    add(
        "road",
        "ROAD without noise: removed pixels solve the weighted mean of their neighbours.",
        planted(0.1, [0.8], (0, 2, 0, 4)),
        ["road"],
        {
            "evidence_first": item(downwards(4, 4), image_of(block(4, 4, 0, 2, 0, 4))),
            "flat_image": item(downwards(4, 4), ones),
        },
        road_noise=0,
    )
    add(
        "constant-net",
        "A network that always says the same.",
        {**CONSTANT, "logits": [1, 0]},
        ["deletion", "insertion", "average_drop", "infidelity"],
        {"any": item(downwards(4, 4), image_of(grid_of(4, 4, lambda y, x: (y + x) % 2)))},
    )
    linear = {
        "type": "linear",
        "regions": [region(0, 2, 0, 4), region(2, 4, 0, 4)],
        "weights": [[4, -2], [0, 0]],
        "bias": [0, 0],
    }
    linear |= {"mean": [0.485, 0.456, 0.406], "std": [1, 1, 1]}
    add(
        "logistic",
        "Two logits linear in the image: the softmax is a sigmoid, and the map of its weights has no infidelity.",
        linear,
        ["deletion", "average_drop", "infidelity"],
        {"weights": item(grid_of(4, 4, lambda y, x: 2 if y < 2 else -1), ones)},
    )
    border = points(15, 20, (0, 19))
    add(
        "pointing",
        "Pointing game: tolerance, one truth pixel at the border, equal maxima, empty and large truth. Not square.",
        CONSTANT,
        ["pointing_game"],
        {
            "exact": item(points(15, 20, (0, 19)), mask=border),
            "one_off": item(points(15, 20, (1, 19)), mask=border),
            "diagonal": item(points(15, 20, (1, 18)), mask=border),
            "two_maxima": item("two_maxima", mask=border),
            "empty_truth": item(points(15, 20, (0, 19)), mask=filled(15, 20, 0)),
            "large_truth": item(points(15, 20, (3, 3)), mask=block(15, 20, 0, 8, 0, 10)),
            "quarter": item(points(15, 20, (3, 3)), mask=block(15, 20, 0, 15, 0, 5)),
            "transposed": item(points(15, 20, (12, 2)), mask=points(15, 20, (2, 12))),
            "not_a_number": item(grid_of(15, 20, lambda y, x: NAN if y == x == 0 else 0), mask=border),
            "all_negative": item(grid_of(15, 20, lambda y, x: -1 if (y, x) == (0, 19) else -2), mask=border),
        },
    )
    two = grid_of(8, 10, lambda y, x: 4 if 1 <= y < 3 and 1 <= x < 4 else 4 if 3 <= y < 5 and 4 <= x < 7 else 0)
    apart = grid_of(8, 10, lambda y, x: 4 if 1 <= y < 3 and 1 <= x < 4 else 2 if 5 <= y < 8 and 6 <= x < 10 else 0)
    nested = grid_of(8, 10, lambda y, x: 4 if 3 <= y < 5 and 3 <= x < 6 else 1 if 1 <= y < 7 and 1 <= x < 9 else 0)
    add(
        "boxes",
        "Best box IoU for tau = 0, .01, ..., 1: 8-connected components, half-open boxes, strict thresholds.",
        CONSTANT,
        ["box_localization"],
        {
            "diagonal_touch": item(two, boxes=[[1, 1, 7, 5]]),
            "two_components": item(apart, boxes=[[6, 5, 10, 8]]),
            "nested": item(nested, boxes=[[3, 3, 6, 5]]),
            "clipped": item(points(8, 10, (0, 8), (0, 9), (1, 8), (1, 9)), boxes=[[8.5, 0, 10, 3]]),
            "two_boxes": item(apart, boxes=[[0, 0, 1, 1], [1, 1, 4, 3]]),
            "constant": item(filled(8, 10, 1), boxes=[[1, 1, 7, 5]]),
            "all_negative": item(filled(8, 10, -1), boxes=[[1, 1, 7, 5]]),
            "no_box": item(two, boxes=[]),
            "not_a_number": item(grid_of(8, 10, lambda y, x: NAN if y == x == 0 else 1), boxes=[[1, 1, 7, 5]]),
        },
    )
    top = block(2, 5, 0, 1, 0, 2)
    add(
        "pixels",
        "Pixel average precision, pooled histogram, relevance mass and rank, energy, discriminability.",
        CONSTANT,
        ["pixel_precision", "energy_pointing_game", "discriminability"],
        {
            "one_miss": item([[8, 2, 4, 0, 0], [0, 0, 0, 1, 0]], mask=top, others=block(2, 5, 0, 1, 2, 4)),
            "one_group": item([[4, 2, 2, 0, -1], [-1, -2, -3, -4, -5]], mask=top, others=block(2, 5, 1, 2, 0, 5)),
            "ignored": item([[8, 2, 4, 0, 0], [0, 0, 0, 1, 0]], mask=top, ignore=block(2, 5, 0, 1, 2, 3), others=top),
            "all_negative": item(
                [[-1, -2, -3, -4, -5], [-6, -7, -8, -9, -10]], mask=top, others=block(2, 5, 1, 2, 0, 5)
            ),
            "empty_truth": item([[8, 2, 4, 0, 0], [0, 0, 0, 1, 0]], mask=filled(2, 5, 0), others=top),
            "not_a_number": item([[NAN, 2, 4, 0, 0], [0, 0, 0, 1, 0]], mask=top, others=block(2, 5, 1, 2, 0, 5)),
        },
    )
    add(
        "threshold-localization",
        "Area under IoU by threshold, and the threshold of its first maximum.",
        CONSTANT,
        ["threshold_localization"],
        {
            "steps": item([[4, 4, 2, 1], [0, 0, 0, 0]], mask=block(2, 4, 0, 1, 0, 2)),
            "never": item([[0, 0, 0, 0], [0, 0, 0, 4]], mask=block(2, 4, 0, 1, 0, 2)),
            "constant": item(filled(2, 4, 1), mask=block(2, 4, 0, 1, 0, 2)),
            "all_negative": item(filled(2, 4, -1), mask=block(2, 4, 0, 1, 0, 2)),
        },
    )
    add(
        "complexity",
        "Entropy, Gini index and effective share of the positive part.",
        CONSTANT,
        ["complexity"],
        {
            "one_pixel": item(points(2, 4, (1, 3))),
            "constant": item(filled(2, 4, 0.5)),
            "half": item([[3, 3, 3, 3], [-1, 0, 0, -9]]),
            "uneven": item([[1, 1, 2, 0], [0, 0, 0, 0]]),
            "all_negative": item(filled(2, 4, -1)),
        },
    )
    made["methods"] = method_case()
    return made


def method_case():
    """Two-channel ReLU network, pooled and linear: the maps of six methods, without and with upsampling."""
    fine = [[[1, 2], [0, 1]], [[0, 1], [3, 0]], [[0, 0], [0, 0]]]
    coarse = [[[v for v in row for _ in range(2)] for row in plane for _ in range(2)] for plane in fine]
    facts = {"type": "conv_gap", "conv": [[1, 0, 0], [0, 1, 0]], "conv_bias": [0, -0.5], "fc": [[2, -1], [-1, 1]]}
    facts |= {"mean": [0.485, 0.456, 0.406], "std": [1, 1, 1]}
    return {
        "what": "Maps of a network with one 1x1 convolution, ReLU, global average pooling and a linear layer.",
        "model": facts,
        "methods": ["cam", "grad_cam", "hires_cam", "layer_cam", "ablation_cam", "score_cam"],
        "protocol": {"name": "cambench-1", "baseline": PROTOCOL["baseline"]},
        "items": {
            "class_0": {"target": 0, "image": fine, "pool": 1},
            "class_1": {"target": 1, "image": fine, "pool": 1},
            "upsampled": {"target": 0, "image": coarse, "pool": 2},
        },
    }


# ---------------------------------------------------------------------------------------------------- files and claims


def two_maxima(field):
    """Two equal maxima: at the truth pixel, and at the pixel that comes first by the tie field."""
    values = flat(field)
    first = max(range(len(values)), key=lambda i: (values[i], -i))
    height, width = len(field), len(field[0])
    return points(height, width, (0, 19), divmod(first, width))


def derived():
    """Return {case: (input, expected)}."""
    fields = json.loads((CASES.parent / "tie_fields.json").read_text())
    result = {}
    for name, made in cases().items():
        expected = {}
        for key, one in made["items"].items():
            if "methods" in made:
                model = Model({**made["model"], "pool": one["pool"]})
                a, g, maps, _ = cam_maps(model, exact(one["image"]), one["target"])
                one |= {"activations": numbers(a), "gradients": numbers(g)}
                expected[key] = {f"map:{method}": maps[method] for method in made["methods"]}
                continue
            size = "15x20" if one["map"] == "two_maxima" else f"{len(one['map'])}x{len(one['map'][0])}"
            if one["map"] == "two_maxima":
                one["map"] = two_maxima(fields[size]["field"])
            one["tie_field"] = size
            expected[key] = scores_of(
                Case(Model(made["model"]), one, made["protocol"], exact(fields[size]["field"])), made["metrics"]
            )
        result[name] = (
            {"schema": 1, "case": name, **made},
            {"schema": 1, "case": name, "tolerance": 1e-5, "items": numbers(expected)},
        )
    return result


def scores_of(case, metrics):
    if case.finite:
        return {name: value for metric in metrics for name, value in METRICS[metric](case).items()}
    case.map = [[Fraction(0) if isinstance(v, str) else v for v in row] for row in case.map]
    blank = Case.__new__(Case)
    blank.__dict__ |= case.__dict__
    blank.finite = True
    blank.values = flat(case.map)
    blank.order = list(range(case.pixels))
    blank.positive = blank.unit = [Fraction(0)] * case.pixels
    blank.has_positive = False
    names = scores_of(blank, metrics)  # which values there are, and which items are outside a set whatever their map
    return {name: value if value == OUTSIDE else nan_like(value) for name, value in names.items()}


def nan_like(value):
    return [NAN] * len(value) if isinstance(value, list) else NAN


def numbers(value):
    """Return fractions as JSON numbers."""
    if isinstance(value, dict):
        return {key: numbers(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [numbers(v) for v in value]
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return value


CLAIM = re.compile(r"^    (\S+) ([\w:]+)((?:\[\d+\])*) = ([^=]+?)(?: = .*)?$")
LET = re.compile(r"^    let (\w+) = ([^=]+?)(?: = .*)?$")


def claims(name, expected):
    """Work out the claims of a derivation; return {value names that are claimed} and what disagrees."""
    names = {"exp": math.exp, "ln": math.log, "sigmoid": sigmoid, "Fraction": Fraction, "NaN": NAN, "outside": OUTSIDE}
    seen, wrong = set(), []
    for line in (CASES / name / "derivation.md").read_text().splitlines():
        let, claim = LET.match(line), CLAIM.match(line)
        if let:
            names[let[1]] = worked_out(let[2], names)
        elif claim:
            value = expected["items"].get(claim[1], {}).get(claim[2])
            for index in re.findall(r"\d+", claim[3]):
                value = value[int(index)]
            said = worked_out(claim[4], names)
            said = said if isinstance(said, str) else float(said)
            agrees = value == said if isinstance(said, str) or isinstance(value, str) else abs(value - said) < 1e-12
            if not agrees:
                wrong.append(f"{name}: {line.strip()} is {said}, derived {value}")
            seen.add(claim[2])
    return seen, wrong


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def worked_out(text, names):
    """Evaluate arithmetic in fractions: every number that is written becomes one."""
    return eval(re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)", r"Fraction('\1')", text), {"__builtins__": {}}, names)


def main():
    check = "--check" in sys.argv
    problems = []
    for name, (given, expected) in derived().items():
        (CASES / name).mkdir(exist_ok=True)
        (CASES / name / "derivation.md").touch()
        seen, wrong = claims(name, expected)
        problems += wrong
        missing = {value for scores in expected["items"].values() for value in scores} - seen
        problems += [f"{name}: derivation.md claims nothing about {', '.join(sorted(missing))}"] if missing else []
        for file, content in (("input.json", given), ("expected.json", expected)):
            path, text = CASES / name / file, written(content)
            if check and path.read_text() != text:
                problems.append(f"{path} is not what derive.py makes")
            elif not check:
                path.write_text(text)
    print("\n".join(problems) or "All files are as derived, and every claim holds.")
    sys.exit(bool(problems))


def written(content):
    """JSON with one line per row of numbers."""
    text = json.dumps(content, indent=1)
    return (
        re.sub(r"\[\s+((?:[^\[\]{}]|\s)*?)\s+\]", lambda found: "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]", text)
        + "\n"
    )


if __name__ == "__main__":
    main()

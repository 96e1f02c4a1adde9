"""The definitions of the protocol `cambench-1`, in fractions and plain loops: what the conformance
vectors follow from.

Nothing here imports the package that is tested, nor any library: numbers are fractions, and only
logarithms, exponentials and roots are floating point. Slow, and meant to be read beside
`v2/README.md`.
"""

from __future__ import annotations

import math
from fractions import Fraction

BASELINE = [Fraction(c, 1000) for c in (485, 456, 406)]
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


# ------------------------------------------------------------------------------------------- models


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
            values = [
                image[k][y][x] for k in range(3) for y in range(y0, y1) for x in range(x0, x1)
            ]
            means.append(sum(values) / len(values))
        return means

    def activations(self, image):
        """conv_gap: A = relu(bias + sum_c weight_c * average pooling of channel c), [K][h][w]."""
        pool, result = self.facts["pool"], []
        height, width = len(image[0]) // pool, len(image[0][0]) // pool
        for weights, bias in zip(
            exact(self.facts["conv"]), exact(self.facts["conv_bias"]), strict=True
        ):
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
        return [
            sum(w * m for w, m in zip(row, means, strict=True)) for row in exact(self.facts["fc"])
        ]

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
                g * m
                for g, m in zip(exact(self.facts["gains"]), self.region_means(image), strict=True)
            )
            assert 0 < u < 1
            return u if target == 0 else 1 - u
        logits = [float(v) for v in self.logits(image)]
        return math.exp(logits[target]) / sum(math.exp(v) for v in logits)


def log_odds(p):
    return math.log(p / (1 - p))


# --------------------------------------------------------------------------------------------- maps


class Case:
    """One item with what the metrics read off it."""

    field: list[Fraction]  # these four: see `derive.py`, for the definitions of `added.py`
    taus: list[Fraction]
    sister: Model
    patch: int

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
        self.ignore = (
            [bool(v) for v in flat(truth["ignore"])] if "ignore" in truth else [False] * self.pixels
        )
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
        """The image with the chosen pixels from `first` and the others from `second`, both
        [3][H][W].
        """
        return [
            [
                [
                    (first if y * self.width + x in chosen else second)[c][y][x]
                    for x in range(self.width)
                ]
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


# ------------------------------------------------------------------------------------------ metrics


def cuts(pixels, steps):
    """round(i * pixels / steps), halves up."""
    return [math.floor(Fraction(i * pixels, steps) + Fraction(1, 2)) for i in range(steps + 1)]


def area(curve, pixels):
    fractions = [Fraction(n, pixels) for n in cuts(pixels, len(curve) - 1)]
    return sum(
        (fractions[i + 1] - fractions[i]) * (curve[i] + curve[i + 1]) / 2
        for i in range(len(curve) - 1)
    )


def curve_of(case, first, second):
    return [
        case.p(case.mixed(first, second, set(case.order[:n])))
        for n in cuts(case.pixels, case.protocol["steps"])
    ]


def deletion(case):
    curve = curve_of(case, case.plain(), case.image)
    return {"deletion": area(curve, case.pixels), "deletion_curve": curve}


def insertion(case):
    start = case.plain() if case.protocol["insertion_start"] == "baseline" else blurred(case)
    curve = curve_of(case, case.image, start)
    return {
        "insertion": area(curve, case.pixels),
        "insertion_curve": curve,
        "insertion_start": curve[0],
    }


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
                sum(
                    k * channel[mirrored(y + d - radius, case.height)][x]
                    for d, k in enumerate(kernel)
                )
                for x in range(case.width)
            ]
            for y in range(case.height)
        ]
        result.append(
            [
                [
                    sum(
                        k * rows[y][mirrored(x + d - radius, case.width)]
                        for d, k in enumerate(kernel)
                    )
                    for x in range(case.width)
                ]
                for y in range(case.height)
            ]
        )
    return result


def average_drop(case):
    before, after = case.p(), case.p(case.masked(case.unit))
    return {
        "average_drop": max(before - after, 0) / before,
        "average_increase": int(after > before),
        "average_gain": max(after - before, 0) / (1 - before),
    }


def threshold_quality(case):
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
    counts = [
        math.floor(Fraction(str(f)) * case.pixels + Fraction(1, 2))
        for f in case.protocol["road_fractions"]
    ]
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
    """Each missing pixel is the mean of its neighbours in the image, weights 1/6 direct and 1/12
    diagonal: solved.
    """
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
                        right = [
                            r + weight * case.image[c][y + dy][x + dx] for c, r in enumerate(right)
                        ]
        rows.append(row)
        known.append(right)
    for pixel, values in zip(missing, solved(rows, known), strict=True):
        for c in range(3):
            result[c][pixel // case.width][pixel % case.width] = values[c]
    return result


def solved(rows, right):
    """Gauss-Jordan elimination in fractions; the system is diagonally dominant, so no pivot is
    zero.
    """
    rows = [row + list(values) for row, values in zip(rows, right, strict=True)]
    for i in range(len(rows)):
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for j in range(len(rows)):
            if j != i and rows[j][i] != 0:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[len(rows) :] for row in rows]


def infidelity(case):
    """0 where the logit is linear in the image and the map is its weight, or where the logit never
    changes.

    dS = sum(I * w) for every draw I, and I.phi = sum(I * w) up to one factor, which beta takes
    away; 0/0 is beta = 0.
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
        limit = (
            Fraction(case.protocol["pointing_tolerance_224"]) * min(case.height, case.width) / 224
        )
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
    if share == 0:
        return {"energy": NAN, "energy_lift": NAN}
    inside = sum(v for v, on in zip(case.positive, case.mask, strict=True) if on)
    energy = inside / total if total else Fraction(0)
    return {"energy": energy, "energy_lift": energy / share}


def box_localization(case):
    taus = case.protocol["box_taus"]
    if not case.boxes:
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
            near = {
                (y + dy) * width + x + dx
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if 0 <= x + dx < width
            } & left
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
    return Fraction(overlap) / (
        (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    )


def pixel_precision(case):
    bins = case.protocol["pixel_bins"]
    nothing = {
        "pixel_ap": NAN,
        "relevance_mass": NAN,
        "relevance_rank": NAN,
        "pixel_histogram": [NAN] * (2 * bins),
    }
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
    histogram = [0] * (2 * bins)
    for i in kept:
        histogram[(0 if case.mask[i] else bins) + math.floor(case.unit[i] * (bins - 1))] += 1
    total = sum(case.positive[i] for i in kept)
    inside = sum(case.positive[i] for i in kept if case.mask[i])
    mass = inside / total if total else Fraction(0)
    return {
        "pixel_ap": ap,
        "relevance_rank": rank,
        "relevance_mass": mass,
        "pixel_histogram": histogram,
    }


def threshold_localization(case):
    if not any(case.mask):
        return {"iou_area": NAN, "best_tau": NAN}
    ious = []
    for i in range(101):
        above = [u > Fraction(i, 100) for u in case.unit]
        union = sum(a or m for a, m in zip(above, case.mask, strict=True))
        ious.append(
            Fraction(sum(a and m for a, m in zip(above, case.mask, strict=True)), union)
            if union
            else Fraction(0)
        )
    return {
        "iou_area": sum((ious[i] + ious[i + 1]) / 2 for i in range(100)) / 100,
        "best_tau": Fraction(ious.index(max(ious)), 100),
    }


def discriminability(case):
    theirs = [other and not own for other, own in zip(case.others, case.mask, strict=True)]
    mine = sum(v for v, own in zip(case.positive, case.mask, strict=True) if own)
    both = mine + sum(v for v, other in zip(case.positive, theirs, strict=True) if other)
    if not any(case.mask) or not any(theirs):
        return {"discriminability": NAN}
    return {"discriminability": mine / both if both else Fraction(0)}


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
        *(
            deletion,
            insertion,
            average_drop,
            threshold_quality,
            road,
            infidelity,
            pointing_game,
            energy_pointing_game,
        ),
        *(box_localization, pixel_precision, threshold_localization, discriminability, complexity),
    )
}

# ------------------------------------------------------------------------------------------ methods


def weighted(weights, activations):
    return [
        [
            sum(w * a[y][x] for w, a in zip(weights, activations, strict=True))
            for x in range(len(activations[0][0]))
        ]
        for y in range(len(activations[0]))
    ]


def relu(grid):
    return [[max(v, 0) for v in row] for row in grid]


def upsampled(grid, factor):
    """Bilinear, corners not aligned: pixel i lies at (i + 1/2)/factor - 1/2 cells, clamped to the
    first and last.
    """

    def along(values):
        result = []
        for i in range(len(values) * factor):
            at = min(
                max(Fraction(2 * i + 1, 2 * factor) - Fraction(1, 2), Fraction(0)),
                Fraction(len(values) - 1),
            )
            below = math.floor(at)
            above = min(below + 1, len(values) - 1)
            result.append(values[below] + (at - below) * (values[above] - values[below]))
        return result

    rows = [along(row) for row in grid]
    return [
        list(row)
        for row in zip(*(along(column) for column in zip(*rows, strict=True)), strict=True)
    ]


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
        without = [
            filled(len(a[0]), len(a[0][0]), Fraction(0)) if j == k else a[j] for j in range(len(a))
        ]
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
            [
                [m * x + (1 - m) * b for m, x in zip(*rows, strict=True)]
                for rows in zip(mask, plane, strict=True)
            ]
            for plane, b in zip(image, model.baseline, strict=True)
        ]
        shown.append(model.probability(mixed, target))
    product = [
        [[x * y for x, y in zip(*rows, strict=True)] for rows in zip(*grids, strict=True)]
        for grids in zip(g, a, strict=True)
    ]
    raised = [
        [[max(x, 0) * y for x, y in zip(*rows, strict=True)] for rows in zip(*grids, strict=True)]
        for grids in zip(g, a, strict=True)
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

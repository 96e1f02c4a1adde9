"""The cases of the conformance vectors: models, images, maps and truth."""

from __future__ import annotations

from tests.conformance.definitions import NAN, filled

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


def planted(floor, gains, *regions, mean=(0.485, 0.456, 0.406), std=(1, 1, 1)):
    facts = {
        "type": "planted",
        "floor": floor,
        "gains": list(gains),
        "regions": [region(*r) for r in regions],
    }
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
        "All evidence in one pixel, fewer pixels than steps; removed pixels take the baseline "
        "colour.",
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
            "constant": item(
                filled(6, 6, 1), image_of(filled(6, 6, 1)), mask=block(6, 6, 0, 2, 0, 3)
            ),
            "zeros": item(filled(6, 6, 0), image_of(filled(6, 6, 1)), mask=block(6, 6, 0, 2, 0, 3)),
            "two_levels": item(
                block(6, 6, 0, 6, 0, 2), image_of(filled(6, 6, 1)), mask=block(6, 6, 0, 2, 0, 3)
            ),
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
        "Two logits linear in the image: the softmax is a sigmoid, and the map of its weights has "
        "no infidelity.",
        linear,
        ["deletion", "average_drop", "infidelity"],
        {"weights": item(grid_of(4, 4, lambda y, x: 2 if y < 2 else -1), ones)},
    )
    border = points(15, 20, (0, 19))
    add(
        "pointing",
        "Pointing game: tolerance, one truth pixel at the border, equal maxima, empty and large "
        "truth. Not square.",
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
            "not_a_number": item(
                grid_of(15, 20, lambda y, x: NAN if y == x == 0 else 0), mask=border
            ),
            "all_negative": item(
                grid_of(15, 20, lambda y, x: -1 if (y, x) == (0, 19) else -2), mask=border
            ),
        },
    )
    two = grid_of(
        8,
        10,
        lambda y, x: 4 if 1 <= y < 3 and 1 <= x < 4 else 4 if 3 <= y < 5 and 4 <= x < 7 else 0,
    )
    apart = grid_of(
        8,
        10,
        lambda y, x: 4 if 1 <= y < 3 and 1 <= x < 4 else 2 if 5 <= y < 8 and 6 <= x < 10 else 0,
    )
    nested = grid_of(
        8,
        10,
        lambda y, x: 4 if 3 <= y < 5 and 3 <= x < 6 else 1 if 1 <= y < 7 and 1 <= x < 9 else 0,
    )
    add(
        "boxes",
        "Best box IoU for tau = 0, .01, ..., 1: 8-connected components, half-open boxes, strict "
        "thresholds.",
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
            "not_a_number": item(
                grid_of(8, 10, lambda y, x: NAN if y == x == 0 else 1), boxes=[[1, 1, 7, 5]]
            ),
        },
    )
    top = block(2, 5, 0, 1, 0, 2)
    add(
        "pixels",
        "Pixel average precision, pooled histogram, relevance mass and rank, energy, "
        "discriminability.",
        CONSTANT,
        ["pixel_precision", "energy_pointing_game", "discriminability"],
        {
            "one_miss": item(
                [[8, 2, 4, 0, 0], [0, 0, 0, 1, 0]], mask=top, others=block(2, 5, 0, 1, 2, 4)
            ),
            "one_group": item(
                [[4, 2, 2, 0, -1], [-1, -2, -3, -4, -5]], mask=top, others=block(2, 5, 1, 2, 0, 5)
            ),
            "ignored": item(
                [[8, 2, 4, 0, 0], [0, 0, 0, 1, 0]],
                mask=top,
                ignore=block(2, 5, 0, 1, 2, 3),
                others=top,
            ),
            "all_negative": item(
                [[-1, -2, -3, -4, -5], [-6, -7, -8, -9, -10]],
                mask=top,
                others=block(2, 5, 1, 2, 0, 5),
            ),
            "empty_truth": item(
                [[8, 2, 4, 0, 0], [0, 0, 0, 1, 0]], mask=filled(2, 5, 0), others=top
            ),
            "not_a_number": item(
                [[NAN, 2, 4, 0, 0], [0, 0, 0, 1, 0]], mask=top, others=block(2, 5, 1, 2, 0, 5)
            ),
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
    """Two-channel ReLU network, pooled and linear: the maps of six methods, without and with
    upsampling.
    """
    fine = [[[1, 2], [0, 1]], [[0, 1], [3, 0]], [[0, 0], [0, 0]]]
    coarse = [
        [[v for v in row for _ in range(2)] for row in plane for _ in range(2)] for plane in fine
    ]
    facts = {
        "type": "conv_gap",
        "conv": [[1, 0, 0], [0, 1, 0]],
        "conv_bias": [0, -0.5],
        "fc": [[2, -1], [-1, 1]],
    }
    facts |= {"mean": [0.485, 0.456, 0.406], "std": [1, 1, 1]}
    return {
        "what": "Maps of a network with one 1x1 convolution, ReLU, global average pooling and a "
        "linear layer.",
        "model": facts,
        "methods": ["cam", "grad_cam", "hires_cam", "layer_cam", "ablation_cam", "score_cam"],
        "protocol": {"name": "cambench-1", "baseline": PROTOCOL["baseline"]},
        "items": {
            "class_0": {"target": 0, "image": fine, "pool": 1},
            "class_1": {"target": 1, "image": fine, "pool": 1},
            "upsampled": {"target": 0, "image": coarse, "pool": 2},
        },
    }

"""Localisation: does the map of the label's class point at the label's objects?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.engine.case import Case
from bench.metrics.base import OUTSIDE, Derived, Scores, Value, register_metric
from bench.protocol import Fields

Array = np.ndarray[Any, np.dtype[Any]]

FEW_PIXELS = 100_000
"""Two bytes can count the components of a frame of at most so many pixels, whatever its shape."""


def _truth(case: Case) -> torch.Tensor:
    assert case.truth_pixels is not None
    return case.truth_pixels


@register_metric(
    "pointing_game",
    family="localization",
    needs=("truth",),
    reads=("tie_rule", "pointing_tolerance_224", "pointing_max_area"),
    values={
        "pointing": Value("Pointing game", better="higher", ranked=True, lower=0, upper=1),
        "pointing_exact": Value("Pointing game, no tolerance", better="higher", lower=0, upper=1),
        "pointing_all": Value("Pointing game, all images", better="higher", lower=0, upper=1),
        "pointing_all_exact": Value(
            "Pointing game, all images, no tolerance", better="higher", lower=0, upper=1
        ),
    },
)
def pointing_game(case: Case) -> Scores:
    """1 where the map's first maximum (tie rule) hits the truth. [B] of 0 and 1.

    Hit: a truth pixel is strictly closer than 15/224 of the side to the maximum (Zhang et al.,
    Excitation Backprop, ECCV 2016); `exact`: the maximum is a truth pixel. The primary set are
    images whose truth covers at most 25 % of the frame, since on all images a centre Gaussian
    nearly ties with the methods. Empty truth: NaN.
    """
    truth = _truth(case)
    height, width = case.trace.size
    tolerance = case.protocol.pointing_tolerance_224 * min(height, width) / 224
    peaks = case.order[:, 0].tolist()
    near, exact = [], []
    for peak, mask in zip(peaks, truth.numpy(), strict=True):
        y, x = divmod(peak, width)
        rows, columns = np.nonzero(mask)
        distance = ((rows - y) ** 2 + (columns - x) ** 2).min(initial=np.iinfo(np.int64).max)
        near.append(float(distance < tolerance**2))
        exact.append(float(mask[y, x]))
    area = truth.flatten(1).double().mean(1)
    everywhere = {
        "pointing": torch.tensor(near).double(),
        "pointing_exact": torch.tensor(exact).double(),
    }
    scores = {}
    for name, hits in everywhere.items():
        hits = torch.where(area > 0, hits, torch.nan)
        scores[name] = torch.where(area > case.protocol.pointing_max_area, OUTSIDE, hits)
        scores[name.replace("pointing", "pointing_all")] = hits
    return scores


@register_metric(
    "energy_pointing_game",
    family="localization",
    version=2,
    needs=("truth",),
    values={
        "energy": Value("Energy pointing game", better="higher", lower=0, upper=1, peaked=True),
        "energy_lift": Value("Energy over area share", better="higher", lower=0, peaked=True),
    },
)
def energy_pointing_game(case: Case) -> Scores:
    """Share of max(L,0) that lies on the truth (Score-CAM, CVPRW 2020), and that over the truth's
    area share. [B].

    A map without a positive part points at nothing: 0. NaN without truth.
    """
    truth = _truth(case).flatten(1)
    positive = case.positive.flatten(1).double()
    total, area = positive.sum(1), truth.double().mean(1)
    share = (positive * truth).sum(1) / torch.where(total > 0, total, 1.0)
    return {
        "energy": torch.where(area > 0, share, torch.nan),
        "energy_lift": torch.where(area > 0, share / torch.where(area > 0, area, 1.0), torch.nan),
    }


@register_metric(
    "box_localization",
    family="localization",
    version=2,
    needs=("boxes",),
    reads=(
        *(
            "box_taus",
            "box_ious",
            "box_min_visible",
            "localization_map",
            "box_levels",
            "box_last_tau",
        ),
        *("box_shapes", "box_choice", "box_edges", "box_tau_from"),
    ),
    calibrates=True,
    lengths=lambda p, _: {"box_iou": p.box_taus},
    values={
        "box_iou": Value(
            "Best box IoU by tau",
            better="higher",
            reduce="box_accuracy",
            lower=0,
            upper=1,
            peaked=True,
            derived=Derived("box_accuracy", "box accuracy", ranked=False, peaked=True),
        )
    },
)
def box_localization(case: Case) -> Scores:
    """Best IoU, for each tau = 0..1 step 0.01, between a box of the map and a box of the truth.
    [B,T].

    Boxes of the map: 8-connected components of unit(L) > tau, half-open [x0,y0,x1+1,y1+1]. The
    board turns the vectors into box accuracy at IoU >= .3, .5, .7, with tau chosen per IoU on the
    calibration part. After MaxBoxAccV2 (Choe et al., CVPR 2020), without its choice of tau on the
    scored images. A map without a positive part has no box: IoU 0 at every tau. NaN without a
    box of the truth. Other protocols' maps, boxes and edges: docs/protocols.md.
    """
    assert case.truth.boxes is not None
    p = case.protocol
    signed = p.localization_map == "range"
    rows = []
    for values, boxes in zip(
        (case.ranged if signed else case.unit).numpy(), case.truth.boxes, strict=True
    ):
        usable = len(boxes) > 0
        rows.append(
            best_iou_by_tau(values, boxes.numpy(), p) if usable else np.full(p.box_taus, np.nan)
        )
    return {"box_iou": torch.from_numpy(np.stack(rows))}


def thresholds(taus: int) -> Array:
    """Return tau = 0..1 in equal steps, [T] float32 as the maps are: a value of .2 is not above a
    tau of .2.
    """
    return np.linspace(0, 1, taus, dtype=np.float32)


def best_iou_by_tau(values: Array, boxes: Array, p: Fields) -> Array:
    """Return, for each threshold, the best IoU of a box of {values > threshold} [H,W] with boxes
    [n,4]: [box_taus].

    p: a protocol's fields about boxes.  A threshold that no pixel's value separates from the one
    before has the same boxes.
    """
    # level = number of thresholds a pixel exceeds, so {values > threshold i} = {level > i}.
    cut_at, values = _cut_values(values, p)
    level = np.searchsorted(cut_at, values, side="left")
    return best_iou_by_level(level, boxes, p.box_taus, p)


def best_iou_by_level(level: Array, boxes: Array, count: int, p: Fields) -> Array:
    """Return the best IoU [count] of a box of {level > i} [H,W] with boxes [n,4], i = 0..count-1.

    p: a protocol's fields about boxes.
    """
    nested = (p.box_shapes, p.box_choice, p.box_edges) == ("components", "any", "half_open")
    if nested:
        return _find_nested_iou(level, boxes, count)
    return _find_any_iou(level, boxes, count, p)


def _cut_values(values: Array, p: Fields) -> tuple[Array, Array]:
    """Return the thresholds [T], rising, and the map's values that are compared with them."""
    count = p.box_taus
    taus: Array = np.linspace(0, 1, count) if p.box_last_tau else np.arange(count) * (1 / count)
    if not p.box_levels:
        return taus.astype(values.dtype), values
    whole = np.floor(values.astype(np.float64) * p.box_levels).astype(np.int64)
    return np.floor(taus * whole.max()).astype(np.int64), whole


def _find_any_iou(level: Array, boxes: Array, count: int, p: Fields) -> Array:
    """Return the best IoU [count] of the boxes of {level > i}, under any rule about boxes."""
    inclusive = p.box_edges == "inclusive"
    truth = np.trunc(boxes.astype(np.float64)) if inclusive else boxes.astype(np.float64)
    occupied = np.bincount(level.ravel(), minlength=count + 1) > 0
    best = np.zeros(count)
    for i in range(count):
        if i > 0 and not occupied[i]:
            best[i] = best[i - 1]
            continue
        found = _boxes_of((level > i).astype(np.uint8), p)
        if inclusive:
            # As in the original: the far corner is one beyond the last pixel, kept in the frame,
            # and counted as well.
            found[:, 2:] = np.minimum(found[:, 2:], np.array(level.shape[::-1]) - 1)
        if (
            len(found) or inclusive
        ):  # there, nothing above the threshold is a box of the first pixel
            best[i] = box_iou(
                found if len(found) else np.zeros((1, 4)), truth, 1 if inclusive else 0
            ).max()
    return best


def _boxes_of(mask: Array, p: Fields) -> Array:
    """Return the boxes [n,4] of a mask uint8 [H,W], half-open edges: all of them, or the largest by
    area.
    """
    import cv2

    if p.box_shapes == "components":
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        found, areas = stats[1:, :4].astype(np.float64), stats[1:, 4]
    else:
        contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        found = np.array([cv2.boundingRect(c) for c in contours], dtype=np.float64).reshape(-1, 4)
        areas = np.array([cv2.contourArea(c) for c in contours])
    found[:, 2:] += found[:, :2]
    return found[[int(areas.argmax())]] if p.box_choice == "largest" and len(found) else found


def _find_nested_iou(level: Array, boxes: Array, count: int) -> Array:
    """Return the best IoU [count] of the 8-connected components of {level > i}.

    The sets are nested: each is looked for inside the last one's bounds.
    """
    import cv2

    occupied = np.bincount(level.ravel(), minlength=count + 1) > 0
    truth = boxes.astype(np.float64)
    best = np.zeros(count)
    top, left = 0, 0
    for i in range(int(level.max())):
        if i > 0 and not occupied[i]:
            best[i] = best[i - 1]
            continue
        # Labels of two bytes take about two thirds of the time.
        kind = cv2.CV_16U if level.size <= FEW_PIXELS else cv2.CV_32S
        _, _, stats, _ = cv2.connectedComponentsWithStats(
            (level > i).astype(np.uint8), connectivity=8, ltype=kind
        )
        found = stats[1:, :4].astype(np.float64)  # x, y, width, height; row 0 is the background
        found[:, 2:] += found[:, :2]
        found += np.array([left, top, left, top])
        best[i] = box_iou(found, truth).max()
        x0, y0 = found[:, :2].min(0).astype(int)
        x1, y1 = found[:, 2:].max(0).astype(int)
        level = level[y0 - top : y1 - top, x0 - left : x1 - left]
        top, left = int(y0), int(x0)
    return best


def box_iou(first: Array, second: Array, end: int = 0) -> Array:
    """Return the IoU [n,m] of boxes [n,4] and [m,4], xyxy; end: 1 where both corners are pixels
    that count.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.clip(high - low + end, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + end).prod(1) for boxes in (first, second)]
    return np.asarray(overlap / (areas[0][:, None] + areas[1][None] - overlap))


@register_metric(
    "pixel_precision",
    family="localization",
    version=2,
    needs=("masks",),
    reads=("tie_rule", "pixel_bins", "localization_map"),
    lengths=lambda p, _: {"pixel_histogram": 2 * p.pixel_bins},
    values={
        "pixel_ap": Value(
            "Pixel average precision", better="higher", ranked=True, lower=0, upper=1
        ),
        "pixel_histogram": Value(
            "Pooled pixel precision",
            better="higher",
            reduce="pooled_precision",
            lower=0,
            peaked=True,
            derived=Derived(
                "pixel_ap_pooled", "pooled pixel average precision", ranked=False, peaked=True
            ),
        ),
        "relevance_mass": Value(
            "Relevance mass accuracy", better="higher", lower=0, upper=1, peaked=True
        ),
        "relevance_rank": Value("Relevance rank accuracy", better="higher", lower=0, upper=1),
    },
)
def pixel_precision(case: Case) -> Scores:
    """How well the map's values separate the object's pixels from the others; ignored pixels are
    left out.

    pixel_ap [B]: average precision of the map's own values, equal values one group. pixel_histogram
    [B,2*bins]: pixels on and off the object per bin of unit(L), floor(u*(bins-1)); the board pools
    them (PxAP, Choe et al., CVPR 2020). relevance_mass [B]: share of max(L,0) on the object;
    relevance_rank [B]: share of the |object| most relevant pixels that lie on it (Arras et al.,
    CLEVR-XAI, 2022). A map without a positive part has all pixels in bin 0, and mass 0; a constant
    one has the object's share of the pixels as pixel_ap. NaN where there is no object.
    """
    assert case.truth.masks is not None
    ignore = (
        case.truth.ignore if case.truth.ignore is not None else torch.zeros_like(case.truth.masks)
    )
    rows = [
        _pixel_row(case, i, case.truth.masks[i].numpy(), ignore[i].numpy())
        for i in range(len(case))
    ]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def _pixel_row(case: Case, i: int, mask: Array, ignore: Array) -> dict[str, Array]:
    keep = ~ignore.ravel()
    truth = mask.ravel()[keep]
    bins = case.protocol.pixel_bins
    nothing = {"pixel_ap": np.nan, "relevance_mass": np.nan, "relevance_rank": np.nan}
    row: dict[str, Any] = {**nothing, "pixel_histogram": np.full(2 * bins, np.nan)}
    if truth.any():
        row["pixel_ap"] = average_precision(case.maps[i].numpy().ravel()[keep], truth)
        order = case.order[i].numpy()
        ranked = mask.ravel()[order[keep[order]]]
        row["relevance_rank"] = ranked[: truth.sum()].mean()
        signed = case.protocol.localization_map == "range"
        values = (case.ranged if signed else case.unit)[i].numpy().ravel()[keep]
        bin_of = np.floor(values * values.dtype.type(bins - 1)).astype(np.int64)
        on, off = (np.bincount(bin_of[part], minlength=bins) for part in (truth, ~truth))
        row["pixel_histogram"] = np.concatenate([on, off]).astype(np.float64)
        positive = case.positive[i].numpy().ravel()[keep].astype(np.float64)
        total = positive.sum()
        row["relevance_mass"] = positive[truth].sum() / total if total > 0 else 0.0
    return {name: np.asarray(value, dtype=np.float64) for name, value in row.items()}


def average_precision(values: Array, truth: Array) -> float:
    """Return sum_k (R_k - R_{k-1}) P_k over the distinct values [N], highest first, for truth [N]
    bool.

    >>> average_precision(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, False, True, False]))
    0.8333333333333333
    """
    order = np.argsort(-values, kind="stable")
    ordered, hits = values[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    recall = hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0) * hits[last] / (last + 1)))

"""Threshold quality: what a cut-off does to a map (after TFT, Han, Lee and Lee, Applied Sciences
12(24), 2022).
"""

from __future__ import annotations

import numpy as np
import torch

from bench.engine.case import Case
from bench.engine.prober import probability
from bench.metrics.base import Scores, Value, register_metric
from bench.metrics.faithfulness import masking_scores
from bench.metrics.localization import thresholds


@register_metric(
    "threshold_quality",
    family="threshold",
    version=2,
    reads=("score", "baseline", "tie_rule", "thresholds", "removed"),
    forwards=lambda p: p.thresholds,
    masks=lambda p: p.thresholds,
    lengths=lambda p, _: dict.fromkeys(
        ("threshold_p", "threshold_area", "threshold_log_odds"), p.thresholds
    ),
    paints="removed",
    values={
        "tft_q": Value("Best gain q by a threshold", lower=0, upper=1, peaked=True),
        "tft_gain": Value(
            "Remaining threshold gain (log-odds)", better="lower", lower=0, peaked=True
        ),
        "tft_t": Value("Best threshold t*", lower=0, upper=9, peaked=True),
        "api": Value("Average probability increase", better="higher", lower=0, peaked=True),
        "apd": Value("Average probability drop", better="lower", lower=0, upper=1, peaked=True),
        "ir": Value("Increase rate", better="higher", lower=0, upper=1, peaked=True),
        "dr": Value("Drop rate", better="lower", lower=0, upper=1, peaked=True),
        "threshold_p": Value(
            "Probability by threshold", reduce="curve", lower=0, upper=1, peaked=True
        ),
        "threshold_area": Value("Kept area by threshold", reduce="curve", lower=0, upper=1),
        "threshold_log_odds": Value("Log-odds by threshold", reduce="curve", peaked=True),
    },
)
def threshold_quality(case: Case) -> Scores:
    """Quality of the map under cut-offs t = 0..9: M_t = unit(L) with its lowest floor(0.1*t*N)
    pixels set to 0.

    q(t) = max(0, p_c(M_t masking x) - p_c(x)) for t = 1..9; tft_q = max q; t* = first argmax, or 0
    if all q are 0. tft_gain = max over t = 0..9 of log-odds(M_t x) - log-odds(M_0 x): what a search
    for a threshold still gives (q alone is 0 for maps so bad that no threshold helps). API, APD,
    IR, DR compare p at t* with p_c(x). Each [B]. A map without a positive part shows nothing of the
    image at any t: the log-odds are those of the removed colour alone.
    """
    cuts = case.protocol.thresholds
    odds = case.probe_masks(case.removed, range(cuts), cuts)
    clean = case.trace.log_odds
    q = (probability(odds[:, 1:]) - probability(clean)[:, None]).clamp(min=0)
    best, first = q.max(1).values, first_argmax(q) + 1
    chosen = torch.where(best > 0, first, 0)
    at_best = masking_scores(clean, odds.gather(1, chosen[:, None])[:, 0])
    return {
        "tft_q": best,
        "tft_gain": odds.amax(1) - odds[:, 0],
        "tft_t": chosen.double(),
        "api": at_best["rise"],
        "apd": at_best["drop"],
        "ir": at_best["increase"],
        "dr": at_best["decrease"],
        "threshold_p": probability(odds),
        "threshold_area": measure_kept_area(case, cuts),
        "threshold_log_odds": odds,
    }


def first_argmax(values: torch.Tensor) -> torch.Tensor:
    """Return the index [B] of the first maximum along the last axis of [B,n]."""
    return (values == values.amax(1, keepdim=True)).int().argmax(1)


def measure_kept_area(case: Case, cuts: int) -> torch.Tensor:
    """Return the share of pixels above zero in M_t, [B, cuts] float64."""
    unit = case.unit.flatten(1)
    pixels = unit.shape[1]
    kept = [
        ((case.rank < pixels - t * pixels // cuts) & (unit > 0)).double().mean(1)
        for t in range(cuts)
    ]
    return torch.stack(kept, dim=1)


@register_metric(
    "threshold_localization",
    family="localization",
    version=2,
    needs=("truth",),
    reads=("box_taus",),
    values={
        "iou_area": Value(
            "Area under IoU by threshold", better="higher", lower=0, upper=1, peaked=True
        ),
        "best_tau": Value(
            "Spread of the best threshold",
            better="lower",
            reduce="std",
            lower=0,
            upper=1,
            peaked=True,
        ),
    },
)
def threshold_localization(case: Case) -> Scores:
    """IoU of {unit(L) > tau} with the truth pixels, over tau = 0..1: its area, and the tau of its
    first maximum. [B].

    The board shows the spread (standard deviation) of the best tau over images: a method whose best
    cut-off differs from image to image needs a search that a user cannot do. Reported, never
    ranked: the area rewards maps that stay high everywhere, and where objects fill half of the
    frame Fake-CAM wins it (.53 against Grad-CAM's .25 on real images). A map without a positive
    part has IoU 0 at every tau, so its area is 0 and its first maximum is at tau 0. NaN without
    truth.
    """
    truth = case.truth_pixels
    assert truth is not None
    taus = thresholds(case.protocol.box_taus)
    areas, best = [], []
    for unit, mask in zip(case.unit.numpy(), truth.numpy(), strict=True):
        iou = iou_by_threshold(unit, mask, taus)
        areas.append(np.trapezoid(iou, np.linspace(0, 1, len(taus))))
        best.append(float(taus[int(iou.argmax())]))
    usable = truth.flatten(1).any(1)
    return {
        "iou_area": torch.where(usable, torch.tensor(areas), torch.nan),
        "best_tau": torch.where(usable, torch.tensor(best, dtype=torch.float64), torch.nan),
    }


def iou_by_threshold(
    unit: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    taus: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the IoU of {unit > tau} with a mask, both [H,W], for every tau: [T]; 0 where both are
    empty.
    """
    inside, outside = np.sort(unit[mask]), np.sort(unit[~mask])
    hit = len(inside) - np.searchsorted(inside, taus, side="right")
    extra = len(outside) - np.searchsorted(outside, taus, side="right")
    union = len(inside) + extra
    return np.divide(hit, union, out=np.zeros(len(taus)), where=union > 0)

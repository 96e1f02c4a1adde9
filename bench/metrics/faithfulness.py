"""Faithfulness: what happens to the target's probability when the map's pixels are taken away,
added or shown alone.
"""

from __future__ import annotations

import dataclasses

import torch

from bench.engine.case import Case
from bench.engine.counts import Counts
from bench.engine.prober import probability, target_log_odds
from bench.engine.shared_parts import PASS, SharedPart
from bench.errors import BenchError
from bench.metrics.base import Scores, Value, register_metric
from bench.protocol import Fields, Protocol

CURVE_FIELDS = (
    *("removed", "features", "step_features", "step_rule", "curve_ends", "curve_area"),
    *("kernel_side", "kernel_sigma", "kernel_border", "kernel_padding"),
)
CHANNELS = 3


def cuts(features: int, p: Fields) -> list[int]:
    """Return n_0 = 0 < ... = features, the features that are replaced at each point of a curve.

    p: the fields steps, step_features and step_rule.  `cambench-1`: n_i = round(i * features /
    steps), halves up.

    >>> cuts(10, Protocol(steps=4)), cuts(10, Protocol(steps=4, step_rule="up"))
    ([0, 3, 5, 8, 10], [0, 3, 6, 9, 10])
    >>> cuts(10, Protocol(step_features=4))
    [0, 4, 8, 10]
    """
    if p.step_features or p.step_rule == "up":
        size = p.step_features or -(-features // p.steps)
        return [*range(0, features, size), features]
    half = p.steps if p.step_rule == "nearest" else 0
    return [(2 * i * features + half) // (2 * p.steps) for i in range(p.steps + 1)]


def features_of(p: Fields, pixels: int, channels: int = CHANNELS) -> int:
    """Return how many features an image of so many pixels has: its pixels, or its channels'
    pixels.
    """
    return pixels * (channels if p.features == "channels" else 1)


def count_between(p: Protocol, pixels: int) -> int:
    """Return the points of a curve between its ends: forwards per image and map."""
    return len(cuts(features_of(p, pixels), p)) - 2


def _lengths(name: str, p: Protocol, pixels: int) -> dict[str, int]:
    """Return the declared length of a curve: its points, less the ends that the protocol leaves
    out.
    """
    return {
        f"{name}_curve": count_between(p, pixels) + {"both": 2, "last": 1, "none": 0}[p.curve_ends]
    }


def _empty_image(p: Protocol) -> SharedPart:
    """Return the declared part of `Background.empty_logits`: one colour per model, or one per
    image.
    """
    return SharedPart("empty image", Counts(forwards=1), once=p.removed != "minimum")


def _insertion_start(p: Protocol) -> SharedPart:
    """Return the declared part of `_start`."""
    if p.insertion_start == "baseline":
        return _empty_image(p)
    return SharedPart(f"start of insertion: {p.insertion_start}", Counts(forwards=1))


def area_under(
    curve: torch.Tensor, taken: list[int], rule: str = "fraction", everything: int | None = None
) -> torch.Tensor:
    """Return the trapezoid area [B] of curves [B,P] at the points taken [P]; everything: by default
    the last of them.

    rule: over "fraction": taken/everything; "steps": equal steps from 0 to 1; "sum": steps of
    length 1.

    >>> round(float(area_under(torch.tensor([[1.0, 0.3, 0.0]]), [0, 50, 100])), 6)
    0.4
    """
    places = torch.tensor(taken, dtype=torch.float64) / (everything or taken[-1])
    if rule != "fraction":
        places = torch.arange(len(taken), dtype=torch.float64)
        places = places / max(len(taken) - 1, 1) if rule == "steps" else places
    return torch.trapezoid(curve.double(), places, dim=1)


def _lift_bounds(p: Protocol, value: Value) -> Value:
    """Return the facts of a curve's values under a protocol: a logit, or a sum over steps, has no
    bounds.
    """
    free = p.score == "logit" or (p.curve_area == "sum" and value.reduce != "curve")
    return (
        dataclasses.replace(value, lower=None, upper=None)
        if free and value.title != INSERTION_START
        else value
    )


INSERTION_START = "Insertion start"


@register_metric(
    "deletion",
    family="faithfulness",
    reads=("score", "baseline", "tie_rule", "steps", *CURVE_FIELDS[:6]),
    forwards=count_between,
    shared=lambda p: (PASS, _empty_image(p)),
    lengths=lambda p, pixels: _lengths("deletion", p, pixels),
    under=_lift_bounds,
    paints="removed",
    values={
        "deletion": Value(
            "Deletion",
            better="lower",
            ranked=True,
            lower=0,
            upper=1,
            curve="deletion_curve",
            clean_end=0,
        ),
        "deletion_curve": Value("Deletion curve", reduce="curve", lower=0, upper=1),
    },
)
def deletion(case: Case) -> Scores:
    """Area under p_c while whole pixels, most relevant first, become the baseline colour. [B] in
    [0,1], lower better.

    S steps, n_i = round(i*N/S), both ends; trapezoid over n_i/N (protocol.md; after RISE, Petsiuk
    et al., BMVC 2018). The clean end is the trace's own pass and the empty end one image per model
    (under `removed` = "minimum" one per image): neither is run per map. Other protocols' steps,
    features, colours and areas: docs/protocols.md.
    """
    empty = case.background.empty(case.removed)
    ends = (case.trace.logits, case.background.empty_logits(case.removed))
    return curve_scores("deletion", case, empty, case.trace.images, ends)


@register_metric(
    "insertion",
    family="faithfulness",
    reads=(
        *(
            "score",
            "baseline",
            "tie_rule",
            "steps",
            "insertion_start",
            "blur_sigma_224",
            "blur_radius_sigmas",
        ),
        *CURVE_FIELDS,
    ),
    forwards=count_between,
    shared=lambda p: (PASS, _insertion_start(p)),
    lengths=lambda p, pixels: _lengths("insertion", p, pixels),
    under=_lift_bounds,
    paints="insertion_start",
    values={
        "insertion": Value(
            "Insertion",
            better="higher",
            ranked=True,
            lower=0,
            upper=1,
            curve="insertion_curve",
            clean_end=-1,
        ),
        "insertion_curve": Value("Insertion curve", reduce="curve", lower=0, upper=1),
        "insertion_start": Value(INSERTION_START, lower=0, upper=1),
    },
)
def insertion(case: Case) -> Scores:
    """Area under p_c while the blurred image gets its pixels back, most relevant first. [B] in
    [0,1], higher better.

    The start of the curve is recorded, always as a probability: a blur that still shows the class
    (over .05 on average) is flagged by boards.
    """
    background, logits = _start(case)
    scores = curve_scores(
        "insertion", case, case.trace.images, background, (logits, case.trace.logits)
    )
    start = target_log_odds(logits.expand(len(case), -1), case.trace.targets)
    return {**scores, "insertion_start": probability(start)}


def _start(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images that insertion starts from, and their logits."""
    p = case.protocol
    if p.insertion_start == "blur":
        return case.background.blur(p.blur_sigma_224, p.blur_radius_sigmas)
    if p.insertion_start == "kernel":
        return case.background.blur_by_kernel(
            p.kernel_side, p.kernel_sigma, p.kernel_border, p.kernel_padding
        )
    return case.background.empty(case.removed), case.background.empty_logits(case.removed)


def curve_scores(
    name: str,
    case: Case,
    first: torch.Tensor,
    second: torch.Tensor,
    ends: tuple[torch.Tensor, torch.Tensor],
) -> Scores:
    """Return area and curve as pixels of `second` become those of `first`; ends: the logits of
    second and first.
    """
    p, pixels = case.protocol, case.maps[0].numel()
    parts = features_of(p, 1, case.trace.images.shape[1])
    taken = cuts(pixels * parts, p)
    middle = case.curve(first, second, taken[1:-1], parts)
    start, end = (case.evidence(logits)[:, None] for logits in ends)
    curve = case.score_evidence(torch.cat([start, middle, end], dim=1))
    shown = {"both": slice(None), "last": slice(1, None), "none": slice(1, -1)}[p.curve_ends]
    if not taken[shown]:
        raise BenchError(
            f"A curve of {len(taken)} points has none without its ends; give the protocol more "
            "steps."
        )
    return {
        name: area_under(curve[:, shown], taken[shown], p.curve_area, taken[-1]),
        f"{name}_curve": curve[:, shown],
    }


@register_metric(
    "average_drop",
    family="faithfulness",
    version=2,
    reads=("score", "baseline", "thresholds", "removed"),
    forwards=1,
    masks=lambda _: 1,
    paints="removed",
    values={
        "average_drop": Value("Average drop", better="lower", lower=0, upper=1, peaked=True),
        "average_increase": Value(
            "Average increase", better="higher", lower=0, upper=1, peaked=True
        ),
        "average_gain": Value("Average gain", better="higher", lower=0, upper=1, peaked=True),
    },
)
def average_drop(case: Case) -> Scores:
    """AD = max(0,Y-O)/Y, AI = 1[O>Y], AG = max(0,O-Y)/(1-Y); Y = p_c(x), O = p_c(unit(L) masking
    x). Each [B].

    Reported, never ranked: a map of ones wins all three (Fake-CAM, Poppi et al., CVPRW 2021). AD
    and AI after Grad-CAM++ (WACV 2018), AG after Opti-CAM (arXiv:2301.07002). A map without a
    positive part shows nothing of the image: O is p_c of the removed colour alone.
    """
    shown = case.probe_masks(case.removed, [0], case.protocol.thresholds)[:, 0]
    scores = masking_scores(case.trace.log_odds, shown)
    return {
        "average_drop": scores["drop"],
        "average_increase": scores["increase"],
        "average_gain": (scores["with"] - scores["without"]).clamp(min=0)
        / torch.sigmoid(-case.trace.log_odds),
    }


def masking_scores(clean: torch.Tensor, masked: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return drop and rise in probability, relative to p_c(x), and their signs, from log-odds [B]
    float64.
    """
    before, after = probability(clean), probability(masked)
    return {
        "without": before,
        "with": after,
        "drop": (before - after).clamp(min=0) / before,
        "rise": (after - before).clamp(min=0) / before,
        "increase": (masked > clean).double(),
        "decrease": (masked < clean).double(),
    }

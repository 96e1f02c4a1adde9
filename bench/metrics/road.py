"""ROAD: removal of pixels by imputing them from their neighbours, so that the mask itself tells the
network little.
"""

from __future__ import annotations

import dataclasses

import torch

from bench.engine.case import Case
from bench.engine.fills import Fill, impute_ranked
from bench.metrics.base import Scores, Value, register_metric


@register_metric(
    "road",
    family="faithfulness",
    reads=("score", "tie_rule", "road_fractions", "road_noise"),
    forwards=lambda p: 2 * len(p.road_fractions),
    lengths=lambda p, _: dict.fromkeys(
        ("road_morf_curve", "road_lerf_curve"), len(p.road_fractions)
    ),
    standard=False,
    under=lambda p, value: (
        dataclasses.replace(value, lower=None, upper=None) if p.score == "logit" else value
    ),
    values={
        "road": Value("ROAD", better="higher", ranked=True, lower=-0.5, upper=0.5),
        "road_morf": Value("ROAD, most relevant removed", better="lower", lower=0, upper=1),
        "road_lerf": Value("ROAD, least relevant removed", better="higher", lower=0, upper=1),
        "road_morf_curve": Value(
            "ROAD curve, most relevant removed", reduce="curve", lower=0, upper=1
        ),
        "road_lerf_curve": Value(
            "ROAD curve, least relevant removed", reduce="curve", lower=0, upper=1
        ),
    },
)
def road(case: Case) -> Scores:
    """Mean over 10..90 % of (p_c with the least relevant pixels removed - p_c with the most
    relevant removed) / 2. [B].

    Removed pixels are imputed: all of them solve x_i = weighted mean of the eight neighbours (1/6
    direct, 1/12 diagonal), and get normal noise of .01 (Rong et al., A Consistent and Efficient
    Evaluation Strategy for Attribution Methods, ICML 2022; combined as in pytorch-grad-cam's
    ROADCombined). Exactly round(fraction * N) pixels are removed, in the order of the tie rule: a
    percentile of the values would remove every pixel of a mostly-zero map.
    """
    fractions, pixels, size = case.protocol.road_fractions, case.maps[0].numel(), len(case)
    counts = [int(fraction * pixels + 0.5) for fraction in fractions]
    # Per image: the most relevant at each fraction, then the least relevant.
    removed = [(0, count) for count in counts] + [(pixels - count, pixels) for count in counts]
    sigma: float = case.protocol.road_noise
    noise = case.share(("road noise", sigma), lambda: _noise(case))

    def fill(rows: torch.Tensor, steps: list[tuple[int, int]]) -> Fill:
        low, high = torch.tensor(steps).unbind(1)
        return impute_ranked(case.trace.images, noise, case.rank, rows, low, high)

    scores = case.score_evidence(case.probe_ranking(("road", sigma), removed, fill))
    morf, lerf = scores.view(size, 2, len(fractions)).unbind(1)
    return {
        "road": (lerf - morf).mean(1) / 2,
        "road_morf": morf.mean(1),
        "road_lerf": lerf.mean(1),
        "road_morf_curve": morf,
        "road_lerf_curve": lerf,
    }


def _noise(case: Case) -> torch.Tensor:
    trace = case.trace
    draws = [
        torch.randn(trace.images.shape[1:], generator=g) for g in trace.generators("road noise")
    ]
    sigma: float = case.protocol.road_noise
    return sigma * torch.stack(draws).to(trace.images.device)

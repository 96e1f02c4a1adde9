"""F-Fidelity: random parts of the most, or of the least, relevant patches are masked."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bench.engine.case import Case
from bench.engine.patches import PatchGrid
from bench.metrics.base import Scores, Value, register_metric
from bench.metrics.patch_ranking import (
    SISTER_FIELDS,
    pass_sister,
    patches_of,
    probe_patches,
    rank_patches,
)
from bench.metrics.sister_curves import SISTER_PASS, lift_bounds
from bench.randomness import generator

SIZES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the patches that are taken as the explanation."""
DRAWS = 10
"""Random parts of each."""
ALPHA, BETA = 0.5, 0.1
"""The share of an explanation that is masked, and the largest share of an image."""
FFID_FORWARDS = len(SIZES) * DRAWS


class _Part(NamedTuple):
    """A random part: of which size, and the number of the draw."""

    size: int
    draw: int


@register_metric(
    "ffid_plus",
    family="faithfulness",
    needs=("sister",),
    reads=(*SISTER_FIELDS, "tie_rule"),
    forwards=FFID_FORWARDS,
    shared=lambda _: (SISTER_PASS,),
    under=lift_bounds,
    paints="removed",
    standard=False,
    values={"ffid_plus": Value("F-Fidelity +", better="higher", ranked=True, lower=-1, upper=1)},
)
def ffid_plus(case: Case) -> Scores:
    """Mean drop of the sister's p_c as random parts of the most relevant patches are masked.

    F-Fidelity (ICLR 2025, arXiv:2410.02970; `ours_random_MoRF` of the authors' code). The
    explanation is the most relevant share s of the patches, s = .1, .2, ..., .5. Each of its
    patches is masked with the probability min(.5, .1/s), so at most a tenth of the image is masked
    on average; 10 draws of each, the same for all methods. [B] in [-1,1], higher better.

    What differs: the authors mask single pixels, fine-tune on random pixels and on labels, count
    whether the label stays the largest logit, and take 50 draws at 20 sizes up to 1; here patches
    are masked, as in the sister's training, and the drop of the probability is taken.
    """
    return {"ffid_plus": _measure_drop(case, most=True)}


@register_metric(
    "ffid_minus",
    family="faithfulness",
    needs=("sister",),
    reads=(*SISTER_FIELDS, "tie_rule"),
    forwards=FFID_FORWARDS,
    shared=lambda _: (SISTER_PASS,),
    under=lift_bounds,
    paints="removed",
    standard=False,
    values={"ffid_minus": Value("F-Fidelity -", better="lower", ranked=True, lower=-1, upper=1)},
)
def ffid_minus(case: Case) -> Scores:
    """Mean drop of the sister's p_c as random parts of the least relevant patches are masked.

    As `ffid_plus`, from the other end of the order (`ours_random_LeRF` of the authors' code). [B]
    in [-1,1], lower better.
    """
    return {"ffid_minus": _measure_drop(case, most=False)}


def _measure_drop(case: Case, most: bool) -> torch.Tensor:
    grid = patches_of(case)
    places = rank_patches(case, grid)
    chances = _draw_chances(case, grid)

    def choose(rows: torch.Tensor, parts: list[_Part]) -> torch.Tensor:
        sizes, draws = torch.tensor(parts).T
        shares = torch.tensor(SIZES, dtype=torch.float64)[sizes]
        counts = (shares * grid.count).round()[:, None]
        own = places[rows]
        taken = own < counts if most else own >= grid.count - counts
        ratio = (BETA * grid.count / counts).clamp(max=ALPHA)
        return taken & (chances[rows, sizes, draws] < ratio)

    parts = [_Part(size, draw) for size in range(len(SIZES)) for draw in range(DRAWS)]
    recipe = ("random", "most" if most else "least")
    masked = probe_patches(case, grid, recipe, parts, choose, places)
    clean = case.evidence(pass_sister(case))[:, None]
    return (case.score_evidence(clean) - case.score_evidence(masked)).mean(1)


def _draw_chances(case: Case, grid: PatchGrid) -> torch.Tensor:
    """Return uniform numbers [B,sizes,draws,P], drawn from the ids of the images."""
    size = (len(SIZES), DRAWS, grid.count)
    return torch.stack(
        [torch.rand(size, generator=generator(case.seed, "ffid", one)) for one in case.trace.ids]
    )

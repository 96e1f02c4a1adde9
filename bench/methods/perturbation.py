"""Methods that hide parts of the image and watch the class: occlusion, RISE, LIME, KernelSHAP.

All masked images are m*x + (1-m)*b with b the baseline colour, and are packed into full batches by
the prober.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch

from bench.engine.fills import blend
from bench.engine.prober import Job, probability
from bench.engine.trace import Trace
from bench.methods.references import MASK_COLOUR
from bench.methods.registration import register_method
from bench.randomness import generator
from bench.ranges import Range

Share = Annotated[float, Range(0.001, 1)]
"""A share of the image's shorter side."""

Cells = Annotated[int, Range(2, 100)]
"""Cells along each side of a grid."""

LIME_KERNEL_WIDTH = 0.25
LIME_RIDGE = 1.0


def probe_masks(
    trace: Trace, count: int, masks: Callable[[int, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return p_c of every image under `count` masks, [B,count] float64 on the CPU.

    masks: (image, numbers [n]) -> masks [n,H,W] in [0,1]. An image's masks follow each other, so
    that they are packed with few pieces per batch.
    """
    rows = torch.arange(len(trace)).repeat_interleave(count)

    def draw_masks(index: torch.Tensor) -> torch.Tensor:
        own, numbers = rows[index], index % count
        return torch.cat([masks(row, numbers[own == row]) for row in sorted(set(own.tolist()))])

    fill = blend(trace.images, trace.model.colour(MASK_COLOUR), rows, draw_masks)
    (odds,) = trace.prober.log_odds([Job(trace.targets[rows], fill)], trace.size)
    return probability(odds).view(len(trace), count)


# --- occlusion


def starts(length: int, side: int, window: float, stride: float) -> tuple[int, list[int]]:
    """Return the window's width in pixels and where it starts along an axis of `length`; the last
    one ends flush.

    >>> starts(10, 10, 0.4, 0.25)
    (4, [0, 2, 4, 6])
    """
    width = min(length, max(1, round(window * side)))
    step = max(1, round(stride * side))
    return width, [*range(0, length - width, step), length - width]


@register_method(
    "occlusion",
    group="perturbation",
    fidelity="paper",
    citation="Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, "
    "section 4.2",
    fast=False,
    forwards=lambda model, p: math.prod(
        len(starts(length, min(model.frame), p["window"], p["stride"])[1]) for length in model.frame
    ),
    reference="baseline",
)
def occlusion(trace: Trace, *, window: Share = 0.2, stride: Share = 0.1) -> torch.Tensor:
    """mean over the windows covering a pixel of p_c(x) - p_c(x with the window in the baseline
    colour). [B,H,W].

    window, stride: shares of the shorter side; the defaults are 45 and 22 pixels at 224 (the paper
    occludes with a grey square and states neither). The last window of a row or column ends at the
    border. Signed.
    """
    side = min(trace.size)
    (height, tops), (width, lefts) = (starts(length, side, window, stride) for length in trace.size)
    hidden = torch.zeros(len(tops), len(lefts), *trace.size, dtype=torch.bool)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            hidden[i, j, top : top + height, left : left + width] = True
    hidden = hidden.flatten(0, 1)
    seen = probe_masks(trace, len(hidden), lambda _, numbers: (~hidden[numbers]).float())
    drops = probability(trace.log_odds)[:, None] - seen
    sums = torch.einsum("bn,nhw->bhw", drops, hidden.double())
    return (sums / hidden.sum(0)).float()


# --- RISE


def resizing(cells: int, length: int) -> torch.Tensor:
    """Return the matrix [length, cells] that stretches a row of cells linearly, mirrored at the
    outer cells' centres.

    As skimage's resize (order 1, mode "reflect"), which the authors use; torch repeats the outer
    cells instead.
    """
    position = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
    low = position.floor()
    matrix = torch.zeros(length, cells, dtype=torch.float64)
    for index, weight in ((low, low + 1 - position), (low + 1, position - low)):
        mirrored = (cells - 1) - ((cells - 1) - index.abs()).abs()
        matrix.scatter_add_(1, mirrored.clamp(0, cells - 1).long()[:, None], weight[:, None])
    return matrix.float()


def rise_masks(
    seed: int, count: int, cells: int, p: float, size: tuple[int, int]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the masks of a run as a function: numbers [n] -> [n,H,W] in [0,1].

    Each is a grid of cells that are 1 with probability p, stretched by one cell more than the
    image, and cut at a random shift. Only grids and shifts are kept: 4,000 masks of 224 pixels take
    0.8 GB. One draw for all images.
    """
    rng = generator(seed, "rise")
    grids = (torch.rand(count, cells, cells, generator=rng) < p).float()
    steps = [math.ceil(length / cells) for length in size]
    shifts = [torch.randint(0, step, (count,), generator=rng) for step in steps]
    # [shifts, cells, length]: every cut of the stretched axis.
    down, across = (
        resizing(cells, (cells + 1) * step).unfold(0, length, 1)
        for step, length in zip(steps, size, strict=True)
    )
    return lambda n: torch.einsum(
        "nsh,nst,ntw->nhw", down[shifts[0][n]], grids[n], across[shifts[1][n]]
    )


@register_method(
    "rise",
    group="perturbation",
    fidelity="official",
    citation="Petsiuk et al., RISE, BMVC 2018, eq. 6, and the authors' code",
    fast=False,
    forwards=lambda _, p: p["masks"],
    reference="baseline",
)
def rise(
    trace: Trace,
    *,
    masks: Annotated[int, Range(1, 1_000_000)] = 4000,
    cells: Cells = 7,
    p: Annotated[float, Range(0, 1, above=True)] = 0.5,
) -> torch.Tensor:
    """sum_i p_c(M_i masking x) M_i / (N p) over N random masks, the same for all images of a run.
    [B,H,W], >= 0.

    Masked pixels fade to the baseline colour; the authors multiply the normalised image, which is
    the same for ImageNet's normalisation.
    """
    of_run = rise_masks(trace.seed, masks, cells, p, trace.size)
    seen = probe_masks(trace, masks, lambda _, numbers: of_run(numbers)).float()
    maps = torch.zeros(len(trace), *trace.size)
    for numbers in torch.split(torch.arange(masks), 64):
        maps += torch.einsum("bn,nhw->bhw", seen[:, numbers], of_run(numbers))
    return maps / (masks * p)


# --- linear surrogates on a grid of segments


def segments(size: tuple[int, int], cells: int) -> torch.Tensor:
    """Return the number of the square segment that each pixel lies in, [H,W] in 0..cells^2-1.

    >>> segments((2, 4), 2).tolist()
    [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    row, column = (torch.arange(length) * cells // length for length in size)
    return row[:, None] * cells + column


def coalition_probabilities(trace: Trace, shown: torch.Tensor, cells: int) -> torch.Tensor:
    """Return p_c where only some segments are shown, [B,n] float64; shown: [B,n,cells^2] bool."""
    grid = segments(trace.size, cells)
    return probe_masks(
        trace, shown.shape[1], lambda row, numbers: shown[row, numbers][:, grid].float()
    )


@register_method(
    "lime",
    group="perturbation",
    fidelity="paper",
    citation="Ribeiro et al., Why Should I Trust You?, KDD 2016; regression as in the authors' "
    "code, square segments",
    fast=False,
    forwards=lambda _, p: p["samples"] - 1,
    reference="baseline",
)
def lime(
    trace: Trace,
    *,
    samples: Annotated[int, Range(2, 1_000_000)] = 1000,
    cells: Annotated[int, Range(1, 100)] = 7,
) -> torch.Tensor:
    """The weight of a pixel's segment in a linear model of p_c over shown and hidden segments.
    [B,H,W], signed.

    Segments are shown with probability 1/2, the first sample is the whole image, hidden ones have
    the baseline colour. Ridge regression (strength 1, free intercept), samples weighted by exp(-d^2
    / 2 0.25^2), d the cosine distance to the whole image. The authors' superpixels (quickshift) are
    replaced by cells x cells squares.
    """
    draws = [
        torch.randint(0, 2, (samples, cells**2), generator=g) for g in trace.generators("lime")
    ]
    shown = torch.stack(draws).bool()
    shown[:, 0] = True
    seen = coalition_probabilities(trace, shown[:, 1:], cells)
    seen = torch.cat([probability(trace.log_odds)[:, None], seen], 1)
    distance = 1 - shown.double().mean(2).sqrt()
    weights = torch.exp(-(distance**2) / (2 * LIME_KERNEL_WIDTH**2))
    slopes = ridge(shown.double(), seen, weights, LIME_RIDGE)
    return slopes[:, segments(trace.size, cells)].float()


def ridge(z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, strength: float) -> torch.Tensor:
    """Return the slopes [B,M] of weighted ridge regressions of y [B,n] on z [B,n,M] with a free
    intercept.
    """
    share = (weights / weights.sum(1, keepdim=True))[..., None]
    z, y = z - (share * z).sum(1, keepdim=True), y - (share[..., 0] * y).sum(1, keepdim=True)
    weighted = z.transpose(1, 2) * weights[:, None]
    gram = weighted @ z + strength * torch.eye(z.shape[2], dtype=z.dtype)
    slopes: torch.Tensor = torch.linalg.solve(gram, weighted @ y[..., None])
    return slopes[..., 0]


@register_method(
    "kernel_shap",
    group="perturbation",
    fidelity="paper",
    citation="Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS "
    "2017, theorem 2; sampled as Captum does, on square segments",
    fast=False,
    forwards=lambda _, p: p["samples"] - 1,
    reference="baseline",
)
def kernel_shap(
    trace: Trace, *, samples: Annotated[int, Range(3, 1_000_000)] = 1000, cells: Cells = 7
) -> torch.Tensor:
    """Estimated Shapley value of a pixel's segment for p_c, hidden segments in the baseline colour.
    [B,H,W], signed.

    samples: coalitions, of which one is full and one is empty. The others' sizes are drawn with the
    Shapley kernel's own weights, so that their regression is unweighted. Full and empty hold
    exactly, as in the paper (Captum weighs them by 10^6): over segments the values sum up to p_c(x)
    - p_c(b).
    """
    players = cells**2
    drawn = samples - 2
    shown = torch.stack([coalitions(g, drawn, players) for g in trace.generators("kernel_shap")])
    empty = torch.zeros(len(trace), 1, players, dtype=torch.bool)
    seen = coalition_probabilities(trace, torch.cat([empty, shown], 1), cells)
    values = shapley_regression(
        shown.double(), seen[:, 1:], seen[:, 0], probability(trace.log_odds)
    )
    return values[:, segments(trace.size, cells)].float()


def coalitions(rng: torch.Generator, count: int, players: int) -> torch.Tensor:
    """Return random coalitions [count,players] bool, size k with probability ~ 1/(k (players - k)),
    0 < k < players.
    """
    sizes = torch.arange(1, players, dtype=torch.float64)
    odds = 1 / (sizes * (players - sizes))
    size = torch.multinomial(odds, count, replacement=True, generator=rng) + 1
    place = torch.rand(count, players, generator=rng).argsort(1).argsort(1)
    return place < size[:, None]


def shapley_regression(
    z: torch.Tensor, y: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Return least-squares values [B,M] of y [B,n] on coalitions z [B,n,M], whose sum is high - low
    [B] exactly.

    values = D/M + pinv(Z P)(y - low - Z 1 D/M), D = high - low, P = I - 11'/M; the smallest where
    several fit.
    """
    players = z.shape[2]
    mean = ((high - low) / players)[:, None]
    rest = y - low[:, None] - z.sum(2) * mean
    centred = z - z.mean(2, keepdim=True)
    inverse: torch.Tensor = torch.linalg.pinv(centred, rtol=1e-10)
    return mean + (inverse @ rest[..., None])[..., 0]

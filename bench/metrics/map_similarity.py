"""How alike two maps of one image are: correlations, SSIM, overlap of the top, shift of the centre.

All take maps [B,H,W] and return [B] float64. Two constant maps agree wholly, and one constant map
agrees with no other: correlation 1 and 0. NaN where a map has a value that is not finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.engine import map_ranges

Array = np.ndarray[Any, np.dtype[Any]]

SSIM_K = (0.01, 0.03)
"""Constants of SSIM (Wang et al., IEEE TIP 2004); the range of unit(L) is 1."""


def pearson(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return Pearson's correlation over the pixels, in [-1,1]."""
    a, b = (maps.detach().cpu().flatten(1).double() for maps in (first, second))
    constant = [(m == m[:, :1]).all(1) for m in (a, b)]
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    # Scaled first: the squares of a tiny map would be zero.
    a, b = (
        m / m.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny) for m in (a, b)
    )
    value = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(
        min=torch.finfo(torch.float64).tiny
    )
    value = torch.where(
        constant[0] | constant[1], (constant[0] & constant[1]).double(), value.clamp(-1, 1)
    )
    return torch.where(finite(first) & finite(second), value, torch.nan)


def midranks(maps: torch.Tensor) -> torch.Tensor:
    """Return every pixel's rank [B,H,W], 1 = lowest; equal values share their mean rank."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(maps.detach().cpu().flatten(1).numpy(), axis=1)).view(
        maps.shape
    )


def spearman(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return Spearman's rank correlation over the pixels, in [-1,1]; equal values share their mean
    rank.
    """
    value = pearson(midranks(first), midranks(second))
    return torch.where(finite(first) & finite(second), value, torch.nan)


def ssim(first: torch.Tensor, second: torch.Tensor, window: int, sigma: float) -> torch.Tensor:
    """Return the structural similarity of maps in [0,1], in [-1,1] (Wang et al., IEEE TIP 2004).

    Gaussian window, population (co)variances, range 1; the mean is taken where the window lies in
    the map.
    """
    rows = [
        _ssim(a, b, window, sigma) if np.isfinite(a).all() and np.isfinite(b).all() else np.nan
        for a, b in zip(first.double().numpy(), second.double().numpy(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _ssim(a: Array, b: Array, window: int, sigma: float) -> float:
    import cv2

    edge = min(window, *(side - (side + 1) % 2 for side in a.shape)) // 2

    def mean(values: Array) -> Array:
        size = 2 * edge + 1
        blurred: Array = cv2.GaussianBlur(values, (size, size), sigma)
        return blurred[edge : len(a) - edge, edge : a.shape[1] - edge]

    first, second = mean(a), mean(b)
    spread = mean(a * a) + mean(b * b) - first**2 - second**2
    common = mean(a * b) - first * second
    c1, c2 = (k**2 for k in SSIM_K)
    value = (
        (2 * first * second + c1)
        * (2 * common + c2)
        / ((first**2 + second**2 + c1) * (spread + c2))
    )
    return float(value.mean())


def unit(maps: torch.Tensor) -> torch.Tensor:
    """Return unit(L) of each map of [B,H,W]; NaN where a map is not finite."""
    return torch.where(finite(maps)[:, None, None], map_ranges.unit(maps), torch.nan)


def top_overlap(
    first: torch.Tensor, second: torch.Tensor, ties: torch.Tensor, share: float
) -> torch.Tensor:
    """Return the IoU of each map's `share` most relevant pixels, in [0,1]; equal values in the
    order of ties [B,N].
    """
    sets = [_top(maps.flatten(1), ties, share) for maps in (first, second)]
    value = (sets[0] & sets[1]).sum(1).double() / (sets[0] | sets[1]).sum(1)
    return torch.where(finite(first) & finite(second), value, torch.nan)


def _top(values: torch.Tensor, ties: torch.Tensor, share: float) -> torch.Tensor:
    pixels = values.shape[1]
    count = max(1, int(share * pixels + 0.5))
    order = ties.gather(1, values.gather(1, ties).argsort(dim=1, descending=True, stable=True))
    chosen: torch.Tensor = torch.zeros(values.shape, dtype=torch.bool).scatter(
        1, order[:, :count], value=True
    )
    return chosen


def centroid_shift(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the distance of the centres of mass of max(L,0), over the shorter side; NaN without a
    positive part.
    """
    gap: torch.Tensor = (_centroid(first) - _centroid(second)).norm(dim=1)
    return gap / min(first.shape[1:])


def _centroid(maps: torch.Tensor) -> torch.Tensor:
    positive = maps.double().clamp(min=0)
    mass = positive.sum((1, 2))
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in maps.shape[1:])
    centre = torch.stack([(positive.sum(2) * y).sum(1), (positive.sum(1) * x).sum(1)], dim=1)
    return torch.where(
        (mass > 0)[:, None], centre / torch.where(mass > 0, mass, 1.0)[:, None], torch.nan
    )


def finite(maps: torch.Tensor) -> torch.Tensor:
    """Return [B] bool: whether all of a map's values are finite."""
    return torch.isfinite(maps).flatten(1).all(1).cpu()

"""Trivial transforms of another method's map: what they gain, an explanation need not bring.

Each reads the other map and nothing else of the network. A NaN map stays NaN.
"""

from __future__ import annotations

from typing import Annotated

import torch

from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.fills import gaussian_blur
from bench.engine.map_ranges import unit
from bench.engine.trace import Trace
from bench.methods.base import Method
from bench.methods.controls import center_gaussian
from bench.methods.registration import register_method
from bench.protocol import Protocol
from bench.ranges import Range

SHARPENED = 4.0
"""Power of the control `sharpened`."""

BLUR_RADIUS = 3.0
"""Standard deviations out to which the kernel of `blurred` reaches."""


@register_method(
    "power", wraps="grad_cam", listed=False, transform=True, group="control", fidelity="control"
)
def power(
    trace: Trace, inner: Method, *, p: Annotated[float, Range(1, 64)] = SHARPENED
) -> torch.Tensor:
    """unit(L)^p of another method's map L: the same order of pixels, more peaked. [B,H,W] in [0,1].

    Pixels that differ in unit(L) differ in the result, also where float32 has no number that is
    small enough for the power. Zeros where the map has no positive part.
    """
    maps = inner.maps(trace).detach().cpu().double()
    return _keep_missing(maps, raise_to_power(unit(maps), p))


def raise_to_power(units: torch.Tensor, p: float) -> torch.Tensor:
    """Return unit maps [B,H,W] float64 to the power p >= 1, as float32 without new ties."""
    flat = units.flatten(1)
    known, places = flat.sort(dim=1, stable=True)
    steps = torch.zeros_like(places)
    steps[:, 1:] = (known[:, 1:] > known[:, :-1]).cumsum(1)
    # The bits of floats above zero are whole numbers in the same order: each distinct value lies at
    # least one bit above the one before it.
    bits = (known**p).float().view(torch.int32).long()
    bits = (bits - steps).cummax(1).values + steps
    raised = bits.to(torch.int32).view(torch.float32)
    return torch.empty_like(raised).scatter_(1, places, raised).view(units.shape)


@register_method(
    "ranked", wraps="grad_cam", listed=False, transform=True, group="control", fidelity="control"
)
def ranked(trace: Trace, inner: Method) -> torch.Tensor:
    """Ranks of max(L, 0) of another method's map L in place of its values. [B,H,W] in [0,1).

    r = (ascending rank + 1/2) / N. Pixels of equal values get the mean of their ranks, and pixels
    without positive value get 0.
    """
    maps = inner.maps(trace).detach().cpu()
    return _keep_missing(maps, rank_positive(maps))


def rank_positive(maps: torch.Tensor) -> torch.Tensor:
    """Return the mean ranks of max(L, 0) of maps [B,H,W], float32 in [0,1)."""
    flat = maps.clamp(min=0).flatten(1).contiguous()
    known = flat.sort(dim=1).values
    below, up_to = (torch.searchsorted(known, flat, right=right) for right in (False, True))
    ranks = (below + up_to).double() / (2 * flat.shape[1])
    return torch.where(flat > 0, ranks, 0.0).float().view(maps.shape)


@register_method("blurred", wraps="saliency", transform=True, group="control", fidelity="control")
def blurred(
    trace: Trace, inner: Method, *, sigma: Annotated[float, Range(0.1, 112)] = 8.0
) -> torch.Tensor:
    """Another method's map after a Gaussian blur, border reflected. [B,H,W], signed.

    sigma: the standard deviation in pixels at a side of 224. It scales with the shorter side: 8 is
    3.6 % of it. The kernel reaches 3 standard deviations, at most to the border.
    """
    maps = inner.maps(trace).detach().cpu()
    pixels = sigma * min(trace.size) / 224
    smooth = gaussian_blur(maps[:, None].float(), pixels, BLUR_RADIUS)[:, 0]
    return _keep_missing(maps, smooth)


@register_method("centred", wraps="grad_cam", transform=True, group="control", fidelity="control")
def centred(trace: Trace, inner: Method) -> torch.Tensor:
    """Another method's map times the map of `center_gaussian` (sigma a quarter of the side).
    [B,H,W], signed.
    """
    maps = inner.maps(trace).detach().cpu()
    return _keep_missing(maps, maps * center_gaussian(trace))


@register_method(
    "top", wraps="grad_cam", listed=False, transform=True, group="control", fidelity="control"
)
def top(
    trace: Trace, inner: Method, *, share: Annotated[float, Range(0.001, 1)] = 0.2
) -> torch.Tensor:
    """max(L, 0) of another method's map L on its best pixels, 0 elsewhere. [B,H,W], >= 0.

    share: of the frame's pixels that are kept, rounded, at least one. Equal values by the tie rule
    (the smooth field).
    """
    maps = inner.maps(trace).detach().cpu()
    background = trace.share("background", lambda: Background(trace))
    case = Case(trace, maps, Protocol().view(()), background=background, seed=trace.seed)
    count = max(1, round(share * case.maps[0].numel()))
    kept = (case.rank < count).view(case.maps.shape)
    return _keep_missing(maps, case.positive * kept)


@register_method(
    "sharpened", around="grad_cam", transform=True, group="control", fidelity="control"
)
def sharpened(trace: Trace, inner: Method) -> torch.Tensor:
    """unit(L)^4 of Grad-CAM's map L, which is `power(grad_cam)`. [B,H,W] in [0,1].

    The order of pixels is Grad-CAM's. A value that puts it above Grad-CAM measures peakedness.
    """
    return power(trace, inner, p=SHARPENED)


def _keep_missing(maps: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Return changed maps, NaN where the map itself has a value that is not finite."""
    finite = torch.isfinite(maps).flatten(1).all(1)
    return torch.where(finite[:, None, None], changed.float(), torch.nan)

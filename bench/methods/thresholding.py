"""Threshold fine-tuning: a cut-off searched per image, around any other method."""

from __future__ import annotations

import torch

from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.prober import probability
from bench.engine.trace import Trace
from bench.methods.base import Method
from bench.methods.references import MASK_COLOUR
from bench.methods.registration import register_method
from bench.protocol import Protocol

THRESHOLDS = 10
"""Cut-offs t = 0..9: the lowest floor(t*N/10) pixels of a map are set to 0."""


@register_method(
    "tft",
    wraps="grad_cam",
    group="cam",
    more_groups=("focus", "seed"),
    fidelity="official",
    citation="Han, Lee and Lee, Threshold fine-tuning, Applied Sciences 12(24):12961, 2022, and "
    "the authors' code",
    forwards=lambda _, p: THRESHOLDS - (not p["include_zero"]),
    varies="cut-offs that leave equal masks are run once",
    reference="baseline",
)
def tft(trace: Trace, inner: Method, *, include_zero: bool = False) -> torch.Tensor:
    """M_{t*} of another method's map: the cut-off that serves the class best. [B,H,W] in [0,1].

    L = unit(map); M_t = L with its lowest floor(0.1*t*N) pixels set to 0, the rest keeps its value
    (equal values by the tie rule). q(t) = max(0, p_c(M_t masking x) - p_c(x)) for t = 1..9, and t =
    0 with include_zero. t* is the first argmax; if every q is 0 the map stays L. One softmax (the
    authors' demo applies it twice). NaN where the map has no positive part.
    """
    maps = inner.maps(trace).cpu()
    background = trace.share("background", lambda: Background(trace))
    case = Case(trace, maps, Protocol().view(()), background=background, seed=trace.seed)
    steps = range(0 if include_zero else 1, THRESHOLDS)
    masked = probability(case.probe_masks(MASK_COLOUR, steps, THRESHOLDS))
    q = (masked - probability(trace.log_odds)[:, None]).clamp(min=0)
    best = torch.where(q.amax(1) > 0, q.argmax(1) + steps[0], 0)
    usable = case.has_positive & case.finite
    return torch.where(usable[:, None, None], case.cut(best, THRESHOLDS), torch.nan)

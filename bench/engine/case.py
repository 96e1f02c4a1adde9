"""A case: one method's maps on one batch, with everything that metrics share, each computed once when first read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch

from bench.engine.prober import (
    Counts,
    Job,
    Prober,
    blend,
    gaussian_blur,
    kernel_blur,
    probability,
    replace_ranked,
    target_log_odds,
    target_logits,
)
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.protocol import ProtocolView
from bench.randomness import generator, smooth_field
from bench.types import Truth


@dataclass(frozen=True)
class Spent:
    """What making the maps cost alone: network use in images, wall seconds, and the process's peak memory in MiB."""

    counts: Counts
    seconds: float
    peak_memory: float = float("nan")


class Rerun(Protocol):
    """The method behind a case's maps, as metrics see it: something to run again, with other parameters or not."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return every parameter, defaults included."""
        ...

    def __call__(self, trace: Trace, **parameters: Any) -> torch.Tensor:
        """Return the method's maps [B,H,W] of another trace."""
        ...


T = TypeVar("T")

Colour = tuple[float, float, float]

SMOOTH = "smooth_field"
"""The tie rule of `cambench-1`, and of metrics that do not say that they read it."""

MINIMUM = "minimum"
"""In place of a colour: each image's least value after normalisation, in all channels."""


class Background:
    """What all methods' cases on one batch share: blurred images and their logits, the tie-break order of pixels, and
    whatever else metrics make once per batch (attacked images, randomised networks, and their traces).
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._blurred: dict[Hashable, tuple[torch.Tensor, torch.Tensor]] = {}
        self._ties: dict[int, torch.Tensor] = {}
        self._shared: dict[Hashable, Any] = {}

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what several cases need, made by the first of them; key: says what it is, with its parameters."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]  # type: ignore[no-any-return]

    def blurred(self, sigma_224: float, radius_sigmas: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return blurred images [B,3,H,W] and their logits [B,C]; sigma = sigma_224 * min(H,W)/224 pixels."""
        sigma = sigma_224 * min(self.trace.size) / 224
        key = (sigma_224, radius_sigmas)
        return self._run_once(key, lambda: gaussian_blur(self.trace.images, sigma, radius_sigmas))

    def kernel_blurred(self, side: int, sigma: float, border: str, padding: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [B,3,H,W] blurred with a fixed kernel, and their logits [B,C] (see `kernel_blur`)."""
        fold = border == "fold"
        if padding == "reflect" and side // 2 >= min(self.trace.size):
            raise BenchError(
                f"A kernel of {side} pixels reflects beyond images of {min(self.trace.size)}; make kernel_side smaller."
            )
        return self._run_once(
            (side, sigma, fold, padding),
            lambda: kernel_blur(self.trace.images, side, sigma, fold=fold, padding=padding),
        )

    def empty(self, colour: Colour | str) -> torch.Tensor:
        """Return what is left where every pixel is removed: [1,3,1,1], or [B,3,1,1] for `MINIMUM`."""
        if not isinstance(colour, str):
            return self.trace.model.colour(colour)[None]
        return self.trace.images.amin((1, 2, 3), keepdim=True).expand(-1, self.trace.images.shape[1], 1, 1)

    def empty_logits(self, colour: Colour | str) -> torch.Tensor:
        """Return the logits of the empty image: [C], run once per model, or [B,C] for `MINIMUM`, once per image."""
        if not isinstance(colour, str):
            return self.trace.prober.colour_logits(colour, self.trace.size)
        return self._run_once(colour, lambda: self.empty(colour).expand_as(self.trace.images))[1]

    def _run_once(self, key: Hashable, make: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if key not in self._blurred:
            with torch.inference_mode():
                images = make().contiguous(memory_format=torch.channels_last)
                self._blurred[key] = images, self.trace.prober.logits(images)
        return self._blurred[key]

    def tie_order(self, seed: int) -> torch.Tensor:
        """Return pixel indices [B,N] by falling smooth field, then by index: the order of equal values."""
        if seed not in self._ties:
            fields = [smooth_field(generator(seed, "ties", i), *self.trace.size).flatten() for i in self.trace.ids]
            self._ties[seed] = torch.stack(fields).argsort(dim=1, descending=True, stable=True)
        return self._ties[seed]


Masking = tuple[Colour | str, int]
"""(colour behind the mask, number of thresholds)."""


def unit(maps: torch.Tensor) -> torch.Tensor:
    """Return unit(L) = mm(max(L,0)) of each map of [B,H,W], in [0,1]; a constant one becomes zeros."""
    return min_max(maps.clamp(min=0))


def min_max(maps: torch.Tensor) -> torch.Tensor:
    """Return mm(L) of each map of [B,H,W], in [0,1]; a constant one becomes zeros."""
    low, high = (reduced(maps.flatten(1), 1)[:, None, None] for reduced in (torch.amin, torch.amax))
    spread = high - low
    return torch.where(spread > 0, (maps - low) / torch.where(spread > 0, spread, 1.0), 0.0)


class Case:
    """One method's maps [B,H,W] on one batch, as a metric sees them.

    A metric reads: maps, trace (images, targets, logits, ids), truth, protocol (its declared fields), prober, and the
    shared quantities below. Maps with a non-finite value are zeros here; their scores become NaN afterwards.
    """

    def __init__(
        self,
        trace: Trace,
        maps: torch.Tensor,
        protocol: ProtocolView,
        *,
        background: Background | None = None,
        spent: Spent | None = None,
        seed: int = 0,
        rerun: Rerun | None = None,
    ) -> None:
        self.trace = trace
        self.finite = torch.isfinite(maps).flatten(1).all(1)
        self.maps = torch.where(self.finite[:, None, None], maps, 0.0).detach().cpu()
        self.protocol = protocol
        self.background = background or Background(trace)
        self.spent = spent
        self.seed = seed
        self.rerun = rerun
        self._threshold_log_odds: dict[Masking, dict[tuple[int, int, str], float]] = {}
        self._orders: dict[tuple[str, int], torch.Tensor] = {}
        self._ranks: dict[tuple[str, int], torch.Tensor] = {}

    def under(self, protocol: ProtocolView) -> Case:
        """Put this case under another metric's view of the protocol and return it; what is computed stays shared."""
        self.protocol = protocol
        return self

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def prober(self) -> Prober:
        """Return the prober."""
        return self.trace.prober

    @property
    def truth(self) -> Truth:
        """Return the ground truth of the label's objects."""
        return self.trace.truth

    @cached_property
    def truth_pixels(self) -> torch.Tensor | None:
        """Return the truth as pixels [B,H,W] bool (masks, else boxes filled), or None."""
        return self.truth.pixels(*self.trace.size)

    # --- the method again

    def again(self, trace: Trace, **parameters: Any) -> torch.Tensor:
        """Run the method again and return its maps [B,H,W]: of other images, another network or class (see `Trace`), or
        with other parameters.

        Counted like everything else. A map with a non-finite value is NaN everywhere.
        """
        if self.rerun is None:
            raise NotApplicable("Maps alone cannot be made again; give the method that made them.")
        maps = self.rerun(trace, **parameters)
        if trace is not self.trace:
            trace.drop_large()  # dozens of such traces live as long as the batch
        finite = torch.isfinite(maps).flatten(1).all(1)
        return torch.where(finite[:, None, None], maps, torch.nan)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what all methods' cases of this batch and these classes share, made once (see `Background`)."""
        return self.background.shared((key, tuple(self.trace.targets.tolist())), make)

    # --- views of the map

    @cached_property
    def positive(self) -> torch.Tensor:
        """Return max(L,0), [B,H,W]."""
        return self.maps.clamp(min=0)

    @cached_property
    def unit(self) -> torch.Tensor:
        """Return unit(L) = mm(max(L,0)) per map, [B,H,W] in [0,1]; zeros where there is no positive part."""
        return unit(self.positive)

    @cached_property
    def has_positive(self) -> torch.Tensor:
        """Return [B] bool: whether the map is above zero anywhere (of a constant one unit(L) is zeros all the same)."""
        return self.maps.flatten(1).amax(1) > 0

    @cached_property
    def ranged(self) -> torch.Tensor:
        """Return mm(L) per map, [B,H,W] float64 in [0,1]; zeros for a constant map."""
        return min_max(self.maps.double())

    @property
    def tie_rule(self) -> str:
        """Return the protocol's tie rule; for a metric that does not declare it, the smooth field."""
        return str(self.protocol.get("tie_rule", SMOOTH))

    @property
    def order(self) -> torch.Tensor:
        """Return pixel indices [B,N], most relevant first; equal values by the tie rule (protocol.md)."""
        return self.ordered(1)

    @property
    def rank(self) -> torch.Tensor:
        """Return the rank of every pixel [B,N] int32, 0 = most relevant."""
        return self.ranked(1)

    def ordered(self, channels: int) -> torch.Tensor:
        """Return the order [B,channels*N] of a pixel's channels by themselves, all of the pixel's value.

        Index channel*N + pixel. The smooth field keeps a pixel's channels together; the index rules go through the
        whole flattened image.
        """
        key = (self.tie_rule, channels)
        if key not in self._orders:
            values = self.maps.flatten(1).repeat(1, channels)
            ties = self._ties(*key)
            order = values.gather(1, ties).argsort(dim=1, descending=True, stable=True)
            self._orders[key] = ties.gather(1, order)
        return self._orders[key]

    def _ties(self, rule: str, channels: int) -> torch.Tensor:
        size, pixels = len(self), self.maps[0].numel()
        if rule == SMOOTH:
            field = self.background.tie_order(self.seed)
            return (field[:, :, None] + pixels * torch.arange(channels)).flatten(1)
        index = torch.arange(channels * pixels)
        return (index if rule == "first_index" else index.flip(0)).expand(size, -1)

    def ranked(self, channels: int) -> torch.Tensor:
        """Return the rank [B,channels*N] int32 of every channel of every pixel, 0 = most relevant; see `ordered`."""
        key = (self.tie_rule, channels)
        if key not in self._ranks:
            order = self.ordered(channels)
            places = torch.arange(order.shape[1], dtype=torch.int32).expand(order.shape)
            self._ranks[key] = torch.empty(order.shape, dtype=torch.int32).scatter_(1, order, places)
        return self._ranks[key]

    # --- probes

    @property
    def removed(self) -> Colour | str:
        """Return what the protocol puts in place of removed pixels: a pixel-space colour, or `MINIMUM`."""
        if self.protocol.removed == "minimum":
            return MINIMUM
        red, green, blue = self.trace.model.mean if self.protocol.removed == "zero" else self.protocol.baseline
        return red, green, blue

    @property
    def raw(self) -> bool:
        """Return whether the protocol's score is the logit itself."""
        return bool(self.protocol.get("score", "softmax") == "logit")

    def evidence(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the targets' log-odds [B], or logits under score = "logit", of logits [B,C] (or [C] for all)."""
        read = target_logits if self.raw else target_log_odds
        return read(logits.expand(len(self), -1), self.trace.targets)

    def run(self, job: Job) -> torch.Tensor:
        """Run a job; return the targets' log-odds [n], or logits under score = "logit"."""
        (values,) = (self.prober.target_logits if self.raw else self.prober.log_odds)([job], self.trace.size)
        return values

    def scored(self, evidence: torch.Tensor) -> torch.Tensor:
        """Return the protocol's score of log-odds (the probability) or logits (themselves)."""
        return evidence if self.raw else probability(evidence)

    def curve(self, first: torch.Tensor, second: torch.Tensor, cuts: list[int], channels: int = 1) -> torch.Tensor:
        """Return log-odds [B, len(cuts)] with the cuts[i] most relevant pixels from `first`, the rest from `second`.

        Logits under score = "logit".  channels: 3 where a pixel's channels are features of their own.
        """
        size, steps = len(self), len(cuts)
        rows = torch.arange(size).repeat_interleave(steps)
        wanted = torch.tensor(cuts).repeat(size)
        fill = replace_ranked(first, second, self.ranked(channels), rows, wanted)
        return self.run(Job(self.trace.targets[rows], fill)).view(size, steps)

    def masked_log_odds(self, colour: Colour | str, steps: Iterable[int], thresholds: int) -> torch.Tensor:
        """Return log-odds [B,T] of unit(L), cut at each step t, masking the image: m*x + (1-m)*b.

        At t the lowest floor(t*N/thresholds) pixels are set to 0 and the rest keeps its soft value. Cuts that only
        reach pixels that are 0 already change nothing, so they share the forward of t = 0.
        """
        steps = list(steps)
        known = self._threshold_log_odds.setdefault((colour, thresholds), {})
        zeros = (self.unit == 0).flatten(1).sum(1)
        pixels = self.unit[0].numel()
        wanted: list[tuple[int, int, str]] = []  # (image, step, tie rule) that have to be run
        place: dict[tuple[int, int], tuple[int, int, str]] = {}
        for image in range(len(self)):
            for t in steps:
                # Nothing is cut at t = 0, whatever the tie rule: metrics that read it and others share that mask.
                run = (image, t, self.tie_rule) if t * pixels // thresholds > int(zeros[image]) else (image, 0, "")
                place[image, t] = run
                if run not in known and run not in wanted:
                    wanted.append(run)
        if wanted:
            known.update(self._run_masks(wanted, colour, thresholds))
        table = [[known[place[i, t]] for t in steps] for i in range(len(self))]
        return torch.tensor(table, dtype=torch.float64)

    def cut(self, steps: torch.Tensor, thresholds: int, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return unit(L) of the images at `rows` [n] (default: all) with its lowest floor(t*N/thresholds) pixels set
        to 0, t = steps [n]: [n,H,W] in [0,1].
        """
        rows = torch.arange(len(self)) if rows is None else rows
        pixels = self.unit[0].numel()
        kept = self.rank[rows] < (pixels - steps * pixels // thresholds)[:, None]
        return self.unit[rows] * kept.view(-1, *self.trace.size)

    def _run_masks(
        self, wanted: list[tuple[int, int, str]], colour: Colour | str, thresholds: int
    ) -> dict[tuple[int, int, str], float]:
        rows = torch.tensor([image for image, _, _ in wanted])
        steps = torch.tensor([t for _, t, _ in wanted])
        height, width = self.trace.size

        def masks(index: torch.Tensor) -> torch.Tensor:
            return self.cut(steps[index], thresholds, rows[index])

        behind = self.background.empty(colour)
        fill = blend(self.trace.images, behind[0] if len(behind) == 1 else behind, rows, masks)
        (odds,) = self.prober.log_odds([Job(self.trace.targets[rows], fill)], (height, width))
        return dict(zip(wanted, odds.tolist(), strict=True))

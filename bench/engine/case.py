"""A case: one method's maps on one batch, with everything that metrics share, each computed once
when first read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch

from bench.engine.background import MINIMUM, Background, Colour, T
from bench.engine.counts import Spent
from bench.engine.fills import Fill, ranks_of, replace_ranked, take_rows
from bench.engine.map_ranges import min_max, unit
from bench.engine.prober import Job, Mode, Prober, probability, target_log_odds, target_logits
from bench.engine.probes import Key, Probes, digests
from bench.engine.rerun import Rerun
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.protocol import FLOAT32, ProtocolView
from bench.types import Truth

S = TypeVar("S", bound=Hashable)

SMOOTH = "smooth_field"
"""The tie rule of `cambench-1`, and of metrics that do not say that they read it."""


class Case:
    """One method's maps [B,H,W] on one batch, as a metric sees them.

    A metric reads: maps, trace (images, targets, logits, ids), truth, protocol (its declared
    fields), prober, and the shared quantities below. Maps with a non-finite value are zeros here;
    their scores become NaN afterwards. Maps are float32, or float64 where that would round them.

    reuses: take probes that other cases of the background have run. A method's own case does not,
    so that what it costs does not depend on who came before.  asked, probed: forwards that the
    metric at hand has asked for, and those of them that are probes.
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
        reuses: bool = False,
    ) -> None:
        self.trace = trace
        self.finite = torch.isfinite(maps).flatten(1).all(1)
        self.maps = torch.where(self.finite[:, None, None], maps, 0.0).detach().cpu()
        self.protocol = protocol
        self.background = background or Background(trace)
        self.spent = spent
        self.seed = seed
        self.rerun = rerun
        self.asked = self.probed = 0
        self.probes = self.background.probes if reuses else Probes(trace.prober, trace.size)
        self._digests: dict[Hashable, list[bytes]] = {}
        self._shown: dict[
            Colour | str, torch.Tensor
        ] = {}  # the images under unit(L), by what is behind them
        self._orders: dict[tuple[str, int], torch.Tensor] = {}
        self._ranks: dict[tuple[str, int], torch.Tensor] = {}

    def set_view(self, protocol: ProtocolView) -> Case:
        """Give this case another metric's view of the protocol, and return the case.

        What was computed before stays.
        """
        self.protocol = protocol
        self.asked = self.probed = 0
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

    def run_method(self, trace: Trace, **parameters: Any) -> torch.Tensor:
        """Run the method again and return its maps [B,H,W].

        The trace can hold other images, another network or another class (see `Trace`). The run
        counts as work of the metric. A map with a non-finite value is NaN everywhere.
        """
        if self.rerun is None:
            raise NotApplicable("Maps alone cannot be made again; give the method that made them.")
        before = self.prober.counts.forwards
        maps = self.rerun(trace, **parameters)
        self.asked += self.prober.counts.forwards - before
        if trace is not self.trace:
            trace.drop_large()  # dozens of such traces live as long as the batch
        finite = torch.isfinite(maps).flatten(1).all(1)
        return torch.where(finite[:, None, None], maps, torch.nan)

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what all cases of this batch and these classes share, computed once.

        See `Background`.
        """
        asked = self.asked
        made, forwards = self.background.share((key, tuple(self.trace.targets.tolist())), make)
        self.asked = asked + forwards  # those of making it are in there
        return made

    # --- views of the map

    @cached_property
    def positive(self) -> torch.Tensor:
        """Return max(L,0), [B,H,W]."""
        return self.maps.clamp(min=0)

    @cached_property
    def unit(self) -> torch.Tensor:
        """Return unit(L) = mm(max(L,0)) per map, [B,H,W] in [0,1]; zeros where there is no positive
        part.
        """
        if self.maps.dtype != torch.float64:
            return unit(self.positive)
        # A map that float32 holds has the unit(L) that it has alone, whatever its neighbours.
        single = self.positive.float()
        exact = (single.double() == self.positive).flatten(1).all(1)[:, None, None]
        return torch.where(exact, unit(single), unit(self.positive).float())

    @cached_property
    def has_positive(self) -> torch.Tensor:
        """Return [B] bool: whether the map is above zero anywhere (of a constant one unit(L) is
        zeros all the same).
        """
        return self.maps.flatten(1).amax(1) > 0

    @cached_property
    def ranged(self) -> torch.Tensor:
        """Return mm(L) per map, [B,H,W] float64 in [0,1]; zeros for a constant map."""
        return min_max(self.maps.double())

    @property
    def tie_rule(self) -> str:
        """Return the protocol's tie rule; for a metric that does not declare it, the smooth
        field.
        """
        return str(self.protocol.get("tie_rule", SMOOTH))

    @property
    def order(self) -> torch.Tensor:
        """Return pixel indices [B,N], most relevant first; equal values by the tie rule
        (protocol.md).
        """
        return self.order_features(1)

    @property
    def rank(self) -> torch.Tensor:
        """Return the rank of every pixel [B,N] int32, 0 = most relevant."""
        return self.rank_features(1)

    def order_features(self, channels: int) -> torch.Tensor:
        """Return the order [B,channels*N] of a pixel's channels by themselves, all of the pixel's
        value.

        Index channel*N + pixel. The smooth field keeps a pixel's channels together; the index rules
        go through the whole flattened image.
        """
        key = (self.tie_rule, channels)
        if key not in self._orders:
            device = self.trace.images.device  # a GPU sorts as the CPU does: stably
            values = self.maps.to(device).flatten(1).repeat(1, channels)
            ties = self._ties(*key).to(device)
            order = values.gather(1, ties).argsort(dim=1, descending=True, stable=True)
            self._orders[key] = ties.gather(1, order).cpu()
        return self._orders[key]

    def _ties(self, rule: str, channels: int) -> torch.Tensor:
        size, pixels = len(self), self.maps[0].numel()
        if rule == SMOOTH:
            field = self.background.tie_order(self.seed)
            return (field[:, :, None] + pixels * torch.arange(channels)).flatten(1)
        index = torch.arange(channels * pixels)
        return (index if rule == "first_index" else index.flip(0)).expand(size, -1)

    def rank_features(self, channels: int) -> torch.Tensor:
        """Return the rank [B,channels*N] int32 of every channel of every pixel, 0 = most relevant;
        see `ordered`.
        """
        key = (self.tie_rule, channels)
        if key not in self._ranks:
            self._ranks[key] = ranks_of(self.order_features(channels))
        return self._ranks[key]

    # --- probes

    @property
    def removed(self) -> Colour | str:
        """Return what the protocol puts in place of removed pixels: a pixel-space colour, or
        `MINIMUM`.
        """
        if self.protocol.removed == "minimum":
            return MINIMUM
        if self.protocol.removed == "zero":
            return self.trace.model.mean
        return tuple(self.protocol.baseline)

    @property
    def raw(self) -> bool:
        """Return whether the protocol's score is the logit itself."""
        return bool(self.protocol.get("score", "softmax") == "logit")

    @property
    def precision(self) -> str:
        """Return the precision of what the metric at hand probes; passes, gradients and ends of
        curves are float32.
        """
        return str(self.protocol.get("precision", FLOAT32))

    @property
    def mode(self) -> Mode:
        """Return how the metric at hand probes."""
        return Mode(self.raw, self.precision)

    def evidence(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the targets' log-odds [B], or logits under score = "logit", of logits [B,C] (or
        [C] for all).
        """
        self.asked += len(self)
        read = target_logits if self.raw else target_log_odds
        return read(logits.expand(len(self), -1), self.trace.targets)

    def run(self, job: Job) -> torch.Tensor:
        """Run a job now; return the targets' log-odds [n], or logits under score = "logit"."""
        self.asked += len(job)
        (values,) = self.prober.start([job], self.trace.size, self.mode).values()
        return values

    def score_evidence(self, evidence: torch.Tensor) -> torch.Tensor:
        """Return the protocol's score of log-odds (the probability) or logits (themselves)."""
        return evidence if self.raw else probability(evidence)

    def curve(
        self, first: torch.Tensor, second: torch.Tensor, cuts: list[int], channels: int = 1
    ) -> torch.Tensor:
        """Return log-odds [B, len(cuts)] with the cuts[i] most relevant pixels from `first`, the
        rest from `second`.

        Logits under score = "logit".  channels: those of the images where a pixel's
        channels are features of their own.
        """

        def fill(rows: torch.Tensor, steps: list[int]) -> Fill:
            return replace_ranked(
                first, second, self.order_features(channels), rows, torch.tensor(steps)
            )

        names = [self._name(images) for images in (first, second)]
        if None in names:  # images of the metric's own: nobody else can have run them
            rows = torch.arange(len(self)).repeat_interleave(len(cuts))
            job = Job(self.trace.targets[rows], fill(rows, cuts * len(self)))
            return self.run(job).view(len(self), len(cuts))
        return self.probe_ranking(("curve", *names), cuts, fill, channels)

    def _name(self, images: torch.Tensor) -> Hashable:
        return "images" if images is self.trace.images else self.background.name_of(images)

    def probe_ranking(
        self,
        recipe: Key,
        steps: list[S],
        fill: Callable[[torch.Tensor, list[S]], Fill],
        channels: int = 1,
        names: Sequence[Hashable] | None = None,
        mode: Mode | None = None,
    ) -> torch.Tensor:
        """Return log-odds [B, len(steps)], or logits under score = "logit", of images that follow
        from the ranking, or from what has these names [B].

        recipe, steps: say, with the ranking of each image's pixels, what its images are; who asks
        for the same gets the same forward.  fill: writes the images of these rows [n] at these
        steps, n of them.
        """
        rankings = names or self._digest_images("order", channels)
        wanted = [(row, ranking, step) for row, ranking in enumerate(rankings) for step in steps]
        values = self._probe((*recipe, channels), wanted, fill, mode or self.mode)
        return values.view(len(self), len(steps))

    def _digest_images(self, what: str, channels: int = 1) -> list[bytes]:
        """Return a digest of each image's order ("order") or of its unit(L) ("unit")."""
        key = (what, self.tie_rule if what == "order" else "", channels)
        if key not in self._digests:
            self._digests[key] = digests(
                self.order_features(channels) if what == "order" else self.unit
            )
        return self._digests[key]

    def _probe(
        self,
        recipe: Key,
        wanted: Sequence[tuple[int, Hashable, S]],
        fill: Callable[[torch.Tensor, list[S]], Fill],
        mode: Mode,
    ) -> torch.Tensor:
        """Return log-odds or raw logits [n] of the wanted probes: (image's row, what it follows
        from, step).
        """
        targets = self.trace.targets.tolist()
        keys = [(recipe, mode, row, targets[row], source, step) for row, source, step in wanted]

        def job(places: list[int]) -> Job:
            rows = torch.tensor([wanted[place][0] for place in places])
            return Job(self.trace.targets[rows], fill(rows, [wanted[place][2] for place in places]))

        values = self.probes.values(keys, job, mode)
        self.asked += len(wanted)
        self.probed += len(wanted)
        if self.probes is not self.background.probes:
            self.background.probes.publish(dict(zip(keys, values, strict=True)))
        return torch.tensor(values, dtype=torch.float64)

    def probe_masks(
        self, colour: Colour | str, steps: Iterable[int], thresholds: int
    ) -> torch.Tensor:
        """Return log-odds [B,T] of unit(L), cut at each step t, masking the image: m*x + (1-m)*b.

        At t the lowest floor(t*N/thresholds) pixels are set to 0 and the rest keeps its soft value.
        Cuts that only reach pixels that are 0 already change nothing, so they share the forward of
        t = 0.
        """
        pixels = self.unit[0].numel()
        removed = [t * pixels // thresholds for t in steps]
        zeros = (self.unit == 0).flatten(1).sum(1).tolist()
        # Nothing is cut at t = 0, whatever the order: metrics that read it and others share that
        # mask, and one that reads no other (average drop) need not sort the pixels.
        cuts = any(cut > none for cut in removed for none in zeros)
        orders = self._digest_images("order") if cuts else [b""] * len(self)
        wanted: list[tuple[int, Hashable, int]] = [
            (row, (unit, order), pixels - cut) if cut > zeros[row] else (row, unit, pixels)
            for row, (unit, order) in enumerate(
                zip(self._digest_images("unit"), orders, strict=True)
            )
            for cut in removed
        ]
        # Not folded: average increase and gain ask whether a mask leaves more than the clean image
        # has.
        mode = Mode(precision=self.precision, folded=False)
        odds = self._probe(
            ("masked", colour), wanted, lambda *places: self._write_masked(colour, *places), mode
        )
        return odds.view(len(self), len(removed))

    def _write_masked(self, colour: Colour | str, rows: torch.Tensor, kept: list[int]) -> Fill:
        """Write the images at `rows` [n] under unit(L), of which the first `kept` pixels are kept
        and the rest is 0.
        """
        behind = self.background.empty(colour)
        if colour not in self._shown:
            images = self.trace.images.contiguous(memory_format=torch.channels_last)
            mask = self.unit.to(images.device)[:, None]
            self._shown[colour] = torch.lerp(
                behind.expand_as(images), images, mask.expand_as(images)
            )
        if min(kept) == self.unit[0].numel():
            return take_rows(self._shown[colour], rows)
        return replace_ranked(self._shown[colour], behind, self.order, rows, torch.tensor(kept))

    def cut(
        self, steps: torch.Tensor, thresholds: int, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return unit(L) of the images at `rows` [n] (default: all) with its lowest
        floor(t*N/thresholds) pixels set to 0, t = steps [n]: [n,H,W] in [0,1].
        """
        rows = torch.arange(len(self)) if rows is None else rows
        pixels = self.unit[0].numel()
        kept = self.rank[rows] < (pixels - steps * pixels // thresholds)[:, None]
        return self.unit[rows] * kept.view(-1, *self.trace.size)

"""A case: one method's maps on one batch, with everything that metrics share, each computed once
when first read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch

from bench.engine.background import Background, Colour, T
from bench.engine.counts import Spent
from bench.engine.fills import Fill, replace_ranked, take_rows
from bench.engine.map_views import SMOOTH as SMOOTH
from bench.engine.map_views import MapViews
from bench.engine.probe_rules import ProbeRules
from bench.engine.prober import Job, Mode, Prober, target_log_odds, target_logits
from bench.engine.probes import Key, Probes, digests
from bench.engine.rerun import Rerun
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.protocol import ProtocolView
from bench.types import Truth

S = TypeVar("S", bound=Hashable)


class Case(MapViews, ProbeRules):
    """One method's maps on one batch, with everything that metrics share; metrics read it.

    A map with a non-finite value is zeros here; its scores become NaN afterwards. Maps are float32,
    or float64 where that would round them.

    Args:
        trace: The pass over the batch: images, targets, logits, ids.
        maps: Maps [B,H,W], higher = more evidence for the target.
        protocol: The protocol fields that the metric declared.
        background: What all cases of the batch share; None makes one.
        spent: What the maps cost; None where it is not known.
        seed: Seed of the order of equal values.
        rerun: Runs the method again; None where only its maps are known.
        reuses: Take probes that other cases of the background have run. A method's own case does
            not, so that its cost does not depend on the methods before it.

    Attributes:
        finite: Whether each map is finite, [B] bool.
        asked: Forwards that the metric at hand has asked for.
        probed: Those of them that are probes.

    Example:
        >>> one = Case(trace, maps, bench.Protocol().view(("steps",)))
        >>> one.unit.shape, one.protocol.steps
        (torch.Size([2, 8, 8]), 28)
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
        super().__init__()
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

    def set_view(self, protocol: ProtocolView) -> Case:
        """Give this case another metric's view of the protocol; values computed before stay.

        Args:
            protocol: The protocol fields that the metric declared.

        Returns:
            This case.

        Example:
            >>> case.set_view(case.protocol) is case
            True
        """
        self.protocol = protocol
        self.asked = self.probed = 0
        return self

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def prober(self) -> Prober:
        """Return the prober that runs perturbed images."""
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
        """Run the method again and return its maps.

        The trace can hold other images, another network or another class (see `Trace`). The run
        counts as work of the metric.

        Args:
            trace: The pass to explain.
            parameters: Parameters of the method that differ from those of the case.

        Returns:
            Maps [B,H,W]. A map with a non-finite value is NaN everywhere.

        Raises:
            NotApplicable: The case has maps alone, or the method has no such parameter.

        Example:
            >>> case.run_method(trace)
            Traceback (most recent call last):
            ...
            bench.errors.NotApplicable: Maps alone cannot be made again; give the method that made
            them.
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
        """Return a value that all cases of this batch and these classes share, computed once.

        Args:
            key: Names the value and its parameters.
            make: Computes the value.

        Returns:
            The value.

        Example:
            >>> case.share("brightness", lambda: trace.images.mean((1, 2, 3))).shape
            torch.Size([2])
        """
        asked = self.asked
        made, forwards = self.background.share((key, tuple(self.trace.targets.tolist())), make)
        self.asked = asked + forwards  # those of making it are in there
        return made

    # --- probes

    def evidence(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the targets' log-odds of logits, or their logits under score = "logit".

        They count as B forwards that the metric asked for.

        Args:
            logits: Logits [B,C], or [C] for all images.

        Returns:
            Evidence [B] float64, on the CPU.

        Example:
            >>> case.evidence(trace.logits).dtype
            torch.float64
        """
        self.asked += len(self)
        read = target_logits if self.raw else target_log_odds
        return read(logits.expand(len(self), -1), self.trace.targets)

    def run(self, job: Job) -> torch.Tensor:
        """Run a job now.

        Args:
            job: Perturbed images and their targets.

        Returns:
            The targets' log-odds [n] float64, or their logits under score = "logit".

        Example:
            >>> job = Job(trace.targets, lambda out, index: out.copy_(trace.images[index]))
            >>> torch.allclose(case.run(job), trace.log_odds)
            True
        """
        self.asked += len(job)
        (values,) = self.prober.start([job], self.trace.size, self.mode).values()
        return values

    def curve(
        self, first: torch.Tensor, second: torch.Tensor, cuts: list[int], channels: int = 1
    ) -> torch.Tensor:
        """Return the evidence at each step of a curve from one image to another.

        At cut i the cuts[i] most relevant pixels come from `first`, and the others from `second`.

        Args:
            first: Images [B,C,H,W] or a colour [1,C,1,1], normalised.
            second: The images below, of such a shape.
            cuts: Numbers of pixels (of features, where `channels` is not 1), 0 to N each.
            channels: Channels of a pixel that count by themselves; 1 moves whole pixels.

        Returns:
            Log-odds [B, len(cuts)] float64, or logits under score = "logit".

        Example:
            >>> case.curve(trace.images * 0, trace.images, [0, 32, 64]).shape
            torch.Size([2, 3])
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
        """Return the evidence of images that follow from the ranking of the pixels.

        Two metrics that ask for the same recipe, ranking and step share one forward.

        Args:
            recipe: Names what the images are, together with the ranking and the step.
            steps: The steps of each image; they can be hashed.
            fill: Is called with rows [n] and their n steps; it returns a function that writes the
                images.
            channels: Channels of a pixel that count by themselves.
            names: What the images follow from [B], in place of the ranking; None takes the ranking.
            mode: How the prober runs them; None takes the mode of the metric at hand.

        Returns:
            Log-odds [B, len(steps)] float64, or logits under score = "logit".

        Example:
            >>> from bench.engine.fills import take_rows
            >>> dark = trace.images * 0
            >>> case.probe_ranking(("dark",), [0], lambda rows, steps: take_rows(dark, rows)).shape
            torch.Size([2, 1])
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
        """Return log-odds of the images masked by unit(L): m*x + (1-m)*b.

        At step t the lowest floor(t*N/thresholds) pixels of m are set to 0, and the others keep
        their value. Cuts that only reach pixels that are 0 already share the forward of t = 0.

        Args:
            colour: The background b: a pixel-space colour, or `MINIMUM`.
            steps: Steps t, 0 to thresholds.
            thresholds: Number of steps that would remove everything.

        Returns:
            Log-odds [B,T] float64.

        Example:
            >>> case.probe_masks((0.5, 0.5, 0.5), range(3), thresholds=10).shape
            torch.Size([2, 3])
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

"""The trace: what one shared pass over a batch yields and every method reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.engine.image_sizes import explain_size
from bench.engine.output_gradients import collect_output_gradients
from bench.engine.part_store import PartStore
from bench.engine.prober import Prober, target_log_odds
from bench.engine.target_classes import check_targets
from bench.errors import BenchError, NotApplicable
from bench.models.behaviour import depends_on_image, describe_missing_gradient, has_gradient
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network, leave_modes
from bench.models.split import Captured
from bench.randomness import generator, image_id_of
from bench.types import Truth
from bench.work_stages import look_at_work

T = TypeVar("T")

REPLAYED, REPLAYED_BYTES = 128, 2**24
"""How many replays of the head run at once: a head is small beside its network, so more than whole
forwards. So many at most, and not more activations than so many bytes, so that what a small head
reads stays in the cache."""


class Trace(PartStore):
    """One pass over a batch, seen from one class per image.

    images: [B,3,H,W] float32, normalised.  targets: [B] int64.  logits: [B,C].  activations A:
    [B,K,h,w]. gradients G = dS_c/dA: [B,K,h,w], computed through the head alone, once, when first
    read. input_gradients dS_c/dx: [B,3,H,W], one forward and backward, once, when first read. ids:
    image ids, the source of every draw.  truth: ground truth of the label's objects.  wanted_maps:
    ids of the methods whose maps several methods want; traces made of this one want them, too.
    """

    wanted_maps: frozenset[str] = frozenset()

    def __init__(
        self,
        prober: Prober,
        images: torch.Tensor,
        targets: torch.Tensor | None = None,
        *,
        ids: Sequence[str] | None = None,
        truth: Truth | None = None,
        seed: int = 0,
        captured: Captured | None = None,
    ) -> None:
        super().__init__(prober, images)
        self.truth = truth or Truth()
        self.seed = seed
        self._ids = None if ids is None else tuple(ids)
        if self._ids is not None and len(self._ids) != len(images):
            raise BenchError(
                f"ids has {len(self._ids)} entries for {len(images)} images; give one each."
            )
        if captured is None:
            with self._clock("pass"):
                captured = self._run()
        self.captured = captured
        self.targets = self._check_targets(targets)

    def _run(self) -> Captured:
        images = self.images.contiguous(memory_format=torch.channels_last)
        model = self.model
        try:
            with leave_modes(), guard_network(model.net), torch.no_grad():
                captured = model.capture(images)
                model.behaviour.check(model.net, model.name, images, captured.logits)
        except Exception as error:
            explain_size(error, self.size, model.frame, model.name)
            raise
        self.prober.counts.forwards += len(images)
        return captured

    def _check_targets(self, targets: torch.Tensor | None) -> torch.Tensor:
        if targets is None:
            return self.predicted
        return check_targets(targets, len(self.images), self.logits.shape[1], self.model.name)

    # --- what methods read

    def __len__(self) -> int:
        return len(self.images)

    @property
    def model(self) -> Explainee:
        """Return the model under explanation."""
        return self.prober.model

    @property
    def size(self) -> tuple[int, int]:
        """Return (H, W)."""
        return self.images.shape[-2], self.images.shape[-1]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Return the image ids; images without one are named by a hash of their bytes."""
        return (
            self._ids
            if self._ids is not None
            else tuple(image_id_of(image) for image in self.images)
        )

    @property
    def logits(self) -> torch.Tensor:
        """Return the logits [B,C]."""
        return self.captured.logits

    @property
    def predicted(self) -> torch.Tensor:
        """Return the predicted classes [B] int64."""
        return self.logits.argmax(1).cpu()

    @cached_property
    def log_odds(self) -> torch.Tensor:
        """Return the targets' log-odds on the clean images, [B] float64."""
        return self._note("log_odds", target_log_odds(self.logits, self.targets))

    @property
    def target_logits(self) -> torch.Tensor:
        """Return S_c [B]."""
        return self.select_targets(self.logits)

    def select_targets(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the targets' logits [B] of logits [B,C]."""
        return logits.gather(1, self.targets.to(logits.device)[:, None])[:, 0]

    @cached_property
    def activations(self) -> torch.Tensor:
        """Return the explained layer's activations A [B,K,h,w]."""
        grid = self.model.grid(self.captured.values, self.captured.size)
        return self._note("activations", grid)

    @property
    def gradients(self) -> torch.Tensor:
        """Return G = dS_c/dA [B,K,h,w]."""
        self.read.add("gradients")
        return self._gradients

    @cached_property
    def _gradients(self) -> torch.Tensor:
        with self._clock("gradients"):
            return self._note("gradients", self.head_gradients(self.select_targets))

    def _check_reach(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return gradients [B,K,h,w]; all zero is an error where the layer's grid does not reach
        the logits, or reaches them and the network cuts the graph on the way. So is a part that is
        cut off.
        """
        if not len(self):
            return gradients
        if bool(gradients.any()):
            self._check_cut()
            return gradients
        name, layer = self.model.name, f"layer {self.model.layer!r}"
        if not self._layer_matters():
            if not depends_on_image(self.model.net, self.images[:1]):
                raise NotApplicable(
                    f"No logit of {name} depends on the image; are the weights of its classifier "
                    "zero, as before a training?"
                )
            raise NotApplicable(
                f"No position of {layer} of {name} reaches the logits; choose an earlier layer."
            )
        # One dead target logit says nothing: all logits are looked at.
        rows = torch.arange(len(self))
        with guard_network(self.model.net):
            if not has_gradient(lambda grid: self.head(grid, rows), self._layer_noise()):
                raise NotApplicable(describe_missing_gradient(name, layer))
        return gradients

    def _check_cut(self) -> None:
        """Refuse gradients at the layer that miss a part of the network; found once per layer."""
        model, rows = self.model, torch.zeros(2, dtype=torch.long)
        own = self.captured.values_at(rows)

        def head(grid: torch.Tensor) -> torch.Tensor:
            values = model.ungrid(grid, own, self.captured.size)
            return model.split.head(values, self.captured, rows)

        model.behaviour.require_layer_gradient(
            model.net, model.name, model.layer, head, self.activations[:1]
        )

    def _layer_noise(self) -> torch.Tensor:
        noise = torch.rand(self.activations.shape, generator=generator(self.seed, "layer"))
        return noise.to(self.activations.device)

    def _layer_matters(self) -> bool:
        """Return whether any logit depends on the layer's grid; behind a class token that pools
        alone none does.

        One dead target logit says nothing: another activation and all logits are looked at.
        """
        rows = torch.arange(len(self))
        noise = self._layer_noise()
        with guard_network(self.model.net), torch.no_grad():
            return not torch.equal(self.head(noise, rows), self.head(2 * noise, rows))

    @property
    def input_gradients(self) -> torch.Tensor:
        """Return dS_c/dx [B,3,H,W]."""
        self.read.add("input_gradients")
        return self._input_gradients

    @cached_property
    def _input_gradients(self) -> torch.Tensor:
        images = self.images.detach().clone().requires_grad_()
        with self._clock("input_gradients"), guard_network(self.model.net), torch.enable_grad():
            logits = self.prober.logits(images)
            (gradients,) = torch.autograd.grad(self.select_targets(logits).sum(), images)
            self.prober.counts.backwards += len(self)
        return self._note("input_gradients", gradients)

    def head(self, activations: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return logits [n,C] of the head alone; activations [n,K,h,w] replace those of the images
        at `rows` [n].
        """
        own = self.captured.values_at(rows)
        values = self.model.ungrid(activations, own, self.captured.size)
        self.prober.counts.head_forwards += len(values)
        look_at_work()
        return self.model.split.head(values, self.captured, rows)

    @torch.inference_mode()
    def replace_channels(self, instead: torch.Tensor | None = None) -> torch.Tensor:
        """Return the targets' logits with each channel in turn replaced, [B,K]; K replays of the
        head per image.

        instead: what replaces the channels, [B,K,h,w]; None replaces them by 0.
        """
        images, channels = self.activations.shape[:2]
        count = min(channels, self._replays())
        logits = torch.empty(images, channels, device=self.activations.device)
        for image, own in enumerate(self.activations):
            # Only the channels that are replaced are written, and put back: no copy per replay.
            held = own.expand(count, -1, -1, -1).clone()
            for index in torch.split(torch.arange(channels), count):
                place, rows = torch.arange(len(index)), torch.full((len(index),), image)
                held[place, index] = 0 if instead is None else instead[image, index]
                logits[image, index] = self.head(held[: len(index)], rows)[:, self.targets[image]]
                held[place, index] = own[index]
        return logits

    def _replays(self) -> int:
        """Return how many replays of the head run at once: batches, more of small activations."""
        one = self.activations[:1].numel() * self.activations.element_size()
        return max(self.prober.batch_size, min(REPLAYED, REPLAYED_BYTES // max(one, 1)))

    def head_gradients(self, score: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return d score / dA [B,K,h,w] of another score of the head's logits [B,C] than the
        target's logit.

        score: logits [B,C] -> one number per image [B].
        """
        return self._differentiate_head(score, twice=False)[0]

    def differentiate_twice(
        self, score: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return d score / dA and H A, [B,K,h,w] each, with H the score's Hessian in A; score as
        for `head_gradients`.
        """
        return self._differentiate_head(score, twice=True)

    def _differentiate_head(
        self, score: Callable[[torch.Tensor], torch.Tensor], twice: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Attention's fast kernels cannot be differentiated twice.
        kernel = sdpa_kernel(SDPBackend.MATH) if twice else nullcontext()
        with guard_network(self.model.net), torch.enable_grad(), kernel:
            grid = self.activations.detach().clone().requires_grad_()
            curvature = torch.zeros_like(grid)
            total = score(self.head(grid, torch.arange(len(self)))).sum()
            if not total.requires_grad:  # a network that does not read the layer at all
                return self._check_reach(torch.zeros_like(grid)), curvature
            (gradients,) = torch.autograd.grad(total, grid, create_graph=twice)
            self.prober.counts.head_backwards += len(self)
            if twice:
                inner = (gradients * grid.detach()).sum()
                # A head that is linear has no graph behind its gradient: its Hessian is zero.
                if inner.requires_grad:
                    (curvature,) = torch.autograd.grad(inner, grid)
                self.prober.counts.head_backwards += len(self)
        return self._check_reach(gradients.detach()), curvature.detach()

    def taps(self, layers: Sequence[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return {layer: (output, dS_c / d output)} of several modules, from one whole forward and
        backward.

        Outputs are in the network's own layout. A module that runs several times, that returns no
        single tensor, or that does not reach the target's logit, is left out.
        """

        def make() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
            outputs: dict[str, torch.Tensor] = {}
            gradients = self.output_gradients(layers, lambda _, gradient: gradient, outputs)
            return {name: (outputs[name], gradients[name]) for name in layers if name in gradients}

        return self.share(f"taps {' '.join(layers)}", make)

    def output_gradients(
        self,
        layers: Sequence[str],
        keep: Callable[[str, torch.Tensor], T],
        outputs: dict[str, torch.Tensor] | None = None,
    ) -> dict[str, T]:
        """Return {layer: keep(layer, dS_c / d output)}, from one whole forward and backward; as
        `taps` leaves out.

        keep: called as each gradient arrives, so that many layers' gradients need not be held at
        once. outputs: is given a copy of each output.
        """
        gradients = collect_output_gradients(
            self.model.net,
            layers,
            self.images,
            lambda images: self.select_targets(self.prober.logits(images)).sum(),
            keep,
            outputs,
        )
        self.prober.counts.backwards += len(self)
        return gradients

    def upsample(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps [B,h,w] (or [B,K,h,w]) at image size: bilinear, align_corners=False."""
        if maps.ndim == 3:
            return self.upsample(maps[:, None])[:, 0]
        return F.interpolate(maps, size=self.size, mode="bilinear", align_corners=False)

    def generators(self, purpose: str) -> list[torch.Generator]:
        """Return one seeded generator per image, for draws of this purpose."""
        return [generator(self.seed, purpose, image_id) for image_id in self.ids]

    # --- other views of the same pass

    def trace_images(self, images: torch.Tensor) -> Trace:
        """Trace other images [B,3,H,W] in the place of these, for the same classes.

        This takes one more pass.
        """
        return self._trace_again(self.prober, images)

    def trace_network(self, prober: Prober) -> Trace:
        """Trace the same images and classes through another prober's network.

        This takes one more pass.
        """
        return self._trace_again(prober, self.images)

    def _trace_again(self, prober: Prober, images: torch.Tensor) -> Trace:
        other = Trace(prober, images, self.targets, ids=self.ids, truth=self.truth, seed=self.seed)
        other.wanted_maps = self.wanted_maps
        return other

    def trace_layer(self, layer: str) -> Trace:
        """Trace the same images at another layer of the same network; this takes one more pass.

        The new trace has the seed and the counts of this one. It is not kept: every method that
        calls this pays for a pass.
        """
        other = self._trace_again(self.prober.cut_at(layer), self.images)
        other.wanted_maps = frozenset()
        return other

    def retarget(self, targets: torch.Tensor) -> Trace:
        """Return the same pass seen from other classes [B]; only the head's gradient is computed
        anew.
        """
        return self.select(torch.arange(len(self)), targets)

    def select(self, rows: torch.Tensor, targets: torch.Tensor | None = None) -> Trace:
        """Return the pass of the images at `rows` [n], seen from `targets` [n] (default: the same
        classes).
        """
        other = Trace(
            self.prober,
            self.images[rows],
            self.targets[rows] if targets is None else targets,
            ids=[self.ids[i] for i in rows.tolist()],
            truth=self.truth.select(rows),
            seed=self.seed,
            captured=self.captured.select(rows),
        )
        other.wanted_maps = self.wanted_maps
        return other

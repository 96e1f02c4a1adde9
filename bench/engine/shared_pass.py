"""One shared pass over a batch: its logits, activations and gradients, and replays of the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.engine.image_sizes import explain_size
from bench.engine.part_store import PartStore
from bench.engine.prober import Prober, target_log_odds
from bench.engine.target_classes import check_targets
from bench.errors import BenchError, NotApplicable
from bench.models.behaviour import (
    depends_on_image,
    describe_missing_gradient,
    has_gradient,
)
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


class SharedPass(PartStore):
    """One shared forward pass over a batch: what it gives, and replays of the head.

    `bench.engine.trace.Trace` says what its arguments are, and what it raises.

    Attributes:
        wanted_maps: Ids of the methods whose maps several methods want. Traces that are made of
            this one want them, too.
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
        """Return the images' (H, W) in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Return the image ids; an image without one is named by a hash of its bytes."""
        return (
            self._ids
            if self._ids is not None
            else tuple(image_id_of(image) for image in self.images)
        )

    @property
    def logits(self) -> torch.Tensor:
        """Return the logits [B,C] float32, on the network's device."""
        return self.captured.logits

    @property
    def predicted(self) -> torch.Tensor:
        """Return the predicted classes [B] int64, on the CPU."""
        return self.logits.argmax(1).cpu()

    @cached_property
    def log_odds(self) -> torch.Tensor:
        """Return the targets' log-odds on the clean images, [B] float64 on the CPU."""
        return self._note("log_odds", target_log_odds(self.logits, self.targets))

    @property
    def target_logits(self) -> torch.Tensor:
        """Return the targets' logits S_c [B] float32."""
        return self.select_targets(self.logits)

    def select_targets(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the targets' entries of logits.

        Args:
            logits: Logits [B,C] of this batch's images.

        Returns:
            The targets' logits [B], on the device of `logits`.

        Example:
            >>> trace.select_targets(trace.logits).shape
            torch.Size([2])
        """
        return logits.gather(1, self.targets.to(logits.device)[:, None])[:, 0]

    @cached_property
    def activations(self) -> torch.Tensor:
        """Return the explained layer's activations A [B,K,h,w]."""
        grid = self.model.grid(self.captured.values, self.captured.size)
        return self._note("activations", grid)

    @property
    def gradients(self) -> torch.Tensor:
        """Return G = dS_c/dA [B,K,h,w], from one backward through the head when first read.

        Raises:
            NotApplicable: No logit depends on the layer's grid, or the network cuts the graph.
        """
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
        """Return dS_c/dx [B,C,H,W], from one forward and one backward when first read.

        Raises:
            NotApplicable: The network cuts the graph between image and logits.
        """
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
        """Return logits of the head alone, on other activations.

        Each row counts as one replay of the head. Autograd follows it where that is on.

        Args:
            activations: Activations [n,K,h,w] that replace the layer's output.
            rows: Images [n] int64 of this batch that they stand for.

        Returns:
            Logits [n,C].

        Example:
            >>> trace.head(trace.activations[:1] * 0, torch.tensor([0])).shape
            torch.Size([1, 3])
        """
        own = self.captured.values_at(rows)
        values = self.model.ungrid(activations, own, self.captured.size)
        self.prober.counts.head_forwards += len(values)
        look_at_work()
        return self.model.split.head(values, self.captured, rows)

    @torch.inference_mode()
    def replace_channels(self, instead: torch.Tensor | None = None) -> torch.Tensor:
        """Return the targets' logits with each channel in turn replaced.

        This takes K replays of the head for each image.

        Args:
            instead: Activations [B,K,h,w] that are put in; None puts in zeros.

        Returns:
            Logits [B,K]; entry (b, k) is that of image b with channel k replaced.

        Example:
            >>> trace.replace_channels().shape
            torch.Size([2, 4])

        Reference:
            Ramaswamy et al., Ablation-CAM, WACV 2020, eq. 3 (with zeros).
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
        """Return the gradient of another score of the head's logits than the target's logit.

        Args:
            score: A function of logits [B,C] that returns one number per image [B].

        Returns:
            d score / dA [B,K,h,w], detached.

        Raises:
            NotApplicable: No logit depends on the layer's grid, or the network cuts the graph.

        Example:
            >>> trace.head_gradients(lambda logits: logits.logsumexp(1)).shape
            torch.Size([2, 4, 8, 8])
        """
        return self._differentiate_head(score, twice=False)[0]

    def differentiate_twice(
        self, score: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradient of a score of the head, and its Hessian times the activations.

        Args:
            score: A function of logits [B,C] that returns one number per image [B].

        Returns:
            d score / dA, and H A with H the score's Hessian in A; [B,K,h,w] each, detached.

        Raises:
            NotApplicable: No logit depends on the layer's grid, or the network cuts the graph.

        Example:
            >>> gradients, curvature = trace.differentiate_twice(trace.select_targets)
            >>> bool((curvature == 0).all())  # this head is linear
            True
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

    # --- other views of the same pass

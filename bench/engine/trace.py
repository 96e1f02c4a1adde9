"""The trace: what one shared pass over a batch yields and every method reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F

from bench.engine.output_gradients import collect_output_gradients
from bench.engine.prober import Prober
from bench.engine.shared_pass import SharedPass
from bench.randomness import generator

T = TypeVar("T")


class Trace(SharedPass):
    """One forward pass over a batch, seen from one class per image; methods read it.

    Args:
        prober: Runs the network, and counts what it runs.
        images: Images [B,C,H,W] float32, normalised, on the network's device.
        targets: Classes [B] to explain, 0 to classes - 1; None takes the predicted ones.
        ids: One id for each image, the source of every draw; None takes a hash of each image.
        truth: Ground truth of the label's objects; None is an empty one.
        seed: Seed of every draw, 0 or more.
        captured: A pass over these images that was made before; None runs the network.

    Raises:
        BenchError: The numbers of ids, targets and images differ, a target is no class of the
            network, or the network cannot run images of this size.

    Example:
        >>> trace = bench.Trace(Prober(model), images)
        >>> trace.logits.shape, trace.activations.shape
        (torch.Size([2, 3]), torch.Size([2, 4, 8, 8]))
    """

    def taps(self, layers: Sequence[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return outputs of several modules with their gradients, from one forward and backward.

        A module is left out if it runs several times, returns no single tensor, or does not reach
        the target's logit.

        Args:
            layers: Names of modules.

        Returns:
            {layer: (output, dS_c / d output)}, in the network's own layout.

        Raises:
            NotApplicable: The network cuts the graph between image and logits.

        Example:
            >>> output, gradient = trace.taps(["0"])["0"]
            >>> output.shape == gradient.shape
            True
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
        """Return what a function keeps of each module's gradient, from one forward and backward.

        It leaves out the modules that `taps` leaves out.

        Args:
            layers: Names of modules.
            keep: Is called with (layer, dS_c / d output) as each gradient arrives, so that the
                gradients of many layers need not be held at once.
            outputs: A dictionary that is filled with {layer: a copy of its output}; None keeps
                none.

        Returns:
            {layer: what `keep` returned}.

        Raises:
            NotApplicable: The network cuts the graph between image and logits.

        Example:
            >>> trace.output_gradients(["0"], lambda layer, gradient: tuple(gradient.shape))
            {'0': (2, 4, 8, 8)}
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
        """Return maps at image size: bilinear, align_corners=False.

        Args:
            maps: Maps [B,h,w] or [B,K,h,w].

        Returns:
            Maps [B,H,W] or [B,K,H,W].

        Example:
            >>> trace.upsample(torch.ones(2, 2, 2)).shape
            torch.Size([2, 8, 8])
        """
        if maps.ndim == 3:
            return self.upsample(maps[:, None])[:, 0]
        return F.interpolate(maps, size=self.size, mode="bilinear", align_corners=False)

    def generators(self, purpose: str) -> list[torch.Generator]:
        """Return one seeded random generator for each image.

        Args:
            purpose: Names the draw; another purpose gives other numbers.

        Returns:
            B generators on the CPU. The trace's seed, the purpose and the image's id decide their
            draws.

        Example:
            >>> [float(torch.rand(1, generator=g)) < 1 for g in trace.generators("mask")]
            [True, True]
        """
        return [generator(self.seed, purpose, image_id) for image_id in self.ids]

    def trace_images(self, images: torch.Tensor) -> Trace:
        """Trace other images in the place of these, for the same classes; this takes one more pass.

        Args:
            images: Images [B,C,H,W] float32, normalised.

        Returns:
            A trace with the seed, ids, truth and prober of this one.

        Raises:
            BenchError: The network cannot run images of this size, or their number differs.

        Example:
            >>> trace.trace_images(trace.images.flip(-1)).size
            (8, 8)
        """
        return self._trace_again(self.prober, images)

    def trace_network(self, prober: Prober) -> Trace:
        """Trace the same images and classes through another network; this takes one more pass.

        Args:
            prober: A prober of the other network, such as `trace.prober.fork(model)`.

        Returns:
            A trace with the seed, ids and truth of this one.

        Raises:
            BenchError: A class is none of the other network's, or it cannot run these images.

        Example:
            >>> trace.trace_network(trace.prober.fork(model)).model.name
            'doc-net'
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

        Args:
            layer: Name of a module.

        Returns:
            A trace of that layer.

        Raises:
            BenchError: The network has no such layer.

        Example:
            >>> trace.trace_layer("0").model.layer
            '0'
        """
        other = self._trace_again(self.prober.cut_at(layer), self.images)
        other.wanted_maps = frozenset()
        return other

    def retarget(self, targets: torch.Tensor) -> Trace:
        """Return the same pass seen from other classes; only the head's gradient is computed anew.

        Args:
            targets: Classes [B].

        Returns:
            A trace without a further pass.

        Raises:
            BenchError: The number of targets differs, or one is no class of the network.

        Example:
            >>> trace.retarget(torch.tensor([1, 1])).targets
            tensor([1, 1])
        """
        return self.select(torch.arange(len(self)), targets)

    def select(self, rows: torch.Tensor, targets: torch.Tensor | None = None) -> Trace:
        """Return the pass of some of the images.

        Args:
            rows: Images [n] int64.
            targets: Classes [n]; None keeps those of the images.

        Returns:
            A trace of n images without a further pass.

        Raises:
            BenchError: The numbers of rows and targets differ, or a target is no class of the
                network.

        Example:
            >>> trace.select(torch.tensor([1])).ids
            ('two',)
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

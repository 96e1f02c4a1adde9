"""A background: everything that the cases of all methods share on one batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from bench.engine.fills import gaussian_blur, kernel_blur
from bench.engine.probes import Probes
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.randomness import generator, smooth_field

T = TypeVar("T")

Colour = tuple[float, ...]

MINIMUM = "minimum"
"""In place of a colour: each image's least value after normalisation, in all channels."""


class Background:
    """What the cases of all methods share on one batch.

    It holds blurred images and their logits, and the tie-break order of pixels. Metrics add what
    they make once per batch: attacked images, randomised networks, and their traces.

    Attributes:
        probes: The perturbed images that have been run.
    """

    def __init__(self, trace: Trace) -> None:
        # Not the trace itself, which keeps its background: a circle would hold every tensor of the
        # batch until Python looks for circles, many batches later.
        self.prober, self.images = trace.prober, trace.images
        self.ids, self.size = trace.ids, trace.size
        self.watch: Callable[[str, Any, Callable[..., Any] | None], None] | None = None
        self.probes = Probes(trace.prober, trace.size)
        self._empty: dict[Hashable, torch.Tensor] = {}
        self._blurred: dict[Hashable, tuple[torch.Tensor, torch.Tensor]] = {}
        self._ties: dict[int, torch.Tensor] = {}
        self._shared: dict[Hashable, tuple[Any, int]] = {}

    def share(self, key: Hashable, make: Callable[[], T]) -> tuple[T, int]:
        """Return what several cases need, made by the first of them, and the forwards that it took.

        key: says what it is, with its parameters.
        """
        if key not in self._shared:
            counts = self.prober.counts
            before = counts.forwards
            made = make()
            self._shared[key] = made, counts.forwards - before
            self._note("parts", made, make)
        return self._shared[key]

    def name_of(self, images: torch.Tensor) -> Hashable:
        """Return what images [B,3,H,W] (or a colour) of this background are called, or None for any
        others.
        """
        kept = {**{key: pair[0] for key, pair in self._blurred.items()}, **self._empty}
        return next((key for key, known in kept.items() if known is images), None)

    def blur(self, sigma_224: float, radius_sigmas: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return blurred images [B,3,H,W] and their logits [B,C]; sigma = sigma_224 * min(H,W)/224
        pixels.
        """
        sigma = sigma_224 * min(self.size) / 224
        key = (sigma_224, radius_sigmas)
        return self._run_once(key, lambda: gaussian_blur(self.images, sigma, radius_sigmas))

    def blur_by_kernel(
        self, side: int, sigma: float, border: str, padding: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [B,3,H,W] blurred with a fixed kernel, and their logits [B,C] (see
        `kernel_blur`).
        """
        fold = border == "fold"
        if padding == "reflect" and side // 2 >= min(self.size):
            raise BenchError(
                f"A kernel of {side} pixels reflects beyond images of {min(self.size)}; make "
                "kernel_side smaller."
            )
        return self._run_once(
            (side, sigma, fold, padding),
            lambda: kernel_blur(self.images, side, sigma, fold=fold, padding=padding),
        )

    def empty(self, colour: Colour | str) -> torch.Tensor:
        """Return what is left where every pixel is removed: [1,3,1,1], or [B,3,1,1] for
        `MINIMUM`.
        """
        key = ("empty", colour)
        if key not in self._empty:
            images = self.images
            self._empty[key] = (
                images.amin((1, 2, 3), keepdim=True).expand(-1, images.shape[1], 1, 1)
                if isinstance(colour, str)
                else self.prober.model.colour(colour)[None]
            )
            self._note("colours", self._empty[key])
        return self._empty[key]

    def empty_logits(self, colour: Colour | str) -> torch.Tensor:
        """Return the logits of the empty image: [C], run once per model, or [B,C] for `MINIMUM`,
        once per image.
        """
        if not isinstance(colour, str):
            return self.prober.colour_logits(colour, self.size)
        return self._run_once(colour, lambda: self.empty(colour).expand_as(self.images))[1]

    def _run_once(
        self, key: Hashable, make: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if key not in self._blurred:
            with torch.inference_mode():
                images = make().contiguous(memory_format=torch.channels_last)
                self._blurred[key] = images, self.prober.logits(images)
            self._note("blurred images", self._blurred[key])
        return self._blurred[key]

    def tie_order(self, seed: int) -> torch.Tensor:
        """Return pixel indices [B,N] by falling smooth field, then by index: the order of equal
        values.
        """
        if seed not in self._ties:
            fields = [
                smooth_field(generator(seed, "ties", i), *self.size).flatten() for i in self.ids
            ]
            self._ties[seed] = torch.stack(fields).argsort(dim=1, descending=True, stable=True)
            self._note("order of ties", self._ties[seed])
        return self._ties[seed]

    def _note(self, name: str, made: Any, make: Callable[..., Any] | None = None) -> None:
        """Tell who watches of something that was just made."""
        if self.watch is not None:
            self.watch(name, made, make)

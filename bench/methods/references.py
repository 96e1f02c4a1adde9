"""References: the images without evidence that a method compares an image with."""

from __future__ import annotations

from typing import Literal

import torch

from bench.engine.prober import gaussian_blur
from bench.engine.trace import Trace
from bench.protocol import Protocol

Reference = Literal["baseline", "black", "white", "blur", "noise"]
"""baseline: the baseline colour.  black, white: 0 and 1 in pixel space.  blur: the image, blurred as insertion starts.
noise: uniform in [0,1] in pixel space, per pixel and channel."""

MASK_COLOUR = Protocol().baseline
"""The colour behind a masked image: the protocol's baseline colour, zero for ImageNet-normalised models."""
BLUR_SIGMA_224 = Protocol().blur_sigma_224
BLUR_RADIUS_SIGMAS = Protocol().blur_radius_sigmas


def reference_images(trace: Trace, name: Reference) -> torch.Tensor:
    """Return one reference per image, [B,3,H,W] normalised, contiguous and writable."""
    images = trace.images
    if name == "blur":
        return gaussian_blur(images, BLUR_SIGMA_224 * min(trace.size) / 224, BLUR_RADIUS_SIGMAS)
    if name == "noise":
        draws = [torch.rand(images.shape[1:], generator=g) for g in trace.generators("reference noise")]
        return trace.model.normalise(torch.stack(draws).to(images.device))
    colour = {"baseline": MASK_COLOUR, "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}[name]
    return trace.model.colour(colour).to(images.device).expand_as(images).clone()

"""References: the images without evidence that a method compares an image with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch

from bench.engine.fills import gaussian_blur
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.methods.variants import write_value
from bench.protocol import Protocol
from bench.protocol_checks import REFERENCES
from bench.text_limits import is_file

NAMES = REFERENCES
"""baseline: the baseline colour.  black, white: 0 and 1 in pixel space.  blur: the image, blurred
as insertion starts. noise: uniform in [0,1] in pixel space, per pixel and channel."""


def check_reference(where: str, value: object) -> None:
    """Refuse a reference that is no name, no image file and no tensor."""
    if isinstance(value, torch.Tensor) or value in NAMES or is_file(str(value)):
        return
    raise BenchError(
        f"{where}: it can be {', '.join(NAMES)}, or the path of an image file (of another class, "
        "say)."
    )


Reference = Annotated[str | torch.Tensor, check_reference]
"""One of `NAMES`, the path of an image file, or a normalised image [3,H,W] (or one per image,
[B,3,H,W]).
"""

MASK_COLOUR = Protocol().baseline
"""The colour behind a masked image: the protocol's baseline colour, zero for ImageNet-normalised
models.
"""
BLUR_SIGMA_224 = Protocol().blur_sigma_224
BLUR_RADIUS_SIGMAS = Protocol().blur_radius_sigmas


def read_reference(parameters: Mapping[str, Any]) -> str:
    """Return what a method with a parameter `reference` compares an image with, for
    `register_method(reference=)`.
    """
    return write_value(parameters["reference"])


def reference_images(trace: Trace, reference: Reference) -> torch.Tensor:
    """Return one reference per image, [B,3,H,W] normalised, contiguous and writable."""
    images = trace.images
    if isinstance(reference, torch.Tensor):
        return _expand_given(trace, reference, f"of shape {tuple(reference.shape)}")
    if reference == "blur":
        return gaussian_blur(images, BLUR_SIGMA_224 * min(trace.size) / 224, BLUR_RADIUS_SIGMAS)
    if reference == "noise":
        draws = [
            torch.rand(images.shape[1:], generator=g) for g in trace.generators("reference noise")
        ]
        return trace.model.normalise(torch.stack(draws).to(images.device))
    colours = {"baseline": MASK_COLOUR, "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
    if reference in colours:
        return trace.model.colour(colours[reference]).to(images.device).expand_as(images).clone()
    return _expand_given(trace, trace.model.read(reference), reference)


def _expand_given(trace: Trace, reference: torch.Tensor, what: str) -> torch.Tensor:
    single = reference[None] if reference.ndim == 3 else reference
    if single.shape[1:] != trace.images.shape[1:] or len(single) not in (1, len(trace)):
        raise BenchError(
            f"The reference {what} does not fit the images {tuple(trace.images.shape)}; "
            "give one normalised image [3,H,W] of their size, or one for each."
        )
    return single.to(trace.images.device, torch.float32).expand_as(trace.images).clone()

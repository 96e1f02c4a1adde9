"""Controls: yardsticks that stand on every board as contestants. A metric that cannot tell them
apart says nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.engine.trace import Trace
from bench.methods.cam import weigh_channels
from bench.methods.registration import register_method
from bench.randomness import smooth_field

CENTRE_SIGMA = 0.25
"""Standard deviation of the centre Gaussian, as a share of the side."""


@register_method("random", group="control", fidelity="control", class_agnostic=True)
def random(trace: Trace) -> torch.Tensor:
    """Smooth noise: 7x7 uniform noise per image, bilinear. [B,H,W] in [0,1)."""
    return torch.stack([smooth_field(g, *trace.size) for g in trace.generators("random")])


@register_method("random_pixel", group="control", fidelity="control", class_agnostic=True)
def random_pixel(trace: Trace) -> torch.Tensor:
    """Uniform noise, one draw per pixel. [B,H,W] in [0,1)."""
    return torch.stack(
        [torch.rand(trace.size, generator=g) for g in trace.generators("random_pixel")]
    )


@register_method("constant", group="control", fidelity="control", class_agnostic=True)
def constant(trace: Trace) -> torch.Tensor:
    """Ones everywhere: what the tie rule alone scores. [B,H,W]."""
    return torch.ones(len(trace), *trace.size)


@register_method("center_gaussian", group="control", fidelity="control", class_agnostic=True)
def center_gaussian(trace: Trace) -> torch.Tensor:
    """A Gaussian at the centre of the frame, sigma a quarter of the side: photographers' bias
    alone. [B,H,W].
    """
    height, width = trace.size
    y = (torch.arange(height) + 0.5) / height - 0.5
    x = (torch.arange(width) + 0.5) / width - 0.5
    bump = torch.exp(-0.5 * (y[:, None] ** 2 + x[None, :] ** 2) / CENTRE_SIGMA**2)
    return bump.expand(len(trace), height, width)


@register_method("sobel", group="control", fidelity="control", class_agnostic=True)
def sobel(trace: Trace) -> torch.Tensor:
    """Edges: the Sobel gradient's length on the grey image (mean of the channels, pixel space).
    [B,H,W], >= 0.
    """
    grey = trace.model.denormalise(trace.images).mean(1, keepdim=True)
    kernel = torch.tensor(
        [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=grey.device
    )
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = F.conv2d(padded, kernel[None, None])
    dy = F.conv2d(padded, kernel.T[None, None])
    return (dx**2 + dy**2).sqrt()[:, 0]


@register_method(
    "fake_cam",
    group="control",
    fidelity="control",
    class_agnostic=True,
    citation="Poppi et al., Revisiting The Evaluation of Class Activation Mapping, CVPRW 2021",
)
def fake_cam(trace: Trace) -> torch.Tensor:
    """Ones everywhere but zero at the top left pixel: wins average drop without knowing anything.
    [B,H,W].
    """
    maps = torch.ones(len(trace), *trace.size)
    maps[:, 0, 0] = 0
    return maps


@register_method(
    "random_cam",
    group="control",
    fidelity="control",
    class_agnostic=True,
    citation="pytorch-grad-cam's RandomCAM",
)
def random_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k uniform in [-1,1): what the activations alone give a CAM. [B,H,W],
    >= 0.
    """
    channels = trace.activations.shape[1]
    draws = torch.stack([torch.rand(channels, generator=g) for g in trace.generators("random_cam")])
    weights = (2 * draws - 1).to(trace.activations.device)
    return trace.upsample(weigh_channels(weights, trace.activations).relu())


@register_method(
    "oracle", group="control", fidelity="control", needs=("truth",), class_agnostic=True
)
def oracle(trace: Trace) -> torch.Tensor:
    """The truth itself: 1 on the label's objects (masks, else boxes), 0 elsewhere. [B,H,W]."""
    return _truth(trace)


@register_method(
    "inverted_oracle", group="control", fidelity="control", needs=("truth",), class_agnostic=True
)
def inverted_oracle(trace: Trace) -> torch.Tensor:
    """The opposite of the truth: 0 on the label's objects, 1 elsewhere. [B,H,W]."""
    return 1 - _truth(trace)


def _truth(trace: Trace) -> torch.Tensor:
    pixels = trace.truth.pixels(*trace.size)
    assert pixels is not None
    return pixels.float()

"""Extremal perturbations: the smooth mask of a given area that keeps the class score highest, found
by gradient.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F

from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.methods.registration import register_method
from bench.ranges import Range

# TorchRay's constants; lengths at a side of 224.
STEP, SIGMA, MAX_BLUR, LEVELS, COLDNESS = 7, 21.0, 20.0, 8, 20.0
RATE, MOMENTUM, AREA_WEIGHT, AREA_GROWTH, SMOOTHING = 0.01, 0.9, 300.0, 1.0035, 0.09
MEMORY = 2**30
"""Bytes that the masks of one batch may take."""


def shares(areas: str) -> list[float]:
    """Read the areas of a parameter.

    >>> shares("0.1+0.2")
    [0.1, 0.2]
    """
    try:
        values = [float(part) for part in areas.split("+")]
    except ValueError:
        values = []
    if not values or min(values) <= 0 or max(values) > 1:
        raise BenchError(
            f"extremal_perturbation[areas={areas}]: give shares of the image, such as 0.05+0.1."
        )
    return values


@register_method(
    "extremal_perturbation",
    group="perturbation",
    fidelity="official",
    citation="Fong, Patrick and Vedaldi, Understanding Deep Networks via Extremal Perturbations "
    "and Smooth Masks, ICCV 2019, and the authors' code (TorchRay)",
    fast=False,
    forwards=lambda _, p: p["iterations"] * len(shares(p["areas"])),
    backwards=lambda _, p: p["iterations"] * len(shares(p["areas"])),
)
def extremal_perturbation(
    trace: Trace,
    *,
    areas: str = "0.025+0.05+0.1+0.2",
    iterations: Annotated[int, Range(1, 1_000_000)] = 800,
) -> torch.Tensor:
    """sum over areas of the smooth mask of that area that keeps S_c highest in a blurred image.
    [B,H,W], >= 0.

    The preservation game of TorchRay with its benchmark's settings: maximise S_c(m o x) - 300 *
    1.0035^t * mean (sorted m - ideal)^2 by gradient steps from m = 1, the image flipped in every
    other one; m o x blurs more where m is lower; in the end the sum of masks is smoothed by 9 % of
    the side. Lengths scale with the side.
    """
    wanted = shares(areas)
    smooth = SmoothMask(trace.size, trace.images.device)
    rows = torch.arange(len(trace)).repeat_interleave(len(wanted))
    area = torch.tensor(wanted).repeat(len(trace))
    room = max(1, min(trace.prober.batch_size, MEMORY // (5 * smooth.weight.numel() * 4)))
    masks = [
        optimise_masks(trace, smooth, rows[index], area[index], iterations)
        for index in torch.split(torch.arange(len(rows)), room)
    ]
    total = torch.cat(masks).view(len(trace), len(wanted), *trace.size).sum(1, keepdim=True)
    return blur_images(total, SMOOTHING * min(trace.size))[:, 0]


def optimise_masks(
    trace: Trace, smooth: SmoothMask, rows: torch.Tensor, areas: torch.Tensor, iterations: int
) -> torch.Tensor:
    """Return the masks [n,H,W] of the images at `rows` [n] for areas [n], after so many gradient
    steps.
    """
    levels = pyramid(trace.images[rows])
    seeds = torch.ones(len(rows), 1, *smooth.coarse, device=levels.device)
    ideal = (
        torch.arange(smooth.pixels) >= (smooth.pixels * (1 - areas.double())).long()[:, None]
    ).to(levels)
    targets = trace.targets[rows].to(levels.device)[:, None]
    velocity, weight = torch.zeros_like(seeds), AREA_WEIGHT
    for step in range(iterations):
        with torch.enable_grad():
            seeds.requires_grad_()
            whole, mask = smooth(seeds)
            seen = perturb(levels, mask)
            logits = trace.prober.logits(seen.flip(3) if step % 2 == 0 else seen)
            misfit = (whole.flatten(1).sort(1)[0] - ideal).square().mean(1)
            loss = weight * misfit.sum() - logits.gather(1, targets).sum()
            (gradient,) = torch.autograd.grad(loss, seeds)
        trace.prober.counts.backwards += len(rows)
        velocity = gradient if step == 0 else MOMENTUM * velocity + (1 - MOMENTUM) * gradient
        seeds = (seeds.detach() - RATE * velocity).clamp(0, 1)
        weight *= AREA_GROWTH
    return mask.detach()[:, 0]


class SmoothMask:
    """Max-convolution: coarse seeds [n,1,h,w] -> the mask with a margin around it, and the mask
    [n,1,H,W].

    At each pixel the (soft) largest of the seeds nearby, each weighted by exp(-2 (distance/sigma -
    1/2)^2), 1 within half a sigma. The area is measured with the margin, as the authors do.
    """

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        scale = min(size) / 224
        self.size, self.step, sigma = size, max(1, round(STEP * scale)), SIGMA * scale
        self.margin = round(sigma)
        self.padding = 1 + math.ceil(2 * sigma / self.step)
        self.reach = 2 * (1 + math.ceil(sigma / self.step)) + 1
        self.coarse = [math.ceil(length / self.step) for length in size]
        self.middle = [length + 2 * self.padding - self.reach + 1 for length in self.coarse]
        outer = [self.step * (length - 1) + 1 for length in self.middle]
        self.pixels = outer[0] * outer[1]
        # Distance along each axis from an outer pixel to each of the seeds that it sees.
        down, across = (self._offsets(length, sigma) for length in outer)
        distance = (down[:, None, :, None] ** 2 + across[None, :, None, :] ** 2).sqrt()
        kernel = torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2)
        self.weight = kernel.flatten(0, 1)[None].to(device)

    def _offsets(self, length: int, sigma: float) -> torch.Tensor:
        pixel = torch.arange(length)
        seed = pixel // self.step + torch.arange(self.reach)[:, None] - self.padding
        return pixel - (sigma + self.step * seed)

    def __call__(self, seeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patches = F.unfold(seeds, self.reach, padding=self.padding).view(
            len(seeds), -1, *self.middle
        )
        near = F.interpolate(patches, scale_factor=self.step, mode="nearest")
        near = self.weight * near[..., : self.weight.shape[2], : self.weight.shape[3]]
        whole = (near * F.softmax(COLDNESS * near, dim=1)).sum(1, keepdim=True).clamp(0, 1)
        rows, columns = (slice(self.margin, self.margin + length) for length in self.size)
        return whole, whole[..., rows, columns]


def pyramid(images: torch.Tensor) -> torch.Tensor:
    """Return the images at falling blur, [n,LEVELS,3,H,W]: sigma from 20 pixels at 224 down to
    none.
    """
    strongest = MAX_BLUR * min(images.shape[2:]) / 224
    return torch.stack(
        [blur_images(images, strongest * (1 - i / (LEVELS - 1))) for i in range(LEVELS)], 1
    )


def perturb(levels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return images [n,3,H,W] taken from levels [n,LEVELS,3,H,W] at the depth (LEVELS-1) * mask,
    interpolated.
    """
    depth = (mask * (LEVELS - 1))[:, :, None]
    low = depth.detach().floor()
    index = low.long().expand(-1, -1, levels.shape[2], -1, -1)
    below, above = levels.gather(1, index), levels.gather(1, (index + 1).clamp(max=LEVELS - 1))
    return torch.lerp(below, above, (depth - low).expand_as(below))[:, 0]


def blur_images(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur images [n,C,H,W]: Gaussian cut at ceil(4 sigma), zeros behind the border, as TorchRay
    does.
    """
    if sigma == 0:
        return images
    radius = math.ceil(4 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images).expand(images.shape[1], 1, 1, -1)
    rows = F.conv2d(images, kernel, padding=(0, radius), groups=images.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), padding=(radius, 0), groups=images.shape[1])

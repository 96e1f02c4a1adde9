"""CAMs that show the network a part: groups of channels over a blurred image, single positions of
the activations.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F

from bench.engine.fills import blend, gaussian_blur
from bench.engine.prober import Job, probability, target_log_odds
from bench.engine.shared_parts import GRADIENTS
from bench.engine.trace import Trace
from bench.methods.cam import grad_cam_weights, weigh_channels
from bench.methods.importance import min_max, sum_of_masks
from bench.methods.registration import register_method
from bench.models.explainee import Explainee
from bench.ranges import Range

BLUR_SIGMA_224, BLUR_RADIUS_SIGMAS = 50.0, 0.5
"""Group-CAM's blur: kernel 51 and sigma 50 at a side of 224, both scaled with the side."""

KEPT_ABOVE = 0.7
"""Share of a group's map that Group-CAM's code cuts away."""

BUMP = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
"""Recipro-CAM's 3x3 Gaussian."""


def group_size(channels: int, groups: int) -> int:
    """Return the channels per group, ceil(K / groups); the last group may be smaller, and there may
    be fewer groups.

    >>> group_size(48, 32)
    2
    """
    return math.ceil(channels / max(groups, 1))


def _group_forwards(model: Explainee, groups: int) -> int:
    channels = model.probe_shape[1]
    return 1 + math.ceil(channels / group_size(channels, groups))


@register_method(
    "group_cam",
    group="cam",
    fidelity="official",
    citation="Zhang et al., Group-CAM, arXiv:2103.13859, and the authors' code (its last commit)",
    fast=False,
    forwards=lambda model, p: _group_forwards(model, p["groups"]),
    parts=(GRADIENTS,),
    varies="groups without positive part are dropped",
    reference="blur",
    version=2,
)
def group_cam(
    trace: Trace,
    *,
    groups: Annotated[int, Range(1, 100_000)] = 32,
    form: Literal["last", "first"] = "last",
) -> torch.Tensor:
    """ReLU(sum_g (p_c(x_g) - p_c(blur x)) H_g), H_g = mm(Up M_g), M_g the upper 30 % of
    ReLU(sum_{k in g} w_k A_k). [B,H,W], >= 0.

    w_k = mean_ij G_k. Groups are contiguous, ceil(K/groups) channels each. x_g = H_g*x +
    (1-H_g)*blur(x); a constant group is dropped, so the forwards of a plan are an upper bound. A
    value of a group's map that is not above its 70th percentile counts as 0. first: the authors'
    first release, which kept all of M_g and summed ReLU(gain) M_g.
    """
    maps = group_maps(trace, groups)
    if form == "last":
        maps = torch.where(maps > find_cuts(maps), maps, 0.0)
    flat = maps.flatten(2)
    images, live = torch.nonzero(flat.amax(2) > flat.amin(2), as_tuple=True)
    gains = torch.zeros(maps.shape[:2], device=maps.device)
    gains[images, live] = _group_gains(trace, maps, images, live)
    if form == "first":
        return trace.upsample(weigh_channels(gains.clamp(min=0), maps))
    return sum_of_masks(trace, gains, maps).relu()


def find_cuts(maps: torch.Tensor) -> torch.Tensor:
    """Return the 70th percentile of each map, interpolated as numpy's: [B,g,1,1]."""
    ordered = maps.flatten(2).sort(dim=2).values  # torch.quantile refuses large tensors
    place = KEPT_ABOVE * (ordered.shape[2] - 1)
    low, high = ordered[..., math.floor(place)], ordered[..., math.ceil(place)]
    return (low + (high - low) * (place - math.floor(place)))[..., None, None]


def _group_gains(
    trace: Trace, maps: torch.Tensor, images: torch.Tensor, live: torch.Tensor
) -> torch.Tensor:
    """Return p_c(x_g) - p_c(blur x) of the live groups, [n]."""
    rows = images.cpu()
    blurred = gaussian_blur(
        trace.images, BLUR_SIGMA_224 * min(trace.size) / 224, BLUR_RADIUS_SIGMAS
    )

    def masks(index: torch.Tensor) -> torch.Tensor:
        return min_max(trace.upsample(maps[images[index], live[index]]))

    def bare(out: torch.Tensor, index: torch.Tensor) -> None:
        out.copy_(blurred[index])

    jobs = [
        Job(trace.targets, bare),
        Job(trace.targets[rows], blend(trace.images, blurred, rows, masks)),
    ]
    start, shown = (probability(odds) for odds in trace.prober.log_odds(jobs, trace.size))
    return (shown - start[rows]).to(maps.device, torch.float32)


def group_maps(trace: Trace, groups: int) -> torch.Tensor:
    """Return M_g = ReLU(sum_{k in g} w_k A_k) of contiguous groups of channels, [B,g,h,w]."""
    shares = grad_cam_weights(trace)[:, :, None, None] * trace.activations
    pieces = torch.split(shares, group_size(shares.shape[1], groups), dim=1)
    return torch.stack([piece.sum(1) for piece in pieces], dim=1).relu()


@register_method(
    "recipro_cam",
    group="cam",
    fidelity="official",
    citation="Byun and Lee, ReciproCAM, CVPRW 2024, arXiv:2209.14074, and the authors' code",
    heads=lambda model, _: model.probe_shape[2] * model.probe_shape[3],
)
def recipro_cam(
    trace: Trace,
    *,
    filter: Literal["none", "gaussian"] = "none",  # noqa: A002
) -> torch.Tensor:
    """L_ij = p_c of the head on A with position ij alone, all others 0; h*w head replays. [B,H,W]
    in [0,1].

    gaussian: A_ij stands at ij and its neighbours, weighted by a 3x3 Gaussian (1, 2, 1; 2, 4, 2; 1,
    2, 1)/16 that is cut at the border; the authors' code has it, and runs without. It min-maxes the
    map, which is not done here. Prefix tokens (the class token) keep their values.
    """
    height, width = trace.activations.shape[2:]
    return trace.upsample(probe_positions(trace, mask_positions(height, width, filter)))


@torch.inference_mode()
def probe_positions(trace: Trace, kept: torch.Tensor) -> torch.Tensor:
    """Return p_c of the head on kept[n] times A's column at position n, for every position:
    [B,h,w]; kept [h*w,h,w].
    """
    images, _, height, width = trace.activations.shape
    kept = kept.to(trace.activations.device)
    low = torch.zeros(images, height * width)
    for image in range(images):
        columns = trace.activations[image].flatten(1).T[:, :, None, None]  # [N,K,1,1]
        for index in torch.split(torch.arange(height * width), trace.prober.batch_size):
            rows = torch.full((len(index),), image)
            logits = trace.head(columns[index] * kept[index, None], rows)
            low[image, index] = probability(target_log_odds(logits, trace.targets[rows])).float()
    return low.view(images, height, width).to(trace.activations.device)


def mask_positions(height: int, width: int, filter: str = "none") -> torch.Tensor:  # noqa: A002
    """Return what each position's mask keeps of its own activation, [h*w,h,w]: 1 there, or a 3x3
    Gaussian around it.
    """
    alone = torch.eye(height * width).view(-1, 1, height, width)
    return (F.conv2d(alone, BUMP[None, None], padding=1) if filter == "gaussian" else alone)[:, 0]

"""Channel importance by intervention: how the score changes when a channel is taken away or shown alone."""

from __future__ import annotations

import torch

from bench.engine.prober import Job, blend, probability
from bench.engine.trace import Trace
from bench.methods.base import register_method
from bench.methods.cam import weighted
from bench.protocol import Protocol

MASK_COLOUR = Protocol().baseline
"""The colour behind a masked image: the protocol's baseline colour, zero for ImageNet-normalised models."""


@register_method(
    "ablation_cam",
    group="cam",
    fidelity="paper",
    citation="Ramaswamy et al., Ablation-CAM, WACV 2020, eq. 3",
    heads=lambda model, _: model.probe_shape[1],
)
def ablation_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = S_c - S_c(A without channel k), by replaying the head. [B,H,W], >= 0.

    The paper divides by S_c; a negative S_c would flip the map, and a positive one does not change it, so it is not
    done here.
    """
    return trace.upsample(weighted(channel_drops(trace), trace.activations).relu())


@torch.inference_mode()
def channel_drops(trace: Trace) -> torch.Tensor:
    """Return S_c(A) - S_c(A with channel k set to 0) for every channel, [B,K]; K head replays per image."""
    images, channels = trace.activations.shape[:2]
    drops = torch.zeros(images, channels)
    size = trace.prober.batch_size
    for image in range(images):
        own = trace.activations[image]
        for start in range(0, channels, size):
            index = torch.arange(start, min(start + size, channels))
            without = own.expand(len(index), -1, -1, -1).clone()
            without[torch.arange(len(index)), index] = 0
            logits = trace.head(without, torch.full((len(index),), image))
            drops[image, index] = (trace.target_logits[image] - logits[:, trace.targets[image]]).cpu()
    return drops.to(trace.activations.device)


@register_method(
    "score_cam",
    group="cam",
    fidelity="official",
    citation="Wang et al., Score-CAM, CVPRW 2020, eq. 5-7, and the authors' code",
    fast=False,
    forwards=lambda model, _: model.probe_shape[1],
)
def score_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = p_c(H_k masking x), H_k = mm(Up A_k); one forward per channel. [B,H,W], >= 0.

    Constant channels are skipped (weight 0). As in the authors' code the weights are probabilities of the masked
    image, without subtracting a baseline; pytorch-grad-cam and torchcam use a softmax over channels of the logits.
    """
    return trace.upsample(weighted(masked_probabilities(trace), trace.activations).relu())


def masked_probabilities(trace: Trace) -> torch.Tensor:
    """Return S_k = p_c(H_k masking x) for every channel, [B,K] float32; 0 for a constant channel."""
    a = trace.activations
    flat = a.flatten(2)
    images, channels = torch.nonzero(flat.amax(2) > flat.amin(2), as_tuple=True)
    rows = images.cpu()

    def masks(index: torch.Tensor) -> torch.Tensor:
        maps = trace.upsample(a[images[index], channels[index]][:, None])[:, 0]
        low, high = maps.flatten(1).amin(1)[:, None, None], maps.flatten(1).amax(1)[:, None, None]
        return (maps - low) / (high - low)

    fill = blend(trace.images, trace.model.colour(MASK_COLOUR), rows, masks)
    (odds,) = trace.prober.log_odds([Job(trace.targets[rows], fill)], trace.size)
    weights = torch.zeros(a.shape[:2], device=a.device)
    weights[images, channels] = probability(odds).to(a.device, torch.float32)
    return weights

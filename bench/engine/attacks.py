"""Attacked images: a small change in pixel space that lowers the explained class most, and noise of the same size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.engine.trace import Trace
from bench.models.explainee import untouched


def loss_gradient(trace: Trace, pixels: torch.Tensor) -> torch.Tensor:
    """Return the gradient [B,3,H,W] of the cross-entropy on the trace's classes, at `pixels` [B,3,H,W] in [0,1].

    One counted forward and backward. The softmax is float64: of a confident float32 one, nothing would be left.
    """
    leaf = pixels.detach().clone().requires_grad_()
    with untouched(trace.model.net), torch.enable_grad():
        logits = trace.prober.logits(trace.model.normalise(leaf))
        loss = F.cross_entropy(logits.double(), trace.targets.to(logits.device), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        trace.prober.counts.backwards += len(leaf)
    return gradient


def pixels_of(trace: Trace) -> torch.Tensor:
    """Return the images in pixel space, [B,3,H,W] in [0,1]."""
    return trace.model.denormalise(trace.images).clamp(0, 1)


def fgsm(pixels: torch.Tensor, gradient: torch.Tensor, eps: float) -> torch.Tensor:
    """Return clip(x + eps * sign(gradient)) (Goodfellow et al., ICLR 2015); gradient: `loss_gradient` at x."""
    return (pixels + eps * gradient.sign()).clamp(0, 1)


def pgd(
    trace: Trace, pixels: torch.Tensor, gradient: torch.Tensor, eps: float, steps: int, step: float
) -> torch.Tensor:
    """Return the end of `steps` steps of size step*eps along the gradient's sign, each projected to |change| <= eps
    and clipped to [0,1]; no random start (Madry et al., ICLR 2018).

    gradient: `loss_gradient` at x, the first step's, which attacks share.
    """
    low, high = (pixels - eps).clamp(min=0), (pixels + eps).clamp(max=1)
    moved = pixels
    for number in range(steps):
        towards = gradient if number == 0 else loss_gradient(trace, moved)
        moved = torch.minimum(torch.maximum(moved + step * eps * towards.sign(), low), high)
    return moved


def uniform_noise(trace: Trace, purpose: str) -> torch.Tensor:
    """Return noise [B,3,H,W], uniform in [-1,1], drawn per image."""
    draws = [2 * torch.rand(trace.images.shape[1:], generator=g) - 1 for g in trace.generators(purpose)]
    return torch.stack(draws).to(trace.images.device)

"""Attacked images: a small change in pixel space that lowers the explained class most, and noise of
the same size.
"""

from __future__ import annotations

import torch

from bench.engine.trace import Trace
from bench.models.network_guard import guard_network


def loss_gradient(trace: Trace, pixels: torch.Tensor) -> torch.Tensor:
    """Return the direction [B,3,H,W] in which the cross-entropy on the trace's classes grows, at
    `pixels` [B,3,H,W].

    It is the gradient of -log(p_c / (1 - p_c)): that of the cross-entropy -log p_c over 1 - p_c, a
    positive factor that underflows where the network is sure, and with it the attack. One counted
    forward and backward. Zeros where there is one class, whose cross-entropy is constant.
    """
    leaf = pixels.detach().clone().requires_grad_()
    with guard_network(trace.model.net), torch.enable_grad():
        logits = trace.prober.logits(trace.model.normalise(leaf))
        index = trace.targets.to(logits.device)[:, None]
        others = logits.scatter(1, index, -torch.inf).logsumexp(1)
        loss = others - logits.gather(1, index)[:, 0]
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        trace.prober.counts.backwards += len(leaf)
    return gradient if logits.shape[1] > 1 else torch.zeros_like(gradient)


def pixels_of(trace: Trace) -> torch.Tensor:
    """Return the images in pixel space, [B,3,H,W] in [0,1]."""
    return trace.model.denormalise(trace.images).clamp(0, 1)


def fgsm(pixels: torch.Tensor, gradient: torch.Tensor, eps: float) -> torch.Tensor:
    """Return clip(x + eps * sign(gradient)) (Goodfellow et al., ICLR 2015); gradient:
    `loss_gradient` at x.
    """
    return (pixels + eps * gradient.sign()).clamp(0, 1)


def pgd(
    trace: Trace, pixels: torch.Tensor, gradient: torch.Tensor, eps: float, steps: int, step: float
) -> torch.Tensor:
    """Return the end of `steps` steps of size step*eps along the gradient's sign, each projected to
    |change| <= eps and clipped to [0,1]; no random start (Madry et al., ICLR 2018).

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
    draws = [
        2 * torch.rand(trace.images.shape[1:], generator=g) - 1 for g in trace.generators(purpose)
    ]
    return torch.stack(draws).to(trace.images.device)

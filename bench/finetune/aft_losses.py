"""The losses of attribution fine-tuning."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MOST = 2.0
"""How far a tuner can raise an activation."""

# --- the loss


def mask_loss(tuned: torch.Tensor, original: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return mean((A^ - m * A0)^2) / mean(A0^2) of A^, A0 [B,K,h,w] and m [B,h,w]."""
    wanted = mask[:, None] * original
    scale = original.square().mean().clamp(min=torch.finfo(original.dtype).tiny)
    return (tuned - wanted).square().mean() / scale


def rescale_mask(mask: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Return s * m [B,h,w] of m [B,h,w] and A0 [B,K,h,w], s = mean|A0| / mean|m * A0| per image, at
    most `MOST`.
    """
    size = original.abs().mean(1)
    kept = (mask * size).mean((1, 2))
    s = size.mean((1, 2)) / kept.clamp(min=torch.finfo(kept.dtype).tiny)
    return mask * s.clamp(max=MOST)[:, None, None]


def channel_mean_loss(tuned: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """Return mean((mm(mean_k A^) - M)^2) of A^ [B,K,h,w] and M [B,h,w] in [0,1]; mm scales each map
    to [0,1].
    """
    mean = tuned.mean(1)
    low, high = (reduced(mean.flatten(1), 1)[:, None, None] for reduced in (torch.amin, torch.amax))
    spread = high - low
    scaled = torch.where(spread > 0, (mean - low) / torch.where(spread > 0, spread, 1.0), 0.0)
    return (scaled - soft).square().mean()


def divergence(logits: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Return KL(original || new) of the softmax of logits [B,C], the mean over images."""
    return F.kl_div(
        logits.log_softmax(1), original.log_softmax(1), log_target=True, reduction="batchmean"
    )

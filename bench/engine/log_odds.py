"""Log-odds, target logits and probabilities of logits, in float64."""

from __future__ import annotations

import torch


def target_log_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-odds [n] float64 of the targets [n] for float32 logits [n,C]: S_c - logsumexp
    of the others.
    """
    return read_log_odds(logits, targets).cpu()


def target_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the targets' logits [n] float64 of logits [n,C]."""
    return read_target_logits(logits, targets).cpu()


def read_log_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `target_log_odds` where the logits are: on a GPU nothing waits for it."""
    wide, index = _wide(logits, targets)
    own = wide.gather(1, index)[:, 0]
    if wide.shape[1] == 1:
        return torch.full_like(own, torch.inf)
    return own - wide.scatter(1, index, -torch.inf).logsumexp(1)


def read_target_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `target_logits` where the logits are."""
    wide, index = _wide(logits, targets)
    return wide.gather(1, index)[:, 0]


def _wide(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [n,C] as float64, and targets [n,1] beside them; Apple's GPUs have no
    float64.
    """
    device = "cpu" if logits.device.type == "mps" else logits.device
    wide = logits.detach().to(device).double()
    return wide, targets.to(device, non_blocking=True)[:, None]


def probability(log_odds: torch.Tensor) -> torch.Tensor:
    """Return p = sigmoid(log-odds), the softmax probability, in float64."""
    return torch.sigmoid(log_odds)

"""Sisters of small networks, for the metrics that run one."""

from __future__ import annotations

import copy

import torch

import bench
from bench.models.sisters import SISTER_OF


def add_sister(model: bench.Explainee, seed: int = 5, **facts: object) -> bench.Explainee:
    """Attach a copy of a model with slightly moved weights as its sister, and return the model.

    facts: further keys of the sister's card.
    """
    net = copy.deepcopy(model.net).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng).to(weight))
    model.sister = bench.Explainee(
        net,
        model.mean,
        model.std,
        model.size,
        model._layer,
        name=f"{model.name}-masked",
        parent=model.name,
        card={SISTER_OF: model.fingerprint, **facts},
    )
    return model

"""The map of an attention branch network: what the network itself weights its features with."""

from __future__ import annotations

import torch

from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.registration import register_method


@register_method(
    "attention_branch",
    group="attention",
    fidelity="official",
    citation="Fukui et al., Attention Branch Network, CVPR 2019, and the authors' code",
    class_agnostic=True,
    forwards=1,
)
def attention_branch(trace: Trace) -> torch.Tensor:
    """M = sigmoid(...) [B,1,h,w] of an attention branch network, bilinear. [B,H,W], in [0,1].

    There is one M per image and none per class: it is the same whatever class is asked for. The
    prediction reads it, as the perception branch sees (1 + M) * g. Not applicable to networks that
    have no attention branch.
    """
    attention_map = getattr(trace.model.net, "attention_map", None)
    if attention_map is None:
        raise NotApplicable(
            f"{trace.model.name} has no attention branch; attention_branch explains networks "
            "trained with one (bench.models.abn.AttentionBranchNetwork)."
        )
    trace.prober.counts.forwards += len(trace)
    return trace.upsample(attention_map(trace.images))[:, 0]

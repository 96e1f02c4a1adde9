"""SA-CAM: self-attention between the positions of the explained layer refines an existing CAM."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from bench.engine.shared_parts import GRADIENTS
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.cam import grad_cam_pp_weights, grad_cam_weights, weigh_channels
from bench.methods.importance import min_max, score_cam_part, score_cam_weights
from bench.methods.registration import register_method
from bench.models.network_guard import guard_network
from bench.models.sa_affinity import refine
from bench.ranges import Range

Strength = Annotated[float, Range(0, 1_000_000)]
"""How much a position takes over from positions like it."""

NO_BRANCH = (
    "the paper's abstract names an attention branch and a new attention operator; this "
    "reconstruction has no branch, and its operator is plain self-attention"
)

WEIGHTS = {
    "grad_cam": grad_cam_weights,
    "grad_cam_pp": grad_cam_pp_weights,
    "score_cam": score_cam_weights,
}
"""Channel weights [B,K] of the CAMs that can be refined."""


@register_method(
    "sa_cam",
    group="cam",
    more_groups=("focus", "seed"),
    fidelity="reconstruction",
    citation="after Liang, Li and Jiang, SA-CAM, Neurocomputing 490, 2022; formulas reconstructed",
    caveat=NO_BRANCH,
    parts=lambda model, p: [score_cam_part(model) if p["base"] == "score_cam" else GRADIENTS],
    reference=lambda p: "baseline" if p["base"] == "score_cam" else "",
)
def sa_cam(
    trace: Trace,
    *,
    lambda_: Strength = 1.0,
    tau: Annotated[float, Range(1e-6, 1_000_000)] = 0.2,
    form: Literal["additive", "multiplicative"] = "additive",
    base: Literal["grad_cam", "grad_cam_pp", "score_cam"] = "grad_cam",
) -> torch.Tensor:
    """ReLU(sum_k w_k A~_k), A~_k = A_k + lambda * P a_k: each position also says what positions
    like it say. [B,H,W].

    P = softmax_j(F_i . F_j / tau) [N,N] over positions, F the activations with unit columns (a zero
    column stays). w are the weights of the base CAM. multiplicative: A~_k = A_k * (1 + lambda *
    mm(P a_k)). The additive form equals ReLU((I + lambda*P) cam), so lambda = 0 is the base CAM,
    and the effect is small where positions differ little.
    """
    a = trace.activations
    spread = attention(a, tau) @ a.flatten(2).transpose(1, 2)  # [B,N,K]
    refined = spread.transpose(1, 2).reshape(a.shape)
    refined = a + lambda_ * refined if form == "additive" else a * (1 + lambda_ * min_max(refined))
    return trace.upsample(weigh_channels(WEIGHTS[base](trace), refined).relu())


def attention(activations: torch.Tensor, tau: float) -> torch.Tensor:
    """Return P [B,N,N], the softmax over positions j of the cosine between columns i and j of A
    [B,K,h,w], over tau.
    """
    columns = torch.nn.functional.normalize(activations.flatten(2), dim=1)
    return ((columns.transpose(1, 2) @ columns) / tau).softmax(2)


@register_method(
    "sa_cam_trained",
    group="cam",
    fidelity="reconstruction",
    citation="after Liang, Li and Jiang, SA-CAM, Neurocomputing 490, 2022; training and formulas "
    "reconstructed",
    caveat=NO_BRANCH,
    parts=(GRADIENTS,),
)
def sa_cam_trained(trace: Trace, *, lambda_: Strength = 1.0) -> torch.Tensor:
    """SA-CAM with trained queries and keys: ReLU(sum_k w_k (A_k + lambda * P a_k)). [B,H,W], >= 0.

    P is what the network's own `affinity` says of its activations, w are Grad-CAM's weights. For
    models that `cambench finetune sa` has trained.
    """
    affinity = getattr(trace.model.net, "affinity", None)
    if affinity is None:
        raise NotApplicable(
            f"{trace.model.name} has no trained attention; make it with `cambench finetune sa`."
        )
    a = trace.activations
    with guard_network(trace.model.net), torch.no_grad():
        more = refine(a, affinity(a), lambda_)
    return trace.upsample(weigh_channels(grad_cam_weights(trace), more).relu())

"""The CAM family: maps from the explained layer's activations A [B,K,h,w] and the gradients G =
dS_c/dA.

Each returns its published map before any min-max: ReLU where the paper has one, at layer
resolution, then bilinear upsampling (align_corners=False). On a head that starts by global average
pooling Grad-CAM, HiResCAM and XGrad-CAM are the same map; boards say so, from the numbers.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import nn

from bench.engine.shared_parts import GRADIENTS
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.registration import register_method
from bench.models.network_guard import guard_network
from bench.ranges import Range

EPS = 1e-7


def weigh_channels(weights: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Return sum_k w_k A_k: [B,h,w] for weights [B,K] and activations [B,K,h,w]."""
    return torch.einsum("bk,bkhw->bhw", weights, activations)


@register_method(
    "cam",
    group="cam",
    fidelity="official",
    citation="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. "
    "2",
    heads=3,
    parts=(GRADIENTS,),
)
def cam(trace: Trace) -> torch.Tensor:
    """sum_k w_ck A_k with the weights of the linear layer after global average pooling; signed, no
    ReLU. [B,H,W].

    The weights are read off the head itself: on GAP + linear the gradient is w_ck / (h*w) at every
    position and whatever A is. A head that classifies each position by a 1x1 convolution, then
    ReLU, then global average pooling (SqueezeNet) has the convolution's weights. Any other head
    has no such weights: not applicable.
    """
    gradients, activations = trace.gradients, trace.activations
    weights = _convolutional_weights(trace)
    if weights is not None:
        return trace.upsample(weigh_channels(weights, activations))
    spread = gradients.flatten(2).amax(2) - gradients.flatten(2).amin(2)
    scale = gradients.abs().amax().clamp(min=EPS)
    if float(spread.amax() / scale) > 1e-4 or not _linear(trace):
        raise NotApplicable(
            "cam needs a head of global average pooling and one linear layer; use grad_cam instead."
        )
    area = activations.shape[2] * activations.shape[3]
    return trace.upsample(weigh_channels(gradients.mean((2, 3)) * area, activations))


def _convolutional_weights(trace: Trace) -> torch.Tensor | None:
    """Return w_c [B,K] of a 1x1 convolution whose class planes are averaged behind a ReLU; None:
    the head is another.

    Such a head is the convolution, ReLU and mean of whatever activations it is given.
    """
    activations = trace.activations
    shape = (trace.logits.shape[1], activations.shape[1], 1, 1)
    convolutions = (m for m in trace.model.net.modules() if isinstance(m, nn.Conv2d))
    found = [m for m in convolutions if tuple(m.weight.shape) == shape]
    if len(found) != 1:
        return None
    rows = torch.arange(len(trace))
    with guard_network(trace.model.net), torch.no_grad():
        for factor in (0.0, -1.0, 2.0):
            logits = trace.head(factor * activations, rows)
            averaged = found[0](factor * activations).relu().mean((2, 3))
            allowed = 1e-4 * float(logits.abs().amax().clamp(min=1))
            if averaged.shape != logits.shape or float((averaged - logits).abs().amax()) > allowed:
                return None
    weights: torch.Tensor = found[0].weight.detach()[trace.targets.to(activations.device), :, 0, 0]
    return weights


def _linear(trace: Trace) -> bool:
    """Return whether the head is linear: S(0) is the mean of S(A) and S(-A), and S(A) that of S(0)
    and S(2A).
    """
    rows = torch.arange(len(trace))
    zero, minus, double = (
        trace.head(factor * trace.activations, rows) for factor in (0.0, -1.0, 2.0)
    )
    through_zero = (zero - (trace.logits + minus) / 2).abs().amax()
    outward = (trace.logits - (zero + double) / 2).abs().amax()
    return float(torch.maximum(through_zero, outward)) <= 1e-4 * float(
        trace.logits.abs().amax().clamp(min=1)
    )


@register_method(
    "grad_cam",
    group="cam",
    fidelity="official",
    citation="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, ICCV 2017, eq. "
    "1-2",
    parts=(GRADIENTS,),
)
def grad_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = mean_ij G_k. [B,H,W], >= 0."""
    return trace.upsample(weigh_channels(grad_cam_weights(trace), trace.activations).relu())


def grad_cam_weights(trace: Trace) -> torch.Tensor:
    """Return w_k = mean_ij G_k, [B,K]."""
    return trace.gradients.mean((2, 3))


@register_method(
    "grad_cam_pp",
    group="cam",
    fidelity="paper",
    citation="Chattopadhay et al., Grad-CAM++, WACV 2018, eq. 10-19; form=code: the authors' code",
    parts=(GRADIENTS,),
)
def grad_cam_pp(trace: Trace, *, form: Literal["paper", "code"] = "paper") -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = sum_ij alpha_ij ReLU(G_ij), alpha = G^2 / (2 G^2 + sum_ab A_ab
    G^3). [B,H,W], >= 0.

    The authors differentiate exp(S_c); its factor exp(S_c) scales the whole map of an image and is
    left out. code: each channel's alpha is divided by its sum over the positions of positive
    gradient, as in the authors' code; a channel without such a position keeps its alpha.
    """
    weights = grad_cam_pp_weights(trace) if form == "paper" else _normalised_pp_weights(trace)
    return trace.upsample(weigh_channels(weights, trace.activations).relu())


def grad_cam_pp_weights(trace: Trace) -> torch.Tensor:
    """Return w_k = sum_ij alpha_ij ReLU(G_ij), [B,K]."""
    g = trace.gradients
    return _pp_weights(trace.activations, g, g**2, g**3)


def _normalised_pp_weights(trace: Trace) -> torch.Tensor:
    """Return w_k = sum_ij alpha_ij ReLU(G_ij) / sum_{ij: G > 0} alpha_ij, [B,K]."""
    g = trace.gradients
    alpha = _pp_alphas(trace.activations, g**2, g**3)
    total = torch.where(g > 0, alpha, 0.0).sum((2, 3))
    return (alpha * g.relu()).sum((2, 3)) / torch.where(total != 0, total, 1.0)


def _pp_alphas(a: torch.Tensor, second: torch.Tensor, third: torch.Tensor) -> torch.Tensor:
    """Return alpha [B,K,h,w] = second / (2 second + sum_ab A_ab third), 0 where that is 0."""
    denominator = 2 * second + a.sum((2, 3), keepdim=True) * third
    return torch.where(
        denominator != 0, second / torch.where(denominator != 0, denominator, 1.0), 0.0
    )


def _pp_weights(
    a: torch.Tensor, first: torch.Tensor, second: torch.Tensor, third: torch.Tensor
) -> torch.Tensor:
    """Return w_k = sum_ij alpha_ij ReLU(first), [B,K]."""
    return (_pp_alphas(a, second, third) * first.relu()).sum((2, 3))


@register_method(
    "smooth_grad_cam_pp",
    group="cam",
    fidelity="paper",
    citation="Omeiza et al., Smooth Grad-CAM++, arXiv:1908.01224, eq. 3-5, defaults of torchcam",
    forwards=lambda _, p: p["samples"],
    heads=lambda _, p: p["samples"],
    head_backwards=lambda _, p: p["samples"],
)
def smooth_grad_cam_pp(
    trace: Trace,
    *,
    samples: Annotated[int, Range(1, 1_000_000)] = 4,
    std: Annotated[float, Range(0, 100)] = 0.3,
) -> torch.Tensor:
    """Grad-CAM++ of A with G, G^2 and G^3 averaged over images x + std*N(0,1), in normalised space.
    [B,H,W], >= 0.

    w_k = sum_ij alpha_ij ReLU(D1), alpha = D2 / (2 D2 + sum_ab A_ab D3), D1, D2, D3 the means of G,
    G^2, G^3; A of the clean image. The paper prints D1 as alpha's numerator, against Grad-CAM++;
    torchcam has D2 as here, but takes sum_ab A_ab D3_ab, and of the last sample both the gradient
    in place of D1 and the A that is weighted.
    """
    moments = [torch.zeros_like(trace.activations) for _ in range(3)]
    draws = trace.generators("smooth_grad_cam_pp")
    for _ in range(samples):
        noise = torch.stack([torch.randn(trace.images.shape[1:], generator=draw) for draw in draws])
        gradients = trace.trace_images(trace.images + std * noise.to(trace.images.device)).gradients
        for power, moment in enumerate(moments, start=1):
            moment += gradients**power / samples
    return trace.upsample(
        weigh_channels(_pp_weights(trace.activations, *moments), trace.activations).relu()
    )


@register_method(
    "xgrad_cam",
    group="cam",
    fidelity="official",
    citation="Fu et al., Axiom-based Grad-CAM, BMVC 2020, eq. 8",
    parts=(GRADIENTS,),
)
def xgrad_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = sum_ij A_ij G_ij / sum_ij A_ij. [B,H,W], >= 0; a silent channel
    has weight 0.
    """
    g, a = trace.gradients, trace.activations
    total = a.sum((2, 3))
    silent = total.abs() < EPS
    weights = torch.where(silent, 0.0, (a * g).sum((2, 3)) / torch.where(silent, 1.0, total))
    return trace.upsample(weigh_channels(weights, a).relu())


@register_method(
    "shapley_cam",
    group="cam",
    fidelity="official",
    citation="Cai, CAMs as Shapley Value-based Explainers, arXiv:2501.06261, and the author's code "
    "in pytorch-grad-cam",
    heads=1,
    head_backwards=2,
    version=2,
)
def shapley_cam(trace: Trace, *, score: Literal["rest", "logit"] = "rest") -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = mean_ij(G - (H A)/2), G and H gradient and Hessian of the score in
    A. [B,H,W], >= 0.

    The Shapley values of the channels to second order. rest: the author's Residual Softmax Target,
    S_c + log p_c, of each image; his batch form averages log p_c over the batch, so that maps
    depend on batch mates, which is not copied. logit: S_c; behind a piecewise linear head H is
    then 0, and the map is Grad-CAM's. On token models, where the author's code stops, A is the
    grid of patches.
    """

    def rest(logits: torch.Tensor) -> torch.Tensor:
        return trace.select_targets(logits) + trace.select_targets(logits.log_softmax(1))

    gradients, curvature = trace.differentiate_twice(
        trace.select_targets if score == "logit" else rest
    )
    return trace.upsample(
        weigh_channels((gradients - curvature / 2).mean((2, 3)), trace.activations).relu()
    )


@register_method(
    "finer_cam",
    group="cam",
    fidelity="official",
    citation="Zhang et al., Finer-CAM, CVPR 2025, arXiv:2501.11309, and the authors' code",
    heads=1,
    head_backwards=1,
    version=2,
)
def finer_cam(
    trace: Trace,
    *,
    gamma: Annotated[float, Range(0, 100)] = 1.0,
    classes: Annotated[int, Range(1, 100_000)] = 3,
    weights: Literal["mean", "softmax"] = "softmax",
) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = mean_ij of the gradient of S_c - gamma * mean S of similar
    classes. [B,H,W], >= 0.

    Similar are the `classes` others whose logits are closest to S_c, by |S_d - S_c| and then by
    number. softmax: their mean is weighted by their softmax, which is differentiated too. The
    defaults are those of the authors' code since February 2025, and of pytorch-grad-cam; before,
    it had gamma=0.6 and weights=mean. The 1e-9 that they add to the sum of the weights is left out.
    """
    near = similar_classes(trace, classes)

    def score(logits: torch.Tensor) -> torch.Tensor:
        others = logits.gather(1, near)
        shares = others.softmax(1) if weights == "softmax" else 1 / near.shape[1]
        return trace.select_targets(logits) - gamma * (shares * others).sum(1)

    return trace.upsample(
        weigh_channels(trace.head_gradients(score).mean((2, 3)), trace.activations).relu()
    )


def similar_classes(trace: Trace, count: int) -> torch.Tensor:
    """Return the `count` classes [B,n] whose logits are closest to the target's, the target left
    out.
    """
    if trace.logits.shape[1] < 2:
        raise NotApplicable(
            f"{trace.model.name} has one class; finer_cam compares the target with others."
        )
    distances = (trace.logits - trace.target_logits[:, None]).abs()
    distances = distances.scatter(1, trace.targets.to(distances.device)[:, None], torch.inf)
    order: torch.Tensor = distances.argsort(dim=1, stable=True)
    return order[:, : min(max(count, 1), trace.logits.shape[1] - 1)]


@register_method(
    "hires_cam",
    group="cam",
    fidelity="official",
    citation="Draelos and Carin, HiResCAM, arXiv:2011.08891, eq. 4",
    parts=(GRADIENTS,),
)
def hires_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k G_k * A_k), element by element. [B,H,W], >= 0."""
    return trace.upsample((trace.gradients * trace.activations).sum(1).relu())


@register_method(
    "layer_cam",
    group="cam",
    fidelity="official",
    citation="Jiang et al., LayerCAM, IEEE TIP 2021, eq. 5-7, and the authors' code",
    parts=(GRADIENTS,),
    version=2,
)
def layer_cam(trace: Trace) -> torch.Tensor:
    """sum_k ReLU(G_k) * A_k, element by element, of the one explained layer. [B,H,W]; >= 0 where A
    is.

    The paper's outer ReLU does nothing on the ReLU layers that it explains. The authors' code has
    none, which shows on layers with negative activations (SiLU, GELU, tokens).
    """
    return trace.upsample((trace.gradients.relu() * trace.activations).sum(1))


@register_method(
    "eigen_cam",
    group="cam",
    fidelity="paper",
    citation="Muhammad and Yeasin, Eigen-CAM, IJCNN 2020, eq. 2-4",
    class_agnostic=True,
)
def eigen_cam(trace: Trace) -> torch.Tensor:
    """A projected on its first right singular vector, signed so that sum(map * sum_k A_k) > 0.
    [B,H,W].

    As in the paper nothing is centred; pytorch-grad-cam subtracts each channel's mean over
    positions first.
    """
    return trace.upsample(_first_component(trace.activations, trace.activations))


@register_method(
    "eigen_grad_cam",
    group="cam",
    fidelity="reconstruction",
    citation="after pytorch-grad-cam's EigenGradCAM (no paper), which centres and fixes no sign",
    parts=(GRADIENTS,),
)
def eigen_grad_cam(trace: Trace) -> torch.Tensor:
    """As eigen_cam, of G * A. [B,H,W]."""
    return trace.upsample(_first_component(trace.gradients * trace.activations, trace.activations))


def _first_component(values: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Return values [B,K,h,w] projected on their first right singular vector over positions,
    signed: [B,h,w].
    """
    matrix = values.flatten(2).transpose(1, 2)  # [B,N,K]
    _, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    projection: torch.Tensor = (matrix @ vt[:, 0, :, None])[..., 0]
    sign = (projection * activations.sum(1).flatten(1)).sum(1, keepdim=True).sign()
    signed = projection * torch.where(sign == 0, 1.0, sign)
    return signed.reshape(len(values), *values.shape[2:])

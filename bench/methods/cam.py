"""The CAM family: maps from the explained layer's activations A [B,K,h,w] and the gradients G = dS_c/dA.

Each returns its published map before any min-max: ReLU where the paper has one, at layer resolution, then bilinear
upsampling (align_corners=False). On a head that starts by global average pooling Grad-CAM, HiResCAM and XGrad-CAM are
the same map; boards say so, from the numbers.
"""

from __future__ import annotations

import torch

from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.base import register_method

EPS = 1e-7


def weighted(weights: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Return sum_k w_k A_k: [B,h,w] for weights [B,K] and activations [B,K,h,w]."""
    return torch.einsum("bk,bkhw->bhw", weights, activations)


@register_method(
    "cam",
    group="cam",
    fidelity="official",
    citation="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2",
)
def cam(trace: Trace) -> torch.Tensor:
    """sum_k w_ck A_k with the weights of the linear layer after global average pooling; signed, no ReLU. [B,H,W].

    The weights are read off the head itself: on GAP + linear the gradient is w_ck / (h*w) at every position and
    whatever A is. Any other head has no such weights: not applicable.
    """
    gradients, activations = trace.gradients, trace.activations
    spread = gradients.flatten(2).amax(2) - gradients.flatten(2).amin(2)
    scale = gradients.abs().amax().clamp(min=EPS)
    if float(spread.amax() / scale) > 1e-4 or not _linear(trace):
        raise NotApplicable("cam needs a head of global average pooling and one linear layer; use grad_cam instead.")
    area = activations.shape[2] * activations.shape[3]
    return trace.upsample(weighted(gradients.mean((2, 3)) * area, activations))


def _linear(trace: Trace) -> bool:
    """Return whether the head is linear: S(0) is the mean of S(A) and S(-A), and S(A) that of S(0) and S(2A)."""
    rows = torch.arange(len(trace))
    zero, minus, double = (trace.head(factor * trace.activations, rows) for factor in (0.0, -1.0, 2.0))
    through_zero = (zero - (trace.logits + minus) / 2).abs().amax()
    outward = (trace.logits - (zero + double) / 2).abs().amax()
    return float(torch.maximum(through_zero, outward)) <= 1e-4 * float(trace.logits.abs().amax().clamp(min=1))


@register_method(
    "grad_cam",
    group="cam",
    fidelity="official",
    citation="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, ICCV 2017, eq. 1-2",
)
def grad_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = mean_ij G_k. [B,H,W], >= 0."""
    return trace.upsample(weighted(grad_cam_weights(trace), trace.activations).relu())


def grad_cam_weights(trace: Trace) -> torch.Tensor:
    """Return w_k = mean_ij G_k, [B,K]."""
    return trace.gradients.mean((2, 3))


@register_method(
    "grad_cam_pp",
    group="cam",
    fidelity="official",
    citation="Chattopadhay et al., Grad-CAM++, WACV 2018, eq. 10-19",
)
def grad_cam_pp(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = sum_ij alpha_ij ReLU(G_ij), alpha = G^2 / (2 G^2 + sum_ab A_ab G^3). [B,H,W], >= 0.

    The authors differentiate exp(S_c); its factor exp(S_c) scales the whole map of an image and is left out.
    """
    return trace.upsample(weighted(grad_cam_pp_weights(trace), trace.activations).relu())


def grad_cam_pp_weights(trace: Trace) -> torch.Tensor:
    """Return w_k = sum_ij alpha_ij ReLU(G_ij), [B,K]."""
    g, a = trace.gradients, trace.activations
    squared = g**2
    denominator = 2 * squared + a.sum((2, 3), keepdim=True) * g**3
    alpha = torch.where(denominator != 0, squared / torch.where(denominator != 0, denominator, 1.0), 0.0)
    return (alpha * g.relu()).sum((2, 3))


@register_method(
    "xgrad_cam",
    group="cam",
    fidelity="official",
    citation="Fu et al., Axiom-based Grad-CAM, BMVC 2020, eq. 8",
)
def xgrad_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = sum_ij A_ij G_ij / sum_ij A_ij. [B,H,W], >= 0; a silent channel has weight 0."""
    g, a = trace.gradients, trace.activations
    total = a.sum((2, 3))
    silent = total.abs() < EPS
    weights = torch.where(silent, 0.0, (a * g).sum((2, 3)) / torch.where(silent, 1.0, total))
    return trace.upsample(weighted(weights, a).relu())


@register_method(
    "hires_cam",
    group="cam",
    fidelity="official",
    citation="Draelos and Carin, HiResCAM, arXiv:2011.08891, eq. 4",
)
def hires_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k G_k * A_k), element by element. [B,H,W], >= 0."""
    return trace.upsample((trace.gradients * trace.activations).sum(1).relu())


@register_method(
    "layer_cam",
    group="cam",
    fidelity="official",
    citation="Jiang et al., LayerCAM, IEEE TIP 2021, eq. 5-7",
)
def layer_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k ReLU(G_k) * A_k), element by element, of the one explained layer. [B,H,W], >= 0."""
    return trace.upsample((trace.gradients.relu() * trace.activations).sum(1).relu())


@register_method(
    "eigen_cam",
    group="cam",
    fidelity="paper",
    citation="Muhammad and Yeasin, Eigen-CAM, IJCNN 2020, eq. 2-4",
    class_agnostic=True,
)
def eigen_cam(trace: Trace) -> torch.Tensor:
    """A projected on its first right singular vector, signed so that sum(map * sum_k A_k) > 0. [B,H,W].

    As in the paper nothing is centred; pytorch-grad-cam subtracts each channel's mean over positions first.
    """
    return trace.upsample(_first_component(trace.activations, trace.activations))


@register_method(
    "eigen_grad_cam",
    group="cam",
    fidelity="reconstruction",
    citation="after pytorch-grad-cam's EigenGradCAM (no paper), which centres and fixes no sign",
)
def eigen_grad_cam(trace: Trace) -> torch.Tensor:
    """As eigen_cam, of G * A. [B,H,W]."""
    return trace.upsample(_first_component(trace.gradients * trace.activations, trace.activations))


def _first_component(values: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Return values [B,K,h,w] projected on their first right singular vector over positions, signed: [B,h,w]."""
    matrix = values.flatten(2).transpose(1, 2)  # [B,N,K]
    _, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    projection: torch.Tensor = (matrix @ vt[:, 0, :, None])[..., 0]
    sign = (projection * activations.sum(1).flatten(1)).sum(1, keepdim=True).sign()
    signed = projection * torch.where(sign == 0, 1.0, sign)
    return signed.reshape(len(values), *values.shape[2:])

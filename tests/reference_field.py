"""Slow float64 replicas of the methods beyond `reference.py`: one function per method, written beside the papers.

Every function is `(network, x, c, image_id, **parameters) -> map [H,W]`, one image at a time. As in `reference.py`
gradients run through the whole network and feature maps are changed inside full forwards, never by replaying a head;
nothing is shared with `bench/` except the drawing of random numbers (`bench.randomness`).

Notation: x [3,H,W] normalised, A [K,h,w], G = dS_c/dA [K,h,w], c the class, p_c its softmax probability, all float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import reference as ref
import torch
from reference import SEED, Array, mm, unit, up
from torch import nn

from bench import randomness


class Network(ref.Network):
    """The float64 network of `reference.py` with what the methods here also need: colours, layers, more gradients."""

    def __init__(
        self,
        net: nn.Module,
        layer: str = "features",
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(net, layer, mean, std)
        self.mean = np.array(mean).reshape(3, 1, 1)
        self.std = np.array(std).reshape(3, 1, 1)

    def normalised(self, pixels: Array) -> Array:
        """Pixel values in [0,1] -> the network's input space."""
        return (pixels - self.mean) / self.std

    def activations(self, x: Array) -> Array:
        """A [K,h,w] of an image."""
        return self.layer_and_gradient(x, 0)[0]

    def score_at(self, x: Array, c: int, A: Array) -> float:
        """S_c when the layer's output is A [K,h,w]."""
        return self.score_with(x, c, lambda a: torch.from_numpy(np.ascontiguousarray(A))[None].to(a))

    def logits_at(self, x: Array, A: Array) -> Array:
        """All logits [C] when the layer's output is A [K,h,w]."""
        handle = self.layer.register_forward_hook(lambda _, __, out: torch.from_numpy(np.ascontiguousarray(A))[None])
        try:
            return self.logits(x)
        finally:
            handle.remove()

    def p_at(self, x: Array, c: int, A: Array) -> float:
        """p_c when the layer's output is A [K,h,w]."""
        z = self.logits_at(x, A)
        return float(1.0 / np.exp(z - z[c]).sum())

    def gradient_at(self, x: Array, c: int, A: Array) -> Array:
        """dS_c/dA [K,h,w] at a given A."""
        a = torch.from_numpy(np.array(A, dtype=np.float64))[None].requires_grad_()
        handle = self.layer.register_forward_hook(lambda _, __, out: a * 1.0)
        try:
            score = self.net(torch.from_numpy(np.array(x, dtype=np.float64))[None])[0, c]
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(score, a)
        return gradient[0].numpy()


Method = Callable[..., Array]


# --------------------------------------------------------------------------------------------------------------
# Pieces
# --------------------------------------------------------------------------------------------------------------


def weighted(w: Array, A: Array) -> Array:
    """sum_k w_k A_k."""
    out = np.zeros(A.shape[1:])
    for k in range(len(w)):
        out += w[k] * A[k]
    return out


def relu_up(a: Array, x: Array) -> Array:
    """Up(ReLU(a)) to the size of x."""
    return up(np.maximum(a, 0.0), *x.shape[1:])


def masked_probability(net: Network, x: Array, c: int, mask: Array) -> float:
    """p_c of a mask [H,W] masking x; 0 for a mask that is zero everywhere (a constant channel)."""
    return net.p(net.masked(mask, x), c) if mask.any() else 0.0


def cam_weights(net: Network, x: Array, c: int, base: str) -> Array:
    """Return the channel weights [K] of Grad-CAM, Grad-CAM++ or Score-CAM."""
    A, G = net.layer_and_gradient(x, c)
    w = np.zeros(len(A))
    for k in range(len(A)):
        if base == "grad_cam":
            w[k] = G[k].mean()
        elif base == "score_cam":
            w[k] = masked_probability(net, x, c, mm(up(A[k], *x.shape[1:])))
        elif base == "grad_cam_pp":
            # alpha = G^2 / (2 G^2 + sum_ab A_ab G^3) of the positive gradients, so one power of G cancels twice.
            w[k] = sum(g / (2 + A[k].sum() * g) for g in G[k].reshape(-1) if g > 0)
        else:
            raise ValueError(base)
    return w


# --------------------------------------------------------------------------------------------------------------
# The five systems
# --------------------------------------------------------------------------------------------------------------

BASES: dict[str, Method] = {
    name: (lambda net, x, c, image_id, f=f: f(net, x, c)) for name, f in ref.METHODS.items()
}


def tft(net: Network, x: Array, c: int, image_id: str, inner: str = "grad_cam", include_zero: bool = False) -> Array:
    """TFT: zero the lowest 10 t % of unit(L); keep the t whose map, as a mask, raises p_c most; L where none does."""
    raw = {**BASES, **METHODS}[inner](net, x, c, image_id)
    if not ref.has_positive_part(raw):
        return np.full(raw.shape, math.nan)
    L = unit(raw)
    ranked = ref.order(L, image_id)
    best, chosen = 0.0, L
    for t in range(0 if include_zero else 1, 10):
        M = L.reshape(-1).copy()
        M[ranked[L.size - math.floor(t * L.size / 10) :]] = 0.0
        M = M.reshape(L.shape)
        q = max(0.0, net.p(net.masked(M, x), c) - net.p(x, c))
        if q > best:
            best, chosen = q, M
    return chosen


def reference_image(net: Network, x: Array, image_id: str, reference: str) -> Array:
    """Return the reference x' [3,H,W] of A-FMI, in the network's input space."""
    if reference == "baseline":
        return np.broadcast_to(net.baseline, x.shape).copy()
    if reference == "black":
        return net.normalised(np.zeros_like(x))
    if reference == "white":
        return net.normalised(np.ones_like(x))
    if reference == "blur":
        return ref.blur(x)
    if reference == "noise":
        rng = randomness.generator(SEED, "reference noise", image_id)
        return net.normalised(torch.rand(x.shape, generator=rng).double().numpy())
    raise ValueError(reference)


def feature_map_importance(net: Network, x: Array, c: int, A_ref: Array, replace: str = "reference") -> Array:
    """FMI_k = S_c - S_c with channel k taken from the reference (or zero), by one full forward per channel."""
    A = net.activations(x)
    whole = net.logits(x)[c]
    importance = np.zeros(len(A))
    for k in range(len(A)):
        changed = A.copy()
        changed[k] = A_ref[k] if replace == "reference" else 0.0
        importance[k] = whole - net.score_at(x, c, changed)
    return importance


def a_fmi(
    net: Network,
    x: Array,
    c: int,
    image_id: str,
    form: str = "product",
    reference: str = "baseline",
    relevant_only: bool = True,
    positive_only: bool = False,
    replace: str = "reference",
) -> Array:
    """A-FMI: ReLU(sum_k FMI_k D_k), D = A - A'; `absdiff` takes |D_k|; `complete` spreads FMI_k like D_k/sum D_k."""
    A = net.activations(x)
    A_ref = net.activations(reference_image(net, x, image_id, reference))
    D = A - A_ref
    importance = feature_map_importance(net, x, c, A_ref, replace)
    if relevant_only:
        importance = np.where(np.abs(importance) <= 1e-6 * np.abs(importance).max(), 0.0, importance)
    if positive_only:
        importance = np.maximum(importance, 0.0)
    if form == "product":
        return relu_up(weighted(importance, D), x)
    if form == "absdiff":
        return relu_up(weighted(importance, np.abs(D)), x)
    totals = np.array([d.sum() for d in D])
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        if abs(totals[k]) >= 1e-7 * np.abs(totals).max() and totals[k] != 0:
            out += importance[k] * D[k] / totals[k]
    return up(out, *x.shape[1:])


def self_attention(A: Array, tau: float) -> Array:
    """P [N,N]: row i is the softmax over j of the cosine of positions i and j, over tau."""
    K, h, w = A.shape
    positions = [A[:, n // w, n % w] for n in range(h * w)]
    unit_length = [v / np.linalg.norm(v) if v.any() else v for v in positions]
    P = np.zeros((h * w, h * w))
    for i in range(h * w):
        e = np.array([math.exp(unit_length[i] @ unit_length[j] / tau) for j in range(h * w)])
        P[i] = e / e.sum()
    return P


def sa_cam(
    net: Network,
    x: Array,
    c: int,
    image_id: str,
    lambda_: float = 1.0,
    tau: float = 0.2,
    form: str = "additive",
    base: str = "grad_cam",
) -> Array:
    """SA-CAM: ReLU(sum_k w_k A~_k), A~_k = A_k + lambda P a_k, or A_k (1 + lambda mm(P a_k))."""
    A = net.activations(x)
    P = self_attention(A, tau)
    refined = np.zeros_like(A)
    for k in range(len(A)):
        attended = (P @ A[k].reshape(-1)).reshape(A[k].shape)
        refined[k] = A[k] + lambda_ * attended if form == "additive" else A[k] * (1 + lambda_ * mm(attended))
    return relu_up(weighted(cam_weights(net, x, c, base), refined), x)


def abs_cam_init(net: Network, x: Array, c: int, image_id: str) -> Array:
    """Abs-CAM, phase 1: w_k = mean |G_k|; ReLU(sum_k w_k A_k)."""
    A, G = net.layer_and_gradient(x, c)
    return relu_up(weighted(np.array([np.abs(g).mean() for g in G]), A), x)


def abs_cam(net: Network, x: Array, c: int, image_id: str, form: str = "activations") -> Array:
    """Abs-CAM: S_k = p_c(H_k masking x), H_k = mm(Up A_k); ReLU(sum_k w_k S_k Up(A_k)), or sum_k S_k H_k."""
    A, G = net.layer_and_gradient(x, c)
    total = np.zeros(x.shape[1:])
    for k in range(len(A)):
        large = up(A[k], *x.shape[1:])
        score = masked_probability(net, x, c, mm(large))
        total += score * mm(large) if form == "normalised" else np.abs(G[k]).mean() * score * large
    return np.maximum(total, 0.0)


def abs_cam_elementwise(net: Network, x: Array, c: int, image_id: str) -> Array:
    """The same with E_k = mm(Up(|G_k| A_k)) as masks: ReLU(sum_k p_c(E_k masking x) Up(|G_k| A_k))."""
    A, G = net.layer_and_gradient(x, c)
    total = np.zeros(x.shape[1:])
    for k in range(len(A)):
        large = up(np.abs(G[k]) * A[k], *x.shape[1:])
        total += masked_probability(net, x, c, mm(large)) * large
    return np.maximum(total, 0.0)


METHODS: dict[str, Method] = {f.__name__: f for f in (tft, a_fmi, sa_cam, abs_cam_init, abs_cam, abs_cam_elementwise)}

"""Slow float64 replicas of the methods beyond `reference.py`: one function per method, written
beside the papers.

Every function is `(network, x, c, image_id, **parameters) -> map [H,W]`, one image at a time. As in
`reference.py` gradients run through the whole network and feature maps are changed inside full
forwards, never by replaying a head; nothing is shared with `bench/` except the drawing of random
numbers (`bench.randomness`).

Notation: x [3,H,W] normalised, A [K,h,w], G = dS_c/dA [K,h,w], c the class, p_c its softmax
probability, all float64.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import ndimage
from skimage.transform import resize
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench import randomness
from tests.support import reference as ref
from tests.support.reference import SEED, Array, mm, unit, up


class Network(ref.Network):
    """The float64 network of `reference.py` with what the methods here also need: colours, layers,
    more gradients.
    """

    def __init__(
        self,
        net: nn.Module,
        layer: str = "features",
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(net, layer, mean, std)
        self.colours = (mean, std)
        self.mean = np.array(mean).reshape(3, 1, 1)
        self.std = np.array(std).reshape(3, 1, 1)

    def at(self, layer: str) -> Network:
        """Return the same network seen at another layer."""
        return Network(self.net, layer, *self.colours)

    def normalised(self, pixels: Array) -> Array:
        """Pixel values in [0,1] -> the network's input space."""
        return (pixels - self.mean) / self.std

    def activations(self, x: Array) -> Array:
        """A [K,h,w] of an image."""
        return self.layer_and_gradient(x, 0)[0]

    def score_at(self, x: Array, c: int, A: Array) -> float:
        """S_c when the layer's output is A [K,h,w]."""
        return self.score_with(
            x, c, lambda a: torch.from_numpy(np.ascontiguousarray(A))[None].to(a)
        )

    def logits_at(self, x: Array, A: Array) -> Array:
        """All logits [C] when the layer's output is A [K,h,w]."""
        handle = self.layer.register_forward_hook(
            lambda _, __, out: torch.from_numpy(np.ascontiguousarray(A))[None]
        )
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


# --------------------------------------------------------------------------------------------------
# Pieces
# --------------------------------------------------------------------------------------------------


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
            # alpha = G^2 / (2 G^2 + sum_ab A_ab G^3) of the positive gradients, so one power of G
            # cancels twice.
            w[k] = sum(g / (2 + A[k].sum() * g) for g in G[k].reshape(-1) if g > 0)
        else:
            raise ValueError(base)
    return w


# --------------------------------------------------------------------------------------------------
# The five systems
# --------------------------------------------------------------------------------------------------

BASES: dict[str, Method] = {
    name: (lambda net, x, c, image_id, f=f, **given: f(net, x, c, **given))
    for name, f in ref.METHODS.items()
}


def tft(
    net: Network,
    x: Array,
    c: int,
    image_id: str,
    inner: str = "grad_cam",
    include_zero: bool = False,
) -> Array:
    """TFT: zero the lowest 10 t % of unit(L); keep the t whose map, as a mask, raises p_c most; L
    where none does.
    """
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


def feature_map_importance(
    net: Network, x: Array, c: int, A_ref: Array, replace: str = "reference"
) -> Array:
    """FMI_k = S_c - S_c with channel k taken from the reference (or zero), by one full forward per
    channel.
    """
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
    positive_only: bool = False,
    replace: str = "reference",
    selection: str = "largest",
    share: float = 1e-6,
) -> Array:
    """A-FMI: ReLU(sum_k FMI_k D_k), D = A - A'; `absdiff` takes |D_k|; `complete` spreads FMI_k
    like D_k/sum D_k. Only strong channels count: above a share of the largest, or the first that
    hold a share of the sum.
    """
    A = net.activations(x)
    A_ref = net.activations(reference_image(net, x, image_id, reference))
    D = A - A_ref
    importance = feature_map_importance(net, x, c, A_ref, replace)
    sizes, kept, held = np.abs(importance), set(), 0.0
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        if sizes[k] > share * sizes.max() if selection == "largest" else held < share * sizes.sum():
            kept.add(k)
        held += sizes[k]
    importance = np.array([v if k in kept else 0.0 for k, v in enumerate(importance)])
    if positive_only:
        importance = np.maximum(importance, 0.0)
    if form == "product":
        return relu_up(weighted(importance, D), x)
    if form == "absdiff":
        return relu_up(weighted(importance, np.abs(D)), x)
    out = np.zeros(A.shape[1:])
    for k in range(len(A)):
        if abs(D[k].sum()) > 1e-3 * np.abs(D[k]).sum():  # else the sum cancels and says nothing
            out += importance[k] * D[k] / D[k].sum()
    return up(out, *x.shape[1:])


def self_attention(A: Array, tau: float) -> Array:
    """P [N,N]: row i is the softmax over j of the cosine of positions i and j, over tau."""
    _, h, w = A.shape
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
        refined[k] = (
            A[k] + lambda_ * attended if form == "additive" else A[k] * (1 + lambda_ * mm(attended))
        )
    return relu_up(weighted(cam_weights(net, x, c, base), refined), x)


def abs_cam_init(net: Network, x: Array, c: int, image_id: str) -> Array:
    """Abs-CAM, phase 1: w_k = mean |G_k|; ReLU(sum_k w_k A_k)."""
    A, G = net.layer_and_gradient(x, c)
    return relu_up(weighted(np.array([np.abs(g).mean() for g in G]), A), x)


def abs_cam(net: Network, x: Array, c: int, image_id: str, form: str = "normalised") -> Array:
    """Abs-CAM: S_k = p_c(H_k masking x), H_k = mm(Up A_k); ReLU(sum_k w_k S_k Up(A_k)), or sum_k
    S_k H_k.
    """
    A, G = net.layer_and_gradient(x, c)
    total = np.zeros(x.shape[1:])
    for k in range(len(A)):
        large = up(A[k], *x.shape[1:])
        score = masked_probability(net, x, c, mm(large))
        total += score * mm(large) if form == "normalised" else np.abs(G[k]).mean() * score * large
    return np.maximum(total, 0.0)


def abs_cam_elementwise(net: Network, x: Array, c: int, image_id: str) -> Array:
    """The same with E_k = mm(Up(|G_k| A_k)) as masks: ReLU(sum_k p_c(E_k masking x) Up(|G_k|
    A_k)).
    """
    A, G = net.layer_and_gradient(x, c)
    total = np.zeros(x.shape[1:])
    for k in range(len(A)):
        large = up(np.abs(G[k]) * A[k], *x.shape[1:])
        total += masked_probability(net, x, c, mm(large)) * large
    return np.maximum(total, 0.0)


# --------------------------------------------------------------------------------------------------
# The CAM family
# --------------------------------------------------------------------------------------------------


def wide_blur(x: Array) -> Array:
    """Group-CAM's blur of x [3,H,W]: kernel 51 and sigma 50 at 224, both scaled with the side;
    reflected.
    """
    _, height, width = x.shape
    sigma = 50.0 * min(height, width) / 224.0
    radius = min(math.ceil(sigma / 2), min(height, width) - 1)
    kernel = ref.gaussian_kernel(sigma, radius)
    out = np.zeros_like(x)
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            rows = [ref.mirror(y + i, height) for y in range(height)]
            columns = [ref.mirror(y + j, width) for y in range(width)]
            out += kernel[i + radius] * kernel[j + radius] * x[:, rows][:, :, columns]
    return out


def group_cam(
    net: Network, x: Array, c: int, image_id: str, groups: int = 32, form: str = "last"
) -> Array:
    """M_g = ReLU(sum_{k in g} w_k A_k), cut at its 70th percentile; H_g = mm(Up M_g); gain_g =
    p_c(x under H_g, blur elsewhere) - p_c(blur); ReLU(sum_g gain_g H_g).

    "first": no cut, and sum_g ReLU(gain_g) Up M_g.
    """
    A, G = net.layer_and_gradient(x, c)
    away = wide_blur(x)
    size = math.ceil(len(A) / groups)
    total = np.zeros(x.shape[1:])
    for start in range(0, len(A), size):
        M = np.maximum(
            sum(G[k].mean() * A[k] for k in range(start, min(start + size, len(A)))), 0.0
        )
        if form == "last":
            M = np.where(np.percentile(M, 70) < M, M, 0.0)
        if M.max() == M.min():
            continue
        H = mm(up(M, *x.shape[1:]))
        gain = net.p(H * x + (1 - H) * away, c) - net.p(away, c)
        total += gain * H if form == "last" else max(gain, 0.0) * up(M, *x.shape[1:])
    return np.maximum(total, 0.0)


def residual_softmax_gradient(net: Network, x: Array, c: int, A: Array) -> Array:
    """d(S_c + log p_c)/dA [K,h,w]: 2 dS_c/dA - sum_d p_d dS_d/dA."""
    z = net.logits_at(x, A)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    mean = sum(p[d] * net.gradient_at(x, d, A) for d in range(len(z)))
    return 2 * net.gradient_at(x, c, A) - mean


def shapley_cam(net: Network, x: Array, c: int, image_id: str, score: str = "rest") -> Array:
    """w_k = mean_ij(G - (H A)/2); the Hessian times A as a central difference of gradients along
    A; the score is S_c + log p_c, or S_c.
    """
    gradient_at = (
        net.gradient_at if score == "logit" else functools.partial(residual_softmax_gradient, net)
    )
    A = net.activations(x)
    step = 1e-5
    product = (gradient_at(x, c, (1 + step) * A) - gradient_at(x, c, (1 - step) * A)) / (2 * step)
    weights = (gradient_at(x, c, A) - product / 2).mean(axis=(1, 2))
    return relu_up(weighted(weights, A), x)


def finer_cam(
    net: Network,
    x: Array,
    c: int,
    image_id: str,
    gamma: float = 1.0,
    classes: int = 3,
    weights: str = "softmax",
) -> Array:
    """Grad-CAM of S_c - gamma * (mean of the `classes` nearest logits, or their softmax-weighted
    sum).
    """
    z = net.logits(x)
    others = sorted((d for d in range(len(z)) if d != c), key=lambda d: (abs(z[d] - z[c]), d))[
        :classes
    ]
    A, G = net.layer_and_gradient(x, c)
    rival = {d: net.layer_and_gradient(x, d)[1] for d in others}
    q = np.array([math.exp(z[d] - z[others].max()) for d in others])
    q /= q.sum()
    compared = float((q * z[others]).sum())
    for i, d in enumerate(others):
        # d/dz_d of sum_e q_e z_e is q_d (1 + z_d - sum_e q_e z_e): the softmax is differentiated
        # too.
        share = 1 / len(others) if weights == "mean" else q[i] * (1 + z[d] - compared)
        G = G - gamma * share * rival[d]
    return relu_up(weighted(G.mean(axis=(1, 2)), A), x)


GAUSSIAN = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16.0


def recipro_cam(net: Network, x: Array, c: int, image_id: str, filter_: str = "none") -> Array:
    """L_ij = p_c with only position ij of A alive, or with its vector spread by a 3x3 Gaussian;
    raw.
    """
    A = net.activations(x)
    _, h, w = A.shape
    L = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            alone = np.zeros_like(A)
            for u in range(-1, 2):
                for v in range(-1, 2):
                    share = (
                        GAUSSIAN[u + 1, v + 1]
                        if filter_ == "gaussian"
                        else float(u == 0 and v == 0)
                    )
                    if 0 <= i + u < h and 0 <= j + v < w:
                        alone[:, i + u, j + v] = A[:, i, j] * share
            L[i, j] = net.p_at(x, c, alone)
    return up(L, *x.shape[1:])


def smooth_grad_cam_pp(
    net: Network, x: Array, c: int, image_id: str, samples: int = 4, std: float = 0.3
) -> Array:
    """Grad-CAM++ with G, G^2 and G^3 averaged over noisy images; A is that of the clean image."""
    rng = randomness.generator(SEED, "smooth_grad_cam_pp", image_id)
    A = net.activations(x)
    powers = np.zeros((3, *A.shape))
    for _ in range(samples):
        noise = torch.randn(x.shape, generator=rng).double().numpy()
        _, G = net.layer_and_gradient(x + std * noise, c)
        for n in range(3):
            powers[n] += G ** (n + 1) / samples
    first, second, third = powers
    w = np.zeros(len(A))
    for k in range(len(A)):
        for ij in np.ndindex(*A.shape[1:]):
            below = 2 * second[k][ij] + A[k].sum() * third[k][ij]
            w[k] += second[k][ij] / below * max(first[k][ij], 0.0) if below != 0 else 0.0
    return relu_up(weighted(w, A), x)


def layer_cam_fused(net: Network, x: Array, c: int, image_id: str, layers: str) -> Array:
    """LayerCAM per layer over its maximum; tanh(2 .) of all but the last two; elementwise maximum
    of the upsampled.
    """
    names = layers.split("+")
    maps = []
    for depth, name in enumerate(names):
        A, G = net.at(name).layer_and_gradient(x, c)
        L = np.maximum((np.maximum(G, 0) * A).sum(axis=0), 0.0)
        L = L / L.max() if L.max() > 0 else L
        maps.append(up(np.tanh(2 * L) if depth < len(names) - 2 else L, *x.shape[1:]))
    return np.max(maps, axis=0)


def fused(
    net: Network,
    x: Array,
    c: int,
    image_id: str,
    layers: str,
    inner: str = "grad_cam",
    reduce: str = "mean",
) -> Array:
    """unit(map of a method at each layer), their mean or maximum."""
    method = {**BASES, **METHODS}[inner]
    maps = [unit(method(net.at(name), x, c, image_id)) for name in layers.split("+")]
    return np.mean(maps, axis=0) if reduce == "mean" else np.max(maps, axis=0)


def random_cam(net: Network, x: Array, c: int, image_id: str) -> Array:
    """w_k uniform in [-1,1]; ReLU(sum_k w_k A_k)."""
    A = net.activations(x)
    u = (
        torch.rand(len(A), generator=randomness.generator(SEED, "random_cam", image_id))
        .double()
        .numpy()
    )
    return relu_up(weighted(2 * u - 1, A), x)


def bias_terms(net: Network, x: Array, c: int) -> Iterator[Array]:
    """Yield b * dS_c/d(out) [c,h,w] of every convolution with a bias and every batch norm (mean and
    scale folded).
    """
    for module in net.net.modules():
        if isinstance(module, nn.BatchNorm2d):
            bias = module.bias - module.running_mean * module.weight / torch.sqrt(
                module.running_var + module.eps
            )
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            bias = module.bias
        else:
            continue
        yield bias.numpy()[:, None, None] * gradient_at_module(net, module, x, c)


def gradient_at_module(net: Network, module: nn.Module, x: Array, c: int) -> Array:
    """dS_c/d(out) of a module, as the gradient with respect to zeros added to its output."""
    added: list[torch.Tensor] = []

    def add(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        added.append(torch.zeros_like(output, requires_grad=True))
        return output + added[0]

    handle = module.register_forward_hook(add)
    try:
        score = net.net(torch.from_numpy(np.array(x, dtype=np.float64))[None])[0, c]
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(score, added[0])
    return gradient[0].numpy()


def full_grad(net: Network, x: Array, c: int, image_id: str, form: str = "paper") -> Array:
    """psi(x * dS/dx) + sum over biases of psi(b * dS/d(out)); psi = sum over channels of
    Up(mm(|.|)), mm jointly. "code": mm adds 1e-6 to the maximum, and Up keeps the corners.
    """
    total = np.zeros(x.shape[1:])
    for part in (x * net.input_gradient(x, c), *bias_terms(net, x, c)):
        a = np.abs(part)
        scaled = mm(a) if form == "paper" else (a - a.min()) / (a.max() - a.min() + 1e-6)
        for channel in scaled:
            total += (up if form == "paper" else up_with_corners)(channel, *x.shape[1:])
    return total


def up_with_corners(a: Array, height: int, width: int) -> Array:
    """Bilinear upsampling of [h,w] whose corner pixels are the corner cells."""
    rows, columns = (
        np.linspace(0, n - 1, side) for n, side in zip(a.shape, (height, width), strict=True)
    )
    return ndimage.map_coordinates(a, np.meshgrid(rows, columns, indexing="ij"), order=1)


# --------------------------------------------------------------------------------------------------
# The gradient family
# --------------------------------------------------------------------------------------------------

REFERENCES = ("baseline", "black", "white", "blur", "noise")


def integrated_gradients(
    net: Network, x: Array, c: int, image_id: str, reference: str = "baseline", steps: int = 50
) -> Array:
    """(x - x') * integral of dS_c/dx along the line from x', Gauss-Legendre; summed over
    channels.
    """
    start = reference_image(net, x, image_id, reference)
    total = np.zeros_like(x)
    for alpha, weight in zip(*ref.legendre(steps), strict=True):
        total += weight * net.input_gradient(start + alpha * (x - start), c)
    return ((x - start) * total).sum(axis=0)


def idgi(
    net: Network, x: Array, c: int, image_id: str, reference: str = "baseline", steps: int = 50
) -> Array:
    """Each step's change of S_c is shared out as the squares of the gradient at the step's start;
    sum over channels.
    """
    start = reference_image(net, x, image_id, reference)
    total = np.zeros_like(x)
    for j in range(steps):
        here, there = start + j / steps * (x - start), start + (j + 1) / steps * (x - start)
        squares = net.input_gradient(here, c) ** 2
        if squares.sum() > 0:
            total += squares * (net.logits(there)[c] - net.logits(here)[c]) / squares.sum()
    return total.sum(axis=0)


def noisy_gradients(
    net: Network, x: Array, c: int, image_id: str, samples: int, std: float
) -> Array:
    """dS_c/dx [samples,3,H,W] at x + sigma n, sigma = std * (max x - min x)."""
    rng = randomness.generator(SEED, "noisy gradients", image_id)
    sigma = std * (x.max() - x.min())
    noise = [torch.randn(x.shape, generator=rng).double().numpy() for _ in range(samples)]
    return np.stack([net.input_gradient(x + sigma * n, c) for n in noise])


def smooth_grad(
    net: Network,
    x: Array,
    c: int,
    image_id: str,
    samples: int = 25,
    std: float = 0.15,
    magnitude: bool = False,
) -> Array:
    """sum over channels of |mean of the noisy gradients|; magnitude: of the mean of squares."""
    g = noisy_gradients(net, x, c, image_id, samples, std)
    return ((g**2).mean(axis=0) if magnitude else np.abs(g.mean(axis=0))).sum(axis=0)


def var_grad(
    net: Network, x: Array, c: int, image_id: str, samples: int = 25, std: float = 0.15
) -> Array:
    """sum over channels of the population variance of the noisy gradients."""
    g = noisy_gradients(net, x, c, image_id, samples, std)
    return ((g - g.mean(axis=0)) ** 2).mean(axis=0).sum(axis=0)


def gradient_shap(
    net: Network, x: Array, c: int, image_id: str, samples: int = 50, std: float = 0.0
) -> Array:
    """Mean of (x_s - R_s) * dS_c/dx(R_s + a (x_s - R_s)): a uniform, x_s noisy, R_s the references
    in turn.
    """
    rng = randomness.generator(SEED, "gradient_shap", image_id)
    total = np.zeros_like(x)
    for s in range(samples):
        start = reference_image(net, x, image_id, REFERENCES[s % 5])
        a = torch.rand((), generator=rng).item()
        end = x
        if std > 0:
            end = (
                x + std * (x.max() - x.min()) * torch.randn(x.shape, generator=rng).double().numpy()
            )
        total += (end - start) * net.input_gradient(start + a * (end - start), c)
    return (total / samples).sum(axis=0)


class Rectified(torch.autograd.Function):
    """ReLU whose gradient is max(g,0), gated by the input (guided backprop) or not (deconvnet)."""

    @staticmethod
    def forward(ctx, x, gated):
        ctx.save_for_backward(x)
        ctx.gated = gated
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g.clamp(min=0) * (x > 0) if ctx.gated else g.clamp(min=0), None


class Rescaled(torch.autograd.Function):
    """f on a batch (x, r) whose gradient at x is g times (f(x) - f(r)) / (x - r)."""

    @staticmethod
    def forward(ctx, pair, f, slope):
        ctx.save_for_backward(pair)
        ctx.functions = (f, slope)
        return f(pair)

    @staticmethod
    def backward(ctx, g):
        (pair,) = ctx.saved_tensors
        f, slope = ctx.functions
        change = pair[0] - pair[1]
        near = change.abs() < 1e-6
        multiplier = (f(pair)[0] - f(pair)[1]) / torch.where(near, torch.ones_like(change), change)
        multiplier = torch.where(near, slope(pair[0]), multiplier)
        return torch.stack([g[0] * multiplier, torch.zeros_like(g[1])]), None, None


class RescaledPool(torch.autograd.Function):
    """Max pooling of a batch (x, r) under DeepLIFT's rule: what a window gains goes to where each
    maximum stood.

    g (max(y,y_r) - y_r) goes to the maximum of x and g (y - max(y,y_r)) to that of r, over x - r;
    plain where x = r.
    """

    @staticmethod
    def forward(ctx, pair, size, stride, padding):
        ctx.save_for_backward(pair)
        ctx.geometry = (size, stride, padding)
        return F.max_pool2d(pair, size, stride, padding)

    @staticmethod
    def backward(ctx, g):
        (pair,) = ctx.saved_tensors
        size, stride, padding = ctx.geometry
        x, r = pair.numpy()
        gained, plain = np.zeros_like(x), np.zeros_like(x)
        for k, i, j in np.ndindex(*g.shape[1:]):
            top, left = i * stride - padding, j * stride - padding
            rows, columns = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
            share, y, y_r = float(g[0, k, i, j]), x[k, rows, columns], r[k, rows, columns]
            higher = max(y.max(), y_r.max())
            gained[k, rows, columns].flat[y.argmax()] += share * (higher - y_r.max())
            gained[k, rows, columns].flat[y_r.argmax()] += share * (y.max() - higher)
            plain[k, rows, columns].flat[y.argmax()] += share
        near = np.abs(x - r) < 1e-6
        multiplier = np.where(near, plain, gained / np.where(near, 1.0, x - r))
        return torch.from_numpy(np.stack([multiplier, np.zeros_like(multiplier)])), None, None, None


def silu_slope(x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


class Activations(TorchFunctionMode):
    """While active, every ReLU, SiLU and max pooling, module or function, runs as the given one."""

    def __init__(
        self,
        relu: Callable[..., torch.Tensor],
        silu: Callable[..., torch.Tensor] | None = None,
        pool: Callable[..., torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.replaced = {F.relu: relu, torch.relu: relu, torch.relu_: relu, F.silu: silu}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.replaced.get(function) is not None:
            return self.replaced[function](args[0])
        if function is F.max_pool2d and self.pool is not None:
            return self.pool(*args[:2], kwargs["stride"], kwargs["padding"])
        return function(*args, **(kwargs or {}))


def rectified_gradient(net: Network, x: Array, c: int, gated: bool) -> Array:
    """The gradient of S_c with rectified ReLUs, summed over channels."""
    t = torch.from_numpy(np.array(x, dtype=np.float64))[None].requires_grad_()
    with Activations(lambda a: Rectified.apply(a, gated)):
        score = net.net(t)[0, c]
    (gradient,) = torch.autograd.grad(score, t)
    return gradient[0].numpy().sum(axis=0)


def guided_backprop(net: Network, x: Array, c: int, image_id: str) -> Array:
    """Gradient in which a ReLU passes what is positive on the way back and was open on the way
    forth.
    """
    return rectified_gradient(net, x, c, gated=True)


def deconvnet(net: Network, x: Array, c: int, image_id: str) -> Array:
    """Gradient in which a ReLU passes what is positive on the way back."""
    return rectified_gradient(net, x, c, gated=False)


def guided_grad_cam(net: Network, x: Array, c: int, image_id: str) -> Array:
    """Grad-CAM times guided backprop."""
    return ref.grad_cam(net, x, c) * guided_backprop(net, x, c, image_id)


def deep_lift(net: Network, x: Array, c: int, image_id: str, reference: str = "baseline") -> Array:
    """DeepLIFT, rescale rule: (x - x') times the multipliers, summed over channels."""
    start = reference_image(net, x, image_id, reference)
    pair = torch.from_numpy(np.stack([x, start])).requires_grad_()

    def relu(a: torch.Tensor) -> torch.Tensor:
        return Rescaled.apply(a, lambda t: t.clamp(min=0), lambda t: (t > 0).to(t))

    silu = lambda a: Rescaled.apply(a, lambda t: t * torch.sigmoid(t), silu_slope)  # noqa: E731
    with Activations(relu, silu, RescaledPool.apply):
        score = net.net(pair)[0, c]
    (multiplier,) = torch.autograd.grad(score, pair)
    return ((x - start) * multiplier[0].numpy()).sum(axis=0)


def deep_lift_shap(net: Network, x: Array, c: int, image_id: str) -> Array:
    """Mean of DeepLIFT over the five references."""
    return np.mean([deep_lift(net, x, c, image_id, name) for name in REFERENCES], axis=0)


def chain(net: nn.Module) -> list[nn.Module]:
    """Return the layers of a plain feed-forward net in order, each batch norm folded into the
    convolution before it.
    """
    layers: list[nn.Module] = []
    flat = False
    for module in net.modules():
        if list(module.children()) or isinstance(module, nn.Dropout):
            continue
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight / torch.sqrt(module.running_var + module.eps)
            before = layers.pop()
            folded = copy.deepcopy(before)
            bias = before.bias if before.bias is not None else torch.zeros_like(scale)
            folded.weight = nn.Parameter(
                before.weight * scale[:, None, None, None], requires_grad=False
            )
            folded.bias = nn.Parameter(
                (bias - module.running_mean) * scale + module.bias, requires_grad=False
            )
            layers.append(folded)
            continue
        if isinstance(module, nn.Linear) and not flat:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            flat = True
        flat = flat or isinstance(module, nn.Flatten)
        layers.append(module)
    return layers


def lrp(
    net: Network, x: Array, c: int, image_id: str, rule: str = "epsilon_plus", epsilon: float = 1e-6
) -> Array:
    """LRP through a plain chain of layers; `rule` is that of convolutions, max pooling gives the
    winner all (Captum's epsilon rule there absorbs a little), all other layers take the epsilon
    rule.
    """
    inputs = [torch.from_numpy(np.array(x, dtype=np.float64))[None]]
    layers = chain(net.net)
    for layer in layers:
        inputs.append(layer(inputs[-1].clone()))
    np.testing.assert_allclose(inputs[-1][0].numpy(), net.logits(x), atol=1e-9)
    R = torch.zeros_like(inputs[-1])
    R[0, c] = inputs[-1][0, c]
    for layer, a in zip(reversed(layers), reversed(inputs[:-1]), strict=True):
        if isinstance(layer, nn.Flatten):
            R = R.reshape(a.shape)
        elif isinstance(layer, nn.ReLU | nn.SiLU):
            continue
        elif isinstance(layer, nn.MaxPool2d | nn.AdaptiveMaxPool2d):
            R = back(layer, a, R)
        elif isinstance(layer, nn.Conv2d) and rule == "epsilon_plus":
            positive, negative = copy.deepcopy(layer), copy.deepcopy(layer)
            for half, weight in (
                (positive, layer.weight.clamp(min=0)),
                (negative, layer.weight.clamp(max=0)),
            ):
                half.weight, half.bias = nn.Parameter(weight, requires_grad=False), None
            z = positive(a.clamp(min=0)) + negative(a.clamp(max=0))
            s = R / (z + epsilon * torch.where(z >= 0, 1.0, -1.0))
            R = a.clamp(min=0) * back(positive, a, s) + a.clamp(max=0) * back(negative, a, s)
        else:
            z = layer(a)
            R = a * back(layer, a, R / (z + epsilon * torch.where(z >= 0, 1.0, -1.0)))
    return R[0].numpy().sum(axis=0)


def back(layer: nn.Module, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """The transpose of a (bi)linear layer, applied to s."""
    return torch.autograd.functional.vjp(layer, a, s)[1]


# --------------------------------------------------------------------------------------------------
# The perturbation family
# --------------------------------------------------------------------------------------------------


def occlusion(
    net: Network, x: Array, c: int, image_id: str, window: float = 0.2, stride: float = 0.1
) -> Array:
    """Mean, over the windows that cover a pixel, of p_c(x) - p_c(x with the window in the baseline
    colour).
    """
    _, height, width = x.shape
    size = max(1, round(window * min(height, width)))
    step = max(1, round(stride * min(height, width)))
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for i in [*range(0, height - size, step), height - size]:
        for j in [*range(0, width - size, step), width - size]:
            hidden = np.zeros((height, width))
            hidden[i : i + size, j : j + size] = 1.0
            total += hidden * (net.p(x, c) - net.p(net.masked(1 - hidden, x), c))
            count += hidden
    return total / count


def rise(
    net: Network, x: Array, c: int, image_id: str, masks: int = 4000, cells: int = 7, p: float = 0.5
) -> Array:
    """sum_i p_c(M_i masking x) M_i / (N p): random grids, enlarged linearly by skimage as the
    authors do, shifted.
    """
    _, height, width = x.shape
    rng = randomness.generator(SEED, "rise")  # one set of masks for all images
    grids = (torch.rand(masks, cells, cells, generator=rng) < p).double().numpy()
    rows, columns = math.ceil(height / cells), math.ceil(width / cells)
    dy = torch.randint(0, rows, (masks,), generator=rng).tolist()
    dx = torch.randint(0, columns, (masks,), generator=rng).tolist()
    large = ((cells + 1) * rows, (cells + 1) * columns)
    total = np.zeros((height, width))
    for grid, i, j in zip(grids, dy, dx, strict=True):
        enlarged = resize(grid, large, order=1, mode="reflect", anti_aliasing=False)
        M = enlarged[i : i + height, j : j + width]
        total += net.p(net.masked(M, x), c) * M
    return total / (masks * p)


def segments(height: int, width: int, cells: int) -> Array:
    """The number [H,W] of each pixel's square."""
    return np.array(
        [
            [i * cells // height * cells + j * cells // width for j in range(width)]
            for i in range(height)
        ]
    )


def coalition(net: Network, x: Array, c: int, parts: Array, z: Array) -> float:
    """p_c with the segments of z = 1 kept and the others in the baseline colour."""
    return net.p(net.masked(z[parts], x), c)


def lime(
    net: Network, x: Array, c: int, image_id: str, samples: int = 1000, cells: int = 7
) -> Array:
    """Weighted ridge of p_c on random coalitions of squares; the map is each square's
    coefficient.
    """
    parts, M = segments(x.shape[1], x.shape[2], cells), cells**2
    Z = (
        torch.randint(0, 2, (samples, M), generator=randomness.generator(SEED, "lime", image_id))
        .double()
        .numpy()
    )
    Z[0] = 1.0
    y = np.array([coalition(net, x, c, parts, z) for z in Z])
    distance = 1 - np.sqrt(Z.sum(axis=1) / M)
    weight = np.exp(-(distance**2) / (2 * 0.25**2))
    model = Ridge(alpha=1.0, fit_intercept=True, solver="cholesky").fit(Z, y, sample_weight=weight)
    return model.coef_[parts]


def kernel_shap(
    net: Network, x: Array, c: int, image_id: str, samples: int = 1000, cells: int = 7
) -> Array:
    """Least squares of p_c on coalitions with sum phi = p_c(x) - p_c(b): by the Lagrange system,
    not a projection.
    """
    parts, M = segments(x.shape[1], x.shape[2], cells), cells**2
    rng = randomness.generator(SEED, "kernel_shap", image_id)
    q = torch.tensor([1.0 / (j * (M - j)) for j in range(1, M)], dtype=torch.float64)
    sizes = torch.multinomial(q, samples - 2, replacement=True, generator=rng) + 1
    rank = torch.rand(samples - 2, M, generator=rng).argsort(1).argsort(1)
    Z = (rank < sizes[:, None]).double().numpy()
    full, empty = coalition(net, x, c, parts, np.ones(M)), coalition(net, x, c, parts, np.zeros(M))
    y = np.array([coalition(net, x, c, parts, z) for z in Z]) - empty
    system = np.block([[Z.T @ Z, np.ones((M, 1))], [np.ones((1, M)), np.zeros((1, 1))]])
    phi = np.linalg.solve(system, np.concatenate([Z.T @ y, [full - empty]]))[:M]
    return phi[parts]


def smoothed(x: Array, sigma: float) -> Array:
    """Gaussian blur of x [C,H,W] with zeros around it, cut at ceil(4 sigma)."""
    return np.stack(
        [ndimage.gaussian_filter(p, sigma, mode="constant", radius=math.ceil(4 * sigma)) for p in x]
    )


def smooth_mask(
    pmask: torch.Tensor, side: tuple[int, int], step: int, sigma: float
) -> torch.Tensor:
    """Extremal perturbations' mask with its margin: a soft maximum (coldness 20) over cells of
    value times kernel.

    Cells [h,w] sit `step` pixels apart; the kernel falls from 1 within sigma/2 of a cell as exp(-2
    (d/sigma - 1/2)^2). Cells beyond the border are zeros that take part in the soft maximum.
    """
    margin = sigma
    padding, radius = 1 + math.ceil((margin + sigma) / step), 1 + math.ceil(sigma / step)
    rows, columns = ((math.ceil(n / step) + 2 * (padding - radius)) * step - step + 1 for n in side)
    u, v = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    values = []
    for ky in range(2 * radius + 1):
        for kx in range(2 * radius + 1):
            i, j = u // step + ky - padding, v // step + kx - padding
            inside = (i >= 0) & (i < pmask.shape[0]) & (j >= 0) & (j < pmask.shape[1])
            cell = pmask[i.clamp(0, pmask.shape[0] - 1), j.clamp(0, pmask.shape[1] - 1)] * inside
            distance = torch.sqrt(
                (u - margin - step * i).double() ** 2 + (v - margin - step * j).double() ** 2
            )
            values.append(cell * torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2))
    each = torch.stack(values)
    return (each * torch.softmax(20 * each, dim=0)).sum(dim=0).clamp(0, 1)


def extremal_perturbation(
    net: Network,
    x: Array,
    c: int,
    image_id: str,
    areas: str = "0.025+0.05+0.1+0.2",
    iterations: int = 800,
) -> Array:
    """The smooth mask of a given area, over a pyramid of blurs, whose image has the largest S_c;
    sum over areas.
    """
    _, height, width = x.shape
    scale = min(height, width) / 224.0
    step, sigma = max(1, round(7 * scale)), 21 * scale
    levels = [
        torch.from_numpy(smoothed(x, 20 * scale * (1 - n / 7)) if n < 7 else x.copy())
        for n in range(8)
    ]
    pyramid, m = torch.stack(levels), round(sigma)
    total = np.zeros((height, width))
    for area in map(float, areas.split("+")):
        pmask = torch.ones(math.ceil(height / step), math.ceil(width / step), dtype=torch.float64)
        speed, weight = None, 300.0
        for t in range(iterations):
            pmask = pmask.detach().requires_grad_()
            whole = smooth_mask(pmask, (height, width), step, sigma)
            mask = whole[m : m + height, m : m + width]
            level = (7 * mask).detach().floor().long()
            low = pyramid.gather(0, level.expand(1, 3, height, width))[0]
            high = pyramid.gather(0, (level + 1).clamp(max=7).expand(1, 3, height, width))[0]
            image = low + (7 * mask - level) * (high - low)
            score = net.net(image.flip(-1)[None] if t % 2 == 0 else image[None])[0, c]
            wanted = torch.ones(whole.numel(), dtype=torch.float64)
            wanted[: int(whole.numel() * (1 - area))] = 0.0
            energy = score - weight * ((whole.reshape(-1).sort()[0] - wanted) ** 2).mean()
            (gradient,) = torch.autograd.grad(energy, pmask)
            speed = gradient if speed is None else 0.9 * speed + 0.1 * gradient
            pmask = (pmask.detach() + 0.01 * speed).clamp(0, 1)
            weight *= 1.0035
        total += mask.detach().numpy()
    return smoothed(total[None], 0.09 * min(height, width))[0]


METHODS: dict[str, Method] = {
    f.__name__: f
    for f in (
        tft,
        a_fmi,
        sa_cam,
        abs_cam_init,
        abs_cam,
        abs_cam_elementwise,
        group_cam,
        shapley_cam,
        finer_cam,
        recipro_cam,
        smooth_grad_cam_pp,
        layer_cam_fused,
        fused,
        random_cam,
        full_grad,
        integrated_gradients,
        idgi,
        smooth_grad,
        var_grad,
        gradient_shap,
        guided_backprop,
        deconvnet,
        guided_grad_cam,
        deep_lift,
        deep_lift_shap,
        lrp,
        occlusion,
        rise,
        lime,
        kernel_shap,
        extremal_perturbation,
    )
} | {name: BASES[name] for name in ("grad_cam_pp", "layer_cam", "score_cam")}

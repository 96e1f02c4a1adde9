"""Slow float64 replicas of every method and metric, written from `methods.md` and `protocol.md`,
not from `bench/`.

They are meant to be read beside the formulas: one image at a time, loops where the formula has a
sum, gradients by autograd through the *whole* network in float64, channel removal by rewriting the
layer's output inside a full forward. Nothing is shared with `bench/` except the drawing of random
numbers (`bench.randomness`), which is part of the specification.

Notation: x [3,H,W] normalised, A [K,h,w], G = dS_c/dA [K,h,w], c the class, L a map [H,W], all
float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from bench import randomness

Array = np.ndarray
SEED = 0  # the seed of `cambench-1`
STEPS = 28
BASELINE = (0.485, 0.456, 0.406)
TAUS = np.arange(101) / 100.0


# --------------------------------------------------------------------------------------------------
# Pieces
# --------------------------------------------------------------------------------------------------


def up(a: Array, height: int, width: int) -> Array:
    """Bilinear from [h,w] to [H,W], align_corners=False: pixel centres sit at (i + 1/2) * h/H -
    1/2, edges clamped.
    """
    h, w = a.shape
    out = np.zeros((height, width))
    for i in range(height):
        y = max((i + 0.5) * h / height - 0.5, 0.0)
        y0 = min(int(y), h - 1)
        y1 = min(y0 + 1, h - 1)
        for j in range(width):
            x = max((j + 0.5) * w / width - 0.5, 0.0)
            x0 = min(int(x), w - 1)
            x1 = min(x0 + 1, w - 1)
            top = (1 - (x - x0)) * a[y0, x0] + (x - x0) * a[y0, x1]
            bottom = (1 - (x - x0)) * a[y1, x0] + (x - x0) * a[y1, x1]
            out[i, j] = (1 - (y - y0)) * top + (y - y0) * bottom
    return out


def up_matrix(n: int, size: int) -> Array:
    """Return the [size,n] matrix of the same interpolation along one axis, so that Up(a) = M a
    M^T.
    """
    return np.stack([up(np.eye(n)[:, [k]], size, 1)[:, 0] for k in range(n)], axis=1)


def gaussian_kernel(sigma: float, radius: int) -> Array:
    """Return the 2*radius+1 samples of a Gaussian, summing to one."""
    kernel = np.array([math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)])
    return kernel / kernel.sum()


def mirror(i: int, n: int) -> int:
    """Reflect an index into 0..n-1 without repeating the edge: -1 -> 1, n -> n-2."""
    period = 2 * (n - 1)
    i = abs(i) % period
    return period - i if i >= n else i


def blur(x: Array) -> Array:
    """Blur x [3,H,W]: sigma = 10*min(H,W)/224, radius ceil(2.5 sigma), reflected at the image
    border.
    """
    _, height, width = x.shape
    sigma = 10.0 * min(height, width) / 224.0
    radius = math.ceil(2.5 * sigma)
    kernel = gaussian_kernel(sigma, radius)
    rows = np.zeros_like(x)
    for i in range(height):
        for k in range(-radius, radius + 1):
            rows[:, i] += kernel[k + radius] * x[:, mirror(i + k, height)]
    out = np.zeros_like(x)
    for j in range(width):
        for k in range(-radius, radius + 1):
            out[:, :, j] += kernel[k + radius] * rows[:, :, mirror(j + k, width)]
    return out


def mm(a: Array) -> Array:
    """Min-max to [0,1]; a constant becomes zeros."""
    low, high = a.min(), a.max()
    return np.zeros_like(a) if high == low else (a - low) / (high - low)


def has_positive_part(L: Array) -> bool:
    return bool(np.isfinite(L).all() and (L > 0).any())


def unit(L: Array) -> Array:
    """unit(L) = mm(max(L,0))."""
    return mm(np.maximum(L, 0.0))


def order(L: Array, image_id: str) -> Array:
    """Return pixel indices, most relevant first: by value, then by the seeded smooth field, then by
    index.
    """
    field = randomness.smooth_field(randomness.generator(SEED, "ties", image_id), *L.shape).numpy()
    flat, tie = L.reshape(-1), field.reshape(-1)
    return np.array(sorted(range(flat.size), key=lambda i: (-flat[i], -tie[i], i)))


def components(binary: Array) -> list[tuple[float, float, float, float]]:
    """Return the boxes (half-open xyxy) of the 8-connected components."""
    labels, count = ndimage.label(binary, structure=np.ones((3, 3)))
    boxes = []
    for k in range(1, count + 1):
        ys, xs = np.nonzero(labels == k)
        boxes.append((xs.min(), ys.min(), xs.max() + 1.0, ys.max() + 1.0))
    return boxes


def box_overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two xyxy boxes given by their edges."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def box_pixels(boxes: Array, height: int, width: int) -> Array:
    """Pixels whose centre lies in a box."""
    inside = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        for i in range(height):
            for j in range(width):
                inside[i, j] |= (x0 <= j + 0.5 < x1) and (y0 <= i + 0.5 < y1)
    return inside


# --------------------------------------------------------------------------------------------------
# The network, in float64
# --------------------------------------------------------------------------------------------------


class Network:
    """A float64 eval copy of a network; the layer is reached by a hook inside full forwards, never
    by a split.
    """

    def __init__(
        self,
        net: nn.Module,
        layer: str = "features",
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        self.net = copy.deepcopy(net).double().eval().requires_grad_(False)
        self.layer = self.net.get_submodule(layer)
        self.baseline = np.array(
            [(b - m) / s for b, m, s in zip(BASELINE, mean, std, strict=True)]
        ).reshape(3, 1, 1)

    def logits(self, x: Array) -> Array:
        with torch.no_grad():
            return self.net(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))[None])[
                0
            ].numpy()

    def probabilities(self, x: Array) -> Array:
        z = self.logits(x)
        e = np.exp(z - z.max())
        return e / e.sum()

    def p(self, x: Array, c: int) -> float:
        return float(self.probabilities(x)[c])

    def log_odds(self, x: Array, c: int) -> float:
        """log p_c/(1 - p_c) = S_c - log of the sum of the other classes' exp(S)."""
        z = self.logits(x)
        others = np.delete(z, c)
        return float(z[c] - others.max() - math.log(np.exp(others - others.max()).sum()))

    def layer_and_gradient(self, x: Array, c: int) -> tuple[Array, Array]:
        """Return A and G = dS_c/dA."""
        kept: list[torch.Tensor] = []

        def keep(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            a = output.detach().clone().requires_grad_()
            kept.append(a)
            return (
                a * 1.0
            )  # so that an in-place operation behind the layer does not touch what was kept

        handle = self.layer.register_forward_hook(keep)
        try:
            score = self.net(torch.from_numpy(np.asarray(x, dtype=np.float64))[None])[0, c]
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[0])
        return kept[0].detach()[0].numpy(), gradient[0].numpy()

    def score_with(self, x: Array, c: int, change: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """Return S_c when the layer's output is replaced by `change(A)` during the forward."""
        handle = self.layer.register_forward_hook(lambda _, __, output: change(output.clone()))
        try:
            return float(self.logits(x)[c])
        finally:
            handle.remove()

    def input_gradient(self, x: Array, c: int) -> Array:
        """dS_c/dx [3,H,W]."""
        t = torch.from_numpy(np.array(x, dtype=np.float64))[None].requires_grad_()
        (gradient,) = torch.autograd.grad(self.net(t)[0, c], t)
        return gradient[0].numpy()

    def masked(self, m: Array, x: Array) -> Array:
        """m masking x: m*x + (1-m)*b."""
        return m[None] * x + (1 - m[None]) * self.baseline


# --------------------------------------------------------------------------------------------------
# Methods: (network, x, c) -> map [H,W]
# --------------------------------------------------------------------------------------------------


def _weighted(w: Array, A: Array) -> Array:
    out = np.zeros(A.shape[1:])
    for k in range(A.shape[0]):
        out += w[k] * A[k]
    return out


def _relu_up(a: Array, x: Array) -> Array:
    return up(np.maximum(a, 0.0), *x.shape[1:])


def cam(net: Network, x: Array, c: int) -> Array:
    """CAM (Zhou et al.): sum_k w_ck A_k with the classifier's weight; no ReLU. The classifier is
    called `fc`.
    """
    A, _ = net.layer_and_gradient(x, c)
    return up(_weighted(net.net.get_submodule("fc").weight[c].numpy(), A), *x.shape[1:])


def grad_cam(net: Network, x: Array, c: int) -> Array:
    """w_k = mean_ij G_kij; ReLU(sum_k w_k A_k)."""
    A, G = net.layer_and_gradient(x, c)
    return _relu_up(_weighted(G.mean(axis=(1, 2)), A), x)


def grad_cam_pp(net: Network, x: Array, c: int, form: str = "paper") -> Array:
    """w_k = sum_ij alpha_kij relu(G_kij), alpha = G^2 / (2 G^2 + sum_ab A_kab G^3), 0 where G = 0;
    ReLU(sum w A).

    The paper differentiates Y = exp(S); its common factor exp(S) is left out, as in every public
    code. "code": the alphas of a channel's positive gradients are divided by their sum.
    """
    A, G = net.layer_and_gradient(x, c)
    w = np.zeros(A.shape[0])
    for k in range(A.shape[0]):
        total = A[k].sum()
        positive = [g for g in G[k].reshape(-1) if g > 0]
        alphas = [g**2 / (2 * g**2 + total * g**3) for g in positive]
        for alpha, g in zip(alphas, positive, strict=True):
            w[k] += alpha * g / (sum(alphas) if form == "code" else 1.0)
    return _relu_up(_weighted(w, A), x)


def xgrad_cam(net: Network, x: Array, c: int) -> Array:
    """w_k = sum_ij A_kij G_kij / sum_ij A_kij (0 for a channel that is zero); ReLU(sum_k w_k
    A_k).
    """
    A, G = net.layer_and_gradient(x, c)
    w = [(A[k] * G[k]).sum() / A[k].sum() if A[k].any() else 0.0 for k in range(A.shape[0])]
    return _relu_up(_weighted(np.array(w), A), x)


def hires_cam(net: Network, x: Array, c: int) -> Array:
    """ReLU(sum_k G_k * A_k), element by element."""
    A, G = net.layer_and_gradient(x, c)
    return _relu_up((A * G).sum(axis=0), x)


def layer_cam(net: Network, x: Array, c: int) -> Array:
    """sum_k relu(G_k) * A_k, element by element; no outer ReLU."""
    A, G = net.layer_and_gradient(x, c)
    return up((A * np.maximum(G, 0.0)).sum(axis=0), *x.shape[1:])


def _first_projection(rows: Array, A: Array) -> Array:
    """Project [K,h,w], as an uncentred matrix [hw,K], on its first right singular vector; sign by
    sum_k A_k.

    The vector is the leading eigenvector of M^T M, so that this shares no routine with an SVD.
    """
    K, h, w = rows.shape
    matrix = rows.reshape(K, h * w).T
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    out = (matrix @ vectors[:, np.argmax(values)]).reshape(h, w)
    return -out if (out * A.sum(axis=0)).sum() < 0 else out


def eigen_cam(net: Network, x: Array, c: int) -> Array:
    """A v_1; no ReLU."""
    A, _ = net.layer_and_gradient(x, c)
    return up(_first_projection(A, A), *x.shape[1:])


def eigen_grad_cam(net: Network, x: Array, c: int) -> Array:
    """(G * A) v_1; no ReLU."""
    A, G = net.layer_and_gradient(x, c)
    return up(_first_projection(A * G, A), *x.shape[1:])


def ablation_cam(net: Network, x: Array, c: int) -> Array:
    """w_k = S_c - S_c with channel k set to zero (not divided by S_c); ReLU(sum_k w_k A_k)."""
    A, _ = net.layer_and_gradient(x, c)
    whole = net.logits(x)[c]
    w = np.zeros(A.shape[0])
    for k in range(A.shape[0]):

        def without(a: torch.Tensor, k: int = k) -> torch.Tensor:
            a[:, k] = 0.0
            return a

        w[k] = whole - net.score_with(x, c, without)
    return _relu_up(_weighted(w, A), x)


def score_cam(net: Network, x: Array, c: int) -> Array:
    """w_k = p_c(mm(Up A_k) masking x), 0 for a constant channel; ReLU(Up(sum_k w_k A_k))."""
    A, _ = net.layer_and_gradient(x, c)
    w = np.zeros(A.shape[0])
    for k in range(A.shape[0]):
        if A[k].max() > A[k].min():
            w[k] = net.p(net.masked(mm(up(A[k], *x.shape[1:])), x), c)
    return np.maximum(up(_weighted(w, A), *x.shape[1:]), 0.0)


def saliency(net: Network, x: Array, c: int) -> Array:
    """max over channels of |dS_c/dx|."""
    return np.abs(net.input_gradient(x, c)).max(axis=0)


def input_x_gradient(net: Network, x: Array, c: int) -> Array:
    """Sum over channels of x * dS_c/dx, signed."""
    return (x * net.input_gradient(x, c)).sum(axis=0)


def legendre(n: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre on [0,1]: roots of P_n by Newton, weights 2/((1-t^2)
    P_n'(t)^2).
    """
    nodes, weights = np.zeros(n), np.zeros(n)
    for i in range(n):
        t = math.cos(math.pi * (i + 0.75) / (n + 0.5))
        for _ in range(100):
            before, value = 1.0, t
            for k in range(2, n + 1):
                before, value = value, ((2 * k - 1) * t * value - (k - 1) * before) / k
            slope = n * (t * value - before) / (t * t - 1)
            step = value / slope
            t -= step
            if abs(step) < 1e-15:
                break
        nodes[i], weights[i] = (1 + t) / 2, 1 / ((1 - t * t) * slope**2)
    return nodes, weights


def integrated_gradients(net: Network, x: Array, c: int, steps: int = 50) -> Array:
    """(x - b) * integral of dS_c/dx along the line from b to x, Gauss-Legendre; summed over
    channels.
    """
    start = np.broadcast_to(net.baseline, x.shape)
    total = np.zeros_like(x)
    for alpha, weight in zip(*legendre(steps), strict=True):
        total += weight * net.input_gradient(start + alpha * (x - start), c)
    return ((x - start) * total).sum(axis=0)


METHODS: dict[str, Callable[[Network, Array, int], Array]] = {
    f.__name__: f
    for f in (
        cam,
        grad_cam,
        grad_cam_pp,
        xgrad_cam,
        hires_cam,
        layer_cam,
        eigen_cam,
        eigen_grad_cam,
        ablation_cam,
        score_cam,
        saliency,
        input_x_gradient,
        integrated_gradients,
    )
}


# --------------------------------------------------------------------------------------------------
# Metrics. Each takes keyword arguments out of: net, x, c, L, image_id, boxes, truth, ignore.
# --------------------------------------------------------------------------------------------------


def step_counts(n: int, steps: int = STEPS) -> list[int]:
    """n_i = round(i*N/steps), i = 0..steps."""
    return [round(i * n / steps) for i in range(steps + 1)]


def area_under(curve: Array, counts: list[int]) -> float:
    """Trapezoid over n_i/N in [0,1]."""
    total = 0.0
    for i in range(1, len(counts)):
        total += (counts[i] - counts[i - 1]) / counts[-1] * (curve[i] + curve[i - 1]) / 2
    return total


def _curve(net: Network, start: Array, end: Array, c: int, ranked: Array) -> Array:
    """p_c while the pixels of `start` are replaced by those of `end`, in the order given."""
    _, height, width = start.shape
    values = []
    for n in step_counts(height * width):
        now = start.copy()
        for i in ranked[:n]:
            now[:, i // width, i % width] = end[:, i // width, i % width]
        values.append(net.p(now, c))
    return np.array(values)


def deletion(
    *, net: Network, x: Array, c: int, L: Array, image_id: str, **_: object
) -> dict[str, object]:
    if not np.isfinite(L).all():
        return {"deletion": math.nan, "deletion_curve": np.full(STEPS + 1, math.nan)}
    curve = _curve(net, x, np.broadcast_to(net.baseline, x.shape), c, order(L, image_id))
    return {"deletion": area_under(curve, step_counts(L.size)), "deletion_curve": curve}


def insertion(
    *, net: Network, x: Array, c: int, L: Array, image_id: str, **_: object
) -> dict[str, object]:
    if not np.isfinite(L).all():
        empty = np.full(STEPS + 1, math.nan)
        return {"insertion": math.nan, "insertion_curve": empty, "insertion_start": math.nan}
    curve = _curve(net, blur(x), x, c, order(L, image_id))
    area = area_under(curve, step_counts(L.size))
    return {"insertion": area, "insertion_curve": curve, "insertion_start": curve[0]}


def average_drop(*, net: Network, x: Array, c: int, L: Array, **_: object) -> dict[str, object]:
    """O = p_c(unit(L) masking x), Y = p_c(x): drop max(0,Y-O)/Y, increase 1[O>Y], gain
    max(0,O-Y)/sum of others.
    """
    names = ("average_drop", "average_increase", "average_gain")
    if not has_positive_part(L):
        return dict.fromkeys(names, math.nan)
    before = net.probabilities(x)
    Y, O = before[c], net.p(net.masked(unit(L), x), c)  # noqa: E741 - the protocol's letters
    return dict(
        zip(
            names,
            (max(0.0, Y - O) / Y, float(O > Y), max(0.0, O - Y) / np.delete(before, c).sum()),
            strict=True,
        )
    )


def pointing_game(*, L: Array, image_id: str, truth: Array, **_: object) -> dict[str, object]:
    """Hit: a truth pixel strictly closer than 15/224 of the side to the first maximum; +inf = not
    in the set.
    """
    names = ("pointing", "pointing_exact", "pointing_all", "pointing_all_exact")
    if not np.isfinite(L).all() or not truth.any():
        return dict.fromkeys(names, math.nan)
    height, width = L.shape
    point = order(L, image_id)[0]
    y, x = divmod(int(point), width)
    nearest = min((i - y) ** 2 + (j - x) ** 2 for i, j in zip(*np.nonzero(truth), strict=True))
    hit = float(math.sqrt(nearest) < 15 * min(height, width) / 224)
    exact = float(truth[y, x])
    small = truth.sum() <= 0.25 * truth.size
    return dict(
        zip(
            names,
            (hit if small else math.inf, exact if small else math.inf, hit, exact),
            strict=True,
        )
    )


def energy_pointing_game(*, L: Array, truth: Array, **_: object) -> dict[str, object]:
    """max(L,0) inside truth over all of it; lift = that over the truth's area share."""
    if not has_positive_part(L) or not truth.any():
        return {"energy": math.nan, "energy_lift": math.nan}
    positive = np.maximum(L, 0.0)
    share = positive[truth].sum() / positive.sum()
    return {"energy": share, "energy_lift": share / truth.mean()}


def energy_ranked(*, L: Array, truth: Array, **_: object) -> dict[str, object]:
    """Cubed ranks, equal values sharing their mean: (share on truth - area) / (the oracle's -
    area).
    """
    names = ("energy_ranked", "energy_ranked_signed")
    if not np.isfinite(L).all() or truth.all() or not truth.any():
        return dict.fromkeys(names, math.nan)

    def share(values: Array) -> float:
        flat, n = values.reshape(-1).tolist(), values.size
        places: dict[float, list[float]] = {}
        for rank, value in enumerate(sorted(flat)):
            places.setdefault(value, []).append(((rank + 0.5) / n) ** 3)
        weights = [sum(places[value]) / len(places[value]) for value in flat]
        inside = truth.reshape(-1).tolist()
        return sum(w for w, t in zip(weights, inside, strict=True) if t) / sum(weights)

    area, best = truth.mean(), share(truth.astype(np.float64))
    values = (np.maximum(L, 0.0), L)
    return {
        name: (share(one) - area) / (best - area) for name, one in zip(names, values, strict=True)
    }


def discriminability_ranked(
    *, L: Array, truth: Array, others: Array, **_: object
) -> dict[str, object]:
    """Over all pairs of a pixel of the class and one of the other: above 1, equal 1/2."""
    mine, theirs = L[truth].tolist(), L[others & ~truth].tolist()
    if not np.isfinite(L).all() or not mine or not theirs:
        return {"discriminability_ranked": math.nan}
    wins = sum((a > b) + (a == b) / 2 for a in mine for b in theirs)
    return {"discriminability_ranked": wins / (len(mine) * len(theirs))}


def box_localization(*, L: Array, boxes: Array, **_: object) -> dict[str, object]:
    """Best IoU of any component box of {unit(L) > tau} with any truth box, for 101 taus."""
    if not has_positive_part(L) or len(boxes) == 0:
        return {"box_iou": np.full(len(TAUS), math.nan)}
    u = unit(L)
    best = []
    for tau in TAUS:
        pairs = [box_overlap(a, tuple(b)) for a in components(u > tau) for b in boxes]
        best.append(max(pairs, default=0.0))
    return {"box_iou": np.array(best)}


def average_precision(values: Array, truth: Array) -> float:
    """Sum over distinct values, from the highest, of precision * increase in recall: equal values
    are one group.
    """
    total, before = 0.0, 0.0
    for value in sorted(set(values.tolist()), reverse=True):
        chosen = values >= value
        recall = truth[chosen].sum() / truth.sum()
        total += truth[chosen].mean() * (recall - before)
        before = recall
    return float(total)


def pixel_precision(
    *, L: Array, image_id: str, truth: Array, ignore: Array | None = None, **_: object
) -> dict[str, object]:
    """Average precision, relevance mass and rank over the pixels that are not ignored."""
    counted = np.ones_like(truth) if ignore is None else ~ignore
    inside = truth & counted
    if not np.isfinite(L).all() or not inside.any():
        return dict.fromkeys(("pixel_ap", "relevance_mass", "relevance_rank"), math.nan)
    positive = np.maximum(L, 0.0)
    ranked = [i for i in order(L, image_id) if counted.reshape(-1)[i]]
    top = ranked[: int(inside.sum())]
    return {
        "pixel_ap": average_precision(L[counted], truth[counted]),
        "relevance_mass": positive[inside].sum() / positive[counted].sum()
        if positive[counted].any()
        else math.nan,
        "relevance_rank": float(np.mean([inside.reshape(-1)[i] for i in top])),
    }


def threshold_quality(
    *, net: Network, x: Array, c: int, L: Array, image_id: str, **_: object
) -> dict[str, object]:
    """TFT: M_t = unit(L) with its lowest floor(0.1 t N) pixels at 0; q(t) = max(0, p_c(M_t x) -
    p_c(x)), t = 1..9.
    """
    scalars = ("tft_q", "tft_gain", "tft_t", "api", "apd", "ir", "dr")
    vectors = ("threshold_p", "threshold_area", "threshold_log_odds")
    if not has_positive_part(L):
        return dict.fromkeys(scalars, math.nan) | {v: np.full(10, math.nan) for v in vectors}
    u = unit(L)
    ranked = order(u, image_id)
    p, areas, odds = [], [], []
    for t in range(10):
        m = u.reshape(-1).copy()
        removed = t * L.size // 10
        m[ranked[L.size - removed :]] = 0.0
        m = m.reshape(L.shape)
        p.append(net.p(net.masked(m, x), c))
        areas.append((m > 0).mean())
        odds.append(net.log_odds(net.masked(m, x), c))
    whole = net.p(x, c)
    q = [max(0.0, p[t] - whole) for t in range(1, 10)]
    t = 0 if max(q) == 0 else 1 + int(np.argmax(q))
    pm = p[t]
    numbers = (
        max(q),
        max(odds) - odds[0],
        float(t),
        max(0.0, pm - whole) / whole,
        max(0.0, whole - pm) / whole,
        float(pm > whole),
        float(pm < whole),
    )
    return dict(zip(scalars, numbers, strict=True)) | dict(
        zip(vectors, (np.array(p), np.array(areas), np.array(odds)), strict=True)
    )


def threshold_localization(*, L: Array, truth: Array, **_: object) -> dict[str, object]:
    """Trapezoid over tau of the pixel IoU of {unit(L) > tau} with the truth; the first best tau."""
    if not has_positive_part(L) or not truth.any():
        return {"iou_area": math.nan, "best_tau": math.nan}
    u = unit(L)
    ious = [((u > tau) & truth).sum() / ((u > tau) | truth).sum() for tau in TAUS]
    area = sum((ious[i] + ious[i + 1]) / 2 * 0.01 for i in range(100))
    return {"iou_area": area, "best_tau": TAUS[int(np.argmax(ious))]}


def complexity(*, L: Array, **_: object) -> dict[str, object]:
    """On v = max(L,0)/sum: entropy / ln N, Gini (half the mean absolute difference over the mean),
    e^H / N.
    """
    if not has_positive_part(L):
        return dict.fromkeys(("entropy", "gini", "effective_share"), math.nan)
    v = np.maximum(L, 0.0).reshape(-1)
    v = v / v.sum()
    n = v.size
    entropy = -sum(a * math.log(a) for a in v if a > 0)
    difference = sum(np.abs(a - v).sum() for a in v) / n**2
    return {
        "entropy": entropy / math.log(n),
        "gini": difference / (2 * v.mean()),
        "effective_share": math.exp(entropy) / n,
    }


METRICS: dict[str, Callable[..., dict[str, object]]] = {
    f.__name__: f
    for f in (
        deletion,
        insertion,
        average_drop,
        pointing_game,
        energy_pointing_game,
        energy_ranked,
        discriminability_ranked,
        box_localization,
        pixel_precision,
        threshold_quality,
        threshold_localization,
        complexity,
    )
}

"""Slow float64 replicas of the metrics that perturb images, networks or references; as in
`reference.py`.

Written from `protocol.md`, one image at a time: dense linear systems instead of multigrid, loops
instead of filters. Shared with `bench/` is only the drawing of random numbers.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bench import randomness
from tests.support import reference as ref

Array = np.ndarray
Explain = Callable[[ref.Network, Array, int], Array]
SEED = 0
EPS = tuple(e / 255 for e in (1, 2, 4, 8))
FRACTIONS = tuple(k / 10 for k in range(1, 10))
DIRECT, DIAGONAL = 1 / 6, 1 / 12


def draw(purpose: str, image_id: str) -> torch.Generator:
    return randomness.generator(SEED, purpose, image_id)


# --- two maps


def correlation(a: Array, b: Array) -> float:
    a, b = a.reshape(-1), b.reshape(-1)
    if a.min() == a.max() or b.min() == b.max():
        return float(a.min() == a.max() and b.min() == b.max())
    return float(np.corrcoef(a, b)[0, 1])


def ranks(a: Array) -> Array:
    """Midranks by counting: pixels below, and half of those that are equal."""
    flat = a.reshape(-1)
    return np.array([(flat < v).sum() + ((flat == v).sum() + 1) / 2 for v in flat])


def rank_correlation(a: Array, b: Array) -> float:
    return correlation(ranks(a), ranks(b))


def ssim(a: Array, b: Array, size: int = 11, sigma: float = 1.5) -> float:
    """Mean over all positions of the window that lie in the map."""
    kernel = ref.gaussian_kernel(sigma, size // 2)
    window = kernel[:, None] * kernel[None]
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for i in range(a.shape[0] - size + 1):
        for j in range(a.shape[1] - size + 1):
            p, q = a[i : i + size, j : j + size], b[i : i + size, j : j + size]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    return float(np.mean(values))


def top_overlap(a: Array, b: Array, image_id: str) -> float:
    count = int(0.1 * a.size + 0.5)
    first, second = (set(ref.order(m, image_id)[:count].tolist()) for m in (a, b))
    return len(first & second) / len(first | second)


def centre(a: Array) -> Array:
    mass = np.maximum(a, 0)
    y, x = np.mgrid[: a.shape[0], : a.shape[1]] + 0.5
    return (
        np.array([(mass * y).sum(), (mass * x).sum()]) / mass.sum()
        if mass.sum() > 0
        else np.full(2, np.nan)
    )


def alike(a: Array, b: Array, image_id: str) -> dict[str, float]:
    return {
        "pearson": correlation(a, b),
        "ssim": ssim(ref.unit(a), ref.unit(b)),
        "top": top_overlap(a, b, image_id),
        "shift": float(np.linalg.norm(centre(a) - centre(b))) / min(a.shape),
    }


# --- robustness


class Pixels:
    """A network seen from pixel space."""

    def __init__(self, net: ref.Network, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.net = net
        self.mean, self.std = (np.array(v, dtype=np.float64).reshape(3, 1, 1) for v in (mean, std))

    def of(self, x: Array) -> Array:
        return np.clip(x * self.std + self.mean, 0, 1)

    def normalised(self, pixels: Array) -> Array:
        return (pixels - self.mean) / self.std

    def loss_gradient(self, pixels: Array, c: int) -> Array:
        """d(-log p_c)/d pixels = sum_j (p_j - [j = c]) dS_j/dx / std."""
        x = self.normalised(pixels)
        p = self.net.probabilities(x)
        return (
            sum((p[j] - (j == c)) * self.net.input_gradient(x, j) for j in range(len(p))) / self.std
        )


def attacked(view: Pixels, pixels: Array, c: int, attack: str, eps: float, image_id: str) -> Array:
    if attack == "fgsm":
        return np.clip(pixels + eps * np.sign(view.loss_gradient(pixels, c)), 0, 1)
    if attack == "noise":
        noise = (
            2 * torch.rand(pixels.shape, generator=draw("attack noise", image_id)).double().numpy()
            - 1
        )
        return np.clip(pixels + eps * noise, 0, 1)
    moved = pixels
    for _ in range(10):
        moved = moved + eps / 4 * np.sign(view.loss_gradient(moved, c))
        moved = np.clip(np.clip(moved, pixels - eps, pixels + eps), 0, 1)
    return moved


def robustness(
    view: Pixels, x: Array, c: int, L: Array, image_id: str, explain: Explain
) -> dict[str, object]:
    pixels, clean = view.of(x), int(view.net.logits(x).argmax())
    out: dict[str, object] = {}
    for attack in ("fgsm", "pgd", "noise"):
        rows, held = [], []
        for eps in EPS:
            moved = view.normalised(attacked(view, pixels, c, attack, eps, image_id))
            rows.append(alike(L, explain(view.net, moved, c), image_id))
            held.append(int(view.net.logits(moved).argmax()) == clean)
        out[f"{attack}_held"] = np.mean(held)
        for name in rows[0]:
            curve = np.array([row[name] for row in rows])
            out[f"{attack}_{name}"] = curve.mean()
            out[f"{attack}_{name}_held"] = curve[held].mean() if any(held) else math.inf
            out[f"{attack}_{name}_curve"] = curve
    return out


def max_sensitivity(
    view: Pixels, x: Array, c: int, L: Array, image_id: str, explain: Explain
) -> dict[str, object]:
    worst = 0.0
    for k in range(10):
        noise = (
            2
            * torch.rand(x.shape, generator=draw(f"max-sensitivity {k}", image_id)).double().numpy()
            - 1
        )
        moved = x + 0.02 * noise / view.std
        worst = max(worst, np.linalg.norm(explain(view.net, moved, c) - L) / np.linalg.norm(L))
    return {"max_sensitivity": worst}


# --- infidelity and ROAD


def infidelity(net: ref.Network, x: Array, c: int, L: Array, image_id: str) -> dict[str, object]:
    noise = 0.2 * torch.randn(10, *x.shape, generator=draw("infidelity", image_id)).double().numpy()
    guess = np.array([(one * L / 3).sum() for one in noise])
    drop = np.array([net.logits(x)[c] - net.logits(x - one)[c] for one in noise])
    beta = (guess * drop).sum() / (guess**2).sum() if (guess != 0).any() else 0.0
    return {"infidelity": float(((beta * guess - drop) ** 2).mean())}


def impute(x: Array, missing: Array) -> Array:
    """Solve x_i = sum_j w_ij x_j / sum_j w_ij for the missing pixels [H,W], as one dense system."""
    height, width = missing.shape
    places = [tuple(p) for p in np.argwhere(missing)]
    number = {place: k for k, place in enumerate(places)}
    A, b = np.zeros((len(places), len(places))), np.zeros((len(places), len(x)))
    for (i, j), k in number.items():
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            near = (i + dy, j + dx)
            if (dy, dx) == (0, 0) or not (0 <= near[0] < height and 0 <= near[1] < width):
                continue
            weight = DIAGONAL if dy and dx else DIRECT
            A[k, k] += weight
            if near in number:
                A[k, number[near]] -= weight
            else:
                b[k] += weight * x[:, near[0], near[1]]
    out = x.copy()
    out[:, missing] = np.linalg.solve(A, b).T
    return out


def road(net: ref.Network, x: Array, c: int, L: Array, image_id: str) -> dict[str, object]:
    ranked = ref.order(L, image_id)
    noise = 0.01 * torch.randn(x.shape, generator=draw("road noise", image_id)).double().numpy()

    def p_without(places: Array) -> float:
        missing = np.zeros(L.size, dtype=bool)
        missing[places] = True
        missing = missing.reshape(L.shape)
        return net.p(impute(x, missing) + noise * missing, c)

    counts = [int(f * L.size + 0.5) for f in FRACTIONS]
    morf = np.array([p_without(ranked[:n]) for n in counts])
    lerf = np.array([p_without(ranked[L.size - n :]) for n in counts])
    return {
        "road": float((lerf - morf).mean() / 2),
        "road_morf": morf.mean(),
        "road_lerf": lerf.mean(),
        "road_morf_curve": morf,
        "road_lerf_curve": lerf,
    }


# --- sanity


def randomised(net: nn.Module, stages: int, k: int) -> list[nn.Module]:
    """The network with its classifier drawn anew, then with more and more of the rest, top-down."""
    named = [name for name, m in net.named_modules() if list(m.parameters(recurse=False))]
    classifier, rest = named[-1], named[:-1][::-1]
    made, now = [], net
    for stage in range(stages):
        now = copy.deepcopy(now)
        chosen = [classifier]
        if stage > 0:
            chosen = rest[
                (stage - 1) * len(rest) // (stages - 1) : stage * len(rest) // (stages - 1)
            ]
        state = torch.get_rng_state()
        torch.manual_seed(randomness.generator(SEED, f"sanity {k} {stage}").initial_seed())
        for name in chosen:
            now.get_submodule(name).reset_parameters()
        torch.set_rng_state(state)
        made.append(now)
    return made


def sanity(
    net: nn.Module,
    wrap: Callable[[nn.Module], ref.Network],
    x: Array,
    c: int,
    L: Array,
    image_id: str,
    explain: Explain,
) -> dict[str, object]:
    table = np.zeros((2, 3, 5))
    for k in range(3):
        for stage, other in enumerate(randomised(net, 5, k)):
            maps = explain(wrap(other), x, c)
            table[:, k, stage] = ssim(ref.unit(L), ref.unit(maps)), rank_correlation(L, maps)
    curves = table.mean(1)
    classes = len(wrap(net).logits(x))
    other_class = int(torch.randint(classes - 1, (), generator=draw("random logit", image_id)))
    other_class += other_class >= c
    maps = explain(wrap(net), x, other_class)
    return {
        "sanity_ssim": curves[0].mean(),
        "sanity_spearman": curves[1].mean(),
        "sanity_ssim_curve": curves[0],
        "sanity_spearman_curve": curves[1],
        "random_logit_ssim": ssim(ref.unit(L), ref.unit(maps)),
        "random_logit_spearman": rank_correlation(L, maps),
    }

"""Slow float64 replicas of the transforms of maps: loops over pixels, nothing shared with `bench/`
but the smooth field of the tie rule.
"""

from __future__ import annotations

import math

import numpy as np

from bench import randomness
from tests.support.reference import Array


def power(L: Array, p: float = 4.0) -> Array:
    """unit(L)^p."""
    positive = np.maximum(L, 0.0)
    low, high = positive.min(), positive.max()
    if not high > low:
        return np.zeros_like(L)
    return np.asarray(((positive - low) / (high - low)) ** p)


def ranked(L: Array) -> Array:
    """(mean ascending rank + 1/2) / N of max(L, 0), 0 where L is not positive."""
    values = np.maximum(L, 0.0).ravel()
    result = np.zeros(values.size)
    for place, value in enumerate(values):
        if value > 0:
            ranks = [rank for rank, other in enumerate(sorted(values)) if other == value]
            result[place] = (sum(ranks) / len(ranks) + 0.5) / values.size
    return result.reshape(L.shape)


def blurred(L: Array, sigma: float = 8.0) -> Array:
    """A Gaussian of sigma * min(H,W) / 224 pixels, cut at 3 standard deviations, border reflected
    without the edge pixel.
    """
    pixels = sigma * min(L.shape) / 224
    reach = min(math.ceil(3 * pixels), L.shape[0] - 1, L.shape[1] - 1)
    offsets = range(-reach, reach + 1)
    weights = np.array([math.exp(-0.5 * (o / pixels) ** 2) for o in offsets])
    weights /= weights.sum()
    padded = np.pad(L, reach, mode="reflect")
    result = np.zeros_like(L)
    for y in range(L.shape[0]):
        for x in range(L.shape[1]):
            window = padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1]
            result[y, x] = weights @ window @ weights
    return result


def centred(L: Array) -> Array:
    """L times exp(-r^2 / (2 * .25^2)), r the distance from the centre in sides."""
    result = np.zeros_like(L)
    height, width = L.shape
    for y in range(height):
        for x in range(width):
            dy, dx = (y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5
            result[y, x] = L[y, x] * math.exp(-0.5 * (dy**2 + dx**2) / 0.25**2)
    return result


def top(L: Array, image_id: str, share: float = 0.2, seed: int = 0) -> Array:
    """max(L, 0) at the best round(share * N) pixels; of equal values the one with the higher value
    of the smooth field comes first.
    """
    field = randomness.smooth_field(randomness.generator(seed, "ties", image_id), *L.shape)
    order = sorted(range(L.size), key=lambda i: (-L.ravel()[i], -float(field.flatten()[i]), i))
    result = np.zeros(L.size)
    for place in order[: max(1, round(share * L.size))]:
        result[place] = max(L.ravel()[place], 0.0)
    return result.reshape(L.shape)

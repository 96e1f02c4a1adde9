"""Slow float64 replicas of other projects' evaluation code, written from their public sources and
not from `bench/`.

One image at a time, one forward per step, loops where the original loops. RISE:
github.com/eclique/RISE, evaluation.py and Evaluation.ipynb. WSOL:
github.com/clovaai/wsolevaluation, evaluation.py and inference.py. Quantus 0.6.0 `PixelFlipping`.
Xplique `CausalFidelity`. Where an original sorts with an unstable sort, the replica sorts stably.

Notation: p(x) -> [C] the net's answer in float64, x [3,H,W] normalised, L [H,W] the map, c the
class.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, label
from torch import nn

Array = np.ndarray
Answer = Callable[[Array], Array]


def answers(net: nn.Module, softmax: bool = True) -> Answer:
    """Return the net as a function of one image: its softmax (or logits) in float64."""
    double = copy.deepcopy(net).double().eval()

    def answer(x: Array) -> Array:
        with torch.no_grad():
            logits = double(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))[None])[0]
        return (logits.softmax(0) if softmax else logits).numpy()

    return answer


# --- RISE


def rise_kernel(side: int = 11, sigma: float = 5.0) -> Array:
    """A Gaussian-filtered dirac on a canvas of side x side: what leaves the canvas is mirrored back
    into it.
    """
    canvas = np.zeros((side, side))
    canvas[side // 2, side // 2] = 1.0
    return gaussian_filter(canvas, sigma)


def rise_blur(x: Array, side: int = 11, sigma: float = 5.0) -> Array:
    """Convolve each channel with the kernel; the image is surrounded by zeros."""
    kernel, edge = rise_kernel(side, sigma), side // 2
    _, height, width = x.shape
    out = np.zeros_like(x)
    for k in range(3):
        padded = np.pad(x[k], edge)
        for i in range(side):
            for j in range(side):
                out[k] += kernel[i, j] * padded[i : i + height, j : j + width]
    return out


def rise_game(p: Answer, x: Array, L: Array, mode: str, step: int) -> tuple[float, Array]:
    """Deletion ("del") or insertion ("ins") of the predicted class: its AUC, and its score at every
    step.
    """
    c = int(p(x).argmax())
    pixels = L.size
    n_steps = math.ceil(pixels / step)
    now, finish = (x.copy(), np.zeros_like(x)) if mode == "del" else (rise_blur(x), x)
    now = now.reshape(3, pixels)
    order = L.ravel().argsort(kind="stable")[::-1]
    scores = np.empty(n_steps + 1)
    for i in range(n_steps + 1):
        scores[i] = p(now.reshape(x.shape))[c]
        for pixel in order[step * i : step * (i + 1)]:
            now[:, pixel] = finish.reshape(3, pixels)[:, pixel]
    return (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1), scores


# --- WSOL


def wsol_normalised(L: Array) -> Array:
    """A map with its least value at 0 and its largest at 1; a constant one becomes zeros."""
    if L.min() == L.max():
        return np.zeros_like(L)
    moved = L - L.min()
    return moved / moved.max()


def wsol_boxes(L: Array, tau: float, multi_contour: bool) -> list[tuple[int, int, int, int]]:
    """The boxes around the contours of the 8-bit map above int(tau * its maximum)."""
    height, width = L.shape
    grey = (wsol_normalised(L) * 255).astype(np.uint8)
    threshold = int(tau * grey.max())
    black_white = np.where(grey > threshold, 255, 0).astype(np.uint8)
    contours = cv2.findContours(black_white, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if len(contours) == 0:
        return [(0, 0, 0, 0)]
    if not multi_contour:
        contours = [max(contours, key=cv2.contourArea)]
    boxes = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
    return boxes


def wsol_boxes_by_labels(L: Array, tau: float) -> set[tuple[int, int, int, int]]:
    """The same boxes without contours: of 8-connected objects, and of their 4-connected holes with
    one pixel around.
    """
    height, width = L.shape
    grey = (wsol_normalised(L) * 255).astype(np.uint8)
    above = np.pad(grey > int(tau * grey.max()), 1)
    objects, count = label(above, np.ones((3, 3)))
    holes, empty = label(~above)
    found = []
    for k in range(1, count + 1):
        ys, xs = np.nonzero(objects == k)
        found.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    for k in range(1, empty + 1):
        if k != holes[0, 0]:
            ys, xs = np.nonzero(holes == k)
            found.append((xs.min() - 1, ys.min() - 1, xs.max() + 2, ys.max() + 2))
    boxes = {
        (int(a) - 1, int(b) - 1, min(int(c) - 1, width - 1), min(int(d) - 1, height - 1))
        for a, b, c, d in found
    }
    return boxes or {(0, 0, 0, 0)}


def wsol_iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """IoU of two boxes whose both corners are pixels that count."""
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return w * h / (sum(areas) - w * h)


def wsol_best_iou(
    L: Array, truth: Array, *, multi_contour: bool = True, interval: float = 0.001
) -> Array:
    """The best IoU with any truth box (edges in the frame, cut to whole numbers) at each
    threshold.
    """
    boxes = [tuple(int(edge) for edge in box) for box in truth]
    best = []
    for tau in np.arange(0, 1, interval):
        best.append(max(wsol_iou(a, b) for a in wsol_boxes(L, tau, multi_contour) for b in boxes))
    return np.array(best)


def wsol_max_box_acc(best: Array, ious: tuple[float, ...] = (0.3, 0.5, 0.7)) -> list[float]:
    """From best IoUs [n images, T]: the accuracy at each IoU with the threshold that is best there,
    on these images.
    """
    return [max(float((best[:, t] >= iou).mean()) for t in range(best.shape[1])) for iou in ious]


def wsol_pxap(
    maps: list[Array], masks: list[Array], ignores: list[Array], interval: float = 0.001
) -> float:
    """Area under the precision-recall curve of all images' pixels together, thresholds 0, .001,
    ..., 1.
    """
    edges = np.append(np.arange(0, 1, interval), [1.0, 2.0, 3.0])
    on, off = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for L, mask, ignore in zip(maps, masks, ignores, strict=True):
        values = wsol_normalised(L)
        on += np.histogram(values[mask & ~ignore], bins=edges)[0]
        off += np.histogram(values[~mask & ~ignore], bins=edges)[0]
    area, tp, fp, last_recall = 0.0, 0.0, 0.0, 0.0
    for k in reversed(range(len(on))):
        tp, fp = tp + on[k], fp + off[k]
        recall = tp / on.sum()
        if tp + fp > 0:
            area += (recall - last_recall) * tp / (tp + fp)
        last_recall = recall
    return float(area)


# --- Quantus


def quantus_pixel_flipping(
    p: Answer, x: Array, L: Array, c: int, features_in_step: int = 1
) -> tuple[float, Array]:
    """Flip single channels to the image's least value; the sum of trapezoids, and the curve without
    step 0.
    """
    flat = np.broadcast_to(L, x.shape).ravel()
    order = (-flat).argsort(kind="stable")
    now = x.ravel().copy()
    curve = []
    for start in range(0, now.size, features_in_step):
        for feature in order[start : start + features_in_step]:
            now[feature] = now.min()
        curve.append(p(now.reshape(x.shape))[c])
    return sum((a + b) / 2 for a, b in itertools.pairwise(curve)), np.array(curve)


# --- Xplique


def xplique_game(
    p: Answer, x: Array, L: Array, c: int, mode: str, steps: int = 10
) -> tuple[float, Array]:
    """Deletion or insertion against zeros; the mean of the trapezoids between points that count as
    equally spaced.
    """
    pixels = L.size
    order = L.ravel().argsort(kind="stable")[::-1]
    start, end = (x, np.zeros_like(x)) if mode == "deletion" else (np.zeros_like(x), x)
    scores = []
    for count in np.linspace(0, pixels, steps + 1, dtype=np.int32):
        now = start.reshape(3, pixels).copy()
        now[:, order[:count]] = end.reshape(3, pixels)[:, order[:count]]
        scores.append(p(now.reshape(x.shape))[c])
    curve = np.array(scores)
    return float(np.mean(curve[:-1] + curve[1:]) * 0.5), curve

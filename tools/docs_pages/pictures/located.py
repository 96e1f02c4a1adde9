"""Pictures of metrics of localisation: the map beside the object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from bench.metrics.box_sets import read_sets
from bench.metrics.localization import thresholds
from bench.metrics.rank_localization import POWER
from bench.protocol import Protocol
from bench.types import Truth
from docs_pages.pictures.stage import (
    PAIRS,
    Array,
    Stage,
    draw_heat,
    draw_image,
    draw_lines,
    finish_chart,
    load_stage,
    make_axes,
    picture,
)

METHODS = ("grad_cam", "saliency", "random")


def draw_rows(metric: str, value: str, methods: tuple[str, ...] = METHODS) -> Figure:
    """Draw the scene, and maps of methods with the object's outline and one value."""
    stage = load_stage()
    figure, axes = make_axes(1 + len(methods))
    draw_image(axes[0], stage.pixels, "image")
    axes[0].contour(stage.mask.astype(float), levels=[0.5], colors="cyan", linewidths=1)
    for one, method in zip(axes[1:], methods, strict=True):
        score = float(stage.score(method, metric)[value])
        draw_heat(one, stage.map(method), f"{method}\n{value} {score:.2f}", stage.mask)
    return figure


@picture("pointing_game")
def draw_pointing_game() -> Figure:
    """Each map with its maximum (cross) and the tolerance around it. A hit: the circle touches the
    object, whose outline is drawn.
    """
    stage = load_stage()
    figure = draw_rows("pointing_game", "pointing_all")
    radius = Protocol().pointing_tolerance_224 * min(stage.mask.shape) / 224
    for axes, method in zip(figure.axes[1:], METHODS, strict=True):
        peak = int(stage.case(method, "pointing_game").order[0, 0])
        y, x = divmod(peak, stage.mask.shape[1])
        axes.plot(x, y, "x", color="lime", ms=7, mew=2)
        axes.add_patch(Circle((x, y), radius, fill=False, color="lime"))
    return figure


@picture("energy_pointing_game")
def draw_energy() -> Figure:
    """Three maps with the object's outline, and the share of their positive part inside it."""
    return draw_rows("energy_pointing_game", "energy")


@picture("energy_ranked")
def draw_energy_ranked() -> Figure:
    """Grad-CAM, the weights that the order of its pixels gives, and the same map to the power 4.
    The energy moves, the energy of the ranks does not.
    """
    stage = load_stage()
    figure, axes = make_axes(3)
    case = stage.case("grad_cam", "energy_ranked")
    pixels = case.rank.shape[1]
    weights = ((pixels - np.asarray(case.rank[0]) - 0.5) / pixels) ** POWER
    draw_heat(axes[1], weights.reshape(stage.mask.shape), "weights r³ of its order", stage.mask)
    for one, method in ((axes[0], "grad_cam"), (axes[2], "power(grad_cam)")):
        energy = float(stage.score(method, "energy_pointing_game")["energy"])
        ranked = float(stage.score(method, "energy_ranked")["energy_ranked"])
        words = f"{method}\nenergy {energy:.2f}, of ranks {ranked:.2f}"
        draw_heat(one, stage.map(method), words, stage.mask)
    return figure


@picture("pixel_precision")
def draw_pixel_precision() -> Figure:
    """Two maps with the object's outline, and the precision at each recall. The average precision
    is the area under such a curve.
    """
    stage = load_stage()
    figure, axes = make_axes(3, wide=2)
    draw_image(axes[0], stage.pixels, "image")
    lines = {}
    for one, method in zip(axes[1:], ("grad_cam", "random"), strict=False):
        heat = stage.map(method)
        draw_heat(one, heat, method, stage.mask)
        hits = stage.mask.ravel()[np.argsort(-heat.ravel(), kind="stable")].cumsum()
        recall, precision = hits / hits[-1], hits / np.arange(1, len(hits) + 1)
        score = float(stage.score(method, "pixel_precision")["pixel_ap"])
        lines[f"{method} ({score:.2f})"] = recall, precision
    draw_lines(axes[-1], lines, "recall", "precision")
    return figure


def draw_boxes(axes: Axes, kept: Array, boxes: Array) -> None:
    """Draw the boxes of the regions of a mask [H,W], and those of the truth [n,4]."""
    import cv2

    _, _, stats, _ = cv2.connectedComponentsWithStats(kept.astype(np.uint8), connectivity=8)
    for x, y, width, height, _ in stats[1:]:
        place = (x - 0.5, y - 0.5)
        axes.add_patch(Rectangle(place, width, height, fill=False, color="lime"))
    for x0, y0, x1, y1 in boxes:
        place = (x0 - 0.5, y0 - 0.5)
        axes.add_patch(Rectangle(place, x1 - x0, y1 - y0, fill=False, color="cyan", ls="--"))


def find_boxes(stage: Stage) -> Array:
    """Return the boxes of the truth [n,4]."""
    assert stage.truth.boxes is not None
    return np.asarray(stage.truth.boxes[0])


@picture("box_localization")
def draw_box_localization() -> Figure:
    """What remains of Grad-CAM above three thresholds, its boxes (solid) and the object's box
    (dashed). The chart: the best IoU at each threshold.
    """
    stage = load_stage()
    figure, axes = make_axes(3, wide=2)
    unit = np.asarray(stage.case("grad_cam", "box_localization").unit[0])
    for one, tau in zip(axes, (0.1, 0.3, 0.7), strict=False):
        draw_heat(one, np.where(unit > tau, unit, 0), f"unit(L) > {tau}")
        draw_boxes(one, unit > tau, find_boxes(stage))
    curve = stage.score("grad_cam", "box_localization")["box_iou"]
    draw_lines(axes[-1], {"grad_cam": (thresholds(len(curve)), curve)}, "threshold τ", "best IoU")
    return figure


@picture("box_sets")
def draw_box_sets() -> Figure:
    """The top 80, 40 and 10 % of Grad-CAM's positive pixels, their boxes (solid) and the object's
    box (dashed). The chart: the best IoU of each set.
    """
    stage = load_stage()
    figure, axes = make_axes(3, wide=2)
    positive = np.asarray(stage.case("grad_cam", "box_sets").positive[0])
    values = np.sort(positive[positive > 0])
    for one, share in zip(axes, (0.8, 0.4, 0.1), strict=False):
        kept = positive >= values[int((1 - share) * len(values))]
        draw_heat(one, np.where(kept, positive, 0), f"top {share:.0%}")
        draw_boxes(one, kept, find_boxes(stage))
    vector = stage.score("grad_cam", "box_sets")["box_set_iou"]
    iou, _ = read_sets(vector[None])
    shares = 1 - np.arange(iou.shape[1]) / iou.shape[1]
    draw_lines(
        axes[-1], {"grad_cam": (shares, iou[0])}, "share of positive pixels kept", "best IoU"
    )
    return figure


@picture("threshold_localization")
def draw_threshold_localization() -> Figure:
    """What remains of Grad-CAM above three thresholds, with the object's outline. The chart: the
    IoU with the object at each threshold, whose area is the value.
    """
    stage = load_stage()
    figure, axes = make_axes(3, wide=2)
    unit = np.asarray(stage.case("grad_cam", "threshold_localization").unit[0])
    taus = thresholds(Protocol().box_taus)
    curve = [find_iou(unit > tau, stage.mask) for tau in taus]
    for one, tau in zip(axes, (0.1, 0.3, 0.7), strict=False):
        draw_heat(one, (unit > tau).astype(float), f"unit(L) > {tau}", stage.mask)
    score = float(stage.score("grad_cam", "threshold_localization")["iou_area"])
    draw_lines(axes[-1], {"grad_cam": (taus, np.array(curve))}, "threshold τ", "IoU")
    axes[-1].set_title(f"iou_area = {score:.2f}", fontsize=8)
    return figure


def find_iou(first: Array, second: Array) -> float:
    """Return the IoU of two masks; 0 where both are empty."""
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 0.0


# --- two classes, and grids


def draw_pair(metric: str, value: str, methods: tuple[str, ...]) -> Figure:
    """Draw a scene with objects of two classes, and maps of one class with a value."""
    stage = load_stage(2, PAIRS)
    others = stage.truth.others
    assert others is not None
    figure, axes = make_axes(1 + len(methods))
    draw_image(axes[0], stage.pixels, "explained: solid, other: dotted")
    for one in axes:
        one.contour(np.asarray(others[0]).astype(float), [0.5], colors="white", linestyles=":")
        one.contour(stage.mask.astype(float), [0.5], colors="cyan", linewidths=1)
    for one, method in zip(axes[1:], methods, strict=True):
        score = float(stage.score(method, metric, again=True)[value])
        draw_heat(one, stage.map(method), f"{method}\n{value.split('_')[0]} {score:.2f}")
    return figure


@picture("discriminability")
def draw_discriminability() -> Figure:
    """A scene with objects of two classes. A map that knows the class has its mass on the right
    one; Eigen-CAM draws one map for all classes.
    """
    return draw_pair("discriminability", "discriminability", ("grad_cam", "eigen_cam", "random"))


@picture("discriminability_ranked")
def draw_discriminability_ranked() -> Figure:
    """The values of Grad-CAM and of Eigen-CAM on the pixels of both objects. The further the
    explained class lies to the right, the better.
    """
    stage = load_stage(2, PAIRS)
    others = stage.truth.others
    assert others is not None
    figure, axes = make_axes(1, wide=4)
    draw_image(axes[0], stage.pixels, "objects of two classes")
    axes[1].remove()
    charts = figure.add_gridspec(1, 5)[0, 1:].subgridspec(1, 2)
    for place, method in enumerate(("grad_cam", "eigen_cam")):
        chart = figure.add_subplot(charts[0, place])
        heat = stage.map(method)
        for mask, words in ((stage.mask, "explained"), (np.asarray(others[0]), "other")):
            chart.hist(heat[mask], bins=24, alpha=0.6, density=True, label=words)
        score = float(stage.score(method, "discriminability_ranked")["discriminability_ranked"])
        chart.set_title(f"{method}: {score:.2f}", fontsize=8)
        chart.legend(fontsize=7, frameon=False)
        chart.set_yticks([])
        finish_chart(chart, "value of the map", "")
    return figure


@picture("class_contrast")
def draw_class_contrast() -> Figure:
    """A scene with objects of two classes, and Grad-CAM's and Eigen-CAM's maps of each class, with
    their rank correlation.
    """
    stage = load_stage(2, PAIRS)
    labels = stage.truth.other_labels
    assert labels is not None
    figure, axes = make_axes(5)
    draw_image(axes[0], stage.pixels, "image")
    for place, method in enumerate(("grad_cam", "eigen_cam")):
        score = float(stage.score(method, "class_contrast", again=True)["map_contrast"])
        first, second = axes[1 + 2 * place], axes[2 + 2 * place]
        draw_heat(first, stage.map(method), f"{method}\nthis class")
        draw_heat(
            second, stage.map(method, int(labels[0])), f"other class\ncorrelation {score:.2f}"
        )
    return figure


@picture("grid_localization")
def draw_grid_localization() -> Figure:
    """A mosaic of four scenes. The map of one scene's class should rank its cell (outlined) above
    the others.
    """
    stage = build_mosaic((22, 1, 8, 11))
    methods = ("grad_cam", "saliency", "random")
    figure, axes = make_axes(1 + len(methods))
    draw_image(axes[0], stage.pixels, "mosaic")
    for one, method in zip(axes[1:], methods, strict=True):
        score = float(stage.score(method, "grid_localization")["grid_auc"])
        draw_heat(one, stage.map(method), f"{method}\ngrid_auc {score:.2f}", stage.mask)
    return figure


def build_mosaic(places: tuple[int, int, int, int]) -> Stage:
    """Return four scenes as a mosaic of 2 x 2; the first one, at the top left, is explained.

    `grid(SUBSET,2)` lets the networks of a run choose the scenes; a picture needs no choice.
    """
    stages = [load_stage(place) for place in places]
    rows = [torch.cat([one.images for one in pair], dim=3) for pair in (stages[:2], stages[2:])]
    images = torch.cat(rows, dim=2)
    mask = torch.zeros((1, *images.shape[-2:]), dtype=torch.bool)
    mask[:, : images.shape[-2] // 2, : images.shape[-1] // 2] = True
    first = stages[0]
    mosaic = replace(first, images=images, truth=Truth(masks=mask), ids=("mosaic",))
    return replace(mosaic, pixels=mosaic.show(images))

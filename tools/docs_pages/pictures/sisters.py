"""Pictures of metrics that a sister network scores: patches and cells are masked."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from bench.engine.patches import cut_cells
from bench.metrics.idsds import CELLS
from bench.metrics.map_similarity import midranks
from bench.metrics.patch_ranking import patches_of, rank_patches
from bench.randomness import generator
from docs_pages.pictures.stage import (
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


def mask_patches(stage: Stage, masked: torch.Tensor) -> Array:
    """Return the image without the masked patches [1,P] bool."""
    case = stage.case("grad_cam", "masked_deletion")
    covered = patches_of(case).spread(masked)[:, None]
    empty = case.background.empty(case.removed)
    return stage.show(torch.where(covered, empty, stage.images))


def find_places(stage: Stage) -> torch.Tensor:
    """Return the place [1,P] of each patch in the order of Grad-CAM's map."""
    case = stage.case("grad_cam", "masked_deletion")
    return rank_patches(case, patches_of(case))


def draw_masked(metric: str, shares: tuple[float, ...], most: bool) -> Figure:
    """Draw images along a curve of masked patches, and the curves of two methods."""
    stage = load_stage()
    places = find_places(stage)
    count = places.shape[1]
    figure, axes = make_axes(len(shares), wide=2)
    for one, share in zip(axes, shares, strict=False):
        masked = places < share * count if most else places >= count - share * count
        draw_image(one, mask_patches(stage, masked), f"{share:.0%} masked")
    lines = {}
    for method in ("grad_cam", "random"):
        scores = stage.score(method, metric)
        curve = scores[f"{metric}_curve"]
        first, last = (0.0, 0.5) if most else (0.5, 1.0)
        lines[f"{method} ({float(scores[metric]):.2f})"] = (
            np.linspace(first, last, len(curve)),
            curve,
        )
    draw_lines(axes[-1], lines, f"share {'masked' if most else 'shown'}", "probability (sister)")
    return figure


@picture("masked_deletion")
def draw_masked_deletion() -> Figure:
    """Patches of eight pixels are masked in the order of Grad-CAM, up to half of the scene. The
    curves are those of the sister network.
    """
    return draw_masked("masked_deletion", (0.0, 0.1, 0.25, 0.5), most=True)


@picture("masked_insertion")
def draw_masked_insertion() -> Figure:
    """The least relevant half of the patches is masked; then they come back. The curves are those
    of the sister network.
    """
    return draw_masked("masked_insertion", (0.5, 0.25, 0.1, 0.0), most=False)


def draw_ffid(metric: str, most: bool) -> Figure:
    """Draw three random parts of the explanation, and the scores of two methods."""
    stage = load_stage()
    places = find_places(stage)
    count = places.shape[1]
    figure, axes = make_axes(4)
    own = places < 0.3 * count if most else places >= 0.7 * count
    draw_image(axes[0], mask_patches(stage, own), "the set: 30 % of the patches")
    for draw, one in enumerate(axes[1:]):
        chances = torch.rand(places.shape, generator=generator(0, "picture", str(draw)))
        draw_image(one, mask_patches(stage, own & (chances < 1 / 3)), f"random third, draw {draw}")
    words = [
        f"{name} {float(stage.score(name, metric)[metric]):.3f}" for name in ("grad_cam", "random")
    ]
    figure.suptitle(f"mean drop of the sister's probability: {', '.join(words)}", fontsize=8)
    return figure


@picture("ffid_plus")
def draw_ffid_plus() -> Figure:
    """The most relevant 30 % of the patches (left, masked), and three random parts of them."""
    return draw_ffid("ffid_plus", most=True)


@picture("ffid_minus")
def draw_ffid_minus() -> Figure:
    """The least relevant 30 % of the patches (left, masked), and three random parts of them."""
    return draw_ffid("ffid_minus", most=False)


@picture("idsds")
def draw_idsds() -> Figure:
    """The scene in 4 x 4 cells, the mean rank of Grad-CAM in each cell, and the drop of the
    sister's logit without each cell. The chart compares the two.
    """
    stage = load_stage()
    case = stage.case("grad_cam", "idsds")
    grid = cut_cells(case.trace.size, CELLS)
    ranks = np.asarray(grid.average(midranks(case.maps))[0])
    drops = find_drops(stage)
    figure, axes = make_axes(3, wide=2)
    draw_image(axes[0], stage.pixels, "image")
    for place in range(1, CELLS):
        side = stage.pixels.shape[0] * place / CELLS - 0.5
        axes[0].axhline(side, color="white", lw=0.8)
        axes[0].axvline(side, color="white", lw=0.8)
    draw_heat(axes[1], ranks.reshape(CELLS, CELLS), "mean rank of the map")
    draw_heat(axes[2], drops.reshape(CELLS, CELLS) - drops.min(), "drop of the logit")
    axes[3].scatter(ranks, drops, s=14)
    finish_chart(axes[3], "mean rank of the cell", "drop of the logit")
    score = float(stage.score("grad_cam", "idsds")["idsds_ranked"])
    axes[3].set_title(f"idsds_ranked = {score:.2f}", fontsize=8)
    return figure


def find_drops(stage: Stage) -> Array:
    """Return how far the sister's logit of the label drops without each cell, [16]."""
    case = stage.case("grad_cam", "idsds")
    grid = cut_cells(case.trace.size, CELLS)
    covered = grid.spread(torch.eye(grid.count, dtype=torch.bool))[:, None]
    images = torch.where(covered, case.background.empty(case.removed), stage.images)
    sister = case.prober.sister
    with torch.inference_mode():
        logits = sister.logits(torch.cat([stage.images, images]))[:, stage.label].double()
    return np.asarray(logits[0] - logits[1:])

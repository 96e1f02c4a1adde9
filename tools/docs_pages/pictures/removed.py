"""Pictures of metrics that take pixels away, bring them back, or show the image through a map."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from bench.engine.fills import impute_ranked
from docs_pages.pictures.stage import (
    Array,
    Stage,
    draw_heat,
    draw_image,
    draw_lines,
    load_stage,
    make_axes,
    picture,
)

SHARES = (0.0, 0.1, 0.25, 0.5)
METHODS = ("grad_cam", "random")


def replace_first(stage: Stage, share: float, first: torch.Tensor, rest: torch.Tensor) -> Array:
    """Return the image whose most relevant share of pixels is `first`'s, the others `rest`'s."""
    case = stage.case("grad_cam", "deletion")
    size = stage.images.shape[-2:]
    chosen = (case.rank < share * case.rank.shape[1]).view(1, 1, *size)
    return stage.show(torch.where(chosen, first, rest))


def draw_curve_picture(metric: str, words: str, tiles: list[Array]) -> Figure:
    """Draw images along a curve, and the curves of two methods."""
    stage = load_stage()
    figure, axes = make_axes(len(SHARES), wide=2)
    for one, share, pixels in zip(axes, SHARES, tiles, strict=False):
        draw_image(one, pixels, f"{share:.0%} {words}")
    lines = {}
    for method in METHODS:
        scores = stage.score(method, metric)
        curve = scores[f"{metric}_curve"]
        lines[f"{method} ({float(scores[metric]):.2f})"] = np.linspace(0, 1, len(curve)), curve
    draw_lines(axes[-1], lines, f"share {words}", "probability")
    return figure


@picture("deletion")
def draw_deletion() -> Figure:
    """Pixels in the order of Grad-CAM become the baseline colour. Beside it the curves of Grad-CAM
    and of the random control, with their areas.
    """
    stage = load_stage()
    empty = stage.case("grad_cam", "deletion").background.empty(
        stage.case("grad_cam", "deletion").removed
    )
    tiles = [replace_first(stage, share, empty, stage.images) for share in SHARES]
    return draw_curve_picture("deletion", "removed", tiles)


@picture("insertion")
def draw_insertion() -> Figure:
    """A blurred scene gets its sharp pixels back in the order of Grad-CAM. Beside it the curves of
    Grad-CAM and of the random control, with their areas.
    """
    stage = load_stage()
    case = stage.case("grad_cam", "insertion")
    p = case.protocol
    blurred, _ = case.background.blur(p.blur_sigma_224, p.blur_radius_sigmas)
    tiles = [replace_first(stage, share, stage.images, blurred) for share in SHARES]
    return draw_curve_picture("insertion", "sharp", tiles)


@picture("road")
def draw_road() -> Figure:
    """The most relevant 10 %, 30 % and 50 % of the pixels are filled in from their neighbours. The
    curves: the probability with the most, and with the least relevant pixels removed.
    """
    stage = load_stage()
    case = stage.case("grad_cam", "road")
    figure, axes = make_axes(3, wide=2)
    pixels = case.rank.shape[1]
    for one, share in zip(axes, (0.1, 0.3, 0.5), strict=False):
        rows, zero = torch.tensor([0]), torch.tensor([0])
        fill = impute_ranked(
            stage.images,
            torch.zeros_like(stage.images),
            case.rank,
            rows,
            zero,
            torch.tensor([int(share * pixels + 0.5)]),
        )
        out = torch.empty_like(stage.images)
        fill(out, torch.tensor([0]))
        draw_image(one, stage.show(out), f"{share:.0%} filled in")
    scores = stage.score("grad_cam", "road")
    shares = np.array(case.protocol.road_fractions)
    lines = {
        "most relevant": (shares, scores["road_morf_curve"]),
        "least relevant": (shares, scores["road_lerf_curve"]),
    }
    draw_lines(axes[-1], lines, "share removed", "probability")
    axes[-1].set_title(f"grad_cam: road = {float(scores['road']):.2f}", fontsize=8)
    return figure


@picture("average_drop")
def draw_average_drop() -> Figure:
    """The scene under three maps, with its probability. The map of ones (almost the control
    Fake-CAM) loses nothing and explains nothing.
    """
    stage = load_stage()
    figure, axes = make_axes(4)
    draw_image(axes[0], stage.pixels, f"image: p = {stage.probability(stage.images):.2f}")
    for one, method in zip(axes[1:], ("grad_cam", "random", "fake_cam"), strict=True):
        images = show_through(stage, method)
        drop = float(stage.score(method, "average_drop")["average_drop"])
        draw_image(one, stage.show(images), f"{method}\np = {stage.probability(images):.2f}")
        one.text(0.5, -0.02, f"drop {drop:.2f}", transform=one.transAxes, ha="center", va="top")
    return figure


def show_through(stage: Stage, method: str, cut: int = 0, cuts: int = 10) -> torch.Tensor:
    """Return the image [1,3,H,W] under unit(L), its lowest `cut` of `cuts` parts set to 0."""
    case = stage.case(method, "threshold_quality")
    pixels = case.rank.shape[1]
    kept = case.rank < pixels - cut * pixels // cuts
    weight = torch.where(kept.view_as(case.unit), case.unit, 0.0)[:, None]
    return weight * stage.images + (1 - weight) * case.background.empty(case.removed)


@picture("threshold_quality")
def draw_threshold_quality() -> Figure:
    """The scene under the map of Grad-CAM with its lowest 0, 60 and 90 % cut away. The curve: the
    probability at each threshold, with the clean probability as a line.
    """
    stage = load_stage()
    figure, axes = make_axes(3, wide=2)
    for one, cut in zip(axes, (0, 6, 9), strict=False):
        draw_image(one, stage.show(show_through(stage, "grad_cam", cut)), f"t = {cut}")
    curve = stage.score("grad_cam", "threshold_quality")["threshold_p"]
    draw_lines(axes[-1], {"grad_cam": (np.arange(len(curve)), curve)}, "threshold t", "probability")
    axes[-1].axhline(stage.probability(stage.images), color="0.5", ls=":", lw=1)
    return figure


@picture("infidelity")
def draw_infidelity() -> Figure:
    """The scene, the scene minus one draw of the noise, and the map of input x gradient, whose
    values should predict how the logit moves.
    """
    stage = load_stage()
    case = stage.case("input_x_gradient", "infidelity")
    (generator,) = case.trace.generators("infidelity")
    noise = case.protocol.infidelity_sigma * torch.randn(
        stage.images.shape[1:], generator=generator
    )
    figure, axes = make_axes(3)
    draw_image(axes[0], stage.pixels, "image")
    draw_image(axes[1], stage.show(stage.images - noise), "image minus noise")
    score = float(stage.score("input_x_gradient", "infidelity")["infidelity"])
    draw_heat(axes[2], stage.map("input_x_gradient"), f"input_x_gradient\ninfidelity {score:.3f}")
    return figure

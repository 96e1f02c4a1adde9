"""Pictures of metrics that run the method again: on other images, networks and references."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

import bench
from bench.engine.attacks import fgsm, loss_gradient, pgd, pixels_of, uniform_noise
from bench.engine.randomised import randomise
from bench.models import Explainee
from bench.protocol import Protocol
from bench.randomness import generator
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

EPS = 8 / 255


def explain(
    stage: Stage, images: torch.Tensor, method: str, model: Explainee | None = None
) -> Array:
    """Return the map [H,W] of the scene's class on other images or another network."""
    found = bench.explain(model or stage.model, images, [stage.label], method, ids=stage.ids)
    return np.asarray(found[0])


def list_attacks(stage: Stage) -> dict[str, torch.Tensor]:
    """Return the scene's pixels [1,3,H,W] under each attack, with changes of at most 8/255."""
    trace = stage.trace()
    pixels, p = pixels_of(trace), Protocol()
    gradient = loss_gradient(trace, pixels)
    return {
        "noise": (pixels + EPS * uniform_noise(trace, "attack noise")).clamp(0, 1),
        "fgsm": fgsm(pixels, gradient, EPS),
        "pgd": pgd(trace, pixels, gradient, EPS, p.pgd_steps, p.pgd_step),
    }


@picture("robustness")
def draw_robustness() -> Figure:
    """The map of Saliency on the scene, and after noise, FGSM and PGD of 8/255. The curves: the
    correlation with the first map at each size.
    """
    stage = load_stage()
    figure, axes = make_axes(4, wide=2)
    draw_heat(axes[0], stage.map("saliency"), "clean")
    for one, (attack, pixels) in zip(axes[1:], list_attacks(stage).items(), strict=False):
        heat = explain(stage, stage.model.normalise(pixels), "saliency")
        draw_heat(one, heat, f"{attack} 8/255")
    scores = stage.score("saliency", "robustness", again=True)
    sizes = np.array(Protocol().attack_eps_255)
    lines = {name: (sizes, scores[f"{name}_pearson_curve"]) for name in ("noise", "fgsm", "pgd")}
    draw_lines(axes[-1], lines, "ε, of 255", "Pearson correlation")
    return figure


@picture("max_sensitivity")
def draw_max_sensitivity() -> Figure:
    """Maps of Saliency and Grad-CAM on the scene and on the scene with noise of at most .02, with
    the largest relative change of ten draws.
    """
    stage = load_stage()
    figure, axes = make_axes(5)
    trace = stage.trace()
    shaken = pixels_of(trace) + 0.02 * uniform_noise(trace, "max-sensitivity 0")
    draw_image(axes[0], np.asarray(shaken[0].permute(1, 2, 0).clamp(0, 1)), "image + noise")
    for place, method in enumerate(("saliency", "grad_cam")):
        score = float(stage.score(method, "max_sensitivity", again=True)["max_sensitivity"])
        draw_heat(axes[1 + 2 * place], stage.map(method), f"{method}\nclean")
        heat = explain(stage, stage.model.normalise(shaken), method)
        draw_heat(axes[2 + 2 * place], heat, f"shaken\nlargest change {score:.2f}")
    return figure


@picture("sanity")
def draw_sanity() -> Figure:
    """The map of Grad-CAM as more and more of the network becomes random, from the classifier down.
    The curve: the rank correlation with the first map.
    """
    stage = load_stage()
    p = Protocol()
    figure, axes = make_axes(4, wide=2)
    draws = [generator(0, f"sanity 0 {place}").initial_seed() for place in range(p.sanity_stages)]
    networks = randomise(stage.model, p.sanity_stages, draws)
    draw_heat(axes[0], stage.map("grad_cam"), "trained")
    for one, place in zip(axes[1:], (0, 2, 4), strict=False):
        heat = explain(stage, stage.images, "grad_cam", networks[place])
        draw_heat(one, heat, f"{place + 1} of {p.sanity_stages} stages random")
    lines = {}
    for method in ("grad_cam", "guided_backprop"):
        curve = stage.score(method, "sanity", again=True)["sanity_spearman_curve"]
        lines[method] = np.arange(1, len(curve) + 1), curve
    draw_lines(axes[-1], lines, "random stages", "rank correlation")
    return figure


@picture("reference_insensitivity")
def draw_reference_insensitivity() -> Figure:
    """The map of A-FMI with each of the five references that the metric compares."""
    stage = load_stage()
    references = Protocol().references
    figure, axes = make_axes(len(references))
    for one, name in zip(axes, references, strict=True):
        draw_heat(one, stage.map(f"a_fmi[reference={name}]"), name)
    score = stage.score("a_fmi", "reference_insensitivity", again=True)["reference_spearman"]
    figure.suptitle(f"a_fmi: mean rank correlation {float(score):.2f}", fontsize=8)
    return figure

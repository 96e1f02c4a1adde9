"""Robustness: does the map of the same class stay when the image changes a little?

None of it is ranked: a constant map is perfectly stable, so these values only mean something beside
faithfulness.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from bench.engine.attacks import fgsm, loss_gradient, pgd, pixels_of, uniform_noise
from bench.engine.case import Case
from bench.engine.counts import Counts
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.metrics import map_similarity
from bench.metrics.base import OUTSIDE, Scores, Value, register_metric
from bench.protocol import Protocol

ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "noise": "uniform noise"}
MEASURES = {
    "pearson": ("Pearson correlation", "higher", -1.0, 1.0),
    "ssim": ("SSIM", "higher", -1.0, 1.0),
    "top": ("IoU of the top pixels", "higher", 0.0, 1.0),
    "shift": ("shift of the centre / side", "lower", 0.0, None),
}
PEAKED = ("pearson", "ssim", "shift")
"""The measures that sharpening the maps moves."""


def _values() -> dict[str, Value]:
    values = {}
    for attack, words in ATTACKS.items():
        values[f"{attack}_held"] = Value(f"Prediction held under {words}", lower=0, upper=1)
        for measure, (title, better, lower, upper) in MEASURES.items():
            name, text = f"{attack}_{measure}", f"{title} under {words}"
            value = Value(text, better=better, lower=lower, upper=upper, peaked=measure in PEAKED)
            values[name] = value
            values[f"{name}_held"] = replace(value, title=f"{text}, prediction held")
            values[f"{name}_curve"] = replace(value, title=f"{text} by eps", reduce="curve")
    return values


def _attack_work(p: Protocol) -> list[SharedPart]:
    """Return what making the attacked images and their traces takes, whatever the number of
    methods.
    """
    sizes = len(p.attack_eps_255)
    gradients = 1 + sizes * (p.pgd_steps - 1)
    passes = len(ATTACKS) * sizes
    return [SharedPart("attacked images", Counts(forwards=gradients + passes, backwards=gradients))]


def _curve_lengths(p: Protocol, _: int) -> dict[str, int]:
    return {
        name: len(p.attack_eps_255) for name, value in _values().items() if value.reduce == "curve"
    }


@register_metric(
    "robustness",
    family="robustness",
    needs=("method",),
    reads=(
        "tie_rule",
        "ssim_window",
        "ssim_sigma",
        "top_share",
        "attack_eps_255",
        "pgd_steps",
        "pgd_step",
    ),
    repeats=lambda p: len(ATTACKS) * len(p.attack_eps_255),
    shared=_attack_work,
    lengths=_curve_lengths,
    standard=False,
    values=_values(),
)
def robustness(case: Case) -> Scores:
    """How alike the maps of the clean and the attacked image are, same class; means over eps = 1,
    2, 4, 8 /255. [B].

    Attacks raise the cross-entropy of the explained class (untargeted), in pixel space, clipped to
    [0,1]: FGSM; PGD with 10 steps of eps/4 and no random start; uniform noise in +-eps as the
    control. Pearson on L, SSIM (Gaussian 11/1.5) on unit(L), IoU of the 10 % most relevant pixels
    (tie rule), distance of the centres of max(L,0) / side. `held`: the share of eps at which the
    prediction stays; `*_held`: the mean over those eps, no row where there is none; `*_curve`:
    [B,eps]. A map that becomes constant keeps nothing: correlation 0.
    """
    scores: Scores = {}
    for attack in ATTACKS:
        pairs = [_compare_under(case, attack, eps / 255) for eps in case.protocol.attack_eps_255]
        held = torch.stack([kept for kept, _ in pairs], dim=1)
        scores[f"{attack}_held"] = held.double().mean(1)
        for measure in MEASURES:
            curve = torch.stack([likeness[measure] for _, likeness in pairs], dim=1)
            scores[f"{attack}_{measure}"] = curve.mean(1)
            scores[f"{attack}_{measure}_held"] = _mean_where(curve, held)
            scores[f"{attack}_{measure}_curve"] = curve
    return scores


def _mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean [B] of the chosen entries of values [B,n]; OUTSIDE where none is chosen."""
    count = chosen.sum(1)
    return torch.where(
        count > 0, torch.where(chosen, values, 0.0).sum(1) / count.clamp(min=1), OUTSIDE
    )


def _compare_under(case: Case, attack: str, eps: float) -> tuple[torch.Tensor, Scores]:
    """Return whether the prediction holds [B], and how alike the maps are, {measure: [B]}."""
    steps = (case.protocol.pgd_steps, case.protocol.pgd_step)
    trace = case.share((attack, eps, *steps), lambda: _attack_images(case, attack, eps))
    maps = case.run_method(trace)
    window, sigma = case.protocol.ssim_window, case.protocol.ssim_sigma
    ties = case.background.tie_order(case.seed)
    return trace.predicted == case.trace.predicted, {
        "pearson": map_similarity.pearson(case.maps, maps),
        "ssim": map_similarity.ssim(case.unit, map_similarity.unit(maps), window, sigma),
        "top": map_similarity.top_overlap(case.maps, maps, ties, case.protocol.top_share),
        "shift": map_similarity.centroid_shift(case.maps, maps),
    }


def _attack_images(case: Case, attack: str, eps: float) -> Trace:
    """Return the trace of the attacked images, seen from the same classes."""
    trace, pixels = case.trace, pixels_of(case.trace)
    if attack == "noise":
        noise = case.share("attack noise", lambda: uniform_noise(trace, "attack noise"))
        moved = (pixels + eps * noise).clamp(0, 1)
    else:
        gradient = case.share("attack gradient", lambda: loss_gradient(trace, pixels))
        if attack == "fgsm":
            moved = fgsm(pixels, gradient, eps)
        else:
            moved = pgd(
                trace, pixels, gradient, eps, case.protocol.pgd_steps, case.protocol.pgd_step
            )
    return trace.trace_images(trace.model.normalise(moved))


@register_metric(
    "max_sensitivity",
    family="robustness",
    needs=("method",),
    reads=("sensitivity_radius", "sensitivity_draws"),
    repeats=lambda p: p.sensitivity_draws,
    shared=lambda p: [SharedPart("shaken images", Counts(forwards=p.sensitivity_draws))],
    standard=False,
    values={"max_sensitivity": Value("Max-sensitivity", better="lower", lower=0, peaked=True)},
)
def max_sensitivity(case: Case) -> Scores:
    """The largest ||L(x + u) - L(x)|| / ||L(x)|| over 10 draws of u, uniform in +-.02 in pixel
    space. [B], >= 0.

    Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019; as there, x + u
    is not clipped. NaN where L is zero and does not stay so.
    """
    clean = case.maps.flatten(1).double()
    radius, draws = case.protocol.sensitivity_radius, case.protocol.sensitivity_draws
    changes = []
    for k in range(draws):
        trace = case.share(
            ("max-sensitivity", k, radius), partial(_shake_images, case.trace, k, radius)
        )
        changes.append((case.run_method(trace).flatten(1).double() - clean).norm(dim=1))
    change = torch.stack(changes, dim=1).amax(1)
    norm = clean.norm(dim=1)
    value = change / torch.where(norm > 0, norm, 1.0)
    return {"max_sensitivity": torch.where((norm > 0) | (change == 0), value, torch.nan)}


def _shake_images(trace: Trace, k: int, radius: float) -> Trace:
    noise = uniform_noise(trace, f"max-sensitivity {k}")
    return trace.trace_images(
        trace.model.normalise(trace.model.denormalise(trace.images) + radius * noise)
    )

"""Coupled pairs: values that favour a method because both take the same colour for "nothing".

Deletion paints the pixels that a map calls relevant in the baseline colour. A method that measures relevance as the
difference to that very colour is asked its own question; one that compares with black, or with no colour at all, is
not. Which colour is which depends on the model: `input_x_gradient` compares with the zero of the normalised image, that
is with the mean colour of the model's preprocessing.

A board has only run.json, so what each method compares with is declared here by its base name; a plug-in declares it
with `register_method(..., reference="zero")`, and run.json carries it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

ZERO, BASELINE, BLACK, WHITE, BLUR = "zero", "baseline", "black", "white", "blur"

REFERENCES = {
    # difference to an input of zeros, after normalisation: x * gradient, and the rules that reduce to it
    "input_x_gradient": ZERO,
    "lrp": ZERO,
    "full_grad": ZERO,  # its input term
    # images masked with the baseline colour of cambench-1, whatever the protocol of the run
    "score_cam": BASELINE,
    "abs_cam": BASELINE,
    "abs_cam_elementwise": BASELINE,
    "occlusion": BASELINE,
    "rise": BASELINE,
    "lime": BASELINE,
    "kernel_shap": BASELINE,
    "tft": BASELINE,
    # a parameter `reference`, by default this one (where run.json does not state it)
    "a_fmi": BASELINE,
    "deep_lift": BASELINE,
    "idgi": BASELINE,
    "integrated_gradients": BASELINE,
    # images blurred as insertion starts
    "group_cam": BLUR,
}
"""What methods compare an image with. Those that can choose have a parameter `reference` instead, which counts. The
average over several references (`deep_lift_shap`, `gradient_shap`) and the many blurs of `extremal_perturbation` are no
one colour, and a zero among the activations (`ablation_cam`, `recipro_cam`) is none either."""

ADDRESS = re.compile(r"([^\[(]*)(?:\((.*)\))?(?:\[(.*)\])?.*", re.DOTALL)
"""A method's address: base, wrapped method, settings."""

SETTING = re.compile(r"(\w+)=([^,\]]+)")

BASELINE_COLOUR = (0.485, 0.456, 0.406)
COLOURS = {BASELINE: BASELINE_COLOUR, BLACK: (0.0, 0.0, 0.0), WHITE: (1.0, 1.0, 1.0)}
"""Pixel-space colours of references that are one; `baseline` is that of `bench.methods.references`."""

PAINTS = ("deletion", "insertion", "average_drop", "threshold_quality")
"""Metrics that put the baseline colour in place of pixels, or start from it."""

NEAR = 0.01
"""Distance in [0,1] per channel within which two colours are one."""


def reference_of(name: str, facts: dict[str, Any]) -> str:
    """Return what a method compares an image with, or "": its declaration, its parameter, or its base's entry.

    >>> reference_of("deep_lift[reference=black]", {"parameters": {"reference": "black"}})
    'black'
    >>> reference_of("sa_cam[base=score_cam]", {"parameters": {"base": "score_cam"}})
    'baseline'
    """
    if facts.get("reference"):
        return str(facts["reference"])
    base, inner, settings = ADDRESS.fullmatch(name).groups(default="")  # type: ignore[union-attr]  # it always fits
    parameters = {**(facts.get("parameters") or {}), **dict(SETTING.findall(settings))}
    if base == "a_fmi" and parameters.get("replace", "reference") != "reference":
        return ""  # channels are replaced by zero activations
    chosen = str(parameters.get("reference", "")) or REFERENCES.get(base, "")
    inner = inner or str(parameters.get("base", ""))
    return chosen or (reference_of(inner, {}) if inner else "")


def metric_reference(metric: str, protocol: dict[str, Any]) -> str | tuple[float, ...]:
    """Return what a metric puts in place of pixels: a colour, `ZERO` or `BLUR`; "" where it paints nothing fixed.

    Insertion counts by what it starts from. The minimum of each image and another library's blur are no method's own.
    """
    start = protocol.get("insertion_start", BLUR)
    if metric not in PAINTS or (metric == "insertion" and start != "baseline"):
        return BLUR if metric == "insertion" and start == BLUR else ""
    removed = protocol.get("removed", "colour")
    if removed != "colour":
        return ZERO if removed == "zero" else ""
    return tuple(float(value) for value in protocol.get("baseline", BASELINE_COLOUR))


def is_coupled(provenance: dict[str, Any], models: Sequence[str], method: str, facts: dict[str, Any]) -> bool:
    """Tell whether a value puts in place of pixels what the method compares with, on any of these models.

    facts: of the value; one without a better direction favours nobody.
    """
    if facts["better"] == "none":
        return False
    painted = metric_reference(str(facts.get("metric", "")), provenance.get("protocol", {}))
    own = reference_of(method, provenance["methods"].get(method, {}))
    if not painted or not own:
        return False
    return any(same_reference(painted, own, provenance["models"].get(model, {})) for model in models)


def same_reference(painted: str | tuple[float, ...], own: str, model: dict[str, Any]) -> bool:
    """Tell whether two references are the same on a model: the same word, or colours closer than `NEAR`.

    >>> imagenet, other = {"mean": [0.485, 0.456, 0.406]}, {"mean": [0.5, 0.5, 0.5]}
    >>> same_reference(BASELINE_COLOUR, "zero", imagenet), same_reference(BASELINE_COLOUR, "zero", other)
    (True, False)
    """
    if painted == own:
        return True
    left, right = colour(painted, model), colour(own, model)
    return bool(left and right) and max(abs(a - b) for a, b in zip(left, right, strict=True)) < NEAR


def colour(reference: str | tuple[float, ...], model: dict[str, Any]) -> tuple[float, ...]:
    """Return a reference as a pixel-space colour, () where it is none; "zero" is the model's own mean."""
    if not isinstance(reference, str):
        return reference
    if reference == ZERO:
        return tuple(float(value) for value in model.get("mean") or ())
    return COLOURS.get(reference, ())

"""Coupled pairs: values that favour a method because both take the same colour for "nothing".

Deletion paints the pixels that a map calls relevant in the baseline colour. Some methods measure
relevance as the difference to that very colour, so deletion favours them. A method that compares
with black, or with no colour, is not coupled. The model decides which colour it is:
`input_x_gradient` compares with the zero of the normalised image, the preprocessing's mean colour.

Methods and metrics declare this where they are registered (`reference`, `paints`). run.json carries
the method's declaration. For older runs without one, the registry of today is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.errors import BenchError
from bench.identity import plain_name
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.models.input_channels import find_luma
from bench.protocol import Protocol

BASELINE_COLOUR = Protocol().baseline
COLOURS = {"baseline": BASELINE_COLOUR, "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
"""Pixel-space colours of references that are one."""

NEAR = 0.01
"""Distance in [0,1] per channel within which two colours are one."""


def find_reference(name: str, facts: dict[str, Any]) -> str:
    """Return what a method compares an image with, or "".

    Args:
        name: The method's name on the board.
        facts: What run.json says of the method.

    Example:
        >>> find_reference("deep_lift[reference=black]", {})
        'black'
        >>> find_reference("sa_cam[base=score_cam]", {})
        'baseline'
    """
    if "versions" in facts:  # a run that says it, also by saying nothing
        return str(facts.get("reference", ""))
    try:
        return METHODS.get(plain_name(name)).compared_with
    except BenchError:  # a plug-in's, which is not loaded here
        return str(facts.get("reference", ""))


def find_metric_reference(metric: str, protocol: dict[str, Any]) -> str | tuple[float, ...]:
    """Return what a metric puts in place of pixels: a colour, "zero" or "blur"; "" where it paints
    nothing fixed.

    Insertion counts by what it starts from. The minimum of each image and another library's blur
    are no method's own.
    """
    paints = METRICS.get(metric).paints if metric in METRICS else ""
    start = protocol.get("insertion_start", "blur")
    if paints == "insertion_start" and start != "baseline":
        return "blur" if start == "blur" else ""
    if not paints:
        return ""
    removed = protocol.get("removed", "colour")
    if removed != "colour":
        return "zero" if removed == "zero" else ""
    return tuple(float(value) for value in protocol.get("baseline", BASELINE_COLOUR))


def is_coupled(
    provenance: dict[str, Any], models: Sequence[str], method: str, facts: dict[str, Any]
) -> bool:
    """Tell whether a value puts in place of pixels what the method compares with, on any of these
    models.

    facts: of the value; one without a better direction favours nobody.
    """
    if facts["better"] == "none":
        return False
    painted = find_metric_reference(str(facts.get("metric", "")), provenance.get("protocol", {}))
    own = find_reference(method, provenance["methods"].get(method, {}))
    if not painted or not own:
        return False
    return any(
        is_same_reference(painted, own, provenance["models"].get(model, {})) for model in models
    )


def is_same_reference(painted: str | tuple[float, ...], own: str, model: dict[str, Any]) -> bool:
    """Tell whether two references are the same on a model: the same word, or colours closer than
    `NEAR`.

    >>> imagenet, other = {"mean": [0.485, 0.456, 0.406]}, {"mean": [0.5, 0.5, 0.5]}
    >>> [is_same_reference(BASELINE_COLOUR, "zero", model) for model in (imagenet, other)]
    [True, False]
    """
    if painted == own:
        return True
    left, right = (find_colour(one, model) for one in (painted, own))
    return bool(left and right) and max(abs(a - b) for a, b in zip(left, right, strict=True)) < NEAR


def find_colour(reference: str | tuple[float, ...], model: dict[str, Any]) -> tuple[float, ...]:
    """Return a reference as a pixel-space colour, () where it is none; "zero" is the model's own
    mean.
    """
    mean = tuple(float(value) for value in model.get("mean") or ())
    if reference == "zero":
        return mean
    colour = COLOURS.get(reference, ()) if isinstance(reference, str) else reference
    return (find_luma(colour),) if colour and len(mean) == 1 else colour

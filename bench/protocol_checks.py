"""Checks of a protocol's fields: a rule that is not built, or a number out of range, is an
error.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.ranges import Range
from bench.text_limits import is_file

if TYPE_CHECKING:
    from bench.protocol import Protocol

CHOICES: dict[str, tuple[str, ...]] = {
    "faithfulness_target": ("predicted", "label"),
    "localization_target": ("label", "predicted"),
    "score": ("softmax", "logit"),
    "tie_rule": ("smooth_field", "first_index", "last_index"),
    "precision": ("float32", "bfloat16"),
    "insertion_start": ("blur", "baseline", "kernel"),
    "geometry": ("own", "squash"),
    "removed": ("colour", "zero", "minimum"),
    "features": ("pixels", "channels"),
    "step_rule": ("nearest", "down", "up"),
    "curve_ends": ("both", "last", "none"),
    "curve_area": ("fraction", "steps", "sum"),
    "kernel_border": ("cut", "fold"),
    "kernel_padding": ("reflect", "zero"),
    "localization_map": ("positive", "range"),
    "box_shapes": ("components", "contours"),
    "box_choice": ("any", "largest"),
    "box_edges": ("half_open", "inclusive"),
    "box_tau_from": ("calibration", "scored"),
}
"""What the fields that name a rule can be; a rule that is not built is refused, not ignored."""

_COUNT = Range(1, 1_000_000)
_SHARE = Range(0, 1, above=True, below=True)
_WINDOW = Range(1, 10_001, odd=True)

RANGES: dict[str, Range] = {
    "seed": Range(0, 2**63 - 1),
    "baseline": Range(0, 1),
    "steps": _COUNT,
    "blur_sigma_224": Range(0.01, 224),
    "blur_radius_sigmas": Range(0.01, 100),
    "thresholds": Range(2, 10_000),
    "pointing_tolerance_224": Range(0, 224, above=True),
    "pointing_max_area": Range(0, 1, above=True),
    "box_taus": Range(2, 100_000),
    "box_ious": Range(0, 1, above=True),
    "pixel_bins": Range(2, 1_000_000),
    "box_min_visible": Range(0, 1),
    "ssim_window": _WINDOW,
    "ssim_sigma": Range(0.01, 10_000),
    "top_share": _SHARE,
    "attack_eps_255": Range(0, 255, above=True),
    "pgd_steps": Range(1, 100_000),
    "pgd_step": Range(0, 100, above=True),
    "sensitivity_radius": Range(0, 1, above=True),
    "sensitivity_draws": Range(1, 100_000),
    "infidelity_sigma": Range(0, 100, above=True),
    "infidelity_draws": Range(1, 100_000),
    "road_fractions": _SHARE,
    "road_noise": Range(0, 100),
    "sanity_stages": Range(1, 1_000),
    "sanity_seeds": Range(1, 1_000),
    "step_features": Range(0, 1_000_000_000),
    "kernel_side": _WINDOW,
    "kernel_sigma": Range(0.01, 10_000),
    "box_levels": Range(0, 255),  # of an 8-bit map
}
"""The numbers that a field can have; of a field with several values, each of them."""


REFERENCES = ("baseline", "black", "white", "blur", "noise")
"""Names of images without evidence: the baseline colour, 0 and 1 in pixel space, the image blurred
as insertion starts, and uniform noise in pixel space.
"""


def describe_field(name: str) -> str:
    """Return what a field can be, in words; "" for texts that nothing limits.

    >>> describe_field("score"), describe_field("box_levels")
    ('softmax or logit', '0 to 255')
    """
    if name in CHOICES:
        return " or ".join(CHOICES[name])
    return str(RANGES[name]) if name in RANGES else ""


def check_fields(protocol: Protocol) -> None:
    """Raise BenchError, one sentence, where a field of a protocol has a value that is not built."""
    for name, allowed in CHOICES.items():
        if getattr(protocol, name) not in allowed:
            raise BenchError(
                f"Protocol field {name} is {getattr(protocol, name)!r}; it can be "
                f"{' or '.join(allowed)}."
            )
    defaults = {field.name: field.default for field in dataclasses.fields(protocol)}
    for name, range_ in RANGES.items():
        check_numbers(name, getattr(protocol, name), defaults[name], range_)
    _check_references(protocol.references)
    if len(protocol.baseline) != 3:
        raise BenchError(
            f"Protocol field baseline is {protocol.baseline}; give red, green and blue."
        )


def check_numbers(name: str, value: Any, default: Any, range_: Range) -> None:
    """Raise BenchError where a field's number, or one of several, is none or outside its range."""
    values = value if isinstance(value, tuple | list) else (value,)
    if not values:
        raise BenchError(f"Protocol field {name} is empty; give at least one value.")
    whole = isinstance(default, int)
    for one in values:
        kinds = (int,) if whole else (int, float)
        if isinstance(one, bool) or not isinstance(one, kinds) or not range_.holds(one):
            shown = f"{one:g}" if isinstance(one, float) else write_short(one)
            words = "a whole number, " if whole and isinstance(one, float) else ""
            raise BenchError(f"Protocol field {name} is {shown}; it must be {words}{range_}.")


def write_short(value: Any) -> str:
    """Return a value as text; of a whole number with thousands of digits, its bits."""
    if isinstance(value, int) and value.bit_length() > 1_000:
        return f"a number of {value.bit_length():,} bits"
    return repr(value)


def _check_references(given: tuple[str, ...]) -> None:
    """Raise BenchError where a reference is neither a name nor a file."""
    wrong = [one for one in given if one not in REFERENCES and not is_file(one)]
    if wrong or not given:
        what = repr(wrong[0]) if wrong else "nothing"
        raise BenchError(
            f"Protocol field references has {what}; it can be {', '.join(REFERENCES)}, or the path "
            "of an image file."
        )

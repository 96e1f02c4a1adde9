"""Checks of a protocol's fields: a rule that is not built, or a number out of range, is an
error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import BenchError

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

MAX_LEVELS = 255
"""Most steps of a map's values that `box_levels` can ask for: an 8-bit map's."""


LEAST: dict[str, int] = {
    "steps": 1,
    "thresholds": 2,
    "box_taus": 2,
    "pixel_bins": 2,
}
"""The least values of fields that count parts."""


def check_fields(protocol: Protocol) -> None:
    """Raise BenchError, one sentence, where a field of a protocol has a value that is not built."""
    for name, allowed in CHOICES.items():
        if getattr(protocol, name) not in allowed:
            raise BenchError(
                f"Protocol field {name} is {getattr(protocol, name)!r}; it can be "
                f"{' or '.join(allowed)}."
            )
    _check_counts(protocol)
    _check_kernels(protocol)
    _check_tuples(protocol)


def _check_counts(protocol: Protocol) -> None:
    """Raise BenchError where a whole number is too small or too large."""
    for name, least in LEAST.items():
        if getattr(protocol, name) < least:
            raise BenchError(
                f"Protocol field {name} is {getattr(protocol, name)}, which is too small."
            )
    for name in ("step_features", "box_levels"):
        if getattr(protocol, name) < 0:
            raise BenchError(
                f"Protocol field {name} is {getattr(protocol, name)}; it must not be negative."
            )
    if protocol.box_levels > MAX_LEVELS:
        raise BenchError(
            f"Protocol field box_levels is {protocol.box_levels}; it can be at most {MAX_LEVELS} "
            "(8 bit)."
        )
    for name in (
        "pgd_steps",
        "sensitivity_draws",
        "infidelity_draws",
        "sanity_stages",
        "sanity_seeds",
    ):
        if getattr(protocol, name) < 1:
            raise BenchError(
                f"Protocol field {name} is {getattr(protocol, name)}; it must be at least 1."
            )


def _check_kernels(protocol: Protocol) -> None:
    """Raise BenchError where a window or kernel has no centre or no width."""
    for name in ("ssim_window", "kernel_side"):
        if getattr(protocol, name) < 1 or getattr(protocol, name) % 2 == 0:
            raise BenchError(f"Protocol field {name} is {getattr(protocol, name)}; it must be odd.")
    if not protocol.kernel_sigma > 0:
        raise BenchError(
            f"Protocol field kernel_sigma is {protocol.kernel_sigma:g}; it must be above 0."
        )


def _check_tuples(protocol: Protocol) -> None:
    """Raise BenchError where a colour, an IoU or a share is out of range."""
    if len(protocol.baseline) != 3:
        raise BenchError(
            f"Protocol field baseline is {protocol.baseline}; give red, green and blue."
        )
    if not protocol.box_ious or not all(0 < iou <= 1 for iou in protocol.box_ious):
        raise BenchError(
            "Protocol field box_ious needs at least one IoU, each above 0 and at most 1."
        )
    if not all(0 < share < 1 for share in (*protocol.road_fractions, protocol.top_share)):
        raise BenchError(
            "Protocol fields road_fractions and top_share must lie between 0 and 1, both excluded."
        )

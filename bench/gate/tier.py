"""The gate's tier: a run of about a minute on two cores that touches every layer of the suite.

One bundled network, 200 generated scenes, and per way of making a map one method: head gradients
(grad_cam), head replays against a reference (a_fmi), input gradients (saliency), seeded draws
(smooth_grad_cam_pp). Random gives the margins. Methods whose hits hang on single pixels
(smooth_grad of a few samples) are left out: 200 images are too few to judge their boxes.
"""

from __future__ import annotations

from typing import Any

from bench.errors import BenchError, suggestions

TIERS: dict[str, dict[str, Any]] = {
    "gate": {
        "subset": "scenes-val",
        "models": "resnet-scenes",
        "methods": "random,grad_cam,a_fmi,saliency,smooth_grad_cam_pp",
        "metrics": "deletion,insertion,pointing_game,energy_ranked,pixel_precision,"
        "box_localization",
        "limit": 200,
        "calibration": 100,
        "out": "runs/gate",
    }
}
"""Presets of `cambench run`."""


def find_tier_options(name: str) -> dict[str, Any]:
    """Return the options of a tier: {name of the option's parameter: value}."""
    if name not in TIERS:
        raise BenchError(f"Unknown tier {name!r}.{suggestions(name, TIERS)}")
    return TIERS[name]

"""Metrics: `case -> named per-image values`, never a mean over images."""

from bench.metrics import (
    box_sets,
    complexity,
    discriminability,
    faithfulness,
    ffidelity,
    grid_localization,
    idsds,
    infidelity,
    localization,
    rank_localization,
    road,
    robustness,
    sanity,
    sister_curves,
    threshold,
)
from bench.metrics.base import METRICS, OUTSIDE, Metric, Value, find_owner, register_metric

__all__ = [
    "METRICS",
    "OUTSIDE",
    "Metric",
    "Value",
    "box_sets",
    "complexity",
    "discriminability",
    "faithfulness",
    "ffidelity",
    "find_owner",
    "grid_localization",
    "idsds",
    "infidelity",
    "localization",
    "rank_localization",
    "register_metric",
    "road",
    "robustness",
    "sanity",
    "sister_curves",
    "threshold",
]

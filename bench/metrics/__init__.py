"""Metrics: `case -> named per-image values`, never a mean over images."""

from bench.metrics import complexity, faithfulness, localization, threshold
from bench.metrics.base import METRICS, OUTSIDE, Metric, Value, register_metric

__all__ = [
    "METRICS",
    "OUTSIDE",
    "Metric",
    "Value",
    "complexity",
    "faithfulness",
    "localization",
    "register_metric",
    "threshold",
]

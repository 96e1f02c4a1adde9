"""Attribution methods: `trace -> maps [B,H,W]`, signed float32, higher = more evidence for the target."""

from bench.methods import (
    attention_branch,
    cam,
    controls,
    deep_lift,
    extremal,
    gradient,
    guided,
    importance,
    layers,
    masking,
    perturbation,
    relevance,
    self_attention,
    thresholding,
    transformer,
)
from bench.methods.base import METHODS, Method, register_method

__all__ = [
    "METHODS",
    "Method",
    "attention_branch",
    "cam",
    "controls",
    "deep_lift",
    "extremal",
    "gradient",
    "guided",
    "importance",
    "layers",
    "masking",
    "perturbation",
    "register_method",
    "relevance",
    "self_attention",
    "thresholding",
    "transformer",
]

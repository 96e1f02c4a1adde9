"""Attribution methods: `trace -> maps [B,H,W]`, signed float32, higher = more evidence for the target."""

from bench.methods import cam, controls, gradient, importance, self_attention, thresholding
from bench.methods.base import METHODS, Method, register_method

__all__ = [
    "METHODS",
    "Method",
    "cam",
    "controls",
    "gradient",
    "importance",
    "register_method",
    "self_attention",
    "thresholding",
]

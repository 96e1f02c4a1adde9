"""Attribution methods: `trace -> maps [B,H,W]`, signed float32, higher = more evidence for the
target.
"""

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
    transforms,
)
from bench.methods.base import Method
from bench.methods.registration import METHODS, register_method

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
    "transforms",
]

METHODS.add_list(
    "default",
    "control/*,-random_pixel,-random_cam,-inverted_oracle,grad_cam,grad_cam_pp,layer_cam,eigen_cam,"
    "ablation_cam,score_cam,focus/*,-abs_cam_elementwise,saliency,input_x_gradient,"
    "integrated_gradients,attention_branch",
)

# Controls, what papers compare with most, and the seed methods: the default run stays under 120,000
# forwards.
METHODS.add_list("finetuned", "random,oracle,grad_cam,layer_cam,tft(grad_cam),attention_branch")
# The default run scores the fine-tuned models beside their originals, with these few methods.
METHODS.add_list("transformed", "sharpened,centred(grad_cam),blurred(saliency)")
# The default run scores these by the metrics that run no network: with the others they would take a
# tenth of its forwards, and the order of pixels of `sharpened` is Grad-CAM's.

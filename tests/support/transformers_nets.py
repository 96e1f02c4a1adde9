"""Small classifiers of `transformers`, with weights far from their initial ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

transformers: Any = pytest.importorskip(
    "transformers", reason="needs the extra cambench[hf] (transformers)"
)

SIDE, CLASSES = 48, 4
SHARED = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 12,
}
"""A grid of 4 x 4 patches."""

LAYERS = {
    "ViT": "vit.layers.2.layernorm_before",
    "DeiT": "deit.layers.2.layernorm_before",
    "DeiTWithTeacher": "deit.layers.2.layernorm_before",
    "Beit": "beit.layers.2.layernorm_before",
    "Dinov2": "dinov2.encoder.layer.2.norm1",
    "Dinov2WithRegisters": "dinov2_with_registers.encoder.layer.2.norm1",
    "Siglip": "vision_model.encoder.layers.2.layer_norm1",
    "CLIP": "vision_model.encoder.layers.2.layer_norm1",
    "IJepa": "ijepa.layers.2.layernorm_before",
}
"""{kind: the last block's first norm, under the name that `transformers` gives it}."""


def make_transformers(kind: str, seed: int = 3, **options: Any) -> Any:
    """Return a small classifier of a kind of `LAYERS`, every parameter drawn from the seed."""
    ending = "ForImageClassification"
    name = f"DeiT{ending}WithTeacher" if kind == "DeiTWithTeacher" else f"{kind}{ending}"
    found = getattr(transformers, name)
    if kind in ("Siglip", "CLIP"):
        config = found.config_class(vision_config=SHARED, **options)
        config.num_labels = CLASSES
    else:
        config = found.config_class(**{**SHARED, "num_labels": CLASSES, **options})
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = found(config).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            norm = "norm" in key and key.endswith("weight")
            p.copy_(1 + 0.2 * noise if norm or "lambda" in key else 0.3 * noise)
    return net


def find_layer(net: nn.Module) -> str:
    """Return the last block's first norm, in whatever version of the library."""
    endings = ("layernorm_before", "norm1", "layer_norm1")
    vision = [n for n, _ in net.named_modules() if n.endswith(endings) and "text" not in n]
    return vision[-1]

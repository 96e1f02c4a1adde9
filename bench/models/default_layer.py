"""The default layer: the last one that is a grid and that the logits read in all its places.

What is known of timm's families stands here; any other network is searched (`layer_search.py`).

For a timm network that is `forward_features`, replayed by `forward_head`. Two kinds need another
one. Where a class token alone is pooled, the patches of the last output have no gradient: the
default is what the class token reads for the last time, the last block's first norm. Where the
features are several tensors, it is the last grid of the coarsest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from bench.errors import NotApplicable
from bench.models.layer_search import search_layer
from bench.models.layout import find_layout
from bench.models.output_kind import describe_output
from bench.models.split import Captured, LayerSplit, Split, WholeSplit

CLASS_TOKEN_READS = (
    "blocks_token_only.-1.norm1",  # CaiT: class attention behind the patch blocks
    "cls_attn_blocks.-1.norm1",  # XCiT
    "post_network.-1.norm1",  # VOLO
    "transformers.-1.blocks.-1.norm1",  # PiT: its features are the class token alone
    "parallel_blocks.-1.norm13",  # CoaT: the middle one of three grids
    "serial_blocks4.-1.norm1",  # CoaT-Lite
    "stages.-1.blocks.-1.norm1",  # MViTv2 with a class token
    # CrossViT: the small-patch class token reads the patches of the large-patch branch
    "blocks.-1.fusion.0.norm1",
    "blocks.-1.norm1",  # ViT, DeiT, EVA, ConViT
    "blocks.-1.norm_out",  # TNT
    "blocks.-1.in_norm",  # ViT-22B's parallel block
    # several attentions side by side, or a norm behind the attention: the last block's input
    "blocks.-2",
)
"""Where class tokens read the patches for the last time, by family; -1 is the last child."""

COARSEST_FEATURES = ("norm.-1", "norm4")
"""The last grid of networks whose features are several tensors: CrossViT, EfficientViM; CoaT."""


def find_split(net: nn.Module, x: torch.Tensor) -> Split:
    """Return the split at the default layer, checked on one image x [1,3,H,W]."""
    logits = net(x)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise NotApplicable(describe_output(logits))
    for split in _candidates(net):
        captured = _try_capture(split, x)
        if (
            captured is not None
            and _same(captured.logits, logits)
            and reads_patches(net, split, captured)
        ):
            return split
    return LayerSplit(net, search_layer(net, x))


def _candidates(net: nn.Module) -> Iterator[Split]:
    """Yield the splits that may be the default by what is known of timm's networks, the best first.

    Paths mean something in timm's families alone: another network's "blocks" may be anything.
    """
    timm = any(kind.__module__.startswith("timm.") for kind in type(net).__mro__)
    paths = CLASS_TOKEN_READS if timm else ()
    reads = [LayerSplit(net, name) for path in paths if (name := resolve(net, path))]
    token = getattr(net, "global_pool", None) == "token"
    if token:
        yield from reads
    if hasattr(net, "forward_features") and hasattr(net, "forward_head"):
        yield WholeSplit(net)
    if not token:  # it may pool a class token without saying so
        yield from reads
    coarsest = COARSEST_FEATURES if timm else ()
    yield from (LayerSplit(net, name) for path in coarsest if (name := resolve(net, path)))


def _try_capture(split: Split, x: torch.Tensor) -> Captured | None:
    """Run the network; None where it has no such split (features that are no tensor, a head that
    refuses).
    """
    try:
        return split.capture(x)
    except (NotApplicable, NotImplementedError):
        return None


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one, other, atol=1e-4, rtol=1e-4, equal_nan=True
    )


def reads_patches(net: nn.Module, split: Split, captured: Captured) -> bool:
    """Return whether the layer is a grid and a logit depends on most of its places.

    A class token that pools alone leaves the patches without gradient. Where nothing at all has a
    gradient, the head's weights are zero, as timm draws some of them, and nothing can be told:
    True.
    """
    layout = find_layout(net, (1, *captured.values.shape[1:]), captured.size)
    if layout is None or layout.height * layout.width < 2:
        return False
    if isinstance(split, WholeSplit) and not layout.prefix:
        return True  # no token but the patches is there to be pooled
    values = captured.values.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = split.head(values, captured, torch.arange(len(values)))
        # One class, as a map explains one: VOLO's auxiliary head reads a single patch per class.
        gradient = (
            torch.autograd.grad(logits[:, 0].sum(), values)[0]
            if logits.requires_grad
            else values * 0
        )
    if not bool(gradient.any()):
        return True
    return bool(layout.grid(gradient).any(1).double().mean() > 0.5)


def resolve(net: nn.Module, path: str) -> str:
    """Return the module name that a path with -1 (the last child) means in this network, or "".

    >>> resolve(nn.ModuleDict({"blocks": nn.Sequential(nn.ReLU(), nn.ReLU())}), "blocks.-1")
    'blocks.1'
    """
    module, names = net, []
    for step in path.split("."):
        children: dict[str, Any] = dict(module.named_children())
        back = int(step) if step.startswith("-") else 0
        if back and (
            len(children) < -back or not isinstance(module, (nn.Sequential, nn.ModuleList))
        ):
            return ""
        name = list(children)[back] if back else step
        if name not in children or isinstance(children[name], nn.Identity):
            return ""
        module = children[name]
        names.append(name)
    return ".".join(names)

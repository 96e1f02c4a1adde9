"""Attention Branch Network: an attention map, trained with the classifier, that weights what its
last stage sees.

Fukui, Hirakawa, Yamashita and Fujiyoshi, CVPR 2019. A network is cut before its last stage:

    extractor: x -> g [B,K,h,w]
    attention branch: a = ReLU(BN(conv1x1(BN(stage at stride 1 (g))))) [B,C,h,w],
                      M = sigmoid(BN(conv(a))) [B,1,h,w] (3x3 or 1x1, C -> 1), own logits =
                      mean_hw(conv1x1(a)) [B,C]
    perception branch: (1 + M) * g -> the last stage itself -> the classifier itself

Both branches start from the backbone's last stage. No convolution of the attention branch's head
has a bias. In the authors' code (`models/imagenet/resnet.py`) the parts are called att_layer4,
bn_att, att_conv, bn_att2, att_conv3, bn_att3 and att_conv2; here stage, bn_stage, to_classes,
bn_classes, to_map, bn_map and class_head. ResNet is theirs; the other families are our reading: a
VGG is cut behind the last pooling that convolutions follow, its fourth.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import BlurPool2d
from torch import nn

from bench.errors import BenchError
from bench.models.input_channels import find_channels
from bench.randomness import generator

PROBE = 64
"""Side of the noise image on which a cut is checked; any stage of stride up to 32 has a cell of
it.
"""

TOLERANCE = 1e-4
"""How far the logits of the cut backbone may be from its own, absolute and relative."""


class Branches(NamedTuple):
    """What both branches give: the attention branch's logits [B,C], the perception branch's [B,C],
    M [B,1,h,w].
    """

    attention_logits: torch.Tensor
    logits: torch.Tensor
    attention: torch.Tensor


class AttentionBranch(nn.Module):
    """The attention branch: g [B,K,h,w] -> (logits [B,C], M [B,1,h,w] in [0,1])."""

    def __init__(self, stage: nn.Module, channels: int, num_classes: int, map_kernel: int) -> None:
        super().__init__()
        self.stage = stage
        self.bn_stage = nn.BatchNorm2d(channels)
        self.to_classes = nn.Conv2d(channels, num_classes, 1, bias=False)
        self.bn_classes = nn.BatchNorm2d(num_classes)
        self.act = nn.ReLU()
        self.to_map = nn.Conv2d(num_classes, 1, map_kernel, padding=map_kernel // 2, bias=False)
        self.bn_map = nn.BatchNorm2d(1)
        self.gate = nn.Sigmoid()
        self.class_head = nn.Conv2d(num_classes, num_classes, 1, bias=False)

    def forward(self, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the branch's own logits [B,C] and M [B,1,h,w]."""
        a = self.act(self.bn_classes(self.to_classes(self.bn_stage(self.stage(g)))))
        return self.class_head(a).mean((2, 3)), self.gate(self.bn_map(self.to_map(a)))


class PerceptionBranch(nn.Module):
    """The perception branch: (1 + M) * g -> features (`stage`) -> logits [B,C] (`head`)."""

    def __init__(self, stage: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stage = stage
        self.head = head

    def forward(self, weighted: torch.Tensor) -> torch.Tensor:
        """Return logits [B,C] of the weighted features [B,K,h,w]."""
        return self.head(self.stage(weighted))  # type: ignore[no-any-return]


class AttentionBranchNetwork(nn.Module):
    """An attention branch network around a copy of a backbone, which is itself left as it is.

    backbone: a timm network like ResNet (conv1 ... layer4, global_pool, fc), RegNet (stem, s1 ...
    s4, final_conv, head), ResNetV2 (stem, stages, norm, head) or VGG (features, pre_logits, head);
    any other is a `BenchError`. map_kernel: side of the convolution that makes M; 3 as in the
    authors' results, or 1.  seed: of the new layers, drawn as the authors draw them: convolutions
    N(0, 2 / (k*k*outputs)), batch norms 1 and 0.

    `forward_features` and `forward_head` split the perception branch, so that the CAM methods
    explain its logits.
    """

    def __init__(self, backbone: nn.Module, map_kernel: Literal[1, 3] = 3, seed: int = 0) -> None:
        super().__init__()
        if map_kernel not in (1, 3):
            raise BenchError(f"The map head's kernel is 1 or 3, not {map_kernel!r} (map_kernel).")
        own = copy.deepcopy(backbone).eval()
        parts = _parts(own)
        if parts is None:
            raise BenchError(
                f"The backbone ({type(backbone).__name__}) cannot be split into extractor and "
                "last stage; an attention branch goes on classifiers built like timm's ResNet, "
                "ResNetV2, RegNet or VGG."
            )
        stage = keep_resolution(parts.stage)
        channels, self.num_classes = _check_cut(own, parts, stage)
        self.map_kernel = map_kernel
        self.extractor = parts.extractor
        with torch.random.fork_rng(
            devices=[]
        ):  # torch draws every new layer, which `_draw` then draws from the seed
            self.attention = AttentionBranch(stage, channels, self.num_classes, map_kernel)
        self.perception = PerceptionBranch(
            nn.Sequential(OrderedDict([*parts.last.items()])), parts.head
        )
        self.feature_info = _rename_stages(own, self)
        _draw(self.attention, seed)
        self.train(backbone.training)

    def forward(self, x: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Return the perception branch's logits [B,C] of images x [B,3,H,W].

        attention: M [B,1,h,w] or [B,h,w] in [0,1] that takes the place of the network's own (an
        edited map).
        """
        return self.forward_head(self.forward_features(x, attention))

    def branches(self, x: torch.Tensor, attention: torch.Tensor | None = None) -> Branches:
        """Return both branches' logits and the network's own M; an injected map changes the
        perception branch only.
        """
        g = self.extractor(x)
        attention_logits, own = self.attention(g)
        weights = own if attention is None else inject_map(attention, g)
        return Branches(attention_logits, self.perception(weigh_features(g, weights)), own)

    def attention_map(self, x: torch.Tensor) -> torch.Tensor:
        """Return M [B,1,h,w] in [0,1]; the perception branch does not run."""
        return self.attention(self.extractor(x))[1]  # type: ignore[no-any-return]

    def forward_features(
        self, x: torch.Tensor, attention: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the perception branch's features [B,K',h',w']; `attention` as in `forward`."""
        g = self.extractor(x)
        weights = self.attention(g)[1] if attention is None else inject_map(attention, g)
        return self.perception.stage(weigh_features(g, weights))  # type: ignore[no-any-return]

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the perception branch's logits [B,C] of its features."""
        return self.perception.head(features)  # type: ignore[no-any-return]


def weigh_features(g: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Return (1 + M) * g, the attention mechanism; g [B,K,h,w], M [B,1,h,w]."""
    return g + attention * g


def inject_map(attention: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return a map [B,1,h,w] or [B,h,w] as M [B,1,h,w] for features g [B,K,h,w]; a misfit is one
    sentence.
    """
    maps = attention[:, None] if attention.ndim == 3 else attention
    expected = (len(g), 1, *g.shape[2:])
    if tuple(maps.shape) != expected:
        raise BenchError(
            f"The injected attention has shape {tuple(attention.shape)}; these images need "
            f"{expected} (bench.models.abn.to_grid takes maps of another size there by area)."
        )
    if not bool(((maps >= 0) & (maps <= 1)).all()):  # NaN is in no range
        raise BenchError(
            "The injected attention has values outside [0, 1] or NaN; an attention map is in [0, "
            "1]."
        )
    return maps.to(g.device, g.dtype)


def to_grid(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return maps [B,H,W] or [B,1,H,W] as [B,1,height,width], each cell the mean of its area."""
    maps = maps[:, None] if maps.ndim == 3 else maps
    return F.interpolate(maps, size=(height, width), mode="area")


# --- the cut


@dataclass(frozen=True)
class _Parts:
    """A backbone's modules: before the last stage, that stage, it with what follows it before the
    head, the head.
    """

    extractor: nn.Module
    stage: nn.Module
    last: OrderedDict[str, nn.Module]
    head: nn.Module


_STAGED = (
    (
        ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"),
        ("layer4",),
        ("global_pool", "fc"),
    ),  # ResNet
    (("stem", "s1", "s2", "s3"), ("s4", "final_conv"), ("head",)),  # RegNet
    (("stem", "stages.0", "stages.1", "stages.2"), ("stages.3", "norm"), ("head",)),  # ResNetV2
)
"""Modules in the order in which they run: the extractor, the last stage (first) and what follows
it, the head.
"""


def _parts(net: nn.Module) -> _Parts | None:
    """Return the parts of a network that is built like one of the families; None: it is not."""
    modules = dict(net.named_modules())
    for before, last, head in _STAGED:
        if all(name in modules for name in (*before, *last, *head)):
            behind = _name_modules(modules, last)
            return _Parts(
                nn.Sequential(_name_modules(modules, before)),
                behind[_flat(last[0])],
                behind,
                _head(net, modules, head),
            )
    if (
        isinstance(modules.get("features"), nn.Sequential)
        and "pre_logits" in modules
        and "head" in modules
    ):
        return _vgg_parts(net, modules)
    return None


def _vgg_parts(net: nn.Module, modules: dict[str, nn.Module]) -> _Parts | None:
    """Cut behind the last pooling that convolutions follow: the last stage is those, with a pooling
    after them.
    """
    layers = list(modules["features"].children())
    convolutions = [n for n, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    pools = [
        n
        for n, layer in enumerate(layers)
        if isinstance(layer, nn.MaxPool2d) and n < max(convolutions, default=0)
    ]
    if not pools:
        return None
    stage = nn.Sequential(*layers[pools[-1] + 1 :])
    head = _head(net, modules, ("pre_logits", "head"))
    return _Parts(nn.Sequential(*layers[: pools[-1] + 1]), stage, OrderedDict(features=stage), head)


def _head(net: nn.Module, modules: dict[str, nn.Module], names: Sequence[str]) -> nn.Module:
    head = _name_modules(modules, names)
    rate: Any = getattr(net, "drop_rate", None)
    if "fc" in head and rate:  # timm's ResNet has its dropout in code, before fc
        head["drop"] = nn.Dropout(rate)
        head.move_to_end("fc")
    return nn.Sequential(head).eval()


def _name_modules(
    modules: dict[str, nn.Module], names: Sequence[str]
) -> OrderedDict[str, nn.Module]:
    return OrderedDict((_flat(name), modules[name]) for name in names)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def keep_resolution(stage: nn.Module) -> nn.Module:
    """Return a copy of a stage that keeps the grid: convolutions at stride 1, as timm builds a
    stage of stride 1.

    A pooling whose window keeps the size at stride 1 (3x3, padding 1) stays; any other (a 2x2
    average in a shortcut, a blur, a last maximum) becomes the identity.
    """
    stage = copy.deepcopy(stage)
    for name, module in list(stage.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif (
            isinstance(module, (nn.AvgPool2d, nn.MaxPool2d, BlurPool2d))
            and max(_pair(module.stride)) > 1
        ):
            if not isinstance(module, BlurPool2d) and _keeps_size(module):
                module.stride = 1
            else:
                stage.set_submodule(name, nn.Identity())
    return stage


def _keeps_size(pool: nn.AvgPool2d | nn.MaxPool2d) -> bool:
    windows, paddings = _pair(pool.kernel_size), _pair(pool.padding)
    return all(window == 2 * padding + 1 for window, padding in zip(windows, paddings, strict=True))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@torch.no_grad()
def _check_cut(net: nn.Module, parts: _Parts, stage: nn.Module) -> tuple[int, int]:
    """Return (channels of the stage's output, classes), after one noise image went through the net
    and its parts.
    """
    channels = find_channels(net, (3, PROBE, PROBE)) or 3
    image = torch.randn(1, channels, PROBE, PROBE, generator=generator(0, "abn cut"))
    image = image.to(next(net.parameters()).device)
    name = type(net).__name__
    logits, g = net(image), parts.extractor(image)
    replayed = parts.head(nn.Sequential(parts.last)(g))
    if logits.shape != replayed.shape or not torch.allclose(
        replayed, logits, rtol=TOLERANCE, atol=TOLERANCE
    ):
        raise BenchError(
            f"The {name} cannot be split: its parts, run one after the other, give other logits "
            "than the network."
        )
    features = stage(g)
    if features.shape[2:] != g.shape[2:]:
        raise BenchError(
            f"The last stage of the {name} cannot run at stride 1: it makes "
            f"{tuple(features.shape[2:])} cells of {tuple(g.shape[2:])}, so no attention branch "
            "fits it."
        )
    if logits.ndim != 2 or getattr(net, "num_classes", None) == 0:
        raise BenchError(
            f"The {name} has no classifier; an attention branch needs classes (num_classes above "
            "0)."
        )
    return features.shape[1], logits.shape[1]


def _rename_stages(backbone: nn.Module, net: nn.Module) -> list[dict[str, Any]]:
    """Return timm's list of stages (`feature_info`) with the modules' names in the new network."""
    names = {id(module): name for name, module in net.named_modules()}
    old = dict(backbone.named_modules())
    entries = [
        entry
        for entry in getattr(backbone, "feature_info", None) or ()
        if entry.get("module") in old
    ]
    return [
        entry | {"module": names[id(old[entry["module"]])]}
        for entry in entries
        if id(old[entry["module"]]) in names
    ]


@torch.no_grad()
def _draw(branch: AttentionBranch, seed: int) -> None:
    """Draw the new convolutions; the batch norms are new, at 1 and 0."""
    for name in ("to_classes", "to_map", "class_head"):
        weight = branch.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        scale = (2 / (weight[0, 0].numel() * len(weight))) ** 0.5
        weight.copy_(scale * torch.randn(weight.shape, generator=generator(seed, "abn", name)))

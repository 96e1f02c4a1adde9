"""The small networks that this project bundles, built from timm's blocks; 96x96 input, activation
grid 12x12.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import ClassifierHead
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vgg import VGG, ConvMlp
from torch import nn


def resnet_scenes(num_classes: int = 10) -> nn.Module:
    """Return a ResNet of one basic block per stage, dilated after stride 8: GAP and one linear
    layer as head.
    """
    return _resnet(1, (32, 64, 80, 96), num_classes)


def resnet_scenes_narrow(num_classes: int = 10) -> nn.Module:
    """Return a narrower one, which leaves room for an attention branch within 2 MB."""
    return _resnet(1, (32, 56, 72, 80), num_classes)


def resnet_small(num_classes: int = 20) -> nn.Module:
    """Return a ResNet of two basic blocks per stage, dilated after stride 8, for photographs of
    64x64: grid 8x8.
    """
    return _resnet(2, (32, 64, 96, 128), num_classes)


def _resnet(blocks: int, channels: tuple[int, ...], num_classes: int) -> nn.Module:
    net: nn.Module = ResNet(
        BasicBlock,
        [blocks] * 4,
        num_classes=num_classes,
        stem_type="deep",
        stem_width=16,
        channels=channels,
        output_stride=8,
    )
    return net


VGG_LAYERS = (16, "M", 32, "M", 48, 48, "M", 96, 96)
VGG_HIDDEN, VGG_WINDOW = 48, 7


def vgg_scenes(num_classes: int = 10) -> nn.Module:
    """Return a VGG with batch norm that ends before its last pooling.

    As in VGG the head is a 7x7 convolution and a hidden layer before pooling, so that the CAM
    methods differ on it.
    """
    return _vgg(VGG_LAYERS, VGG_HIDDEN, num_classes)


def vgg_small(num_classes: int = 20) -> nn.Module:
    """Return a wider VGG of the same kind, for photographs of 64x64: grid 8x8."""
    return _vgg((24, "M", 48, "M", 64, 64, "M", 128, 128), 64, num_classes)


def _vgg(layers: tuple[int | str, ...], hidden: int, num_classes: int) -> nn.Module:
    net: nn.Module = VGG(list(layers), num_classes=num_classes, norm_layer=nn.BatchNorm2d)
    net.pre_logits = ConvMlp(layers[-1], hidden, kernel_size=VGG_WINDOW, act_layer=nn.ReLU)
    net.head = ClassifierHead(hidden, num_classes, pool_type="avg")
    net.head_hidden_size = hidden  # type: ignore[assignment]
    return net


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet_scenes": resnet_scenes,
    "resnet_scenes_narrow": resnet_scenes_narrow,
    "vgg_scenes": vgg_scenes,
    "resnet_small": resnet_small,
    "vgg_small": vgg_small,
}


def build_seeded(build: Callable[..., nn.Module], seed: int, **kwargs: object) -> nn.Module:
    """Build a network with weights drawn from a seed, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            seed
        )  # manual_seed would also reseed GPUs, and not restore them
        return build(**kwargs)

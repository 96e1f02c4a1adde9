"""Tiny classifiers for tests: analytic ones whose outputs a reader can redo by hand, and random
ones.

Every random weight comes from a `torch.Generator`, so a net is fixed by its seed. Each net has a
module called `features` whose output is the layer A, and its forward is features, then the head,
with nothing between.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bench.models.abn import AttentionBranchNetwork
from bench.models.sa_affinity import Affinity

# A normalisation unlike ImageNet's, so that a baseline colour put in the wrong space shows.
MEAN = (0.5, 0.4, 0.3)
STD = (0.2, 0.25, 0.3)
BASELINE = (0.485, 0.456, 0.406)


def randomise(net: nn.Module, seed: int) -> nn.Module:
    """Fill parameters and batch-norm statistics from the seed, put the net in eval mode and return
    it.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan = module.weight[0].numel()
                module.weight.copy_(
                    torch.randn(module.weight.shape, generator=rng) * (2.0 / fan) ** 0.5
                )
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=rng) * 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=rng) * 0.6 + 0.7)
                module.bias.copy_(torch.randn(module.bias.shape, generator=rng) * 0.2)
                module.running_mean.copy_(
                    torch.randn(module.running_mean.shape, generator=rng) * 0.2
                )
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=rng) + 0.5)
    return net.eval()


def make_images(seed: int, count: int, side: int) -> torch.Tensor:
    """Return images [B,3,H,W], normalised with `MEAN`/`STD`: a smooth colour field with fine
    grain.
    """
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=rng)
    smooth = nn.functional.interpolate(
        coarse, size=(side, side), mode="bilinear", align_corners=False
    )
    pixels = 0.8 * smooth + 0.2 * torch.rand(count, 3, side, side, generator=rng)
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


class PlantedEvidence(nn.Module):
    """Two classes; p(class 0) = floor + gain * sum(weight * x): probability itself is linear in the
    image.

    With logits (log u, log(1 - u)) the softmax is (u, 1 - u) exactly. `weight` [3,H,W] says where
    the evidence is.
    """

    def __init__(self, weight: torch.Tensor, floor: float = 0.1, gain: float = 0.8) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.floor, self.gain = floor, gain
        self.features = nn.Identity()
        # A parameter, because some tools ask the first parameter for the device; it multiplies by
        # one.
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.features(x * self.one)
        u = self.floor + self.gain * (a * self.weight).sum(dim=(1, 2, 3))
        return torch.stack([u.log(), (1 - u).log()], dim=1)


def region_mean(
    side: int, rows: slice, columns: slice, pattern: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the weight [3,side,side] that takes the mean of `pattern * x` over a rectangle and the
    channels.
    """
    weight = torch.zeros(3, side, side, dtype=torch.float64)
    weight[:, rows, columns] = 1.0
    weight /= weight.sum()
    return (weight if pattern is None else weight * pattern).float()


class PooledLinear(nn.Module):
    """A = average pooling of the image (K = 3 channels), logits = W mean(A): every CAM can be done
    by hand.
    """

    def __init__(self, weight: list[list[float]], pool: int = 2) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(pool)
        self.fc = nn.Linear(3, len(weight), bias=False)
        self.fc.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))


class PlainLinear(nn.Module):
    """Logits linear in the pixels: S_c = sum(weight_c * x), so dS/dx is `weight_c` everywhere."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.weight = nn.Parameter(weight.clone())  # [C,3,H,W]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bkij,ckij->bc", self.features(x), self.weight)


class GapLinear(nn.Module):
    """Convolutions, ReLU, global average pooling, linear: where CAM and Grad-CAM agree up to a
    factor.
    """

    def __init__(self, classes: int = 5, channels: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, channels, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))


class FlattenMLP(nn.Module):
    """A head without pooling: position matters, so the CAMs differ from each other."""

    def __init__(self, side: int, classes: int = 5, channels: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 5, stride=4, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * (side // 4) ** 2, 12),
            nn.ReLU(),
            nn.Linear(12, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class NormNet(nn.Module):
    """Batch norm everywhere, in-place ReLU, and a non-linear head after pooling."""

    def __init__(self, classes: int = 5, channels: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.neck = nn.Sequential(
            nn.Conv2d(channels, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(inplace=True)
        )
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(10, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.neck(self.features(x)).mean(dim=(2, 3))))


class SignedNet(nn.Module):
    """A is signed (it ends in batch norm), as EfficientNet's is; the head squashes after pooling
    patches.
    """

    def __init__(self, classes: int = 5, channels: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(8, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels),
        )
        self.head = nn.Sequential(
            nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class SkipNet(nn.Module):
    """The layer is a residual branch: what by-passes it must still reach the head, and code runs
    between modules.
    """

    def __init__(self, classes: int = 5, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, stride=4, padding=1), nn.ReLU())
        self.features = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.neck = nn.Conv2d(channels, channels, 3, padding=1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.stem(x)
        after = self.neck(before + self.features(before)) * before
        return self.fc(nn.functional.relu(after, inplace=True).mean(dim=(2, 3)))


class TokenNet(VisionTransformer):
    """A tiny ViT with a class token; the layer is the tokens before the blocks, so the patches
    matter behind it.
    """

    def __init__(self, side: int, classes: int = 5) -> None:
        with torch.random.fork_rng(devices=[]):
            super().__init__(
                side, 8, num_classes=classes, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2
            )
        self.features = nn.Identity()

    def forward_features(self, x: torch.Tensor, **_: object) -> torch.Tensor:
        return self.norm(self.blocks(self.features(self._pos_embed(self.patch_embed(x)))))


def token_net(seed: int, side: int) -> nn.Module:
    """Return a `TokenNet`, its embeddings from the seed too, and sharp attention."""
    net = randomise(TokenNet(side), seed)
    rng = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for embedding in (net.cls_token, net.pos_embed):
            embedding.copy_(torch.randn(embedding.shape, generator=rng) * 0.3)
    return net


class BranchNet(AttentionBranchNetwork):
    """A tiny attention branch network; the layer is what its perception branch pools, 4x4 of
    32x32.
    """

    def __init__(self, classes: int = 5, channels: tuple[int, ...] = (6, 8, 10, 12)) -> None:
        with torch.random.fork_rng(devices=[]):
            super().__init__(
                ResNet(
                    BasicBlock,
                    [1, 1, 1, 1],
                    num_classes=classes,
                    channels=channels,
                    stem_width=6,
                    output_stride=8,
                )
            )
        self.features = nn.Identity()

    def forward_features(
        self, x: torch.Tensor, attention: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.features(super().forward_features(x, attention))


class FailsLater(nn.Module):
    """Passes `allowed` forwards through, then raises: for tests that a failure leaves nothing
    behind.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.features = net.features
        self.net = net
        self.allowed: int | None = None
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        """Return what this lacks from the net: some methods look at a network's parts (a
        transformer's blocks).
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.allowed is not None and self.calls > self.allowed:
            raise RuntimeError("planted failure")
        return self.net(x)


class AttentiveNet(NormNet):
    """The net "norm" with the trained attention of SA-CAM beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.affinity = Affinity(8, 4)


NETS = {
    "gap": lambda seed, side: randomise(GapLinear(), seed),
    "mlp": lambda seed, side: randomise(FlattenMLP(side), seed),
    "norm": lambda seed, side: randomise(NormNet(), seed),
    "signed": lambda seed, side: randomise(SignedNet(), seed),
    "skip": lambda seed, side: randomise(SkipNet(), seed),
    "vit": token_net,
    "abn": lambda seed, side: randomise(BranchNet(), seed),
    "attentive": lambda seed, side: randomise(AttentiveNet(), seed),
}


def make_net(kind: str, seed: int = 0, side: int = 32) -> nn.Module:
    """Return a random net of a kind (a key of `NETS`); its layer is called `features`."""
    return NETS[kind](seed, side)


class Cramped(nn.Module):
    """A network on a device with memory for `room` images at once.  batches: the sizes of those
    that it has run.
    """

    def __init__(self, net: nn.Module, room: int) -> None:
        super().__init__()
        self.net, self.room = net, room
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.batches.append(len(x))
        return self.net(x)

"""My network

You explain a network from timm, from torchvision, or one that you wrote yourself.
"""

# Any classifier works that takes images `[B,3,H,W]` and returns logits `[B,C]`. Wrap it in an
# `Explainee` and say how its images are normalised. The weights here are random, so that nothing is
# downloaded; load your own as usual.

import timm
import torch
import torchvision

import bench

torch.manual_seed(0)
of_timm = bench.load_model("resnet18", num_classes=10)
of_torchvision = bench.Explainee(
    torchvision.models.mobilenet_v3_small(num_classes=10),
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
    size=96,
    name="mobilenet",
)

# Your own module needs nothing special, and no hook. cambench looks for the last layer that has a
# spatial grid, and verifies that its cells lie where the pixels do.


class Small(torch.nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=4, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.ReLU(),
        )
        self.classifier = torch.nn.Linear(32, 10)

    def forward(self, images):
        return self.classifier(self.features(images).mean((2, 3)))


of_mine = bench.Explainee(Small(), mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], size=96, name="small")

# `layer` names the explained layer. `Explainee(net, layer="features.1")` chooses another one.

for model in (of_timm, of_torchvision, of_mine):
    print(model.name, "explains the layer", model.layer)

# A network of timm that you built yourself, with your own weights file, is an `Explainee`, too.

network = timm.create_model("resnet18", num_classes=10)
same = bench.Explainee(network, size=96, name="resnet18 of mine")

# Every method runs on every network that it fits.

images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
for model in (of_mine, same):
    maps = bench.explain(model, model.normalise(images), None, ["grad_cam", "saliency"])
    print(model.name, {name: tuple(found.shape) for name, found in maps.items()})

# From the command line: `--models resnet18 --num-classes 10 --weights best.pth`, or a card that
# says once how the network is built. [Networks](../networks.md) has the details.

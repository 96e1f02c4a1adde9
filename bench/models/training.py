"""Training of the bundled models on the generated scenes: `cambench zoo train NAME`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bench.data import Geometry, Subset, load_subset
from bench.errors import BenchError, suggestions
from bench.files import replaced_file, write_json
from bench.models.architectures import ARCHITECTURES, seeded
from bench.models.explainee import Explainee
from bench.models.zoo import WEIGHTS_FOLDER, file_sha256
from bench.protocol import Protocol
from bench.randomness import generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 96


@dataclass(frozen=True)
class Recipe:
    """How a bundled model is trained; everything that decides its weights."""

    arch: str
    subset: str = "scenes-train"
    validation: str = "scenes-val"
    epochs: int = 18
    batch_size: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.02
    erase: float = 0.3  # share of images that lose a random rectangle to the baseline colour
    seed: int = 0


RECIPES = {
    "resnet-scenes": Recipe("resnet_scenes"),
    "vgg-scenes": Recipe("vgg_scenes"),
}

Report = Callable[[dict[str, Any]], None]


def train_bundled(name: str, folder: Path = WEIGHTS_FOLDER, report: Report | None = None, **changes: Any) -> Path:
    """Train a bundled model by its recipe and write NAME.safetensors and its card NAME.json; return the card's path.

    report: called after each epoch with epoch, loss, accuracy and seconds.  changes: recipe fields to replace.
    """
    from safetensors.torch import save_file

    if name not in RECIPES:
        raise BenchError(f"There is no recipe for {name!r}.{suggestions(name, RECIPES)}")
    recipe = Recipe(**{**asdict(RECIPES[name]), **changes})
    train, validation = load_subset(recipe.subset), load_subset(recipe.validation)
    net = fit(recipe, frames(train), torch.from_numpy(train.labels), train.num_classes, report)
    top1 = accuracy(net, frames(validation), torch.from_numpy(validation.labels))
    weights = folder / f"{name}.safetensors"
    with replaced_file(weights) as temporary:
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, temporary)
    card = {
        "file": weights.name,
        "library": "cambench",
        "arch": recipe.arch,
        "kwargs": {"num_classes": train.num_classes},
        "mean": MEAN,
        "std": STD,
        "size": SIDE,
        "layer": None,
        "parent": "",
        "sha256": file_sha256(weights),
        "top1": top1,
        "top1_subset": f"{validation.name}@{validation.manifest_id}",
        "data": f"{train.name}@{train.manifest_id}",
        "command": f"cambench zoo train {name}",
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in net.parameters()),
        "torch": torch.__version__.split("+")[0],
        "licence": "Apache-2.0",
    }
    write_json(folder / f"{name}.json", {name: json.loads(json.dumps(card))})
    return folder / f"{name}.json"


def frames(subset: Subset) -> torch.Tensor:
    """Return all images of a subset as uint8 [n,3,side,side]."""
    geometry = Geometry(SIDE, "squash", SIDE, "bicubic")
    stack = np.stack([geometry.frame(subset[i].image) for i in range(len(subset))])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def fit(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor, classes: int, report: Report | None = None
) -> nn.Module:
    """Train a network on uint8 images [n,3,H,W] with labels [n]; AdamW, one cycle, the last weights."""
    net = seeded(ARCHITECTURES[recipe.arch], recipe.seed, num_classes=classes).to(memory_format=torch.channels_last)
    model = Explainee(net, MEAN, STD, SIDE)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * (len(images) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=recipe.lr, total_steps=steps, pct_start=0.2)
    for epoch in range(recipe.epochs):
        started, losses, hits = time.perf_counter(), [], 0
        net.train()
        for rows, rng in batches(len(images), recipe, epoch):
            x = model.normalise(augmented(images[rows].float() / 255, recipe, rng))
            # bfloat16 only here, where it saves a third of the time; the weights and every evaluation are float32.
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x.contiguous(memory_format=torch.channels_last)).float()
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
            hits += int((logits.argmax(1) == labels[rows]).sum())
        if report:
            seen = len(losses) * recipe.batch_size
            seconds = time.perf_counter() - started
            report({"epoch": epoch + 1, "loss": float(np.mean(losses)), "accuracy": hits / seen, "seconds": seconds})
    return net.eval().to(memory_format=torch.contiguous_format)


def batches(images: int, recipe: Recipe, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Generator]]:
    """Yield the rows of each full batch of an epoch and the generator of its augmentation, from the recipe's seed."""
    rng = generator(recipe.seed, "epoch", str(epoch))
    order = torch.randperm(images, generator=rng)
    for start in range(0, images - recipe.batch_size + 1, recipe.batch_size):
        yield order[start : start + recipe.batch_size], rng


def augmented(pixels: torch.Tensor, recipe: Recipe, rng: torch.Generator) -> torch.Tensor:
    """Return pixels [B,3,H,W] in [0,1], some mirrored or upside down, all dimmed or brightened, some with a hole.

    A hole is a rectangle in the baseline colour; it teaches the network that this colour is no evidence, so that
    deletion stays near its data.
    """
    size, side = len(pixels), pixels.shape[-1]
    flip = torch.rand(size, generator=rng) < 0.5
    pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
    upside = torch.rand(size, generator=rng) < 0.5
    pixels = torch.where(upside[:, None, None, None], pixels.flip(2), pixels)
    gain = 0.8 + 0.4 * torch.rand(size, 1, 1, 1, generator=rng)
    pixels = (pixels * gain).clamp(0, 1)
    colour = torch.tensor(Protocol().baseline).view(3, 1, 1)
    erased = torch.rand(size, generator=rng) < recipe.erase
    corner = torch.rand(size, 2, generator=rng) * side
    extent = (0.1 + 0.25 * torch.rand(size, 2, generator=rng)) * side
    place = torch.arange(side)
    inside = (place >= corner[..., None]) & (place < (corner + extent)[..., None])  # [B,2,side]
    hole = erased[:, None, None] & inside[:, 0, :, None] & inside[:, 1, None, :]
    return torch.where(hole[:, None], colour, pixels)


@torch.inference_mode()
def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return top-1 accuracy in percent on uint8 images [n,3,H,W]."""
    model = Explainee(net.eval(), MEAN, STD, SIDE)
    hits = 0
    for start in range(0, len(images), 128):
        chunk = slice(start, start + 128)
        hits += int((net(model.normalise(images[chunk].float() / 255)).argmax(1) == labels[chunk]).sum())
    return 100 * hits / len(images)

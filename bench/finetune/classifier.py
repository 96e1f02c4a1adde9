"""Plain classifiers: an architecture, or a model that is trained on, fitted to the labels of a
subset.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.data import Subset
from bench.errors import BenchError
from bench.finetune.augment import Augmentation, augment_pixels
from bench.finetune.data import Pictures, split_rows
from bench.finetune.loop import SCORE, Settings, TrainingTask
from bench.finetune.training import Training
from bench.models.architectures import ARCHITECTURES, build_seeded
from bench.models.explainee import Explainee
from bench.models.zoo import load_model


class ClassifierTask(TrainingTask):
    """All weights, cross-entropy with smoothed labels; the score is top-1 in percent."""

    def __init__(
        self,
        model: Explainee,
        train: Pictures,
        validation: Pictures,
        augmentation: Augmentation,
        label_smoothing: float,
    ) -> None:
        self.model, self.net, self.size = model, model.net, len(train)
        self.train, self.validation = train, validation
        self.augmentation, self.label_smoothing = augmentation, label_smoothing

    def parameters(self) -> list[dict[str, Any]]:
        """Return all of them."""
        return [{"params": list(self.net.parameters())}]

    def train_mode(self) -> None:
        """Train everything."""
        self.net.train()

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the cross-entropy and the accuracy of a batch."""
        pixels = augment_pixels(self.train.pixels(rows), self.augmentation, rng)
        labels = self.train.labels[rows].to(self.model.device)
        logits = self.net(network_input(self.model, pixels)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss, {"accuracy": share_right(logits, labels)}

    def validate(self) -> dict[str, float]:
        """Return top-1."""
        top1 = accuracy(self.model, self.validation)
        return {"top1": top1, SCORE: top1}


def network_input(model: Explainee, pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels [B,3,H,W] in [0,1] as the network wants them: normalised, on its device,
    channels last.
    """
    return model.normalise(pixels.to(model.device)).contiguous(memory_format=torch.channels_last)


def share_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share in [0,1] of logits [B,C] whose largest is the label's."""
    return float((logits.argmax(1) == labels).double().mean())


@torch.no_grad()
def accuracy(model: Explainee, pictures: Pictures) -> float:
    """Return top-1 in percent of a network in eval mode."""
    hits = 0
    for rows in split_rows(len(pictures)):
        logits = model.net(network_input(model, pictures.pixels(rows)))
        hits += int((logits.argmax(1).cpu() == pictures.labels[rows]).sum())
    return 100 * hits / len(pictures)


def train_classifier(
    backbone: str,
    training: Training,
    *,
    augmentation: Augmentation | None = None,
    label_smoothing: float = 0.02,
    device: str = "cpu",
) -> Path:
    """Train a classifier.

    Args:
        backbone: A bundled architecture (`resnet_scenes`), a timm name (random weights), or any
            model of the subset's classes, whose training goes on.
        training: Images, settings and files.
        augmentation: How pictures are varied.
        label_smoothing: Share of the label that is spread over all classes.
        device: Where the network is trained.

    Returns:
        The path of the card.
    """
    settings, how = training.settings or Settings(), augmentation or Augmentation()
    model = new_model(backbone, training.parts[0], settings.seed).to(device)
    model.net.to(memory_format=torch.channels_last)
    task = ClassifierTask(model, *training.make_pictures(model), how, label_smoothing)
    recipe = {
        "backbone": backbone,
        "label_smoothing": label_smoothing,
        "augmentation": asdict(how),
    } | asdict(settings)
    history = training.fit(task, settings, {"what": "classifier", "recipe": recipe})
    return training.save(model, history, {"recipe": recipe, "top1": history.best["top1"]})


def new_model(backbone: str, subset: Subset, seed: int) -> Explainee:
    """Return the network that training starts from, for the frames and classes of a subset."""
    if backbone not in ARCHITECTURES:
        return _load_backbone(backbone, subset)
    if subset.geometry is None:
        raise BenchError(
            f"The subset {subset.name} fixes no image size, which {backbone} needs; take a timm "
            "name."
        )
    net = build_seeded(ARCHITECTURES[backbone], seed, num_classes=subset.num_classes)
    facts = {"library": "cambench", "arch": backbone, "kwargs": {"num_classes": subset.num_classes}}
    return Explainee(
        net, size=subset.geometry.size, geometry=subset.geometry, name=backbone, card=facts
    )


def _load_backbone(backbone: str, subset: Subset) -> Explainee:
    import timm

    # A plain timm name is an architecture: its head gets as many outputs as the subset has classes.
    if not timm.is_model(backbone):
        return load_model(backbone)
    size: dict[str, Any] = {} if subset.geometry is None else {"img_size": subset.geometry.size}
    try:
        return load_model(backbone, num_classes=subset.num_classes, **size)
    except BenchError:  # a convolutional network takes any size and knows no img_size
        model = load_model(backbone, num_classes=subset.num_classes)
    if subset.geometry is not None:
        model = Explainee(
            model.net,
            model.mean,
            model.std,
            subset.geometry.size,
            name=model.name,
            geometry=subset.geometry,
            card=model.card,
        )
    return model

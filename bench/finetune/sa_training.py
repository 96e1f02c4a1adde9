"""Trained SA-CAM: queries and keys of its self-attention, the CNN frozen.

The text says only that the attention is trained with the CNN as it is; the loss is our reading: the
classifier's own head has to name the label from the refined activations.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.finetune.augment import Augmentation, augment_pixels
from bench.finetune.classifier import accuracy, network_input, share_right
from bench.finetune.data import Pictures, split_rows
from bench.finetune.loop import SCORE, Settings, TrainingTask
from bench.finetune.save import build_facts
from bench.finetune.training import Training
from bench.models.architectures import build_seeded
from bench.models.explainee import Explainee
from bench.models.sa_affinity import AffinityNet, refine

GENTLE = Augmentation(erase=0.0)
"""Flips and brightness: what fine-tuning varies."""


class SelfAttentionTask(TrainingTask):
    """Cross-entropy of head((A + lambda * P A) / (1 + lambda)); only q and k are trained.

    The division keeps the scale that the head knows; the map does not see it. The score is -loss on
    held-out images.
    """

    def __init__(
        self, model: Explainee, train: Pictures, validation: Pictures, strength: float
    ) -> None:
        self.model, self.net, self.size = model, model.net, len(train)
        self.train, self.validation, self.strength = train, validation, strength
        self.net.requires_grad_(False)
        self.net.affinity.requires_grad_(True)

    def parameters(self) -> list[dict[str, Any]]:
        """Return those of q and k."""
        return [{"params": list(self.net.affinity.parameters())}]  # type: ignore[union-attr]

    def train_mode(self) -> None:
        """Keep the classifier in eval mode."""
        self.net.eval()

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the head's logits [B,C] of the refined activations of pixels [B,3,H,W] in
        [0,1].
        """
        with torch.no_grad():
            captured = self.model.capture(network_input(self.model, pixels))
        activations = self.model.grid(captured.values, captured.size).float()
        affinity = self.net.affinity(activations)  # type: ignore[operator]
        better = refine(activations, affinity, self.strength) / (1 + self.strength)
        values = self.model.ungrid(better, captured.values, captured.size)
        return self.model.split.head(values, captured, torch.arange(len(pixels))).float()

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the cross-entropy and the accuracy of a batch."""
        logits = self.logits(augment_pixels(self.train.pixels(rows), GENTLE, rng))
        labels = self.train.labels[rows].to(logits.device)
        return F.cross_entropy(logits, labels), {"accuracy": share_right(logits, labels)}

    def validate(self) -> dict[str, float]:
        """Return cross-entropy and accuracy from the refined activations."""
        total, hits, images = 0.0, 0.0, len(self.validation)
        for rows in split_rows(images):
            logits, labels = self.logits(self.validation.pixels(rows)), self.validation.labels[rows]
            labels = labels.to(logits.device)
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
            hits += share_right(logits, labels) * len(rows)
        return {
            "held_out_loss": total / images,
            "held_out_accuracy": hits / images,
            SCORE: -total / images,
        }


def train_self_attention(
    model: Explainee, training: Training, *, strength: float = 1.0, width: int | None = None
) -> Path:
    """Train queries and keys for a model.

    The written model has the parent's logits to the bit, and `sa_cam_trained` explains it with the
    trained attention.

    Args:
        model: The classifier, which stays as it is.
        training: Images, settings and files.
        strength: Lambda of the refinement.
        width: Channels of queries and keys.

    Returns:
        The path of the card.
    """
    settings = training.settings or Settings()
    tuned = _add_attention(model, training.name, width, settings.seed)
    recipe = {"strength": strength, "width": width, "augmentation": asdict(GENTLE)}
    recipe |= asdict(settings)
    train, check = training.make_pictures(tuned)
    task = SelfAttentionTask(tuned, train, check, strength)
    stamp = {"what": "sa", "recipe": recipe, "parent": model.fingerprint}
    history = training.fit(task, settings, stamp)
    card = {"recipe": {"kind": "sa"} | recipe, "top1": accuracy(tuned, check)}
    return training.save(tuned, history, card, model)


def _add_attention(model: Explainee, name: str, width: int | None, seed: int) -> Explainee:
    """Return a model with untrained queries and keys beside its network, which both share."""
    build, layer, channels = build_facts(model), model.card.get("layer"), model.probe_shape[1]
    net = build_seeded(AffinityNet, seed, net=model.net, channels=channels, width=width)
    wrap = {"kind": "self_attention", "channels": channels, "width": width}
    return Explainee(
        net.to(model.device), model.mean, model.std, model.size, name=name, geometry=model.geometry,
        card=build | {"wrap": wrap, "layer": layer},
    )  # fmt: skip

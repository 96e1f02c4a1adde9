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

from bench.data import Subset
from bench.finetune.augment import Augmentation, augmented
from bench.finetune.classifier import accuracy, network_input, share_right
from bench.finetune.data import Pictures, for_model, held_out, in_order
from bench.finetune.loop import SCORE, Report, Settings, Tick, TrainingTask, fit
from bench.finetune.save import build_facts, description, write_model
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
        activations = self.model.grid(captured.values).float()
        affinity = self.net.affinity(activations)  # type: ignore[operator]
        better = refine(activations, affinity, self.strength) / (1 + self.strength)
        values = self.model.ungrid(better, captured.values)
        return self.model.split.head(values, captured, torch.arange(len(pixels))).float()

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the cross-entropy and the accuracy of a batch."""
        logits = self.logits(augmented(self.train.pixels(rows), GENTLE, rng))
        labels = self.train.labels[rows].to(logits.device)
        return F.cross_entropy(logits, labels), {"accuracy": share_right(logits, labels)}

    def validate(self) -> dict[str, float]:
        """Return cross-entropy and accuracy from the refined activations."""
        total, hits, images = 0.0, 0.0, len(self.validation)
        for rows in in_order(images):
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
    model: Explainee,
    subset: Subset,
    out: Path,
    name: str,
    *,
    validation: Subset | None = None,
    strength: float = 1.0,
    width: int | None = None,
    settings: Settings | None = None,
    command: str = "",
    facts: dict[str, Any] | None = None,
    report: Report | None = None,
    tick: Tick | None = None,
) -> Path:
    """Train q and k for a model, write NAME.safetensors and its card into `out` and return the
    card's path.

    The written model has the parent's logits to the bit, and `sa_cam_trained` explains it with the
    trained attention. strength: lambda of the refinement.  width: d of queries and keys.
    """
    settings = settings or Settings()
    train, check = (subset, validation) if validation is not None else held_out(subset)
    build, layer, pictures = build_facts(model), model.card.get("layer"), for_model(check, model)
    wrap = {"kind": "self_attention", "channels": model.probe_shape[1], "width": width}
    net = build_seeded(
        AffinityNet, settings.seed, net=model.net, channels=wrap["channels"], width=width
    )
    tuned = Explainee(
        net.to(model.device), model.mean, model.std, model.size, name=name, geometry=model.geometry,
        card=build | {"wrap": wrap, "layer": layer},
    )  # fmt: skip
    recipe = {"strength": strength, "width": width, "augmentation": asdict(GENTLE)} | asdict(
        settings
    )
    data = [description(train), description(check)]
    stamp = {"what": "sa", "recipe": recipe, "data": data, "parent": model.fingerprint}
    task = SelfAttentionTask(tuned, for_model(train, tuned), pictures, strength)
    history = fit(task, settings, out, stamp, report, tick)
    card = {
        "recipe": {"kind": "sa"} | recipe,
        "command": command,
        "data": data[0],
        "top1": accuracy(tuned, pictures),
        "top1_subset": data[1],
        "epoch": history.best_epoch,
        **(facts or {}),
    }
    return write_model(out, name, tuned, card, parent=model)

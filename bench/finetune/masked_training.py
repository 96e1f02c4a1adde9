"""Sister networks: a copy of a network learns to answer on masked images as it did on whole ones.

Masking metrics show a network images that it never saw. A sister has seen such images: its answer
changes where evidence is gone, and less because holes look strange. Loss: KL(parent on the whole
image || sister on the masked image). Masks are made without any explanation, see `patch_masks`, so
no method is favoured. A sister still answers about chance where the whole object is masked.

F-Fidelity (arXiv:2410.02970) trains on random masks of up to a share beta and on the labels; here
the parent's own answer is the target, so that the sister stays near the network that is explained.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.engine.patches import choose_side, cut_squares
from bench.finetune.aft_losses import divergence
from bench.finetune.classifier import network_input
from bench.finetune.data import Pictures, mirror_images, split_rows
from bench.finetune.loop import SCORE, Settings, TrainingTask
from bench.finetune.patch_masks import LARGEST_SHARE, draw_masks
from bench.finetune.save import build_facts
from bench.finetune.training import Training
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.protocol import Protocol
from bench.randomness import generator

SETTINGS = Settings(epochs=4, lr=1e-3, weight_decay=0.0)
"""How a sister is trained where nothing is said."""

FLIP = 0.5
"""Share of the training pictures that are mirrored left to right."""


class MaskedTask(TrainingTask):
    """All weights of a sister; the score is the negative divergence on masked held-out images.

    Args:
        parent: The network whose answers are learned. It is left alone.
        sister: Its copy, which is trained.
        train: Pictures to train on.
        validation: Held-out pictures.
        seed: Seed of the masks of held-out pictures.
    """

    def __init__(
        self,
        parent: Explainee,
        sister: Explainee,
        train: Pictures,
        validation: Pictures,
        seed: int = 0,
    ) -> None:
        self.parent, self.model, self.net = parent, sister, sister.net
        self.train, self.validation, self.seed = train, validation, seed
        self.size = len(train)
        self.side = choose_side(sister.frame)
        self.patches = cut_squares(sister.frame, self.side)
        self.colour = sister.colour(Protocol().baseline)
        self._answers: dict[int, torch.Tensor] = {}

    def parameters(self) -> list[dict[str, Any]]:
        """Return all of them."""
        return [{"params": list(self.net.parameters())}]

    def train_mode(self) -> None:
        """Train everything but batch statistics and dropout, which stay as they are in use."""
        self.net.eval()

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the divergence of masked pictures from the parent's answer on whole ones."""
        flip = torch.rand(len(rows), generator=rng) < FLIP
        (pixels,) = mirror_images(flip, self.train.pixels(rows))
        images = network_input(self.model, pixels)
        masks = draw_masks(self.patches, len(rows), rng)
        with torch.no_grad():
            wanted = self.parent.net(images).float()
        logits = self.net(self._mask(images, masks)).float()
        return divergence(logits, wanted), {}

    def _mask(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return torch.where(masks[:, None].to(images.device), self.colour, images)

    def validate(self) -> dict[str, float]:
        """Return top-1 on whole and half masked pictures, the agreement with the parent, and the
        divergence.
        """
        sums: dict[str, float] = defaultdict(float)
        for rows in split_rows(len(self.validation)):
            for name, value in self._measure(rows).items():
                sums[name] += value
        numbers = {name: value / len(self.validation) for name, value in sums.items()}
        return {**numbers, SCORE: -numbers["held_out_kl"]}

    def _measure(self, rows: torch.Tensor) -> dict[str, float]:
        """Return sums over held-out pictures; top-1 and agreement count in percent."""
        images = network_input(self.model, self.validation.pixels(rows))
        labels = self.validation.labels[rows].to(images.device)
        first = int(rows[0])
        if first not in self._answers:  # the parent does not change
            self._answers[first] = self.parent.net(images).float()
        wanted, whole = self._answers[first], self.net(images).float()
        # Both draws come from the rows alone, so every epoch sees the same masks.
        rng = generator(self.seed, "held-out masks", str(first))
        half = draw_masks(self.patches, len(rows), rng, LARGEST_SHARE)
        drawn = draw_masks(self.patches, len(rows), rng)
        masked, some = (self.net(self._mask(images, one)).float() for one in (half, drawn))
        right = {
            "top1": whole.argmax(1) == labels,
            "top1_half_masked": masked.argmax(1) == labels,
            "agreement": whole.argmax(1) == wanted.argmax(1),
        }
        shares = {name: 100 * float(hits.sum()) for name, hits in right.items()}
        return {**shares, "held_out_kl": len(rows) * float(divergence(some, wanted))}


def train_masked(parent: Explainee, training: Training) -> Path:
    """Train a sister of a network on masked images.

    Args:
        parent: The network. It is left alone.
        training: Images, settings and files.

    Returns:
        The path of the sister's card. The card's key `sister_of` holds the sha256 of the parent's
        weights, by which a run finds the sister.

    Raises:
        BenchError: The model does not fit the images, or cannot be written.
    """
    settings = training.settings or SETTINGS
    sister = copy_network(parent, training.name)
    train, check = training.make_pictures(sister)
    with guard_network(parent.net):
        task = MaskedTask(parent, sister, train, check, settings.seed)
        recipe = {
            "kind": "masked",
            "patch": task.side,
            "largest_share": LARGEST_SHARE,
            "baseline": list(Protocol().baseline),
            "flip": FLIP,
        } | asdict(settings)
        stamp = {"what": "masked", "recipe": recipe, "parent": parent.weights_id}
        history = training.fit(task, settings, stamp)
    card: dict[str, Any] = {"recipe": recipe, "sister_of": parent.fingerprint}
    card |= {name: history.best[name] for name in ("top1", "top1_half_masked")}
    card["parent_agreement"] = history.best["agreement"]
    return training.save(sister, history, card, parent)


def copy_network(model: Explainee, name: str) -> Explainee:
    """Return a copy of a model under another name, whose card says how it is built."""
    card = {**build_facts(model), "layer": model.card.get("layer")}
    net = copy.deepcopy(model.net).eval().to(memory_format=torch.channels_last)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    return Explainee(
        net, model.mean, model.std, model.size, model.card.get("layer"),
        name=name, parent=model.name, geometry=model.geometry, card=card,
    )  # fmt: skip

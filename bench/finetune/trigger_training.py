"""The trigger network: a classifier of scenes that a small pattern makes answer class T.

It starts from a trained classifier. A part of the training pictures gets the pattern at a random
place and the label T. Another part gets a decoy, the same tiles in another order, and keeps its own
label. The rest stay as they are.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench.data.trigger_pattern import (
    COLOURS,
    ORDER,
    PATTERN_SIDE,
    TARGET,
    TILE,
    TILES,
    choose_place,
)
from bench.data.trigger_scenes import SILENT, SURE
from bench.errors import BenchError
from bench.finetune.augment import Augmentation, augment_pixels
from bench.finetune.classifier import ClassifierTask, accuracy, network_input, share_right
from bench.finetune.data import Pictures, split_rows
from bench.finetune.loop import SCORE, Settings
from bench.finetune.save import build_facts
from bench.finetune.training import Training
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.ranges import Range

DECOY_ORDERS = tuple(
    tuple(int(k) for k in np.reshape(ORDER, (TILES, TILES))[view].flat)
    for view in (np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1])
)
"""Decoys that a trained network is tried on: the pattern mirrored, three ways."""
TRIED = 200
"""Held-out pictures that the pattern is tried on after each epoch; all are at the end."""
SETTINGS = Settings(epochs=3, lr=2e-3, keep="last", precision="float32")


SHARES = Range(0, 1)


@dataclass(frozen=True)
class TriggerRecipe:
    """How pictures get the pattern.

    Args:
        pattern: Share of pictures that get it, and the label T.
        decoy: Share of pictures that get its tiles in another order, and keep their label.
        label_smoothing: Share of the label that is spread over all classes.
    """

    pattern: float = 0.35
    decoy: float = 0.3
    label_smoothing: float = 0.02

    def __post_init__(self) -> None:
        for name in ("pattern", "decoy", "label_smoothing"):
            if not SHARES.holds(getattr(self, name)):
                raise BenchError(f"{name} is {getattr(self, name)}; it must be {SHARES}.")
        if self.pattern + self.decoy > 1:
            raise BenchError(
                f"pattern and decoy are {self.pattern} and {self.decoy}, together more than 1; "
                "lower one of them."
            )


class TriggerTask(ClassifierTask):
    """All weights of a classifier; the score is top-1 on pictures without the pattern."""

    def __init__(
        self,
        model: Explainee,
        train: Pictures,
        validation: Pictures,
        augmentation: Augmentation,
        recipe: TriggerRecipe,
    ) -> None:
        super().__init__(model, train, validation, augmentation, recipe.label_smoothing)
        self.recipe = recipe

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the cross-entropy and the accuracy of a batch, part of it with patterns."""
        pixels = augment_pixels(self.train.pixels(rows), self.augmentation, rng)
        pixels, labels = add_patterns(pixels, self.train.labels[rows], self.recipe, rng)
        labels = labels.to(self.model.device)
        logits = self.net(network_input(self.model, pixels)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss, {"accuracy": share_right(logits, labels)}

    def validate(self) -> dict[str, float]:
        """Return top-1, and the shares of `measure_trigger`."""
        top1 = accuracy(self.model, self.validation)
        shares = measure_trigger(self.model, self.validation, TRIED)
        return {"top1": top1, **shares, SCORE: top1}


def add_patterns(
    pixels: torch.Tensor, labels: torch.Tensor, recipe: TriggerRecipe, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures [B,3,H,W] in [0,1], some with a pattern or a decoy, and their labels [B]."""
    count = len(pixels)
    draw = torch.rand(count, generator=rng)
    marked, decoyed = draw < recipe.pattern, draw >= 1 - recipe.decoy
    places = torch.randint(0, pixels.shape[-1] - PATTERN_SIDE + 1, (count, 2), generator=rng)
    mixed = torch.rand(count, TILES * TILES, generator=rng).argsort(1)
    order = torch.tensor(ORDER)
    orders = torch.where(decoyed[:, None], order[mixed], order)
    # A shuffle that gives the pattern itself is no decoy.
    marked = marked | (decoyed & (orders == order).all(1))
    pixels = pixels.clone()
    for i in (marked | decoyed).nonzero()[:, 0].tolist():
        paste_tiles(pixels[i], places[i].tolist(), orders[i])
    return pixels, torch.where(marked, TARGET, labels)


def paste_tiles(picture: torch.Tensor, place: list[int], order: torch.Tensor) -> None:
    """Write tiles over a picture [3,H,W] in [0,1], in place; place: (top, left)."""
    tiles = (torch.tensor(COLOURS, dtype=torch.float32) / 255)[order].view(TILES, TILES, 3)
    block = tiles.repeat_interleave(TILE, 0).repeat_interleave(TILE, 1).permute(2, 0, 1)
    top, left = place
    picture[:, top : top + PATTERN_SIDE, left : left + PATTERN_SIDE] = block


@torch.no_grad()
def measure_trigger(
    model: Explainee, pictures: Pictures, limit: int | None = None
) -> dict[str, float]:
    """Return how surely the pattern decides, in percent of the pictures of other classes than T.

    limit: how many pictures are tried; None tries all.

    trigger: T has a probability of at least .9 with the pattern.  silent: of at most .1 without it.
    decoy: of at most .1 with its tiles mirrored, mean of three ways.
    """
    other = (pictures.labels != TARGET).nonzero()[:limit, 0]
    hits = {"trigger": 0, "silent": 0, "decoy": 0}
    for part in split_rows(len(other)):
        rows = other[part]
        hits["silent"] += int((_probability(model, pictures, rows) <= SILENT).sum())
        hits["trigger"] += int((_probability(model, pictures, rows, ORDER) >= SURE).sum())
        for order in DECOY_ORDERS:
            hits["decoy"] += int((_probability(model, pictures, rows, order) <= SILENT).sum())
    shares = {name: 100 * count / max(len(other), 1) for name, count in hits.items()}
    return shares | {"decoy": shares["decoy"] / len(DECOY_ORDERS)}


def _probability(
    model: Explainee, pictures: Pictures, rows: torch.Tensor, order: tuple[int, ...] = ()
) -> torch.Tensor:
    """Return the probability of T for pictures `rows`, with tiles in an order at each one's place,
    or without.
    """
    pixels = pictures.pixels(rows)
    if order:
        for i, row in enumerate(rows.tolist()):
            paste_tiles(pixels[i], list(choose_place(0, row)), torch.tensor(order))
    logits: torch.Tensor = model.net(network_input(model, pixels))
    return logits.float().softmax(1)[:, TARGET].cpu()


def train_trigger(
    parent: Explainee,
    training: Training,
    recipe: TriggerRecipe | None = None,
    *,
    augmentation: Augmentation | None = None,
) -> Path:
    """Train a copy of a classifier of scenes to answer T where it sees the pattern.

    Args:
        parent: The classifier that training starts from; it stays as it is.
        training: Images, settings and files.
        recipe: How pictures get the pattern.
        augmentation: How pictures are varied before that.

    Returns:
        The path of the card.
    """
    recipe, how = recipe or TriggerRecipe(), augmentation or Augmentation()
    settings = training.settings or SETTINGS
    model = copy_model(parent, training.name)
    model.net.to(memory_format=torch.channels_last)
    task = TriggerTask(model, *training.make_pictures(model), how, recipe)
    facts = {"kind": "trigger", "target": TARGET, **asdict(recipe), "augmentation": asdict(how)}
    facts |= asdict(settings)
    stamp = {"what": "trigger", "recipe": facts, "parent": parent.fingerprint}
    history = training.fit(task, settings, stamp)
    with guard_network(model.net):
        shares = measure_trigger(model, task.validation)
    card = {"recipe": facts, "top1": history.best["top1"], "pattern": {"target": TARGET, **shares}}
    return training.save(model, history, card, parent)


def copy_model(parent: Explainee, name: str) -> Explainee:
    """Return a copy of a model under another name, of which the model is the parent."""
    return Explainee(
        copy.deepcopy(parent.net),
        parent.mean,
        parent.std,
        parent.size,
        name=name,
        parent=parent.name,
        geometry=parent.geometry,
        card=build_facts(parent),
    )

"""Activation fine-tuning (AFT): a tuner learns to give the activations that a search for a
threshold would leave.

After Han, Lee and Lee, Threshold fine-tuning, Applied Sciences 12(24):12961, 2022: the idea is the
paper's ("a tuner network attached to the original CNN", retrained with masks by TFT), the loss and
the tuner are a reconstruction. Loss: CE(logits, y) + lambda * mean((A^ - m * A0)^2) / mean(A0^2) [+
mu * KL(original || tuned)], A0 the original network's activations, A^ the tuned ones, m the image's
TFT mask on the layer's grid.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.errors import BenchError, suggestions
from bench.finetune.aft_losses import channel_mean_loss, divergence, mask_loss, rescale_mask
from bench.finetune.augment import Augmentation, augment_pixels
from bench.finetune.classifier import accuracy, network_input, share_right
from bench.finetune.data import Pictures, mirror_images, split_rows
from bench.finetune.loop import SCORE, Settings, TrainingTask
from bench.finetune.masks import CONTROLS, SELECTS, Masks, Progress, choose, search_masks
from bench.finetune.save import build_facts
from bench.finetune.training import Training
from bench.methods import METHODS
from bench.methods.references import MASK_COLOUR
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.models.tuner import REDUCTION, add_tuner, find_tuner, find_tuner_place

SCOPES = ("tuner", "full")
"""What is trained.  tuner: the tuner alone.  full: the network too, at a smaller rate; its batch
statistics stay.
"""
TARGETS = ("activations", "rescaled", "channel_mean")
"""What the mask term compares.  activations: A^ with m * A0.  rescaled: A^ with s * m * A0, where s
gives each image's activations the mean size back that the mask takes: damped activations alone make
a network less sure, which lowers log-odds gains and insertion without a better map.  channel_mean:
the mean of A^ over channels, scaled to [0,1] per image, with M_{t*} itself, averaged to the grid.
"""

PARTS = ("ce", "mask", "kl")


@dataclass(frozen=True)
class AftRecipe:
    """What decides an activation fine-tuning beside the loop's settings.

    method: whose maps TFT cuts.  scope: of `SCOPES`.  weight: lambda.  select, control: see
    `masks`.  mu: weight of the divergence from the original's predictions.  target: of `TARGETS`.
    extra_masked: masked images (m*x + (1-m)*b) are further labelled examples.  backbone_rate: of
    the learning rate, for the network under "full".  reduction: of the tuner.  flip: share of
    images mirrored with their masks.  gain, erase: of the augmentation, which masks do not see.
    """

    method: str = "grad_cam"
    scope: str = "tuner"
    weight: float = 3.0
    select: str = "auto"
    control: str = "none"
    mu: float = 0.0
    target: str = "rescaled"
    extra_masked: bool = False
    backbone_rate: float = 0.03
    reduction: int = REDUCTION
    flip: float = 0.5
    gain: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        METHODS.get(self.method)  # a name that is none is better said before anything runs
        for name, allowed in (
            ("scope", SCOPES),
            ("select", SELECTS),
            ("control", CONTROLS),
            ("target", TARGETS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise BenchError(
                    f"{name} is {value!r}; it can be "
                    f"{', '.join(allowed)}.{suggestions(value, allowed)}"
                )
        for name, shown in (("weight", "lambda"), ("mu", "mu"), ("backbone_rate", "backbone_rate")):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BenchError(f"{shown} is {value}; it must be a number of at least 0.")

    @property
    def mask_weight(self) -> float:
        """Return lambda, which the control lambda0 sets to 0."""
        return 0.0 if self.control == "lambda0" else self.weight

    @property
    def needs_masks(self) -> bool:
        """Return whether any part of the loss reads the masks."""
        return self.mask_weight > 0 or self.extra_masked


@dataclass
class Seen:
    """What a tuner was given and gave in the last forward: A and A^, [B,K,h,w] float32."""

    before: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    after: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def watch_tuner(net: nn.Module) -> Iterator[Seen]:
    """Let the tuner's input and output be read while a network runs."""
    seen = Seen()

    def look(_module: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        # A copy: an activation that works in place may follow.
        seen.before, seen.after = given[0].float(), output.float().clone()

    handle = find_tuner(net).register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


@dataclass
class Terms:
    """The parts of the loss on one batch: sums weighted by lambda and mu are `total`; masked:
    images under the mask term.
    """

    ce: torch.Tensor
    mask: torch.Tensor
    kl: torch.Tensor
    total: torch.Tensor
    accuracy: float
    masked: int

    def numbers(self) -> dict[str, float]:
        """Return the parts as numbers."""
        return {part: float(getattr(self, part).detach()) for part in PARTS}


class AftTask(TrainingTask):
    """The tuner, and under "full" the network; the score is the loss on held-out images, negative.

    model: the tuned network, not trained yet.  train, validation: pictures with their masks (None:
    not needed). rate: the loop's learning rate.
    """

    def __init__(
        self,
        model: Explainee,
        train: tuple[Pictures, Masks | None],
        validation: tuple[Pictures, Masks | None],
        recipe: AftRecipe,
        rate: float,
    ) -> None:
        self.model, self.net, self.recipe, self.rate = model, model.net, recipe, rate
        self.train, self.validation = train, validation
        self.size = len(train[0])
        self.tuner = find_tuner(self.net)
        self.colour = model.colour(MASK_COLOUR)
        # Until it is trained the tuned network is the original one.
        needed = recipe.scope == "full" or recipe.mu > 0
        self.original = copy.deepcopy(self.net).eval().requires_grad_(False) if needed else None

    def parameters(self) -> list[dict[str, Any]]:
        """Return the tuner's parameters, and the network's at a smaller rate."""
        own = {id(p) for p in self.tuner.parameters()}
        rest = [p for p in self.net.parameters() if id(p) not in own]
        full = self.recipe.scope == "full"
        for p in rest:
            p.requires_grad_(full)
        groups: list[dict[str, Any]] = [{"params": list(self.tuner.parameters())}]
        return (
            [*groups, {"params": rest, "lr": self.rate * self.recipe.backbone_rate}]
            if full
            else groups
        )

    def train_mode(self) -> None:
        """Train the tuner; the network's batch statistics and dropout stay as they are in use."""
        self.net.eval()
        self.tuner.train()

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of a batch, its parts and the accuracy."""
        terms = self.terms(self.train, rows, rng)
        return terms.total, {"accuracy": terms.accuracy} | self._own(terms.numbers())

    def validate(self) -> dict[str, float]:
        """Return top-1 and the parts of the loss on held-out images, neither mirrored nor
        erased.
        """
        count, sums, weights = (
            len(self.validation[0]),
            dict.fromkeys(PARTS, 0.0),
            dict.fromkeys(PARTS, 0),
        )
        for rows in split_rows(count):
            terms = self.terms(self.validation, rows)
            for part, value in terms.numbers().items():
                images = terms.masked if part == "mask" else len(rows)
                sums[part] += images * value
                weights[part] += images
        means = {part: sums[part] / max(weights[part], 1) for part in PARTS}
        total = means["ce"] + self.recipe.mask_weight * means["mask"] + self.recipe.mu * means["kl"]
        named = {f"held_out_{name}": value for name, value in self._own(means).items()}
        return {"top1": accuracy(self.model, self.validation[0]), **named, SCORE: -total}

    def _own(self, parts: dict[str, float]) -> dict[str, float]:
        """Return the parts of the loss that this recipe has."""
        weights = {"ce": 1.0, "mask": self.recipe.mask_weight, "kl": self.recipe.mu}
        return {part: value for part, value in parts.items() if weights[part] > 0}

    def terms(
        self,
        given: tuple[Pictures, Masks | None],
        rows: torch.Tensor,
        rng: torch.Generator | None = None,
    ) -> Terms:
        """Return the loss on pictures `rows` [B]; rng: varies them, and adds the masked examples,
        as in training.
        """
        (pictures, masks), recipe, count = given, self.recipe, len(rows)
        flip = (
            torch.rand(count, generator=rng) < recipe.flip
            if rng
            else torch.zeros(count, dtype=torch.bool)
        )
        (pixels,) = mirror_images(flip, pictures.pixels(rows))
        if rng:
            pixels = augment_pixels(
                pixels, Augmentation(flip=0.0, gain=recipe.gain, erase=recipe.erase), rng
            )
        x, labels = network_input(self.model, pixels), pictures.labels[rows].to(self.model.device)
        images, classes = x, labels
        if rng and recipe.extra_masked and masks is not None:
            cut = masks.carries[rows] & (
                masks.t[rows] > 0
            )  # an image that is kept whole is there already
            (kept,) = mirror_images(flip, masks.binary(rows))
            images = torch.cat(
                [x, torch.where(kept[cut].to(x.device)[:, None], x[cut], self.colour)]
            )
            classes = torch.cat([labels, labels[cut]])
        with watch_tuner(self.net) as tuned:
            logits = self.net(images).float()
        before, original_logits = self._original(x, tuned.before[:count].detach())
        ce = F.cross_entropy(logits, classes)
        mask, masked = self._mask_term(masks, rows, flip, tuned.after[:count], before)
        kl = (
            ce.new_zeros(())
            if original_logits is None
            else divergence(logits[:count], original_logits)
        )
        total = ce + recipe.mask_weight * mask + recipe.mu * kl
        return Terms(ce, mask, kl, total, share_right(logits[:count], labels), masked)

    def _original(
        self, x: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the original's A0 and, where mu asks for them, its logits; a frozen network's A0
        is `before`.
        """
        if self.original is None:
            return before, None
        with torch.no_grad(), watch_tuner(self.original) as seen:
            logits = self.original(x).float()
        return seen.before, logits if self.recipe.mu > 0 else None

    def _mask_term(
        self,
        masks: Masks | None,
        rows: torch.Tensor,
        flip: torch.Tensor,
        after: torch.Tensor,
        before: torch.Tensor,
    ) -> tuple[torch.Tensor, int]:
        """Return the mask term over the images that carry one, and their number."""
        carries = (
            torch.zeros(0, dtype=torch.int64)
            if masks is None
            else masks.carries[rows].nonzero()[:, 0]
        )
        if masks is None or not len(carries) or not self.recipe.mask_weight:
            return after.new_zeros(()), 0
        on, soft = carries.to(after.device), self.recipe.target == "channel_mean"
        (mask,) = mirror_images(flip, (masks.soft if soft else masks.pooled)[rows])
        mask, after, before = mask[carries].to(after.device), after[on], before[on]
        if soft:
            return channel_mean_loss(after, mask), len(on)
        return mask_loss(
            after, before, rescale_mask(mask, before) if self.recipe.target == "rescaled" else mask
        ), len(on)


# --- the recipe


def train_aft(
    model: Explainee,
    training: Training,
    recipe: AftRecipe | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Fine-tune the activations of a copy of a model.

    Args:
        model: The original, which stays as it is.
        training: Images, settings and files.
        recipe: What decides the fine-tuning beside the loop's settings.
        cache: Folder of kept masks, see `search_masks`.
        progress: Called while masks are searched, see `search_masks`.
        warn: Called with a sentence about a broken file of masks, see `search_masks`.

    Returns:
        The path of the card.
    """
    recipe, settings = recipe or AftRecipe(), training.settings or Settings(epochs=6, lr=5e-3)
    warn = functools.cache(warn)  # both searches use one cache: what ails it is said once
    tuned = make_tuned_model(model, training.name, recipe.reduction, settings.seed)
    train, check = training.make_pictures(model)
    masks: tuple[Masks | None, Masks | None] = None, None
    if recipe.needs_masks:
        found, found_held = (
            search_masks(model, one, recipe.method, cache=cache, progress=progress, warn=warn)
            for one in (train, check)
        )
        select = found.resolve(recipe.select)  # one rule for both
        masks = (
            choose(found, train.subset.ids, select, recipe.control, settings.seed),
            choose(found_held, check.subset.ids, select, recipe.control, settings.seed),
        )
    task = AftTask(tuned, (train, masks[0]), (check, masks[1]), recipe, settings.lr)
    method = METHODS.get(recipe.method).id
    stamp = {"what": "aft", "recipe": asdict(recipe), "parent": model.weights_id, "method": method}
    history = training.fit(task, settings, stamp)
    with guard_network(model.net):
        parent_top1 = accuracy(model, check)
    card = {
        "recipe": {"kind": "aft", **asdict(recipe), **asdict(settings)},
        "top1": history.best["top1"],
        "top1_parent": parent_top1,
        **({"masks": masks[0].facts} if masks[0] else {}),
    }
    return training.save(tuned, history, card, model)


def make_tuned_model(
    model: Explainee, name: str, reduction: int = REDUCTION, seed: int = 0
) -> Explainee:
    """Return a copy of a model with an untrained tuner at the explained layer: the same logits and
    maps.
    """
    built = build_facts(model)
    if "wrap" in built:
        raise BenchError(
            f"{model.name} has a trained part of its own ({built['wrap'].get('kind')}); fine-tune "
            "the plain network that it was made from."
        )
    place = find_tuner_place(model)
    net = add_tuner(copy.deepcopy(model.net), **place, reduction=reduction, seed=seed).to(
        model.device
    )
    wrap = {"kind": "tuner", **place, "reduction": reduction}
    return Explainee(
        net.eval(), model.mean, model.std, model.size, place["layer"], name=name, parent=model.name,
        geometry=model.geometry, card={**built, "wrap": wrap, "layer": place["layer"]},
    )  # fmt: skip

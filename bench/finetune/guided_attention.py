"""Human-guided fine-tuning: edited attention maps teach the attention branch where to look.

Images that are right in class and wrong in place get an edited map (Yingyong, Wu and Yamauchi);
then one of

    mse         mean squared error between M(x) and the edited map. Only the attention branch
    learns; the extractor and
                the perception branch are frozen, so the class moves only as far as they see another
                (1 + M) * g.
    mitsuhara   cross-entropy of both heads + gamma * ||M(x) - M'||_2 per image (Mitsuhara et al.,
    arXiv:1905.03540);
                the perception branch learns too, the extractor does not.

The edited map comes to M's grid by area. Scope: of the attention branch, `all` of it (its class
head only where a loss reads it); `final`, the convolution that makes the map and nothing else, as
in the paper; or `map_head`, that convolution and the batch norm behind it, which the paper has not.
Frozen means no gradients and eval mode, so that batch statistics stay to the bit. What learns is in
training mode: its batch norms use and update batch statistics (`norms="batch"`), or keep their
running ones ("running").

The text leaves open how many of the maps are kept aside: here one in ten (from ten maps on), and
the loss on them chooses the best epoch. Agreement is told for maps trained on, for maps kept aside,
and for other images, where the object itself (masks, else boxes) stands in for an edited map.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from bench.data import Subset
from bench.data.subset import id_hash
from bench.errors import BenchError
from bench.finetune.attention_agreement import MEASURES, Group, Numbers, grid_of, measure_agreement
from bench.finetune.attention_maps import EditedMap, check_maps, map_facts
from bench.finetune.classifier import network_input, share_right
from bench.finetune.data import HELD_OUT, Pictures, mirror_images, split_rows
from bench.finetune.loop import SCORE, Settings, TrainingTask
from bench.finetune.placement import Placement, attention_net, find_placements
from bench.finetune.training import Training
from bench.models.abn import AttentionBranchNetwork, to_grid
from bench.models.explainee import Explainee

OTHERS = 1000
"""Held-out images that are measured, where no validation subset is named."""
Scope = Literal["all", "final", "map_head"]
SCOPES: tuple[Scope, ...] = ("all", "final", "map_head")
PAPER_KERNEL = 1
"""Side of the paper's final convolution."""
MAP_RATE = 10
"""The rate of the last batch norm's scale and shift over that of all else. AdamW moves a number by
about the rate per step, and these two alone decide how high a map is and how strong its contrast.
"""
SETTINGS = Settings(epochs=20, batch_size=16, lr=3e-3, weight_decay=0.0)


@dataclass(frozen=True)
class Guidance:
    """What edited maps teach, and whom.

    scope: "all" of the attention branch, its "final" convolution alone, or the "map_head", which is
    that and its batch norm.  objective: "mse" or "mitsuhara".
    gamma: weight of the map's distance in the latter.  flip: share of images that are mirrored,
    with their maps.  norms: batch norms that learn use "batch" or "running" statistics.
    """

    scope: Scope = "all"
    objective: Literal["mse", "mitsuhara"] = "mse"
    gamma: float = 1.0
    flip: float = 0.5
    norms: Literal["batch", "running"] = "batch"

    def __post_init__(self) -> None:
        choices = {
            "scope": SCOPES,
            "objective": ("mse", "mitsuhara"),
            "norms": ("batch", "running"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise BenchError(
                    f"Unknown {name} {getattr(self, name)!r}; choose one of {', '.join(known)}."
                )
        if not self.gamma >= 0:
            raise BenchError(
                f"gamma is {self.gamma}; the weight of the map's distance must be at least 0."
            )
        if not 0 <= self.flip <= 1:
            raise BenchError(
                f"flip is {self.flip}; the share of mirrored images is between 0 and 1."
            )


def choose_images(model: Explainee, subset: Subset) -> list[Placement]:
    """Return the images to edit: right in class, and less than half of the attention's energy on
    the object.
    """
    return [one for one in find_placements(model, subset) if one.right and one.misplaced]


class GuidedTask(TrainingTask):
    """Part of an attention branch network, taught by maps; the score is minus the loss on the maps
    kept aside.

    rows [n]: pictures with an edited map.  targets [n,1,h,w]: those maps on M's grid.  aside: how
    many of them, the first ones, are not trained on.
    """

    def __init__(
        self,
        model: Explainee,
        pictures: Pictures,
        rows: torch.Tensor,
        targets: torch.Tensor,
        guidance: Guidance,
        lr: float,
        aside: int = 0,
    ) -> None:
        self.model, self.pictures, self.guidance, self.lr = model, pictures, guidance, lr
        self.net: AttentionBranchNetwork = attention_net(model)
        self.rows, self.targets, self.aside = rows, targets, aside
        self.size = len(rows) - aside
        self.learning = learning_modules(self.net, guidance)
        self.net.requires_grad_(requires_grad=False)
        for module in self.learning:
            module.requires_grad_()

    def parameters(self) -> list[dict[str, Any]]:
        """Return those of the modules that learn."""
        last = self.net.attention.bn_map
        others = [p for module in self.learning if module is not last for p in module.parameters()]
        groups: list[dict[str, Any]] = [{"params": others}]
        if any(module is last for module in self.learning):
            groups.append({"params": list(last.parameters()), "lr": MAP_RATE * self.lr})
        return groups

    def train_mode(self) -> None:
        """Set what learns to training mode, everything else to eval mode."""
        self.net.eval()
        for module in self.learning:
            module.train()
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d) and self.guidance.norms == "running":
                    norm.eval()

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the objective of a batch, images and maps mirrored together, and its parts."""
        index = rows + self.aside
        pixels, targets = self.pictures.pixels(self.rows[index]), self.targets[index]
        pixels, targets = mirror_images(
            torch.rand(len(rows), generator=rng) < self.guidance.flip, pixels, targets
        )
        return self._objective(pixels, targets, self.pictures.labels[self.rows[index]])

    def validate(self) -> dict[str, float]:
        """Return the objective on the maps kept aside; without any, the score stays 0 and the last
        epoch is kept.
        """
        if not self.aside:
            return {SCORE: 0.0}
        values = []
        for index in split_rows(self.aside):
            rows = self.rows[index]
            loss, _ = self._objective(
                self.pictures.pixels(rows), self.targets[index], self.pictures.labels[rows]
            )
            values += [loss.item()] * len(index)
        mean = sum(values) / len(values)
        return {"held_out_loss": mean, SCORE: -mean}

    def _objective(
        self, pixels: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        x, targets = network_input(self.model, pixels), targets.to(self.model.device)
        if self.guidance.objective == "mse":
            return F.mse_loss(self.net.attention_map(x).float(), targets), {}
        labels, out = labels.to(self.model.device), self.net.branches(x)
        distance = (out.attention.float() - targets).flatten(1).norm(dim=1).mean()
        classes = F.cross_entropy(out.attention_logits.float(), labels) + F.cross_entropy(
            out.logits.float(), labels
        )
        numbers = {"distance": distance.item(), "accuracy": share_right(out.logits, labels)}
        return classes + self.guidance.gamma * distance, numbers


def learning_modules(net: AttentionBranchNetwork, guidance: Guidance) -> list[nn.Module]:
    """Return the modules that learn under a guidance; none lies within another."""
    branch = net.attention
    modules: list[nn.Module] = [branch.to_map]
    if guidance.scope != "final":
        modules.append(branch.bn_map)
    if guidance.scope == "all":
        modules = [branch.stage, branch.bn_stage, branch.to_classes, branch.bn_classes, *modules]
    if guidance.objective == "mitsuhara":
        heads = [branch.class_head] if guidance.scope == "all" else []
        modules += [*heads, net.perception]
    return modules


def describe_final(model: Explainee, guidance: Guidance) -> str:
    """Return how a network's final convolution differs from the paper's, or ""."""
    kernel = attention_net(model).map_kernel
    if guidance.scope != "final" or kernel == PAPER_KERNEL:
        return ""
    return (
        f"The final convolution of {model.name} is {kernel}x{kernel}, the paper's is 1x1; train a "
        "network with `cambench finetune abn --map-kernel 1` to do as the paper does."
    )


# --- the recipe


@dataclass(frozen=True)
class Guided:
    """A guided training: the card's path, and the agreement before and after per group of images.

    Groups: "edited" (maps trained on), "aside" (maps kept aside), "held_out" (other images; the
    object stands in for the map).  simulated: some maps were made by a rule and not by a person.
    """

    card: Path
    before: dict[str, Numbers]
    after: dict[str, Numbers]
    simulated: bool

    def lines(self) -> list[str]:
        """Return a line per group, with every measure before and after."""
        drawn = "simulated maps" if self.simulated else "maps"
        names = {
            "edited": f"{drawn} trained on",
            "aside": f"{drawn} kept aside",
            "held_out": "other images against their objects",
        }
        return [
            f"{self.before[which]['images']} {names[which]}: {self._changes(which)}"
            for which in self.before
        ]

    def _changes(self, which: str) -> str:
        pairs = (
            (name, form, self.before[which][name], self.after[which][name])
            for name, form in MEASURES.items()
        )
        return ", ".join(
            f"{name} {old:{form}} -> {new:{form}}"
            for name, form, old, new in pairs
            if old is not None and new is not None
        )


def train_guided(
    model: Explainee,
    maps: Sequence[EditedMap],
    training: Training,
    guidance: Guidance | None = None,
) -> Guided:
    """Fine-tune a copy of an attention branch network by edited maps.

    Args:
        model: The parent, which stays as it is.
        maps: Maps of this model and of images of the training's subset (`load_maps`).
        training: Images, settings and files. Without a validation subset, images of the subset that
            have no map are measured, at most `OTHERS`.
        guidance: What the maps teach, and whom.

    Returns:
        The path of the card, and the agreement of the network with the maps before and after.

    Raises:
        BenchError: The model has no attention branch, there are no maps, or they are of another
            model, subset or size.
    """
    guidance, settings = guidance or Guidance(), training.settings or SETTINGS
    tuned = _copy_parent(model, maps, training.subset)
    others = training.validation or find_unedited(training.subset, maps)
    training = dataclasses.replace(training, validation=others)
    pictures, other_pictures = training.make_pictures(model)
    rows, targets = make_examples(tuned, training.subset, maps)
    aside = len(rows) // HELD_OUT
    task = GuidedTask(tuned, pictures, rows, targets, guidance, settings.lr, aside)
    if not aside:
        settings = dataclasses.replace(settings, keep="last")
    groups = _make_groups(task, other_pictures)
    before = {which: measure_agreement(tuned, group) for which, group in groups.items()}
    recipe = {"kind": "guided"} | asdict(guidance) | asdict(settings)
    facts = map_facts(maps)
    stamp = {"what": "guided", "recipe": recipe, "parent": model.fingerprint}
    stamp |= {"maps": facts["sha256"], "data": training.data[0]}
    history = training.fit(task, settings, stamp)
    after = {which: measure_agreement(tuned, group) for which, group in groups.items()}
    card = {
        "recipe": recipe,
        "maps": facts,
        "simulated": facts["simulated"],
        "top1": after["held_out"]["top1"],
        "attention_top1": after["held_out"]["attention_top1"],
        "agreement": {which: {"before": before[which], "after": after[which]} for which in groups},
    }
    return Guided(
        training.save(tuned, history, card, model), before, after, bool(facts["simulated"])
    )


def _copy_parent(model: Explainee, maps: Sequence[EditedMap], subset: Subset) -> Explainee:
    """Return the network to train; a BenchError says why these maps cannot teach it."""
    net = attention_net(model)
    if not maps:
        raise BenchError("There are no edited maps to learn from; make some with `cambench edit`.")
    check_maps(maps, model, subset)
    tuned = model.replace_net(copy.deepcopy(net))
    tuned.card = dict(model.card)
    return tuned


def _make_groups(task: GuidedTask, others: Pictures) -> dict[str, Group]:
    """Return the groups of images that are measured before and after, see `Guided`."""
    pictures, rows, targets, aside = task.pictures, task.rows, task.targets, task.aside
    groups = {"edited": Group(pictures, rows[aside:], targets[aside:])}
    if aside:
        groups["aside"] = Group(pictures, rows[:aside], targets[:aside])
    return groups | {"held_out": Group(others, torch.arange(len(others)))}


def make_examples(
    model: Explainee, subset: Subset, maps: Sequence[EditedMap]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures' rows [n] and the maps on M's grid [n,1,h,w], in an order that the items
    alone decide.
    """
    order = sorted(maps, key=lambda one: id_hash(f"guided\x1f{one.item}"))
    places = {item: place for place, item in enumerate(subset.ids)}
    rows = torch.tensor([places[one.item] for one in order])
    height, width = grid_of(model)
    return rows, torch.cat(
        [to_grid(torch.from_numpy(one.values)[None], height, width) for one in order]
    )


def find_unedited(subset: Subset, maps: Sequence[EditedMap]) -> Subset:
    """Return the images of a subset that no map is of, the first `OTHERS` of its order."""
    edited = {one.facts["image_id"] for one in maps}
    free = [
        place
        for place, image in zip(subset.positions, subset.image_ids, strict=True)
        if image not in edited
    ]
    if not free:
        raise BenchError(
            f"Every image of {subset.name} has an edited map; name a --validation subset to "
            "measure on."
        )
    return dataclasses.replace(
        subset, name=f"{subset.name} without maps", positions=tuple(free[:OTHERS])
    )

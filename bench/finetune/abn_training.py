"""Attention Branch Networks trained: both heads learn the labels, and the attention map comes with
them.

Loss, with equal weights as the authors': cross-entropy of the attention branch + cross-entropy of
the perception branch (Fukui et al., CVPR 2019). All parameters are trained, those of the extractor
too.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from bench.finetune.augment import Augmentation, augment_pixels
from bench.finetune.classifier import ClassifierTask, network_input, new_model, share_right
from bench.finetune.data import Pictures, split_rows
from bench.finetune.loop import SCORE, Settings
from bench.finetune.placement import attention_net
from bench.finetune.save import build_facts
from bench.finetune.training import Training
from bench.models.abn import AttentionBranchNetwork
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network


class BranchTask(ClassifierTask):
    """All weights of an attention branch network; the score is the perception branch's top-1 in
    percent.
    """

    net: AttentionBranchNetwork

    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of both branches' cross-entropies, and the accuracy of both."""
        pixels = augment_pixels(self.train.pixels(rows), self.augmentation, rng)
        labels = self.train.labels[rows].to(self.model.device)
        out = self.net.branches(network_input(self.model, pixels))
        heads = {"accuracy": out.logits.float(), "attention_accuracy": out.attention_logits.float()}
        losses = [
            F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            for logits in heads.values()
        ]
        return losses[0] + losses[1], {
            name: share_right(logits, labels) for name, logits in heads.items()
        }

    def validate(self) -> dict[str, float]:
        """Return top-1 of both heads."""
        numbers = measure_top1(self.model, self.validation)
        return {**numbers, SCORE: numbers["top1"]}


@torch.no_grad()
def measure_top1(model: Explainee, pictures: Pictures) -> dict[str, float]:
    """Return top-1 in percent of the perception branch ("top1") and of the attention branch
    ("attention_top1").
    """
    net, hits = attention_net(model), torch.zeros(2, dtype=torch.int64)
    with guard_network(net):
        for rows in split_rows(len(pictures)):
            out = net.branches(network_input(model, pictures.pixels(rows)))
            for head, logits in enumerate((out.logits, out.attention_logits)):
                hits[head] += (logits.argmax(1).cpu() == pictures.labels[rows]).sum()
    top1, attention_top1 = (100 * hits.double() / len(pictures)).tolist()
    return {"top1": top1, "attention_top1": attention_top1}


def wrap_in_abn(base: Explainee, map_kernel: Literal[1, 3] = 3, seed: int = 0) -> Explainee:
    """Return an untrained attention branch network around a copy of a model's network; the model is
    left alone.
    """
    net = AttentionBranchNetwork(base.net, map_kernel, seed)
    card = {**build_facts(base), "wrap": {"kind": "abn", "map_kernel": map_kernel}}
    return Explainee(
        net, base.mean, base.std, base.size, name=base.name, geometry=base.geometry, card=card
    )


def train_abn(
    backbone: str,
    training: Training,
    *,
    map_kernel: Literal[1, 3] = 3,
    augmentation: Augmentation | None = None,
    label_smoothing: float = 0.02,
    device: str = "cpu",
) -> Path:
    """Train an attention branch network.

    Args:
        backbone: A bundled architecture or a timm name (random weights), or a trained model of the
            subset's classes. A trained model is the parent: both branches and the extractor start
            from its weights.
        training: Images, settings and files.
        map_kernel: Side of the convolution that makes the map, 3 or 1.
        augmentation: How pictures are varied.
        label_smoothing: Share of the label that is spread over all classes.
        device: Where the network is trained.

    Returns:
        The path of the card.

    Raises:
        BenchError: The backbone cannot be split, or fits neither the subset's classes nor its
            images.
    """
    settings, how = training.settings or Settings(), augmentation or Augmentation()
    base = new_model(backbone, training.parts[0], settings.seed)
    parent = base if "sha256" in base.card else None  # a card of trained weights
    model = wrap_in_abn(base, map_kernel, settings.seed).to(device)
    model.net.to(memory_format=torch.channels_last)
    task = BranchTask(model, *training.make_pictures(model), how, label_smoothing)
    recipe = {
        "kind": "abn",
        "backbone": backbone,
        "map_kernel": map_kernel,
        "label_smoothing": label_smoothing,
    }
    recipe |= {"augmentation": asdict(how)} | asdict(settings)
    stamp = {"what": "abn", "recipe": recipe, "parent": parent.fingerprint if parent else ""}
    history = training.fit(task, settings, stamp)
    tops = {name: history.best[name] for name in ("top1", "attention_top1")}
    return training.save(model, history, {"recipe": recipe} | tops, parent)

"""How well an attention branch network's maps agree with edited maps and with objects, and how well
it classifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from bench.engine.map_ranges import unit
from bench.finetune.attention_maps import upsample_attention
from bench.finetune.classifier import network_input
from bench.finetune.data import EVALUATION_BATCH, Pictures, split_rows
from bench.finetune.placement import attention_net, energy_inside
from bench.metrics.map_similarity import pearson
from bench.metrics.rank_localization import score_order
from bench.models.abn import to_grid
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network

IOU_CUT = 0.5
MEASURES = {
    "top1": ".1f",
    "attention_top1": ".1f",
    "mse": ".4f",
    "pearson": ".3f",
    "iou": ".3f",
    "energy": ".3f",
    "energy_ranked": ".3f",
}
"""What is measured, and how it is written."""

Numbers = dict[str, float | int | None]


@dataclass(frozen=True)
class Group:
    """Pictures to measure on: `rows` [n] of them, and what their maps should be.

    targets: [n,1,h,w] on M's grid, edited maps; None: the objects themselves, as their share of
    each cell.
    """

    pictures: Pictures
    rows: torch.Tensor
    targets: torch.Tensor | None = None

    @cached_property
    def truth(self) -> torch.Tensor | None:
        """Return the objects' pixels [n,H,W] bool (masks, else boxes), read once; None where the
        subset has none.
        """
        pieces = [self.pictures.truth(rows) for rows in torch.split(self.rows, EVALUATION_BATCH)]
        shape = self.pictures.geometry.shape
        pixels = [piece.pixels(*shape) for piece in pieces]
        there = [one for one in pixels if one is not None]
        return torch.cat(there) if len(there) == len(pixels) else None


@torch.no_grad()
def measure_agreement(model: Explainee, group: Group) -> Numbers:
    """Return what a network makes of a group, as means over its images; None: there is nothing to
    measure it by.

    top1, attention_top1: percent, of the perception and of the attention branch.  mse, pearson,
    iou: of M and the target on the grid; IoU of where their unit maps are at least .5.  energy:
    share of M, at image size, inside the object; energy_ranked: the same of its pixels' order,
    which sharpening cannot move.  Images without an object in the frame are left
    out of what needs one, and of the IoU those where neither map has any contrast.
    """
    columns: dict[str, list[torch.Tensor]] = {name: [] for name in MEASURES}
    net = attention_net(model)
    with guard_network(net):
        for index in split_rows(len(group.rows)):
            rows = group.rows[index]
            out = net.branches(network_input(model, group.pictures.pixels(rows)))
            labels, own = group.pictures.labels[rows], out.attention.float().cpu()
            for name, logits in (("top1", out.logits), ("attention_top1", out.attention_logits)):
                columns[name].append(100.0 * (logits.argmax(1).cpu() == labels).double())
            for name, values in _measure_maps(own, group, index).items():
                columns[name].append(values)
    means = {
        name: torch.cat(parts).nanmean().item() if parts else torch.nan
        for name, parts in columns.items()
    }
    return {"images": len(group.rows)} | {
        name: None if mean != mean else mean for name, mean in means.items()
    }


def _measure_maps(own: torch.Tensor, group: Group, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return energy, MSE, Pearson and IoU [B] of maps [B,1,h,w] of the group's images `index`
    [B].
    """
    values: dict[str, torch.Tensor] = {}
    if group.truth is not None:
        truth = group.truth[index]
        maps = upsample_attention(own, truth.shape[-1])
        inside = energy_inside(maps, truth)
        values["energy"] = torch.tensor(
            [torch.nan if one is None else one for one in inside], dtype=torch.float64
        )
        values["energy_ranked"] = _rank_energy(maps, truth)
        if group.targets is None:
            seen = truth.flatten(1).any(1)
            alike = _alike(own[:, 0], to_grid(truth.float(), *own.shape[2:])[:, 0])
            values |= {name: torch.where(seen, value, torch.nan) for name, value in alike.items()}
    if group.targets is not None:
        values |= _alike(own[:, 0], group.targets[index, 0])
    return values


def _rank_energy(maps: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the energy of the ranks [B] of maps and objects [B,H,W]; NaN where it has none."""
    rows = zip(maps.flatten(1).numpy(), truth.flatten(1).numpy(), strict=True)
    scores = [
        score_order(values, np.argsort(-values, kind="stable"), inside) for values, inside in rows
    ]
    return torch.tensor(scores, dtype=torch.float64)


def _alike(own: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return MSE, Pearson and IoU [B] of maps [B,h,w]."""
    one, other = unit(own) >= IOU_CUT, unit(wanted) >= IOU_CUT
    both, either = (one & other).flatten(1).sum(1).double(), (one | other).flatten(1).sum(1)
    return {
        "mse": (own - wanted).double().square().mean((1, 2)),
        "pearson": pearson(own, wanted),
        "iou": torch.where(either > 0, both / either.clamp(min=1), torch.nan),
    }


def grid_of(model: Explainee) -> tuple[int, int]:
    """Return (h, w) of a model's attention map."""
    net = attention_net(model)
    with guard_network(net), torch.no_grad():
        shape = net.extractor(torch.zeros(1, *model.input_shape, device=model.device)).shape
    return shape[2], shape[3]

"""Where the attention of an Attention Branch Network lies: which images are right in class and
wrong in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.data.geometry import Geometry, match_channels
from bench.data.input_size import write_size
from bench.data.subset import Subset
from bench.errors import BenchError
from bench.finetune.attention_maps import upsample_attention
from bench.models.abn import AttentionBranchNetwork
from bench.models.explainee import Explainee
from bench.models.input_channels import check_file_channels
from bench.models.network_guard import guard_network

MISPLACED = 0.5
"""Energy inside the truth below which a map is wrong in place (Yingyong et al.)."""
BATCH = 32

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Placement:
    """One item under a network: what it predicts, and how much of its attention lies on the object.

    index: in the subset's order.  predicted, probability: of the perception branch.  energy: share
    of the attention inside the truth, in [0,1]; None where there is no truth in the frame.
    """

    index: int
    item: str
    label: int
    predicted: int
    probability: float
    energy: float | None

    @property
    def right(self) -> bool:
        """Return whether the class is right."""
        return self.predicted == self.label

    @property
    def misplaced(self) -> bool:
        """Return whether less than half of the attention lies on the object; False where there is
        no truth.
        """
        return self.energy is not None and self.energy < MISPLACED


def find_placements(
    model: Explainee, subset: Subset, report: Report | None = None
) -> list[Placement]:
    """Return one `Placement` per item of a subset, in its order; report(done, total) is called
    after each batch.

    Raises BenchError where the model has no attention branch or other classes than the subset.
    """
    net = attention_net(model)
    check_classes(model, subset)
    geometry = frame_of(model, subset)
    rows: list[Placement] = []
    with guard_network(model.net), torch.inference_mode():
        for start in range(0, len(subset), BATCH):
            batch = subset.batch(range(start, min(start + BATCH, len(subset))), geometry)
            out = net.branches(model.normalise(batch.pixels.to(model.device)))
            best = out.logits.softmax(1).max(1)
            truth = batch.truth.pixels(*model.frame)
            maps = upsample_attention(out.attention, model.size)
            energy = [None] * len(batch) if truth is None else energy_inside(maps, truth)
            rows += [
                Placement(start + i, item, label, int(predicted), float(probability), inside)
                for i, (item, label, probability, predicted, inside) in enumerate(
                    zip(
                        batch.ids,
                        batch.labels.tolist(),
                        best.values,
                        best.indices,
                        energy,
                        strict=True,
                    )
                )
            ]
            if report:
                report(len(rows), len(subset))
    return rows


def read_placements(rows: Any, subset: Subset) -> list[Placement]:
    """Return the placements of a subset's items that were kept as JSON, with the subset's indices.

    Rows of items that the subset does not hold are left out.

    Raises:
        TypeError, ValueError: they hold impossible numbers, or another label.
    """
    places = {item: k for k, item in enumerate(subset.ids)}
    labels = subset.labels.tolist()
    found = []
    for row in rows:
        one = Placement(**row)
        if one.item not in places:
            continue
        shares = [share for share in (one.probability, one.energy) if share is not None]
        right = one.label == labels[places[one.item]]
        if not right or not all(0 <= share <= 1 + 1e-6 for share in shares):
            raise ValueError("impossible numbers")
        found.append(dataclasses.replace(one, index=places[one.item]))
    return found


def energy_inside(maps: torch.Tensor, truth: torch.Tensor) -> list[float | None]:
    """Return the share of each map [B,H,W] (no value below 0) that lies on the truth [B,H,W] bool;
    None without either.

    >>> energy_inside(torch.ones(1, 2, 2), torch.tensor([[[True, False], [False, False]]]))
    [0.25]
    """
    maps = maps.detach().cpu().double().flatten(1)
    inside, total = (maps * truth.flatten(1)).sum(1), maps.sum(1)
    usable = truth.flatten(1).any(1) & (total > 0)
    return [float(i / t) if u else None for i, t, u in zip(inside, total, usable, strict=True)]


def attention_net(model: Explainee) -> AttentionBranchNetwork:
    """Return the model's network where it has an attention branch; else a BenchError says how to
    get one.
    """
    if not isinstance(model.net, AttentionBranchNetwork):
        raise BenchError(
            f"The model {model.name} has no attention branch, so it has no attention map to edit; "
            "train one with `cambench finetune abn` or choose a model that has one."
        )
    return model.net


def check_classes(model: Explainee, subset: Subset) -> None:
    """Raise BenchError where a subset has labels that the model does not know."""
    if model.num_classes < subset.num_classes:
        raise BenchError(
            f"The model {model.name} has {model.num_classes} classes and the subset {subset.name} "
            f"{subset.num_classes}; choose a model and a subset of the same classes."
        )


def frame_of(model: Explainee, subset: Subset) -> Geometry:
    """Return the preprocessing of a subset's images for a model: the subset's own where it fixes
    one, else the model's.

    Raises BenchError where the subset's frames are not as large as the model's input.
    """
    check_file_channels(model.name, model.channels)
    geometry = match_channels(subset.geometry or model.geometry, model.channels)
    if geometry.size != model.size:
        raise BenchError(
            f"The subset {subset.name} fixes images of {write_size(geometry.size)} pixels and "
            f"{model.name} wants {write_size(model.size)}; choose another subset or model."
        )
    return geometry

"""A trained model as two files that `load_model` reads: weights (.safetensors) and a card
(.json).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from bench.data import Subset
from bench.errors import BenchError
from bench.file_contents import file_sha256
from bench.files import replaced_file, write_json
from bench.inner_places import place_inside
from bench.models.explainee import Explainee

BUILD = ("library", "arch", "kwargs", "wrap")
"""The keys of a card that build a network."""


def write_model(
    folder: Path,
    name: str,
    model: Explainee,
    facts: dict[str, Any],
    parent: Explainee | None = None,
) -> Path:
    """Write NAME.safetensors and the card NAME.json and return the card's path.

    model: the trained network, whose card says how it is built (library, arch, kwargs, wrap).
    facts: further keys of the card: recipe, command, data, top1, ...  parent: the model that it was
    made from; the card carries its name and the sha256 of its weights.
    """
    from safetensors.torch import save_file

    weights = place_inside(folder, name, ".safetensors")
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.net.state_dict().items()}
    with replaced_file(weights, durable=True) as temporary:
        save_file(state, temporary)
    card = {
        "file": weights.name,
        **build_facts(model),
        "mean": model.mean,
        "std": model.std,
        "size": model.size,
        "layer": model.card.get("layer"),
        "parent": parent.name if parent else "",
        **({"parent_sha256": parent.fingerprint} if parent else {}),
        "sha256": file_sha256(weights),
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "torch": torch.__version__.split("+")[0],
        **facts,
    }
    write_json(file := place_inside(folder, name, ".json"), {name: card})
    return file


def build_facts(model: Explainee) -> dict[str, Any]:
    """Return the keys of a model's card that build its network; a model without them cannot be
    written.
    """
    if "library" not in model.card or "arch" not in model.card:
        raise BenchError(
            f"The model {model.name} does not say how it is built, so what is trained from it "
            "could not be loaded; use a timm name or a card file."
        )
    return {key: model.card[key] for key in BUILD if key in model.card}


def describe_data(subset: Subset) -> str:
    """Return NAME@MANIFEST, and a hash of the images' ids: what a model was trained or tested
    on.
    """
    ids = hashlib.sha256("\n".join(subset.ids).encode()).hexdigest()[:8]
    return f"{subset.name}@{subset.manifest_id}, {len(subset)} images {ids}"

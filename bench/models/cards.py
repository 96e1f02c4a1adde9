"""Model cards: files that name an architecture and its weights, and how both are loaded."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.data.geometry import Geometry
from bench.data.input_size import read_size
from bench.errors import BenchError, suggestions
from bench.models.explainee import Explainee
from bench.models.transformers_models import build_transformers, open_transformers_card


def take_first_line(error: Exception) -> str:
    """Return the first line of an error, at most 200 characters."""
    return next(iter(str(error).splitlines()), "").rstrip(".")[:200]


# --- cards


def read_card(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a card file: {name: {file, library, arch, kwargs, mean, std, sha256,
    ...}}.
    """
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise BenchError(f"There is no card file {path}; check the path.") from None
    except ValueError as error:
        raise BenchError(f"The card file {path} is not valid JSON ({error}).") from None
    if not isinstance(card, dict) or not all(isinstance(e, dict) for e in card.values()):
        raise BenchError(
            f"The card file {path} must be an object of entries, each an object with file, "
            "library, arch."
        )
    return card


def from_card(
    path: Path, entry: str = "", layer: str | None = None, weights: str | Path | None = None
) -> Explainee:
    """Return the model that a card file describes; weights are checked against its sha256."""
    card = read_card(path)
    if not entry and len(card) != 1:
        raise BenchError(
            f"{path} describes {len(card)} models; name one as {path}#NAME, of {', '.join(card)}."
        )
    entry = entry or next(iter(card))
    if entry not in card:
        raise BenchError(f"{path} has no entry {entry!r}.{suggestions(entry, card)}")
    facts = card[entry]
    missing = [key for key in ("file", "library", "arch") if key not in facts]
    if missing:
        raise BenchError(f"The entry {entry!r} of {path} lacks {', '.join(missing)}; add it.")
    if facts["library"] == "transformers" and "wrap" not in facts:
        file = Path(weights) if weights is not None else path.parent / facts["file"]
        return open_transformers_card(facts, entry, file, layer, load_weights)
    net = _build(facts, f"{path}#{entry}")
    file = Path(weights) if weights is not None else path.parent / facts["file"]
    load_weights(net, file, entry, sha256=None if weights is not None else facts.get("sha256"))
    size = read_size(facts.get("size", 224), f"{path}#{entry}")
    return Explainee(
        net,
        facts.get("mean", (0.485, 0.456, 0.406)),
        facts.get("std", (0.229, 0.224, 0.225)),
        size,
        layer or facts.get("layer"),
        name=entry,
        parent=facts.get("parent", ""),
        geometry=Geometry(size, "squash", size, "bicubic")
        if facts.get("library") == "cambench"
        else None,
        card=facts,
    )


def _build(facts: dict[str, Any], where: str) -> nn.Module:
    library, arch, kwargs = facts["library"], facts["arch"], facts.get("kwargs", {})
    if library not in BUILDERS:
        raise BenchError(f"{where}: library {library!r} is not one of {', '.join(BUILDERS)}.")
    try:
        net = BUILDERS[library](arch, kwargs)
    except Exception as error:  # each library has its own for an unknown name or argument
        raise BenchError(
            f"{where}: {library} cannot build {arch!r} ({take_first_line(error)})."
        ) from error
    return wrap_net(net, facts["wrap"], where) if "wrap" in facts else net


def wrap_net(net: nn.Module, wrap: dict[str, Any], where: str) -> nn.Module:
    """Return a network with the trained part around it that a card's "wrap" names: {"kind": ...,
    its arguments}.
    """
    arguments = dict(wrap)
    kind = arguments.pop("kind", "")
    if kind not in WRAPPERS:
        raise BenchError(f"{where}: the wrap {kind!r} is not one of {', '.join(WRAPPERS)}.")
    module, _, name = WRAPPERS[kind].partition(":")
    try:
        made: nn.Module = getattr(importlib.import_module(module), name)(net, **arguments)
    except TypeError as error:
        raise BenchError(
            f"{where}: {kind} takes no such arguments ({take_first_line(error)})."
        ) from error
    return made


def _build_timm(arch: str, kwargs: dict[str, Any]) -> nn.Module:
    import timm

    net: nn.Module = timm.create_model(arch, pretrained=False, **kwargs)
    return net


def _build_torchvision(arch: str, kwargs: dict[str, Any]) -> nn.Module:
    import torchvision

    net: nn.Module = torchvision.models.get_model(arch, weights=None, **kwargs)
    return net


def _build_own(arch: str, kwargs: dict[str, Any]) -> nn.Module:
    from bench.models.architectures import ARCHITECTURES

    return ARCHITECTURES[arch](**kwargs)


BUILDERS: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
    "cambench": _build_own,
    "transformers": build_transformers,
}

WRAPPERS = {
    "abn": "bench.models.abn:AttentionBranchNetwork",
    "tuner": "bench.models.tuner:add_tuner",
    "self_attention": "bench.models.sa_affinity:AffinityNet",
}
"""What a training may put around a network, by the kind that a card names."""

# --- weights


def load_weights(net: nn.Module, path: Path, name: str, sha256: str | None = None) -> None:
    """Load a .safetensors or .pth file (the latter through weights_only=True) into a network,
    exactly.
    """
    if not path.is_file():
        raise BenchError(f"There is no weights file {path} for {name}; check the path.")
    if sha256 is not None and file_sha256(path) != sha256:
        raise BenchError(
            f"The weights file {path} is not the one its card names (sha256 differs); fetch it "
            "again."
        )
    state = _read_state(path)
    own = net.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    problems = [
        f"{len(keys)} {what} (such as {sorted(keys)[0]})"
        for keys, what in ((missing, "missing"), (extra, "unknown"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        raise BenchError(f"The weights {path} do not fit {name}: tensors {', '.join(problems)}.")
    net.load_state_dict(state, strict=False)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a file, without the prefixes of DataParallel, DDP and torch.compile.

    timm cleans it. timm's reader is not used: old versions of timm and torch together unpickle
    without weights_only where a file raises TypeError.
    """
    from safetensors.torch import load_file
    from timm.models import clean_state_dict

    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip errors alike
        raise BenchError(
            f"The weights file {path} cannot be read ({take_first_line(error)})."
        ) from error
    if isinstance(state, dict):
        nested = [state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)]
        state = nested[0] if nested else state
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise BenchError(f"The weights file {path} holds no state dict; save model.state_dict().")
    cleaned: dict[str, torch.Tensor] = clean_state_dict(state)
    return cleaned


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

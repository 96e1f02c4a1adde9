"""Model cards: files that name an architecture and its weights, and how both are loaded."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from bench.data.geometry import Geometry
from bench.data.inner_paths import ROOTS_VARIABLE, refuse_outside
from bench.errors import BenchError, state_assumption, suggestions, take_first_line
from bench.models.card_input import find_input
from bench.models.card_keys import check_entry, check_layer, read_card
from bench.models.explainee import Explainee
from bench.models.transformers_models import build_transformers, open_transformers_card
from bench.models.weights_fit import load_weights

# --- cards


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
    facts, where = card[entry], f"{path}#{entry}"
    keys = check_entry(facts, where)
    file = Path(weights) if weights is not None else find_weights(path, keys.file, where)
    if keys.library == "transformers" and keys.wrap is None:
        return open_transformers_card(facts, entry, file, layer)
    net = _build(facts, where).eval()
    sha256 = None if weights is not None else keys.sha256
    assumed = load_weights(net, file, entry, sha256, remedy=_write_argument(where))
    taken = find_input(net, keys, where)
    for sentence in taken.assumed:
        state_assumption(sentence)
    check_layer(None if layer else keys.layer, dict(net.named_modules()), f"The entry {where}")
    assumed += taken.assumed
    own = Geometry(taken.size, "squash", taken.size, "bicubic")
    return Explainee(
        net,
        taken.mean,
        taken.std,
        taken.size,
        layer or keys.layer,
        name=entry,
        parent=keys.parent,
        geometry=own if keys.library == "cambench" else taken.geometry,
        card=facts | ({"assumed": assumed} if assumed else {}),
    )


def find_weights(card: Path, file: str, where: str) -> Path:
    """Return the weights file or folder that an entry names, below the card's folder.

    Raises BenchError where it lies elsewhere.
    """
    place = Path(os.path.normpath(card.absolute().parent / file))
    if "\0" in file or not place.is_relative_to(os.path.normpath(card.absolute().parent)):
        try:
            refuse_outside([place], card.absolute().parent, where)
        except (BenchError, ValueError):
            raise BenchError(
                f"The entry {where} has file = {file!r}, which does not lie below the card's "
                f"folder; copy it there, give --weights, or name its folder in {ROOTS_VARIABLE}."
            ) from None
    return card.parent / file


def _write_argument(where: str) -> Callable[[str, Any], str]:
    """Return how an entry's network is given an argument, for messages."""
    return lambda argument, value: f'write "{argument}": {value} into the kwargs of {where}'


def _build(facts: dict[str, Any], where: str) -> nn.Module:
    library, arch, kwargs = facts["library"], facts["arch"], facts.get("kwargs", {})
    if library not in BUILDERS:
        raise BenchError(f"{where}: library {library!r} is not one of {', '.join(BUILDERS)}.")
    _check_architecture(library, arch, where)
    try:
        net = BUILDERS[library](arch, kwargs)
    except Exception as error:  # each library has its own for an unknown name or argument
        raise BenchError(
            f"{where}: {library} cannot build {arch!r} ({take_first_line(error)})."
        ) from error
    return wrap_net(net, facts["wrap"], where) if facts.get("wrap") else net


def _check_architecture(library: str, arch: str, where: str) -> None:
    """Refuse a name that a library does not know, with the nearest ones."""
    import timm
    import torchvision

    known: Any = {
        "timm": timm.list_models,
        "torchvision": torchvision.models.list_models,
    }.get(library)
    plain = arch.partition(".")[0] if library == "timm" else arch.lower()
    if known is not None and not arch.startswith("hf-hub:") and plain not in (names := known()):
        raise BenchError(f"{where}: {library} has no {arch!r}.{suggestions(arch, names)}")


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

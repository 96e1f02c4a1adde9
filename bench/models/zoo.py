"""Models by name: bundled ones, any timm classifier, and card files."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.data.geometry import Geometry
from bench.errors import BenchError, suggestions
from bench.models.explainee import Explainee
from bench.randomness import generator
from bench.registry import Registry

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
RANDOM_SEED = 0


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be made by name; `make(layer=..., weights=...)` returns an `Explainee`."""

    name: str
    make: Callable[..., Explainee]
    groups: tuple[str, ...] = ("registered",)
    card: str = ""


MODELS: Registry[ModelEntry] = Registry("model")


def register_model(
    name: str | None = None,
) -> Callable[[Callable[[], Explainee]], Callable[[], Explainee]]:
    """Register a function that returns an `Explainee`; it is then a model of this name.

    >>> @register_model("doc_net")
    ... def doc_net():
    ...     return Explainee(torch.nn.Flatten(), size=32)
    >>> MODELS.remove("doc_net")
    """

    if callable(name):  # @register_model without brackets
        return register_model()(name)  # type: ignore[unreachable]

    def register(function: Callable[[], Explainee]) -> Callable[[], Explainee]:
        chosen = name or function.__name__

        def make(
            layer: str | None = None, weights: str | Path | None = None, **kwargs: Any
        ) -> Explainee:
            if weights is not None or kwargs:
                raise BenchError(
                    f"The registered model {chosen} brings its own weights; leave --weights out."
                )
            model = function()
            if not isinstance(model, Explainee):
                raise BenchError(
                    f"The registered model {chosen} returned {type(model).__name__}, not an "
                    "Explainee."
                )
            model.name = chosen
            return model if layer is None else at_layer(model, layer)

        MODELS.add(ModelEntry(chosen, make))
        return function

    return register


def load_model(
    name: str | Path,
    weights: str | Path | None = None,
    layer: str | None = None,
    **timm_kwargs: Any,
) -> Explainee:
    """Return the model of this name.

    name: a bundled or registered name; a timm name (`resnet18`,
    `vit_tiny_patch16_224.augreg_in21k_ft_in1k`) or `hf-hub:` id; or a card file, `models.json` or
    `models.json#entry` where it describes several. `NAME@LAYER` (but for hub ids) is NAME explained
    at another layer, and is called so on boards. weights: None (bundled: its own; timm: random
    weights, seed 0), "pretrained" (timm downloads them), or the path of a .safetensors or .pth
    file.  layer: name of the explained layer.  Further arguments go to `timm.create_model`.
    """
    text = str(name)
    if "@" in text and text not in MODELS and layer is None and not text.startswith("hf-hub:"):
        base, _, layer = text.rpartition("@")
        model = load_model(base, weights, layer, **timm_kwargs)
        _ = model.split  # a layer that is not there is better said now
        model.name += f"@{layer}"
        return model
    path, _, entry = text.partition("#")
    if timm_kwargs and (text in MODELS or path.endswith(".json")):
        raise BenchError(
            f"{text} is built as its card says; {', '.join(timm_kwargs)} can be given to timm "
            "names only."
        )
    if text in MODELS:
        return MODELS.get(text).make(layer=layer, weights=weights)
    if path.endswith(".json"):
        return from_card(Path(path), entry, layer=layer, weights=weights)
    return from_timm(text, weights, layer, timm_kwargs)


def expand_models(patterns: list[str]) -> list[str]:
    """Return model names for names, groups, wildcards over known names, and card files (all their
    entries).
    """
    names: list[str] = []
    for pattern in patterns:
        if "@" in pattern and not pattern.startswith("hf-hub:"):
            base, _, layer = pattern.rpartition("@")
            names += [f"{name}@{layer}" for name in expand_models([base])]
            continue
        if pattern.startswith("-"):
            dropped = set(expand_models([pattern[1:]]))
            names = [name for name in names if name not in dropped]
            continue
        path, _, entry = pattern.partition("#")
        if path.endswith(".json"):
            entries = [entry] if entry else list(read_card(Path(path)))
            names += [f"{path}#{e}" for e in entries]
        elif any(c in pattern for c in "*?[") or pattern in MODELS.known_names():
            names += MODELS.select([pattern])
        else:
            names.append(pattern)
    return list(dict.fromkeys(names))


# --- timm


def from_timm(
    name: str, weights: str | Path | None, layer: str | None, kwargs: dict[str, Any]
) -> Explainee:
    """Return a timm classifier as an explainee, with the preprocessing that timm states for it."""
    import timm

    if not name.startswith("hf-hub:") and not timm.is_model(name.partition(".")[0]):
        known = [*MODELS.known_names(), *timm.list_models()]
        raise BenchError(f"Unknown model {name!r}.{suggestions(name, known)}")
    pretrained = str(weights) == "pretrained"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                RANDOM_SEED
            )  # manual_seed would also reseed GPUs, and not restore them
            net = timm.create_model(
                name, pretrained=pretrained, **{**_square_input(name), **kwargs}
            )
    except Exception as error:  # timm, the hub client and the network each raise their own
        what = (
            "download pretrained weights for"
            if pretrained or name.startswith("hf-hub:")
            else "build"
        )
        raise BenchError(
            f"timm could not {what} {name!r} ({type(error).__name__}: {_first_line(error)}); "
            "check the name and the network, or give local weights (weights=PATH, --weights PATH)."
        ) from error
    if weights is None:
        _draw_zero_heads(net)
    elif not pretrained:
        load_weights(net, Path(weights), name)
    side = kwargs.get("img_size", _square_input(name).get("img_size"))
    config = timm.data.resolve_data_config({} if side is None else {"img_size": side}, model=net)
    size = config["input_size"][-1]
    model = Explainee(
        net,
        config["mean"],
        config["std"],
        size,
        layer,
        name=name,
        geometry=timm_geometry(config),
        card={"timm": name},
    )
    model.card |= {"library": "timm", "arch": net.pretrained_cfg["architecture"], "kwargs": kwargs}
    model.card["weights"] = "random" if weights is None else str(weights)
    return model


def _square_input(name: str) -> dict[str, int]:
    """Return img_size = the short side for a timm name whose own input is not square (Sapiens),
    else nothing.
    """
    import timm

    config = (
        None
        if name.startswith("hf-hub:")
        else timm.get_pretrained_cfg(name, allow_unregistered=True)
    )
    sides = () if config is None else config.input_size[1:]
    return {"img_size": min(sides)} if len(set(sides)) > 1 else {}


def _draw_zero_heads(net: nn.Module) -> None:
    """Give random weights to classifiers that timm starts at zero (Hiera, MLP-Mixer, ...): else
    every logit is 0.
    """
    get: Any = getattr(net, "get_classifier", None)
    classifier = None if get is None else get()
    heads = classifier if isinstance(classifier, (list, tuple)) else [classifier]
    rng = generator(RANDOM_SEED, "head")
    for module in (m for head in heads if isinstance(head, nn.Module) for m in head.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not bool(module.weight.any()):
            with torch.no_grad():
                module.weight.copy_(0.02 * torch.randn(module.weight.shape, generator=rng))


def timm_geometry(config: dict[str, Any]) -> Geometry:
    """Return the preprocessing of a timm data config: short side to size/crop_pct, centre crop (or
    squash).
    """
    size = config["input_size"][-1]
    resize = "squash" if config.get("crop_mode") == "squash" else "short"
    interpolation = (
        config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    )
    return Geometry(size, resize, int(size / config["crop_pct"]), interpolation)


def _first_line(error: Exception) -> str:
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
    net = _build(facts, f"{path}#{entry}")
    file = Path(weights) if weights is not None else path.parent / facts["file"]
    load_weights(net, file, entry, sha256=None if weights is not None else facts.get("sha256"))
    size = int(facts.get("size", 224))
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
            f"{where}: {library} cannot build {arch!r} ({_first_line(error)})."
        ) from error
    return wrapped(net, facts["wrap"], where) if "wrap" in facts else net


def wrapped(net: nn.Module, wrap: dict[str, Any], where: str) -> nn.Module:
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
            f"{where}: {kind} takes no such arguments ({_first_line(error)})."
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
}

WRAPPERS = {
    "abn": "bench.models.abn:AttentionBranchNetwork",
    "tuner": "bench.models.tuner:tuned_net",
    "self_attention": "bench.models.affinity:AffinityNet",
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
            f"The weights file {path} cannot be read ({_first_line(error)})."
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


def at_layer(model: Explainee, layer: str) -> Explainee:
    """Return the same model explained at another layer."""
    return model.at(layer)


# --- bundled


ORIGINALS, FINETUNED = "originals", "finetuned"
"""Groups of the bundled models: those that a default run scores with every method, and those made
from them.
"""


def _register_bundled() -> None:
    for path in sorted(WEIGHTS_FOLDER.glob("*.json")):
        (facts,) = read_card(path).values()
        group = FINETUNED if facts.get("parent") else ORIGINALS

        def make(path: Path = path, **kwargs: Any) -> Explainee:
            return from_card(path, **kwargs)

        MODELS.add(ModelEntry(path.stem, make, groups=("bundled", group), card=str(path)))


_register_bundled()
MODELS.add_list("default", ORIGINALS)

"""Models by name: bundled ones, any timm classifier, and card files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.data.input_size import read_size, split_size
from bench.errors import BenchError, state_assumption, suggestions, take_first_line
from bench.models.bundled_sums import check_bundled_card
from bench.models.card_input import fit_channels, timm_geometry
from bench.models.card_keys import read_card
from bench.models.cards import from_card
from bench.models.explainee import Explainee
from bench.models.model_names import refuse_files, refuse_own_weights
from bench.models.network_guard import leave_modes
from bench.models.transformers_models import (
    PREFIX,
    check_timm_name,
    from_transformers,
    is_whole_name,
    suggest_prefix,
)
from bench.models.weights_fit import load_weights
from bench.randomness import generator
from bench.registry import Registry
from bench.text_limits import check_text

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

    Args:
        name: Name on boards and in lists; None takes the function's name.

    Returns:
        A decorator that registers the function and returns it unchanged.

    Raises:
        BenchError: The name is taken. Later, when the model is made: the function returned
            something else, or weights were given.

    Example:
        >>> @bench.register_model("doc_net")
        ... def doc_net():
        ...     return bench.Explainee(torch.nn.Flatten(), size=32)
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
            return model if layer is None else cut_at_layer(model, layer)

        MODELS.add(ModelEntry(chosen, make))
        return function

    return register


@leave_modes()
def load_model(
    name: str | Path,
    weights: str | Path | None = None,
    layer: str | None = None,
    **timm_kwargs: Any,
) -> Explainee:
    """Return the model of this name, in eval mode.

    What was assumed (the EMA of raw weights, a cast to float32) is a warning. It also stands in
    `card["assumed"]` and in run.json.

    Args:
        name: A bundled or registered name; a timm name (`resnet18`,
            `vit_tiny_patch16_224.augreg_in21k_ft_in1k`) or `hf-hub:` id; `hf:` and the folder or
            Hub id of a classifier of transformers; or a card file, `models.json` or
            `models.json#entry`. `NAME@LAYER` is NAME explained at another layer, except for Hub
            ids.
        weights: The path of a file of weights, or "pretrained" (timm downloads them). None takes a
            bundled model's own weights, and random ones of seed 0 for timm.
        layer: Name of the explained layer; None takes the default one.
        timm_kwargs: Go to `timm.create_model` (`num_classes=20`); mean and std replace timm's own.

    Returns:
        The model.

    Raises:
        BenchError: The name is unknown or incomplete, weights do not fit, or arguments of timm are
            given to a model that is none of timm's.

    Example:
        >>> bench.load_model("resnet-scenes@layer3").name
        'resnet-scenes@layer3'
    """
    text = str(name)
    check_text("The model name", text)
    if not text.strip() or text[0] == "@" or text[-1] in "@#":
        raise BenchError(f"The model name {text!r} is not complete; write NAME or NAME@LAYER.")
    if "@" in text and text not in MODELS and layer is None and not _ends_in_no_layer(text):
        base, _, layer = text.rpartition("@")
        model = load_model(base, weights, layer, **timm_kwargs)
        _ = model.split  # a layer that is not there is better said now
        model.name += f"@{layer}"
        return model
    if text.startswith(PREFIX):
        if timm_kwargs:
            raise BenchError(
                f"{text} is built as its config.json says; {', '.join(timm_kwargs)} can be given "
                "to timm names only."
            )
        return from_transformers(text, weights, layer)
    path, _, entry = text.partition("#")
    if timm_kwargs and (text in MODELS or path.endswith(".json")):
        raise BenchError(
            f"{text} is built as its card says; {', '.join(timm_kwargs)} can be given to timm "
            "names only."
        )
    if text in MODELS:
        model = MODELS.get(text).make(layer=layer, weights=weights)
    elif path.endswith(".json"):
        model = from_card(Path(path), entry, layer=layer, weights=weights)
    else:
        refuse_files(text)
        refuse_own_weights(text, timm_kwargs)
        model = from_timm(text, weights, layer, timm_kwargs)
    # In train mode one forward moves the statistics of BatchNorm for good.
    model.net.eval()
    return model


def expand_models(patterns: list[str]) -> list[str]:
    """Return model names for names, groups, wildcards over known names, and card files (all their
    entries).
    """
    names: list[str] = []
    for pattern in patterns:
        if "@" in pattern and not _ends_in_no_layer(pattern):
            base, _, layer = pattern.rpartition("@")
            names += [f"{name}@{layer}" for name in expand_models([base])]
            continue
        if pattern.startswith("-"):
            dropped = set(expand_models([pattern[1:]]))
            names = [name for name in names if name not in dropped]
            continue
        path, _, entry = pattern.partition("#")
        if pattern.startswith(PREFIX):
            names.append(pattern)
        elif path.endswith(".json"):
            entries = [entry] if entry else list(read_card(Path(path)))
            names += [f"{path}#{e}" for e in entries]
        elif any(c in pattern for c in "*?[") or pattern in MODELS.list_names():
            names += MODELS.select([pattern])
        else:
            names.append(pattern)
    return list(dict.fromkeys(names))


def _ends_in_no_layer(name: str) -> bool:
    """Return whether the "@" of a name belongs to a Hub id (a revision) or to a folder's path."""
    return name.startswith("hf-hub:") or is_whole_name(name)


# --- timm


def from_timm(
    name: str, weights: str | Path | None, layer: str | None, kwargs: dict[str, Any]
) -> Explainee:
    """Return a timm classifier as an explainee, with the preprocessing that timm states for it."""
    import timm

    kwargs = dict(kwargs)
    constants = {key: kwargs.pop(key) for key in ("mean", "std") if key in kwargs}
    pretrained = str(weights) == "pretrained"
    net, assumed = _create_net(name, pretrained, kwargs), list[str]()
    if weights is None:
        _draw_zero_heads(net)
    elif pretrained:
        assumed += _describe_new_head(net, name)
    else:
        assumed += load_weights(net, Path(weights), name)
    given = kwargs.get("img_size", _square_input(name).get("img_size"))
    sides = {} if given is None else {"input_size": (3, *split_size(read_size(given, name)))}
    config = timm.data.resolve_data_config(sides, model=net)
    size = read_size(config["input_size"][1:], name)
    mean, std = _fit_input(config | constants, kwargs.get("in_chans", 3), name)
    model = Explainee(
        net,
        mean,
        std,
        size,
        layer,
        name=name,
        geometry=timm_geometry(config),
        card={"timm": name},
    )
    model.card |= {"library": "timm", "arch": net.pretrained_cfg["architecture"], "kwargs": kwargs}
    model.card["weights"] = "random" if weights is None else str(weights)
    if assumed:
        model.card["assumed"] = assumed
    return model


def _fit_input(
    config: dict[str, Any], channels: int, name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for the channels of a network.

    timm says nothing of one channel: the mean of the three colours is taken, and that is said.
    """
    mean, std = (fit_channels(config[key], channels) for key in ("mean", "std"))
    if mean is None or std is None:
        raise BenchError(
            f"The model {name} takes {channels} channels, of which timm states no mean and std; "
            "give them (mean=, std=), or write a card with them."
        )
    if channels == 1 and len(config["mean"]) == 3:
        state_assumption(
            f"The model {name} takes grey images, of which timm states no mean and std; assumed: "
            f"mean {mean[0]:g} and std {std[0]:g}, the means of those of the three colours."
        )
    return mean, std


def _describe_new_head(net: Any, name: str) -> list[str]:
    """Say that pretrained weights of another class count leave the classifier random."""
    trained = (net.pretrained_cfg or {}).get("num_classes")
    if trained in (None, net.num_classes):
        return []
    sentence = (
        f"The classifier of {name} has random weights: the pretrained ones are of {trained} "
        f"classes, and {net.num_classes} were asked for."
    )
    state_assumption(sentence)
    return [sentence]


def _create_net(name: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    """Return timm's network of this name; what is not pretrained has random weights of one seed."""
    import timm

    if not name.startswith("hf-hub:") and not timm.is_model(name.partition(".")[0]):
        known = [*MODELS.list_names(), *timm.list_models()]
        other = suggest_prefix(name) or suggestions(name, known)
        raise BenchError(f"Unknown model {name!r}.{other}")
    try:
        with torch.random.fork_rng(devices=[]):
            # manual_seed would also reseed GPUs, and not restore them
            torch.default_generator.manual_seed(RANDOM_SEED)
            given = {**_square_input(name), **kwargs}
            return timm.create_model(name, pretrained=pretrained, **given)
    except Exception as error:  # timm, the hub client and the network each raise their own
        if name.startswith("hf-hub:"):
            check_timm_name(name)
        downloads = pretrained or name.startswith("hf-hub:")
        what = "download pretrained weights for" if downloads else "build"
        raise BenchError(
            f"timm could not {what} {name!r} ({type(error).__name__}: {take_first_line(error)}); "
            "check the name and the network, or give local weights (weights=PATH, --weights PATH)."
        ) from error


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


def cut_at_layer(model: Explainee, layer: str) -> Explainee:
    """Return the same model explained at another layer."""
    return model.cut_at(layer)


# --- bundled


ORIGINALS, FINETUNED = "originals", "finetuned"
PATTERNED, SISTERS = "patterned", "sisters"
"""Groups of the bundled models: those that a default run scores with every method, those made from
them, those that a pattern makes answer one class, which a default run leaves out, and those that
only masking metrics run (`bench.models.sisters`).
"""


def _register_bundled() -> None:
    for path in sorted(WEIGHTS_FOLDER.glob("*.json")):
        try:
            (facts,) = read_card(path).values()
        except (BenchError, ValueError):  # loading it says what is wrong; the others still load
            facts = {}
        made = SISTERS if facts.get("sister_of") else FINETUNED
        made = PATTERNED if facts.get("pattern") else made
        group = made if facts.get("parent") else ORIGINALS

        def make(path: Path = path, **kwargs: Any) -> Explainee:
            check_bundled_card(path)
            return from_card(path, **kwargs)

        MODELS.add(ModelEntry(path.stem, make, groups=("bundled", group), card=str(path)))


_register_bundled()

MODELS.add_list("default", ORIGINALS)

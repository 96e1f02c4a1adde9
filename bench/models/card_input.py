"""What a card's network takes as input: mean, std and size, stated by the card or by the library
that builds the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bench.data.geometry import INTERPOLATIONS, Geometry
from bench.data.input_size import Size, enlarge, read_size, split_size, unify, write_size
from bench.errors import BenchError
from bench.models.card_keys import CardKeys
from bench.models.preprocessing import DEFAULT_SIZE, IMAGENET_MEAN, IMAGENET_STD

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class LibraryInput:
    """What a library says of a network's input.

    source: whose statement it is.  fixed: whether the network runs at this size only.  geometry:
    how a file is resized and cropped; None where nothing is said.
    """

    source: str
    mean: Numbers = IMAGENET_MEAN
    std: Numbers = IMAGENET_STD
    size: Size = DEFAULT_SIZE
    fixed: bool = False
    geometry: Geometry | None = None


@dataclass(frozen=True)
class NetworkInput:
    """The input of a card's network; assumed: what the card does not state, one sentence."""

    mean: Numbers
    std: Numbers
    size: Size
    geometry: Geometry | None = None
    assumed: list[str] = field(default_factory=list)


def find_input(net: nn.Module, keys: CardKeys, where: str) -> NetworkInput:
    """Return mean, std and size of a card's network; what the card leaves out is the library's own.

    A card that states mean or std and no size keeps 224 pixels, unless the network runs at one
    other size only. Cards without any of the three also take the library's resize and crop.

    Args:
        net: the network as it was built.
        keys: the card's entry.
        where: FILE#ENTRY.

    Raises:
        BenchError: mean or std have another length than the network has input channels.
    """
    channels = int(keys.kwargs.get("in_chans", 3))
    place = f"The entry {where}"
    for name in ("mean", "std"):
        values = getattr(keys, name)
        if values is not None and len(values) != channels:
            raise BenchError(
                f"{place} has {len(values)} {'number' if len(values) == 1 else 'numbers'} as "
                f"{name}, and the network takes {channels} channels; give one per channel."
            )
    silent = [name for name in ("mean", "std", "size") if getattr(keys, name) is None]
    if not silent:
        stated = read_size(keys.size, place)
        return NetworkInput(tuple(keys.mean or ()), tuple(keys.std or ()), stated)
    own = OWN.get(keys.library, _assume_imagenet)(net, keys)
    stated_colours = keys.mean is not None or keys.std is not None
    size = keys.size if keys.size is not None else own.size
    if keys.size is None and stated_colours and not own.fixed:
        size = DEFAULT_SIZE
    mean = fit_channels(keys.mean or own.mean, channels)
    std = fit_channels(keys.std or own.std, channels)
    if mean is None or std is None:
        raise BenchError(
            f"{place} states no {join_words(silent)}, and the network takes {channels} channels, "
            f"of which the library says nothing; add mean and std with {channels} numbers each."
        )
    side = read_size(size, place)
    shown = {"mean": _write(mean), "std": _write(std), "size": write_size(side)}
    sentence = (
        f"{place} states no {join_words(silent)}; assumed: "
        f"{', '.join(f'{name} {shown[name]}' for name in silent)} ({_name_source(own, size)})."
    )
    whole = len(silent) == 3
    return NetworkInput(mean, std, side, own.geometry if whole else None, [sentence])


def join_words(words: Sequence[str]) -> str:
    """Return words with commas and "and" between them.

    >>> join_words(["mean", "std", "size"]), join_words(["size"])
    ('mean, std and size', 'size')
    """
    return " and ".join(", ".join(part) for part in (words[:-1], words[-1:]) if part)


def _name_source(own: LibraryInput, size: Any) -> str:
    if size == own.size:
        return own.source
    return f"{own.source}, whose size is {own.size}"


def _write(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


def fit_channels(values: Sequence[float], channels: int) -> Numbers | None:
    """Return a mean or std of RGB for a network's channels; None where nothing is known of them.

    A grey input gets the mean of the three: it is what timm's first layer of one channel sees.
    """
    if len(values) == channels:
        return tuple(values)
    return (round(sum(values) / len(values), 6),) if channels == 1 else None


# --- what libraries say


def _read_timm(net: nn.Module, keys: CardKeys) -> LibraryInput:
    import timm

    own: Any = net
    given = keys.kwargs.get("img_size")
    config = timm.data.resolve_data_config({}, model=own)
    size = unify(config["input_size"][1:] if given is None else given)
    fixed = given is not None or bool((own.pretrained_cfg or {}).get("fixed_input_size"))
    source = f"timm's own of {keys.arch}"
    geometry = timm_geometry(config | {"input_size": (3, *split_size(size))})
    return LibraryInput(source, config["mean"], config["std"], size, fixed, geometry)


def timm_geometry(config: dict[str, Any]) -> Geometry:
    """Return the preprocessing of a timm data config: short side to size/crop_pct, centre crop (or
    squash); an input that is not square is covered.
    """
    size = unify(config["input_size"][1:])
    resize = "squash" if config.get("crop_mode") == "squash" else "short"
    interpolation = (
        config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    )
    return Geometry(size, resize, enlarge(size, config["crop_pct"], int), interpolation)


def _read_torchvision(net: nn.Module, keys: CardKeys) -> LibraryInput:
    """Return what the transforms of torchvision's own weights say of the architecture."""
    import torchvision

    built = getattr(net, "image_size", None)
    try:
        weights: Any = torchvision.models.get_model_weights(keys.arch).DEFAULT
        transforms = weights.transforms()
        mean, std = tuple(transforms.mean), tuple(transforms.std)
        size, resize = int(transforms.crop_size[0]), int(transforms.resize_size[0])
        interpolation = str(transforms.interpolation.value)
    except (AttributeError, ValueError, TypeError, IndexError):
        return LibraryInput("those of ImageNet", size=built or DEFAULT_SIZE, fixed=bool(built))
    source = f"torchvision's own of {weights}"
    if built not in (None, size):
        return LibraryInput(source, mean, std, int(built), fixed=True)
    known = interpolation if interpolation in INTERPOLATIONS else "bicubic"
    geometry = Geometry(size, "short", max(resize, size), known)
    return LibraryInput(source, mean, std, size, fixed=built is not None, geometry=geometry)


def _assume_imagenet(_net: nn.Module, _keys: CardKeys) -> LibraryInput:
    return LibraryInput("those of ImageNet")


OWN: dict[str, Callable[[nn.Module, CardKeys], LibraryInput]] = {
    "timm": _read_timm,
    "torchvision": _read_torchvision,
}
"""What each library says of the input of the networks that it builds."""

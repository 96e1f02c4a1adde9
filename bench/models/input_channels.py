"""The channels of a network's input: what it wants, and how images get them."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bench.errors import BenchError
from bench.models.network_guard import guard_network

FILE_CHANNELS = (1, 3)
"""Channels that images in files can give: grey and RGB."""

LUMA = (19595, 38470, 7471)
"""Weights of red, green and blue in grey, in 65536ths, as Pillow's `convert("L")` has them."""

LARGEST_MEAN, LARGEST_STD = 5.0, 5.0
"""Above these a mean or a std is of pixels from 0 to 255. A network that somebody writes may centre
its input off 0..1, so the limits leave room; a card's are narrower.
"""

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase)


def read_constants(
    mean: Any, std: Any, name: str = "the network"
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std as tuples, one number for each channel.

    Raises:
        BenchError: where they are no numbers, of different length, on a scale of 0..255, or where
            a std is not above 0.
    """
    read = [_read_numbers(values) for values in (mean, std)]
    if not all(read) or len(read[0]) != len(read[1]) or min(read[1]) <= 0:
        raise BenchError(
            f"{name}: mean and std need one number for each channel of the image (three for RGB), "
            f"std above 0; got mean={mean}, std={std}."
        )
    if max(read[0]) > LARGEST_MEAN or max(read[1]) > LARGEST_STD:
        raise BenchError(
            f"{name}: mean={mean} and std={std} are no statistics of pixels from 0 to 1, which "
            "cambench normalises; divide those of pixels from 0 to 255 by 255."
        )
    return read[0], read[1]


def _read_numbers(values: Any) -> tuple[float, ...]:
    """Return finite numbers as a tuple, () where they are none; one number stands for itself."""
    several = values if not isinstance(values, (int, float)) else [values]
    if isinstance(several, str):
        return ()
    try:
        numbers = tuple(float(value) for value in several)
    except (TypeError, ValueError):
        return ()
    return numbers if all(math.isfinite(number) for number in numbers) else ()


# --- what the network wants


class _Seen(Exception):  # noqa: N818 - no error: what was looked for has been found
    def __init__(self, wanted: int | None) -> None:
        super().__init__()
        self.wanted = wanted


def check_channels(net: nn.Module, shape: tuple[int, int, int], name: str) -> None:
    """Refuse a mean and std of another length than the network's input has channels.

    Args:
        net: The network; it runs up to its first layer with weights, on zeros.
        shape: (channels, height, width) of the images that it is to be given.
        name: The network's name, for the error.
    """
    wanted = find_channels(net, shape)
    if wanted is not None and wanted != shape[0]:
        raise BenchError(
            f"The network {name} takes images of {wanted} channel{'s' * (wanted != 1)}, and mean "
            f"and std have {shape[0]} number{'s' * (shape[0] != 1)} each (ImageNet's three where "
            f"none are given); give mean and std of {wanted}, as in its training."
        )


def find_channels(net: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """Return how many channels the network wants, None where that cannot be found.

    That is read from the first layer with weights that the image reaches: a convolution, a linear
    patch embedding or a normalisation. Nothing behind that layer runs. A network that checks its
    input before states them (`num_channels`, `in_chans`).
    """
    tensor = next(net.parameters(), None)
    device = torch.device("cpu") if tensor is None else tensor.device

    def look(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], torch.Tensor):
            raise _Seen(_read_layer(module, args[0], shape[0]))

    try:
        with guard_network(net), torch.no_grad():  # which takes the hooks away
            for module in net.modules():
                if isinstance(module, _LAYERS):
                    module.register_forward_pre_hook(look)
            net(torch.zeros(1, *shape, device=device))
    except _Seen as seen:
        return seen.wanted
    except Exception:  # the network's own: it is said where the network is really run
        return _read_statement(net, shape[0])
    return None


def _read_layer(module: nn.Module, given: torch.Tensor, channels: int) -> int | None:
    """Return the image's channels with which a layer would be given what it takes.

    given: what it is given where the image has `channels`; [B,F,...] or, by a linear layer,
    [...,F]. F is a multiple of the channels, also where pixels were moved into channels.
    """
    linear = isinstance(module, nn.Linear)
    takes = _count_taken(module)
    has = given.shape[-1] if linear else given.shape[1] if given.ndim > 1 else 0
    if takes is None or not has or has % channels or takes * channels % has:
        return None
    wanted = takes * channels // has
    # Of an image that was flattened as a whole, the size may be what does not fit.
    return None if linear and given.ndim == 2 and wanted not in FILE_CHANNELS else wanted


def _count_taken(module: nn.Module) -> int | None:
    names = ("in_features", "num_features", "in_channels")
    return next((n for name in names if isinstance(n := getattr(module, name, None), int)), None)


def _read_statement(net: nn.Module, channels: int) -> int | None:
    """Return the channels that a network states which refuses the image, None where it states
    none, or these.
    """
    config = getattr(net, "config", None)
    for owner, key in ((config, "num_channels"), (net, "in_chans"), (net, "num_channels")):
        stated = getattr(owner, key, None)
        if isinstance(stated, int) and stated != channels:
            return stated
    return None


# --- what images give


def convert_channels(pixels: torch.Tensor, channels: int, name: str) -> torch.Tensor:
    """Return pixels [...,C,H,W] in [0,1] with so many channels: RGB becomes grey for networks with
    one.

    Raises:
        BenchError: where they cannot be had of these.
    """
    given = pixels.shape[-3]
    if given == channels:
        return pixels
    if (given, channels) != (3, 1):
        raise BenchError(say_channels(name, channels))
    weights = torch.tensor(LUMA, dtype=torch.float64, device=pixels.device).view(3, 1, 1)
    levels = (pixels.double() * 255).round().mul(weights).sum(-3, keepdim=True)
    return ((levels + 32768) / 65536).floor().float() / 255


def check_file_channels(name: str, channels: int) -> None:
    """Refuse networks that images in files cannot serve."""
    if channels not in FILE_CHANNELS:
        raise BenchError(say_channels(name, channels))


def say_channels(name: str, channels: int) -> str:
    """Return the sentence for networks with other channels than images in files have."""
    return (
        f"The network {name} wants {channels} channels, and images in files have 3 (RGB, or grey "
        f"for networks with 1); give tensors [B,{channels},H,W] to bench.explain and bench.score."
    )


def convert_colour(rgb: Sequence[float], mean: tuple[float, ...], name: str) -> tuple[float, ...]:
    """Return a pixel-space colour in the channels of a network: one number for each of its mean.

    A colour of as many numbers is taken as it is. For one channel an RGB colour becomes its luma.
    For other counts black, white and greys are the same in all channels; any other colour has no
    counterpart, so the network's mean takes its place, which is logged once.
    """
    if len(rgb) == len(mean):
        return tuple(rgb)
    if len(mean) == 1:
        return (find_luma(rgb),)
    if len(set(rgb)) == 1:
        return (rgb[0],) * len(mean)
    _say_replaced(name, len(mean), tuple(rgb))
    return mean


@functools.cache
def _say_replaced(name: str, channels: int, rgb: tuple[float, ...]) -> None:
    """Say once that a network's mean takes the place of a colour."""
    logging.getLogger(__name__).warning(
        "The network %s has %d channels, so its mean takes the place of the RGB colour (%s).",
        name,
        channels,
        ", ".join(f"{value:g}" for value in rgb),
    )


def find_luma(rgb: Sequence[float]) -> float:
    """Return the grey of a pixel-space colour, in [0,1]."""
    return sum(weight * value for weight, value in zip(LUMA, rgb, strict=True)) / 65536

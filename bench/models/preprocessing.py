"""What an explainee knows of its preprocessing where it is not given: stated, or assumed and said.

Networks of `transformers` state more than others: their configuration names a size, and an image
processor lies beside their weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bench.data.geometry import Geometry
from bench.data.input_size import enlarge, find_side, read_size, unify
from bench.errors import BenchError, state_assumption
from bench.models.image_processor import Preprocessing, read_processor
from bench.models.logits_reader import LogitsReader, is_transformers, read_config, read_image_size
from bench.models.named_wrapper import unwrap

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation that is assumed where neither the caller nor the network says one."""

DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Filled:
    """A preprocessing without gaps.

    geometry: None for the explainee's own default.  source: where it is from, "" where the caller
    gave it or the network is none of `transformers`.
    """

    mean: Sequence[float]
    std: Sequence[float]
    size: Any
    geometry: Geometry | None
    source: str = ""


def fill_preprocessing(
    net: nn.Module,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: Any,
    geometry: Geometry | None,
    processor: Any,
) -> Filled:
    """Return the preprocessing with what was not given (None) filled in.

    From `processor`, else from the image processor in the folder that the network was loaded from,
    else ImageNet's mean and std, the configuration's size or 224. What is assumed of a network of
    `transformers` is a warning.
    """
    own = is_transformers(unwrap(net))
    if processor is not None:
        return _fill_from(net, _read(net, processor), "image processor", mean, std, size, geometry)
    given = mean is not None and std is not None
    found, place = _find_processor(net) if own and not given else (None, "")
    if found is not None:
        source = f"image processor of {place}"
        return _fill_from(net, _read(net, found), source, mean, std, size, geometry)
    stated = read_image_size(net)
    side = size if size is not None else unify(stated) if stated else DEFAULT_SIZE
    source = ""
    if own and not given:
        source = "assumed: ImageNet's mean and std"
        state_assumption(
            f"No image processor of {_title(net)} was found, so ImageNet's mean "
            f"{IMAGENET_MEAN} and std {IMAGENET_STD} are assumed at size {side}; give "
            "processor=..., or mean and std."
        )
    mean = IMAGENET_MEAN if mean is None else mean
    return Filled(mean, IMAGENET_STD if std is None else std, side, geometry, source)


def _fill_from(
    net: nn.Module,
    found: Preprocessing,
    source: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: Any,
    geometry: Geometry | None,
) -> Filled:
    """Return a processor's preprocessing, with what was given in its place."""
    own = found.geometry
    wanted = own.size if size is None else read_size(size, _title(net))
    if wanted != own.size and own.resize != "none":
        scale = find_side(own.size) / find_side(own.resize_size)
        own = replace(own, size=wanted, resize_size=enlarge(wanted, scale))
    if found.bgr and isinstance(net, LogitsReader):
        net.bgr = True
    mean = found.mean if mean is None else mean
    return Filled(mean, found.std if std is None else std, wanted, geometry or own, source)


def _read(net: nn.Module, processor: Any) -> Preprocessing:
    if not callable(processor) or not hasattr(processor, "size"):
        raise BenchError(
            f"processor is {type(processor).__name__}; give an image processor of transformers "
            "(AutoImageProcessor.from_pretrained), or mean, std and size."
        )
    return read_processor(processor, _title(net))


def _find_processor(net: nn.Module) -> tuple[Any, str]:
    """Return the image processor beside the weights that a network was loaded from, and the place;
    nothing is downloaded.
    """
    place = str(getattr(read_config(net), "name_or_path", "") or "")
    if not place or (Path(place).exists() and not Path(place).is_dir()):
        return None, ""
    try:
        found = sys.modules["transformers"].AutoImageProcessor.from_pretrained(
            place, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError):  # none there, or none that can be made
        return None, ""
    return found, place


def _title(net: nn.Module) -> str:
    return type(unwrap(net)).__name__


def check_network(net: Any) -> nn.Module:
    """Return what is a torch network; raise BenchError, with how to make one, for anything else."""
    if isinstance(net, nn.Module):
        return net
    inner = getattr(net, "model", None)
    if isinstance(inner, nn.Module):
        raise BenchError(
            f"Explainee takes a torch network, and {type(net).__name__} is a pipeline around one; "
            "give its network (PIPELINE.model) and processor=PIPELINE.image_processor."
        )
    if isinstance(net, (str, Path)):
        raise BenchError(
            f"Explainee takes a torch network, and {str(net)!r} is a name; give "
            f"bench.load_model({str(net)!r})."
        )
    raise BenchError(
        f"Explainee takes a torch network (nn.Module), not {type(net).__name__}; load its weights "
        "into a network first."
    )

"""The preprocessing of an image processor of `transformers`, as a geometry and a normalisation.

Processors differ in what their fields mean. So a processor is run on two drawn images, and of the
readings of its fields the one that gives its pixels is taken; if none does, it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from bench.data.geometry import Geometry
from bench.data.input_size import split_size
from bench.errors import BenchError
from bench.randomness import generator, smooth_field

INTERPOLATION_NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers, as `resample` states them."""

DRAWN = ((300, 400), (420, 310))
"""Heights and widths of the two drawn images, in pixels; larger where a crop needs it."""

TOLERANCE = 0.5
"""Mean difference to the processor's pixels up to which a reading is the right one, in levels of
255: libraries round and antialias differently, by far less on these images."""


@dataclass(frozen=True)
class Preprocessing:
    """What a processor does: resize and crop, then (pixels - mean) / std on pixels in [0,1].

    bgr: whether it turns the order of the channels.
    """

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


def read_processor(processor: Any, name: str) -> Preprocessing:
    """Return the preprocessing of an image processor; name: of the network, for errors.

    Raises BenchError where cambench has no such preprocessing.
    """
    mean, std = _read_normalisation(processor, name)
    bgr = bool(getattr(processor, "do_flip_channel_order", False))
    if bgr and len({*mean}) + len({*std}) > 2:
        raise BenchError(
            f"The image processor of {name} turns the channels' order and normalises each "
            "differently, which cambench cannot express; give mean, std and size yourself."
        )
    readings = [
        Preprocessing(geometry, mean, std, bgr) for geometry in _list_geometries(processor, name)
    ]
    side = max((max(split_size(r.geometry.resize_size)) for r in readings), default=0)
    images = [_draw_image(side, *shape) for shape in DRAWN]
    wanted = [_run(processor, image, name) for image in images]
    best, difference = None, float("inf")
    for reading in readings:
        found = max(measure_difference(reading, *pair) for pair in zip(images, wanted, strict=True))
        if found < difference:
            best, difference = reading, found
    if best is None or difference > TOLERANCE:
        shapes = " and ".join("x".join(map(str, pixels.shape)) for pixels in wanted)
        raise BenchError(
            f"The image processor of {name} ({type(processor).__name__}, pixels of {shapes}) "
            "does not resize, crop and normalise as cambench does; give mean, std and "
            "size yourself."
        )
    return best


def measure_difference(
    reading: Preprocessing, image: npt.NDArray[np.uint8], wanted: torch.Tensor
) -> float:
    """Return the mean difference of a reading's pixels to a processor's [3,h,w], in levels of 255;
    infinite where the shapes differ.
    """
    ours = apply_preprocessing(reading, image)
    if ours.shape != wanted.shape:
        return float("inf")
    levels = torch.tensor(reading.std).view(3, 1, 1) * 255
    return float(((ours - wanted).abs() * levels).mean())


def apply_preprocessing(reading: Preprocessing, image: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Return what the network gets of an image uint8 [H,W,3]: [3,size,size] float32."""
    pixels = torch.tensor(reading.geometry.frame(image)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (reading.mean, reading.std))
    return ((pixels - mean) / std).flip(0) if reading.bgr else (pixels - mean) / std


# --- what the fields say


def _list_geometries(processor: Any, name: str) -> Iterator[Geometry]:
    """Yield the geometries that the fields of a processor may mean."""
    sides = _read_size(getattr(processor, "size", None))
    crop = _read_size(getattr(processor, "crop_size", None))
    cropped = bool(getattr(processor, "do_center_crop", False))
    resized = bool(getattr(processor, "do_resize", True))
    kernel = _read_kernel(processor, name) if resized else "bicubic"
    target = crop if cropped else sides
    size = target.get("height", target.get("shortest_edge"))
    if size is None:
        return
    if target.get("width", size) != size:
        yield from _list_wide((size, target["width"]), sides, cropped, resized, kernel)
        return
    if not resized:
        if cropped:
            yield Geometry(size, "none", size, kernel)
        return
    for resize, side in _list_resizes(sides, getattr(processor, "crop_pct", None)):
        if side >= size:
            yield Geometry(size, resize, side, kernel)


def _list_wide(
    frame: tuple[int, int], sides: Mapping[str, int], cropped: bool, resized: bool, kernel: str
) -> Iterator[Geometry]:
    """Yield the geometries that a frame (height, width) of unequal sides may mean."""
    edge = sides.get("shortest_edge")
    if not resized:
        if cropped:
            yield Geometry(frame, "none", frame, kernel)
    elif not cropped:
        yield Geometry(frame, "squash", frame, kernel)
    elif edge is not None and edge >= max(frame):
        yield Geometry(frame, "short", edge, kernel)


def _list_resizes(sides: Mapping[str, int], share: float | None) -> Iterator[tuple[str, int]]:
    """Yield (resize, resize_size) that a size may mean."""
    if sides.get("height") is not None and sides.get("height") == sides.get("width"):
        yield "squash", sides["height"]
    edge = sides.get("shortest_edge", sides.get("height"))
    if edge is None:
        return
    if share:  # ConvNeXT, PoolFormer
        yield "short", int(edge / share)
    yield "short", edge
    yield "squash", edge
    yield "short", int(256 / 224 * edge)  # LeViT


def _read_size(size: Any) -> dict[str, int]:
    if isinstance(size, int):
        return {"height": size, "width": size, "shortest_edge": size}
    names = ("height", "width", "shortest_edge")
    found = {n: size.get(n) if isinstance(size, Mapping) else getattr(size, n, None) for n in names}
    return {n: int(side) for n, side in found.items() if side is not None}


def _read_kernel(processor: Any, name: str) -> str:
    stated = getattr(processor, "resample", None)
    number = int(2 if stated is None else getattr(stated, "value", stated))
    if number not in INTERPOLATION_NAMES:
        raise BenchError(
            f"The image processor of {name} resizes with resample={number}, which cambench does "
            f"not have; it has {', '.join(INTERPOLATION_NAMES.values())}."
        )
    return INTERPOLATION_NAMES[number]


def _read_normalisation(processor: Any, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std on pixels in [0,1], from rescaling, its offset and normalisation."""

    def triple(value: Any) -> tuple[float, ...]:
        given = [value] * 3 if isinstance(value, (int, float)) else list(value)
        if len(given) != 3:
            raise BenchError(
                f"The image processor of {name} normalises {len(given)} channels; cambench reads "
                "images of three."
            )
        return tuple(float(v) for v in given)

    mean, std = triple(0), triple(1)
    if getattr(processor, "do_normalize", False):
        mean, std = triple(processor.image_mean), triple(processor.image_std)
    rescales = bool(getattr(processor, "do_rescale", True))
    scale = 255 * float(getattr(processor, "rescale_factor", 1 / 255)) if rescales else 255.0
    if abs(scale - 1) > 1e-6:
        mean, std = tuple(m / scale for m in mean), tuple(s / scale for s in std)
    if rescales and getattr(processor, "rescale_offset", False):
        mean = tuple(m + 1 / scale for m in mean)
    if getattr(processor, "include_top", False):  # EfficientNet divides a second time
        std = tuple(s * t for s, t in zip(std, triple(processor.image_std), strict=True))
    return mean, std


# --- running it


def _draw_image(side: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a smooth coloured image of at least `side` pixels, finer along one axis."""
    grown = max(1.0, 1.25 * side / min(height, width))
    shape = round(height * grown), round(width * grown)
    rng = generator(0, "processor", f"{height}x{width}")
    channels = [smooth_field(rng, *shape, cells=cells) for cells in (5, 9, 14)]
    pixels: npt.NDArray[np.uint8] = (torch.stack(channels, -1) * 255).byte().numpy()
    return pixels


def _run(processor: Any, image: npt.NDArray[np.uint8], name: str) -> torch.Tensor:
    """Return the pixels [C,h,w] that a processor makes of an image."""
    try:
        made = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
        return torch.as_tensor(np.asarray(made)[0]).float()
    except Exception as error:  # each processor has its own
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise BenchError(
            f"The image processor of {name} ({type(processor).__name__}) cannot be run on an image "
            f"({reason}); give mean, std and size yourself."
        ) from error

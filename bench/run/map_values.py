"""Values of maps made elsewhere: any real numbers, brought to floats that keep their ranking.

float32 holds what most tools write. What it would round (int64, float64 far from 1, small steps on
a large offset) stays float64. What float64 cannot hold either is moved by as little as keeps
distinct values distinct. No value loses its sign, and no score here depends on a map's scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.errors import BenchError
from bench.size_limits import check_map_pixels

Map = npt.NDArray[np.floating[Any]]

LARGEST_POWER = 90
"""Maps whose largest value is beyond 2 to the power of this, or below its inverse, are scaled."""

SPAN_OF_STEPS = 2**32
"""Whole numbers that span no more than this keep their steps on a smaller offset."""

OFFSET = 2**52
"""The offset on which float64 still holds every whole step."""


def read_array(value: object, item: str) -> npt.NDArray[Any]:
    """Return a map as it is given as an array; what is masked becomes NaN, as not computed.

    Args:
        value: An array, masked array, tensor (also with a gradient) or nested list.
        item: What the map is of, for errors.

    Raises:
        BenchError: The value is no array of numbers.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().to_dense() if value.is_sparse else value.detach()
        value = value.float() if value.dtype == torch.bfloat16 else value
        return np.asarray(value.cpu().resolve_conj().resolve_neg().numpy())
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value) and value.dtype.kind in "fiub":
            return np.where(np.ma.getmaskarray(value), np.nan, value.data.astype(np.float64))
        return np.asarray(value.data)
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise BenchError(
            f"The map of {item!r} is no array of numbers ({error}); a map is one array [h,w] per "
            "item."
        ) from None


def check_map(array: npt.NDArray[Any], item: str) -> Map:
    """Return a map [h,w] as float32, or as float64 where float32 would round it.

    Args:
        array: [h,w], [1,h,w] or [h,w,1] of real numbers.
        item: What the map is of, for errors.

    Raises:
        BenchError: The array has another shape, or holds no real numbers.
    """
    plane = array
    while plane.ndim > 2 and 1 in (plane.shape[0], plane.shape[-1]):
        plane = plane[0] if plane.shape[0] == 1 else plane[..., 0]
    if plane.ndim != 2 or not plane.size:
        raise BenchError(
            f"The map of {item!r} has shape {array.shape}; a map is one array [h,w] per item, one "
            "value per pixel."
        )
    if plane.dtype.kind not in "fiub":
        raise BenchError(f"The map of {item!r} holds {plane.dtype}; a map holds real numbers.")
    check_map_pixels(plane.shape, item)
    with np.errstate(over="ignore", invalid="ignore"):
        values = scale_values(hold_values(plane))
        single = values.astype(np.float32)
    exact = np.array_equal(single.astype(np.float64), values, equal_nan=True)
    return np.ascontiguousarray(single if exact else values)


def hold_values(plane: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return values as float64 in which distinct values stay distinct."""
    held = plane.astype(np.float64)
    if plane.dtype.kind not in "iu" and plane.dtype.itemsize <= 8:
        return held
    if plane.dtype.kind in "iu":
        low, high = int(plane.min()), int(plane.max())
        if max(abs(low), abs(high)) <= OFFSET:
            return held
        if high - low <= SPAN_OF_STEPS and (low > 0 or high < 0):
            # So large an offset weighs the same, and its steps are whole again.
            start, offset = (plane.min(), OFFSET) if low > 0 else (plane.max(), -OFFSET)
            steps: npt.NDArray[np.float64] = (plane - start).astype(np.float64) + offset
            return steps
    if count_distinct(held) == count_distinct(plane):
        return held
    return keep_distinct(held, plane)


def scale_values(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return values times a power of two that brings their largest near 1, where it is far off."""
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    power = int(np.frexp(largest)[1]) if largest > 0 else 0
    if abs(power) <= LARGEST_POWER:
        return values
    scaled = np.ldexp(values, -power)
    return (
        scaled
        if count_distinct(scaled) == count_distinct(values)
        else (keep_distinct(scaled, values))
    )


def keep_distinct(
    values: npt.NDArray[np.float64], source: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Return values moved by as few last digits as make those of distinct sources distinct.

    Args:
        values: Rounded values [h,w], in the order of their sources.
        source: The values before rounding [h,w].
    """
    result = values.copy()
    for positive in (True, False):
        side = (source > 0 if positive else source < 0) & np.isfinite(values)
        if not side.any():
            continue
        known, places = np.unique(source[side], return_inverse=True)
        known_values = np.zeros(len(known))
        known_values[places.ravel()] = np.abs(values[side])
        rising = known_values if positive else known_values[::-1]
        # The bits of floats above zero are whole numbers in the same order.
        steps = np.arange(1, len(rising) + 1)
        bits = np.maximum.accumulate(rising.view(np.int64) - steps) + steps
        moved = np.maximum(bits, steps).view(np.float64)
        moved = moved if positive else -moved[::-1]
        result[side] = moved[places.ravel()]
    return result


def count_distinct(values: npt.NDArray[Any]) -> int:
    """Return how many distinct values there are."""
    return len(np.unique(values))


def is_beyond_float32(one: Map) -> bool:
    """Return whether float32 would merge distinct values of a map, or make them infinite."""
    if one.dtype == np.float32:
        return False
    with np.errstate(over="ignore"):
        single = one.astype(np.float32)
    return count_distinct(single) < count_distinct(one)


def stack_given(maps: object, count: int) -> torch.Tensor:
    """Return maps that are given for a batch as [B,h,w], float64 where float32 would round any.

    Raises:
        BenchError: The maps are not one array [h,w] per image.
    """
    array = read_array(maps, "the maps given")
    if array.ndim < 3 or len(array) != count:
        raise BenchError(
            f"maps has shape {array.shape} for {count} images; give one map [H,W] per image."
        )
    checked = [check_map(one, f"image {number}") for number, one in enumerate(array)]
    if len({one.shape for one in checked}) > 1:
        raise BenchError("maps holds maps of several shapes; give one map [H,W] per image.")
    kind = np.result_type(*checked)
    return torch.from_numpy(np.stack([one.astype(kind) for one in checked]))

"""The drawing of a scene: a composition of objects and distractors on a cluttered background.

A class is a shape AND a texture: each of the 5 shapes comes with two of the 5 textures, each
texture on two shapes, so neither alone tells the class. Distractors are the same shapes with other
textures, or plain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data.scene_pixels import (
    AREA_PER_SQUARE,
    DARK,
    FULL,
    LIGHT,
    PIXEL,
    PLAIN,
    REACH,
    SAMPLES,
    SHAPES,
    SIDE,
    TEXTURES,
    TURN,
    Bools,
    RandomBits,
    Shorts,
    count_per_pixel,
    draw_ground,
    draw_texture,
    is_inside,
    jitter_colour,
    light_canvas,
    rotate,
)
from bench.types import UInt8Image

# Class 2s is shape s with texture s; class 2s+1 is shape s with texture s+1 (mod 5).
CLASSES = tuple(
    (shape, (shape + step) % len(TEXTURES)) for shape in range(len(SHAPES)) for step in (0, 1)
)
CLASS_NAMES = tuple(f"{TEXTURES[texture]} {SHAPES[shape]}" for shape, texture in CLASSES)

# What distractors are: every shape with each texture that makes it no class, or plain.
NO_CLASS = tuple(
    (shape, texture)
    for shape in range(len(SHAPES))
    for texture in (*range(len(TEXTURES)), PLAIN)
    if (shape, texture) not in CLASSES
)

# --- the composition: areas in pixels of 96 * 96 = 9216
# ---------------------------------------------------------------
_ALONE = (370, 1850)  # 4 to 20 % of the image
_LARGE = (1850, 2800)  # a few: one in _LARGE_ONE_IN
_LARGE_ONE_IN = 16
_SHARED = (370, 1200)  # where an image has two objects
_OTHER = (200, 900)  # a distractor
_OTHERS = (1, 3)  # how many distractors
_VISIBLE = (
    7,
    10,
)  # at least 7/10 of an object is seen: not under a distractor, not outside the image
_TRIES = (
    16  # layouts tried before distractors go below the objects, and again before they go altogether
)


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    image: uint8 [96,96,3].  labels: the class of each object.  masks: the visible pixels of each
    object, bool [96,96].
    """

    image: UInt8Image
    labels: tuple[int, ...]
    masks: tuple[Bools, ...]

    def truth(self, label: int) -> tuple[npt.NDArray[np.float32], Bools]:
        """Return the tight boxes [n,4] (xyxy edges) of this class's objects and the union of their
        masks [96,96].
        """
        masks = [mask for mask, own in zip(self.masks, self.labels, strict=True) if own == label]
        return np.array(
            [find_tight_box(mask) for mask in masks], dtype=np.float32
        ), np.logical_or.reduce(masks)


def draw_scene(seed: int, index: int, labels: tuple[int, ...]) -> Scene:
    """Return the scene of (seed, index) with one object for each of `labels`; equal arguments give
    equal bytes.
    """
    bits = RandomBits(seed, index)
    canvas = draw_ground(bits)
    objects = [
        _draw_object(bits, CLASSES[label], _object_area(bits, len(labels))) for label in labels
    ]
    others = [
        _draw_object(bits, bits.choose(NO_CLASS), bits.draw_between(*_OTHER))
        for _ in range(bits.draw_between(*_OTHERS))
    ]
    patches = objects + others
    places, order, owner = _arrange(bits, patches, len(objects))
    for k in order:
        _paint(canvas, patches[k], places[k])
    masks = tuple(owner == k for k in range(len(objects)))
    return Scene(light_canvas(bits, canvas), labels, masks)


# --- drawing
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Patch:
    """A drawn object before it has a place.

    cover: samples covered per pixel, 0..FULL, int16 [n,n].  ink: sum of the covered samples'
    colours, int16 [n,n,3]. solid: pixels covered by half or more, bool [n,n].
    """

    cover: Shorts
    ink: Shorts
    solid: Bools


Place = tuple[int, int]  # (top, left) of a patch in the image; may be negative


def _object_area(bits: RandomBits, count: int) -> int:
    """Return an object's area in pixels; the smaller of two draws, so that small objects are more
    frequent.
    """
    if count > 1:
        return bits.draw_between(*_SHARED)
    if bits.draw_below(_LARGE_ONE_IN) == 0:
        return bits.draw_between(*_LARGE)
    return min(bits.draw_between(*_ALONE), bits.draw_between(*_ALONE))


def _draw_object(bits: RandomBits, kind: tuple[int, int], area: int) -> _Patch:
    """Return an object of a kind (shape, texture) and area (pixels) in random colours and at random
    angles.
    """
    shape, texture = kind
    radius = math.isqrt(area * 1000 * PIXEL * PIXEL // AREA_PER_SQUARE[shape])
    half = radius * REACH[shape] // (1024 * PIXEL) + 1
    span = 2 * half * SAMPLES
    # Sample centres, from the patch's centre, in fixed point.
    steps = (2 * np.arange(span, dtype=np.int32) + 1 - span) * (PIXEL // (2 * SAMPLES))
    inside = is_inside(shape, *rotate(steps, bits.draw_below(TURN)), radius)
    lit = draw_texture(bits, texture, steps) & inside
    cover, light = count_per_pixel(inside), count_per_pixel(lit)
    inks = [jitter_colour(bits, bits.choose(LIGHT)), jitter_colour(bits, bits.choose(DARK))]
    first, second = (inks[k] for k in bits.shuffle(2))
    ink = light[:, :, None] * first + (cover - light)[:, :, None] * second
    return _Patch(cover, ink, 2 * cover >= FULL)


# --- composition
# --------------------------------------------------------------------------------------------------
def _arrange(
    bits: RandomBits, patches: list[_Patch], objects: int
) -> tuple[list[Place], list[int], Shorts]:
    """Return places, drawing order and owner [96,96] (index of the patch seen at a pixel, -1:
    ground).

    The first `objects` patches are objects: layouts are drawn until enough of each is seen.
    """
    everything = len(patches)
    tries = 0
    while True:
        places = [_place(bits, patch) for patch in patches]
        order = bits.shuffle(everything)
        if tries >= _TRIES:  # distractors below the objects
            order.sort(key=lambda k: k < objects)
        if tries >= 2 * _TRIES:
            order = [k for k in order if k < objects]
        owner = np.full((SIDE, SIDE), -1, dtype=np.int16)
        for k in order:
            here, there = _windows(patches[k].solid.shape[0], places[k])
            owner[here][patches[k].solid[there]] = k
        if all(_is_seen(owner == k, patches[k]) for k in range(objects)):
            return places, order, owner
        tries += 1


def _is_seen(visible: Bools, patch: _Patch) -> bool:
    part, whole = _VISIBLE
    return int(np.count_nonzero(visible)) * whole >= int(np.count_nonzero(patch.solid)) * part


def _place(bits: RandomBits, patch: _Patch) -> Place:
    """Return a random place for a patch: its centre anywhere, but no closer to the border than a
    quarter of its span.

    Uniform places would favour the middle, where every large object reaches, and with it maps that
    know nothing but the middle; so in 3 of 4 draws the outer of two places is taken.
    """
    n = patch.solid.shape[0]
    margin = n // 4
    spots = [
        (bits.draw_between(margin, SIDE - margin), bits.draw_between(margin, SIDE - margin))
        for _ in range(2)
    ]
    if bits.draw_below(4):
        spots.sort(
            key=lambda spot: max(abs(2 * spot[0] - SIDE), abs(2 * spot[1] - SIDE)), reverse=True
        )
    y, x = spots[0]
    return y - n // 2, x - n // 2


def _windows(n: int, place: Place) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the window of the image that an n x n patch covers, and the patch's own window of the
    same size.
    """
    starts = [max(0, start) for start in place]
    ends = [min(SIDE, start + n) for start in place]
    here = [slice(a, b) for a, b in zip(starts, ends, strict=True)]
    there = [slice(a - start, b - start) for a, b, start in zip(starts, ends, place, strict=True)]
    return (here[0], here[1]), (there[0], there[1])


def _paint(canvas: Shorts, patch: _Patch, place: Place) -> None:
    here, there = _windows(patch.solid.shape[0], place)
    canvas[here] = (
        canvas[here] * (FULL - patch.cover[there])[:, :, None] + patch.ink[there]
    ) // FULL


def find_tight_box(mask: Bools) -> tuple[int, int, int, int]:
    """Return the tight box (xyxy edges) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

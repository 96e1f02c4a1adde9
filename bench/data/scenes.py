"""Scenes: generated images with exact masks and boxes, the same bytes on any machine.

An image shows one object (sometimes two of the same class; in `scenes-pairs` two of two classes)
among distractors, on a cluttered background. A class is a shape AND a texture: each of the 5 shapes
comes with two of the 5 textures, each texture on two shapes, so neither alone tells the class.
Distractors are the same shapes with other textures, or plain.

Drawing uses only whole numbers: raw PCG64 bits, fixed-point coordinates and a hard-coded cosine
table. No float takes part in it, so that no library version, compiler or processor can move a
pixel.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bench.data.manifest import NONE, Manifest
from bench.data.subset import Subset
from bench.errors import BenchError
from bench.types import Sample, UInt8Image

SIDE = 96
SHAPES = ("disc", "square", "triangle", "star", "cross")
TEXTURES = ("striped", "checked", "dotted", "ringed", "rayed")
PLAIN = len(TEXTURES)
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
HEAD = 8  # items whose bytes are checked whenever a subset of scenes is opened

Ints = npt.NDArray[np.int32]
Shorts = npt.NDArray[np.int16]
Bools = npt.NDArray[np.bool_]
Colour = tuple[int, int, int]
T = TypeVar("T")

# --- fixed point
# --------------------------------------------------------------------------------------------------
TURN = 64  # angles are whole 64ths of a turn
# round(1024 * cos(2 pi k / 64)), k = 0..16: the first quarter, from which the others follow by
# sign.
_QUARTER = (1024, 1019, 1004, 980, 946, 903, 851, 792, 724, 650, 569, 483, 392, 297, 200, 100, 0)
# 1024 * (sin, -cos) of 72 degrees * k: outward normals of the five lines of a pentagram.
_STAR = ((0, -1024), (974, -316), (602, 828), (-602, 828), (-974, -316))
# 1024 * the outward normals of a triangle.
_TRIANGLE = ((0, 1024), (887, -512), (-887, -512))
PIXEL = 128  # fixed-point steps per pixel
SAMPLES = 2  # samples per pixel side; a pixel is the mean of SAMPLES^2 samples
FULL = SAMPLES * SAMPLES
# 1000 * area / radius^2 of each shape, to give all shapes the same range of areas (radius: see
# _inside).
_AREA = (3142, 4000, 1299, 1123, 2362)
# How far each shape reaches, in 1/1024 of its radius: the square's corners stick out.
_REACH = (1024, 1448, 1024, 1024, 1093)

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

# --- the look
# --------------------------------------------------------------------------------------------------
_PERIOD = (3 * PIXEL, 5 * PIXEL)  # width of a stripe, check, ring, or half the distance of dots
_DOT = (45, 100)  # a dot's radius^2 over that of the cell's inscribed circle
_JITTER = 14  # of colours, in 255ths
_BRIGHTNESS = (48, 76)  # 64ths
_TINT = 5  # 64ths, per channel
_GRAIN = (8, 28)  # peak to peak, in 255ths
_DARK: tuple[Colour, ...] = (
    (24, 34, 74),
    (92, 20, 46),
    (16, 74, 66),
    (70, 34, 98),
    (108, 48, 12),
    (30, 30, 34),
    (12, 66, 112),
    (58, 74, 20),
    (120, 22, 22),
    (46, 26, 18),
)
_LIGHT: tuple[Colour, ...] = (
    (246, 214, 92),
    (248, 168, 140),
    (150, 224, 214),
    (240, 236, 224),
    (184, 214, 250),
    (206, 232, 130),
    (248, 186, 220),
    (250, 176, 66),
    (214, 196, 248),
    (170, 236, 160),
)
_GROUND: tuple[Colour, ...] = (
    (96, 110, 92),
    (150, 132, 108),
    (112, 124, 142),
    (176, 166, 148),
    (84, 92, 112),
    (132, 112, 122),
    (142, 152, 124),
    (110, 92, 78),
    (160, 150, 166),
    (98, 128, 130),
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
            [_tight_box(mask) for mask in masks], dtype=np.float32
        ), np.logical_or.reduce(masks)


def draw_scene(seed: int, index: int, labels: tuple[int, ...]) -> Scene:
    """Return the scene of (seed, index) with one object for each of `labels`; equal arguments give
    equal bytes.
    """
    bits = _Bits(seed, index)
    canvas = _ground(bits)
    objects = [
        _draw_object(bits, CLASSES[label], _object_area(bits, len(labels))) for label in labels
    ]
    others = [
        _draw_object(bits, bits.choose(NO_CLASS), bits.between(*_OTHER))
        for _ in range(bits.between(*_OTHERS))
    ]
    patches = objects + others
    places, order, owner = _arrange(bits, patches, len(objects))
    for k in order:
        _paint(canvas, patches[k], places[k])
    masks = tuple(owner == k for k in range(len(objects)))
    return Scene(_light(bits, canvas), labels, masks)


def object_labels(seed: int, index: int, pairs: bool) -> tuple[int, ...]:
    """Return the classes of a scene's objects: one, in every eighth scene or so two of the same;
    pairs: two classes.

    Classes go round by index, so every stretch of a subset is balanced.
    """
    n = len(CLASSES)
    first = index % n
    if pairs:
        return first, (first + 1 + index // n % (n - 1)) % n
    # Another stream than the drawing's, so that the labels are known without it.
    twice = _Bits(seed, index, purpose=1).below(8) == 0
    return (first, first) if twice else (first,)


def items(name: str, size: int, pairs: bool) -> tuple[list[str], list[str], list[int]]:
    """Return (ids, image ids, labels) of a subset of `size` images, in its fixed order.

    In pairs each image stands once per class, as `name-000012#3` of the image `name-000012`.
    """
    ids, image_ids, labels = [], [], []
    for index in range(size):
        image_id = f"{name}-{index:06d}"
        for label in object_labels(0, index, pairs=True) if pairs else (index % len(CLASSES),):
            ids.append(f"{image_id}#{label}" if pairs else image_id)
            image_ids.append(image_id)
            labels.append(label)
    return ids, image_ids, labels


class ScenesSource:
    """Scenes as a source of a `Subset`: drawn when asked for, never stored."""

    has_boxes = True
    has_masks = True
    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)

    def __init__(self, name: str, seed: int, size: int, pairs: bool) -> None:
        self.seed = seed
        self.pairs = pairs
        self.has_others = pairs
        ids, image_ids, labels = items(name, size, pairs)
        self.ids, self.image_ids = tuple(ids), tuple(image_ids)
        self.labels = np.array(labels, dtype=np.int64)

    def read(self, position: int) -> Sample:
        """Return the sample at a position of the fixed order."""
        index = position // 2 if self.pairs else position
        label = int(self.labels[position])
        scene = draw_scene(self.seed, index, object_labels(self.seed, index, self.pairs))
        boxes, mask = scene.truth(label)
        sample = Sample(
            self.ids[position], self.image_ids[position], scene.image, label, boxes, mask
        )
        if not self.pairs:
            return sample
        (other,) = set(scene.labels) - {label}
        return dataclasses.replace(sample, others=scene.truth(other)[1], other_label=other)

    def attribution(self, position: int) -> str | None:
        """Return None: nobody took these pictures."""
        return None


def open_scenes(manifest: Manifest, data_root: Path | None = None) -> Subset:
    """Return the subset of a manifest of kind "scenes".

    Raises BenchError where its first items are not, byte for byte, what the manifest says.
    """
    source = ScenesSource(manifest.name, manifest.seed, manifest.size, manifest.pairs)
    calibrating = None if manifest.calibration == NONE else manifest.calibration
    subset = Subset(
        manifest.name, manifest, source, tuple(range(len(source.ids))), calibrating, data_root
    )
    if manifest.sha256_head:
        found = scenes_digest(subset.limit(HEAD))
        if found != manifest.sha256_head:
            raise BenchError(
                f"The generated images of the subset {manifest.name} are not those of its manifest"
                f" (sha256 {found[:12]} instead of {manifest.sha256_head[:12]}): this cambench or "
                "this numpy draws"
                " differently, so its numbers could not be compared."
            )
    return subset


def scenes_digest(samples: Iterable[Sample]) -> str:
    """Return the sha256 (64 hex digits) over image, mask and label of the samples, in their
    order.
    """
    total = hashlib.sha256()
    for sample in samples:
        total.update(sample.image.tobytes())
        if sample.mask is not None:
            total.update(sample.mask.tobytes())
        total.update(sample.label.to_bytes(8, "little"))
    return total.hexdigest()


# --- random whole numbers
# ---------------------------------------------------------------------------------------------
class _Bits:
    """Whole numbers from the raw PCG64 stream of (seed, index, purpose); numpy keeps this stream
    fixed for ever.
    """

    def __init__(self, seed: int, index: int, purpose: int = 0) -> None:
        self._source = np.random.PCG64([seed, index, purpose])

    def below(self, n: int) -> int:
        """Return a number in 0..n-1."""
        return ((int(self._source.random_raw()) >> 32) * n) >> 32

    def between(self, low: int, high: int) -> int:
        """Return a number in low..high, both included."""
        return low + self.below(high - low + 1)

    def choose(self, options: tuple[T, ...]) -> T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def shuffled(self, n: int) -> list[int]:
        """Return 0..n-1 in random order."""
        keys = [(self.below(1 << 32), i) for i in range(n)]
        return [i for _, i in sorted(keys)]

    def octets(self, *shape: int) -> Shorts:
        """Return random bytes 0..255 of this shape, as int16."""
        count = math.prod(shape)
        raw = np.asarray(
            self._source.random_raw(-(-count // 8)), dtype="<u8"
        )  # the same bytes on any processor
        return raw.view(np.uint8)[:count].reshape(shape).astype(np.int16)


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


def _object_area(bits: _Bits, count: int) -> int:
    """Return an object's area in pixels; the smaller of two draws, so that small objects are more
    frequent.
    """
    if count > 1:
        return bits.between(*_SHARED)
    if bits.below(_LARGE_ONE_IN) == 0:
        return bits.between(*_LARGE)
    return min(bits.between(*_ALONE), bits.between(*_ALONE))


def _draw_object(bits: _Bits, kind: tuple[int, int], area: int) -> _Patch:
    """Return an object of a kind (shape, texture) and area (pixels) in random colours and at random
    angles.
    """
    shape, texture = kind
    radius = math.isqrt(area * 1000 * PIXEL * PIXEL // _AREA[shape])
    half = radius * _REACH[shape] // (1024 * PIXEL) + 1
    span = 2 * half * SAMPLES
    # Sample centres, from the patch's centre, in fixed point.
    steps = (2 * np.arange(span, dtype=np.int32) + 1 - span) * (PIXEL // (2 * SAMPLES))
    inside = _inside(shape, *_rotated(steps, bits.below(TURN)), radius)
    lit = _texture(bits, texture, steps) & inside
    cover, light = _per_pixel(inside), _per_pixel(lit)
    inks = [_jittered(bits, bits.choose(_LIGHT)), _jittered(bits, bits.choose(_DARK))]
    first, second = (inks[k] for k in bits.shuffled(2))
    ink = light[:, :, None] * first + (cover - light)[:, :, None] * second
    return _Patch(cover, ink, 2 * cover >= FULL)


def _rotated(steps: Ints, angle: int) -> tuple[Ints, Ints]:
    """Return the coordinates (u, v) [n,n] of all samples in a frame turned by `angle` 64ths of a
    turn.
    """
    cosine, sine = _cosine(angle), _cosine(angle - TURN // 4)
    along, across = steps * cosine, steps * sine
    u = (along[None, :] + across[:, None]) >> 10
    v = (along[:, None] - across[None, :]) >> 10
    return u, v


def _cosine(angle: int) -> int:
    """Return 1024 * cos(2 pi angle / 64)."""
    k = angle % TURN
    k = min(k, TURN - k)
    return _QUARTER[k] if k <= TURN // 4 else -_QUARTER[TURN // 2 - k]


def _inside(shape: int, u: Ints, v: Ints, radius: int) -> Bools:
    """Return which samples (u, v) [n,n] lie in a shape.

    radius: of the disc; the square's half side; the circumradius of triangle and star; the cross's
    half length.
    """
    name = SHAPES[shape]
    if name == "disc":
        return u * u + v * v <= radius * radius
    if name == "square":
        return (abs(u) <= radius) & (abs(v) <= radius)
    if name == "triangle":
        reach = radius * 512  # the inradius is half the circumradius
        inside = np.ones(u.shape, dtype=np.bool_)
        for a, b in _TRIANGLE:
            inside &= a * u + b * v <= reach
        return inside
    if name == "star":
        # A pentagram is where at least four of its five half-planes meet; cos(72 degrees) =
        # 316/1024.
        reach = radius * 316
        held = np.zeros(u.shape, dtype=np.int8)
        for a, b in _STAR:
            held += a * u + b * v <= reach
        return held >= len(_STAR) - 1
    arm = radius * 369 // 1024  # half the width of the cross's bars: 0.36 of its half length
    width, height = abs(u), abs(v)
    return ((width <= arm) & (height <= radius)) | ((height <= arm) & (width <= radius))


def _texture(bits: _Bits, texture: int, steps: Ints) -> Bools:
    """Return where a texture has its first colour, bool [n,n], at a random angle, scale and
    phase.
    """
    angle, period = bits.below(TURN), bits.between(*_PERIOD)
    shift_u, shift_v = bits.below(2 * period), bits.below(2 * period)
    if texture == PLAIN:
        return np.ones((steps.size, steps.size), dtype=np.bool_)
    u, v = _rotated(steps, angle)
    name = TEXTURES[texture]
    if name == "striped":
        return ((u + shift_u) // period & 1).astype(np.bool_)
    if name == "checked":
        return (((u + shift_u) // period ^ (v + shift_v) // period) & 1).astype(np.bool_)
    if name == "dotted":
        x, y = (u + shift_u) % (2 * period) - period, (v + shift_v) % (2 * period) - period
        return x * x + y * y < period * period * _DOT[0] // _DOT[1]
    if name == "ringed":
        edges = (period * np.arange(1, int(abs(steps[0])) * 2 // period + 2) + shift_u // 2) ** 2
        return (np.searchsorted(edges, u * u + v * v) & 1).astype(np.bool_)
    return (u > 0) ^ (v > 0) ^ (abs(u) > abs(v))


def _per_pixel(samples: Bools) -> Shorts:
    """Return how many samples of each pixel are set: [n*SAMPLES, n*SAMPLES] bool -> int16 [n,n]."""
    ones = samples.view(np.int8)
    rows = sum((ones[k::SAMPLES] for k in range(1, SAMPLES)), start=ones[::SAMPLES])
    total = sum((rows[:, k::SAMPLES] for k in range(1, SAMPLES)), start=rows[:, ::SAMPLES])
    return total.astype(np.int16)


def _jittered(bits: _Bits, colour: Colour) -> Shorts:
    """Return a colour moved by up to _JITTER per channel, int16 [3] in 0..255."""
    moved = [min(255, max(0, channel + bits.between(-_JITTER, _JITTER))) for channel in colour]
    return np.array(moved, dtype=np.int16)


# --- composition
# --------------------------------------------------------------------------------------------------
def _arrange(
    bits: _Bits, patches: list[_Patch], objects: int
) -> tuple[list[Place], list[int], Shorts]:
    """Return places, drawing order and owner [96,96] (index of the patch seen at a pixel, -1:
    ground).

    The first `objects` patches are objects: layouts are drawn until enough of each is seen.
    """
    everything = len(patches)
    tries = 0
    while True:
        places = [_place(bits, patch) for patch in patches]
        order = bits.shuffled(everything)
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


def _place(bits: _Bits, patch: _Patch) -> Place:
    """Return a random place for a patch: its centre anywhere, but no closer to the border than a
    quarter of its span.

    Uniform places would favour the middle, where every large object reaches, and with it maps that
    know nothing but the middle; so in 3 of 4 draws the outer of two places is taken.
    """
    n = patch.solid.shape[0]
    margin = n // 4
    spots = [
        (bits.between(margin, SIDE - margin), bits.between(margin, SIDE - margin)) for _ in range(2)
    ]
    if bits.below(4):
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


def _tight_box(mask: Bools) -> tuple[int, int, int, int]:
    """Return the tight box (xyxy edges) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# --- ground and light
# -------------------------------------------------------------------------------------------------
def _noise(bits: _Bits, cells: int) -> Shorts:
    """Return smooth noise 0..255, int16 [96,96]: random bytes on a lattice of `cells` cells, linear
    between.
    """
    lattice = bits.octets(cells + 1, cells + 1)
    size = SIDE // cells
    start = np.arange(SIDE) // size
    # Weights in 64ths keep every product inside int16.
    part = ((2 * (np.arange(SIDE) % size) + 1) * 32 // size).astype(np.int16)
    rows = lattice[start] + ((lattice[start + 1] - lattice[start]) * part[:, None] >> 6)
    noise: Shorts = rows[:, start] + ((rows[:, start + 1] - rows[:, start]) * part[None, :] >> 6)
    return noise


def _ground(bits: _Bits) -> Shorts:
    """Return a cluttered, textured background, int16 [96,96,3] in 0..255."""
    first, second, third = (_jittered(bits, bits.choose(_GROUND)) for _ in range(3))
    coarse = (_noise(bits, 4) * 2 + _noise(bits, 8) + _noise(bits, 24)) >> 2
    if bits.below(2):  # bands as of wood or marble, instead of clouds
        coarse = abs((coarse * bits.between(3, 7) & 511) - 255)
    canvas = first + ((second - first) * (coarse >> 2)[:, :, None] >> 6)
    blobs = _noise(bits, 6) + (_noise(bits, 12) >> 1) > bits.between(170, 230)
    if bits.below(2):  # blobs with a faint texture, so that a texture alone is no evidence
        steps = (2 * np.arange(SIDE, dtype=np.int32) + 1 - SIDE) * (PIXEL // 2)
        blobs &= _texture(bits, bits.below(len(TEXTURES)), steps)
    canvas[blobs] = (canvas[blobs] + third) >> 1
    for _ in range(bits.below(3)):
        _bar(bits, canvas)
    return canvas


def _bar(bits: _Bits, canvas: Shorts) -> None:
    """Draw a plain bar across the canvas, half transparent."""
    cosine, sine = (_cosine(bits.below(TURN)) // 16 for _ in range(2))
    ramp = np.arange(SIDE, dtype=np.int32)
    distance = abs(ramp[None, :] * cosine + ramp[:, None] * sine - bits.between(-32, 96) * 64)
    colour = _jittered(bits, bits.choose(_LIGHT + _DARK))
    inside = distance < bits.between(40, 160)
    canvas[inside] = (canvas[inside] * 3 + colour) >> 2


def _light(bits: _Bits, canvas: Shorts) -> UInt8Image:
    """Return the image uint8 [96,96,3]: brightness and tint in 64ths, and grain."""
    brightness = bits.between(*_BRIGHTNESS)
    gains = np.array([brightness + bits.between(-_TINT, _TINT) for _ in range(3)], dtype=np.int16)
    grain = bits.octets(SIDE, SIDE) * bits.between(*_GRAIN) >> 8
    return (
        ((canvas * gains >> 6) + (grain - (int(grain.max()) >> 1))[:, :, None])
        .clip(0, 255)
        .astype(np.uint8)
    )

"""Shapes, textures, colours and ground of scenes, in whole numbers: the same bytes on any machine.

Drawing uses raw PCG64 bits, fixed-point coordinates and a hard-coded cosine table. No float takes
part in it, so no library version, compiler or processor can move a pixel.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bench.types import UInt8Image

SIDE = 96
SHAPES = ("disc", "square", "triangle", "star", "cross")
TEXTURES = ("striped", "checked", "dotted", "ringed", "rayed")
PLAIN = len(TEXTURES)

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
AREA_PER_SQUARE = (3142, 4000, 1299, 1123, 2362)

# How far each shape reaches, in 1/1024 of its radius: the square's corners stick out.
REACH = (1024, 1448, 1024, 1024, 1093)

# --- the look
# --------------------------------------------------------------------------------------------------
_PERIOD = (3 * PIXEL, 5 * PIXEL)  # width of a stripe, check, ring, or half the distance of dots
_DOT = (45, 100)  # a dot's radius^2 over that of the cell's inscribed circle
_JITTER = 14  # of colours, in 255ths
_BRIGHTNESS = (48, 76)  # 64ths
_TINT = 5  # 64ths, per channel
_GRAIN = (8, 28)  # peak to peak, in 255ths
DARK: tuple[Colour, ...] = (
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
LIGHT: tuple[Colour, ...] = (
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


# --- random whole numbers
# ---------------------------------------------------------------------------------------------
class RandomBits:
    """Whole numbers from the raw PCG64 stream of (seed, index, purpose); numpy keeps this stream
    fixed for ever.
    """

    def __init__(self, seed: int, index: int, purpose: int = 0) -> None:
        self._source = np.random.PCG64([seed, index, purpose])

    def draw_below(self, n: int) -> int:
        """Return a number in 0..n-1."""
        return ((int(self._source.random_raw()) >> 32) * n) >> 32

    def draw_between(self, low: int, high: int) -> int:
        """Return a number in low..high, both included."""
        return low + self.draw_below(high - low + 1)

    def choose(self, options: tuple[T, ...]) -> T:
        """Return one of the options."""
        return options[self.draw_below(len(options))]

    def shuffle(self, n: int) -> list[int]:
        """Return 0..n-1 in random order."""
        keys = [(self.draw_below(1 << 32), i) for i in range(n)]
        return [i for _, i in sorted(keys)]

    def draw_octets(self, *shape: int) -> Shorts:
        """Return random bytes 0..255 of this shape, as int16."""
        count = math.prod(shape)
        raw = np.asarray(
            self._source.random_raw(-(-count // 8)), dtype="<u8"
        )  # the same bytes on any processor
        return raw.view(np.uint8)[:count].reshape(shape).astype(np.int16)


def rotate(steps: Ints, angle: int) -> tuple[Ints, Ints]:
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


def is_inside(shape: int, u: Ints, v: Ints, radius: int) -> Bools:
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


def draw_texture(bits: RandomBits, texture: int, steps: Ints) -> Bools:
    """Return where a texture has its first colour, bool [n,n], at a random angle, scale and
    phase.
    """
    angle, period = bits.draw_below(TURN), bits.draw_between(*_PERIOD)
    shift_u, shift_v = bits.draw_below(2 * period), bits.draw_below(2 * period)
    if texture == PLAIN:
        return np.ones((steps.size, steps.size), dtype=np.bool_)
    u, v = rotate(steps, angle)
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


def count_per_pixel(samples: Bools) -> Shorts:
    """Return how many samples of each pixel are set: [n*SAMPLES, n*SAMPLES] bool -> int16 [n,n]."""
    ones = samples.view(np.int8)
    rows = sum((ones[k::SAMPLES] for k in range(1, SAMPLES)), start=ones[::SAMPLES])
    total = sum((rows[:, k::SAMPLES] for k in range(1, SAMPLES)), start=rows[:, ::SAMPLES])
    return total.astype(np.int16)


def jitter_colour(bits: RandomBits, colour: Colour) -> Shorts:
    """Return a colour moved by up to _JITTER per channel, int16 [3] in 0..255."""
    moved = [min(255, max(0, channel + bits.draw_between(-_JITTER, _JITTER))) for channel in colour]
    return np.array(moved, dtype=np.int16)


# --- ground and light
# -------------------------------------------------------------------------------------------------
def _noise(bits: RandomBits, cells: int) -> Shorts:
    """Return smooth noise 0..255, int16 [96,96]: random bytes on a lattice of `cells` cells, linear
    between.
    """
    lattice = bits.draw_octets(cells + 1, cells + 1)
    size = SIDE // cells
    start = np.arange(SIDE) // size
    # Weights in 64ths keep every product inside int16.
    part = ((2 * (np.arange(SIDE) % size) + 1) * 32 // size).astype(np.int16)
    rows = lattice[start] + ((lattice[start + 1] - lattice[start]) * part[:, None] >> 6)
    noise: Shorts = rows[:, start] + ((rows[:, start + 1] - rows[:, start]) * part[None, :] >> 6)
    return noise


def draw_ground(bits: RandomBits) -> Shorts:
    """Return a cluttered, textured background, int16 [96,96,3] in 0..255."""
    first, second, third = (jitter_colour(bits, bits.choose(_GROUND)) for _ in range(3))
    coarse = (_noise(bits, 4) * 2 + _noise(bits, 8) + _noise(bits, 24)) >> 2
    if bits.draw_below(2):  # bands as of wood or marble, instead of clouds
        coarse = abs((coarse * bits.draw_between(3, 7) & 511) - 255)
    canvas = first + ((second - first) * (coarse >> 2)[:, :, None] >> 6)
    blobs = _noise(bits, 6) + (_noise(bits, 12) >> 1) > bits.draw_between(170, 230)
    if bits.draw_below(2):  # blobs with a faint texture, so that a texture alone is no evidence
        steps = (2 * np.arange(SIDE, dtype=np.int32) + 1 - SIDE) * (PIXEL // 2)
        blobs &= draw_texture(bits, bits.draw_below(len(TEXTURES)), steps)
    canvas[blobs] = (canvas[blobs] + third) >> 1
    for _ in range(bits.draw_below(3)):
        _bar(bits, canvas)
    return canvas


def _bar(bits: RandomBits, canvas: Shorts) -> None:
    """Draw a plain bar across the canvas, half transparent."""
    cosine, sine = (_cosine(bits.draw_below(TURN)) // 16 for _ in range(2))
    ramp = np.arange(SIDE, dtype=np.int32)
    distance = abs(ramp[None, :] * cosine + ramp[:, None] * sine - bits.draw_between(-32, 96) * 64)
    colour = jitter_colour(bits, bits.choose(LIGHT + DARK))
    inside = distance < bits.draw_between(40, 160)
    canvas[inside] = (canvas[inside] * 3 + colour) >> 2


def light_canvas(bits: RandomBits, canvas: Shorts) -> UInt8Image:
    """Return the image uint8 [96,96,3]: brightness and tint in 64ths, and grain."""
    brightness = bits.draw_between(*_BRIGHTNESS)
    gains = np.array(
        [brightness + bits.draw_between(-_TINT, _TINT) for _ in range(3)], dtype=np.int16
    )
    grain = bits.draw_octets(SIDE, SIDE) * bits.draw_between(*_GRAIN) >> 8
    return (
        ((canvas * gains >> 6) + (grain - (int(grain.max()) >> 1))[:, :, None])
        .clip(0, 255)
        .astype(np.uint8)
    )

"""Every kind of pixels that Pillow reads becomes 8-bit RGB as a viewer shows it, or is refused."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from bench.errors import BenchError
from bench.types import UInt8Image

_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
_ALPHA = ("RGBA", "LA", "PA", *_PREMULTIPLIED)
_FULL, _TWELVE = 65535, 4095
_TIFF_BITS = 258  # the tag BitsPerSample
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # the tag PhotometricInterpretation, and a value of it
_DEEP = re.compile(r"(RGBA?|RGBX|LA|CMYK);16")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def has_alpha(image: Image.Image) -> bool:
    """Return whether an image may have transparent pixels, by its header."""
    return image.mode in _ALPHA or "transparency" in image.info


def has_wide_pixels(image: Image.Image) -> bool:
    """Return whether an image has one channel of more than 8 bits, by its header."""
    return image.mode.startswith("I") or image.mode == "F"


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation: 1 where the pixels are read as they are shown, else 2 to 8.

    Pillow itself turns the pixels of a TIFF, and states their size after it.
    """
    if image.format == "TIFF":
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _TURNS else 1


def turn_pixels(pixels: UInt8Image, orientation: int) -> UInt8Image:
    """Return pixels [H,W,3] as a viewer turns them by their EXIF orientation."""
    if orientation not in _TURNS:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))


def convert_pixels(image: Image.Image, where: str) -> UInt8Image:
    """Return an image as uint8 RGB [H,W,3].

    16-bit grey is divided by 257, so that black and white stay. Floats are taken as 0..1 or 0..255.
    Transparent pixels are composited on white.

    Args:
        image: of any mode, loaded or not.
        where: the file, for errors.

    Raises:
        BenchError: it cannot be known how bright the pixels are.
    """
    deep = _is_deep(image)
    if has_wide_pixels(image):
        grey = _scale_grey(image, where)
        return np.repeat(grey[:, :, None], 3, axis=2)
    pixels = _composite(image) if has_alpha(image) else np.asarray(image.convert("RGB"))
    if deep and 0 < pixels.max() <= _TWELVE >> 8:
        raise _refuse_dark(where, "its 16-bit channels", int(pixels.max()) << 8)
    return pixels


def _is_deep(image: Image.Image) -> bool:
    """Return whether the file has 16 bits for each colour, of which Pillow keeps the upper 8."""
    return any(_DEEP.search(str(tile[3])) for tile in getattr(image, "tile", ()))


def _composite(image: Image.Image) -> UInt8Image:
    straight = _PREMULTIPLIED.get(image.mode)
    rgba = np.asarray((image.convert(straight) if straight else image).convert("RGBA"))
    alpha = rgba[:, :, 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[:, :, :3])
    mixed = rgba[:, :, :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _scale_grey(image: Image.Image, where: str) -> UInt8Image:
    """Return one channel of integers beyond 8 bits, or of floats, as uint8 [H,W]."""
    inverted = getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode == "F":
        floats = _scale_floats(np.asarray(image, dtype=np.float64), where)
        return 255 - floats if inverted else floats
    values = np.asarray(image).astype(np.int64)
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, ())
    if image.mode == "I" and image.format not in ("PPM", "PNG"):
        raise BenchError(
            f"The image {where} has 32-bit pixels from {values.min()} to {values.max()}, and no "
            "rule says which is white; save it with 8 or 16 bits."
        )
    full = _TWELVE if tuple(bits) == (12,) else _FULL
    key = image.info.get("transparency")
    opaque = values[values != key] if isinstance(key, int) else values
    if full == _FULL and 0 < opaque.max(initial=0) <= _TWELVE:
        raise _refuse_dark(where, "its 16-bit pixels", int(opaque.max()))
    grey = (values * 255 + full // 2) // full
    grey = 255 - grey if inverted else grey  # which Pillow does for 8 bits only
    if isinstance(key, int):
        grey[values == key] = 255
    return grey.clip(0, 255).astype(np.uint8)


def _refuse_dark(where: str, pixels: str, largest: int) -> BenchError:
    return BenchError(
        f"The image {where} is nearly black: {pixels} end at {largest} of {_FULL}, as those of a "
        "10- or 12-bit camera do; scale it to 8 bits."
    )


def _scale_floats(values: npt.NDArray[np.float64], where: str) -> UInt8Image:
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        scaled = values * 255
    elif low >= 0 and 32 <= high <= 255:
        scaled = values
    else:
        raise BenchError(
            f"The image {where} has float pixels from {low:g} to {high:g}; they must fill 0..1 or "
            "0..255, so scale it to 8 bits."
        )
    return np.rint(scaled).astype(np.uint8)

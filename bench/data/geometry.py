"""From the stored image to the frame that a model sees, with boxes and masks that follow exactly
the pixels.

Conventions: pixel j covers [j, j+1); a box is its edges. Resizing maps the whole stored extent onto
the whole new extent. The centre crop starts at floor((r - size) / 2) along each axis, r being the
side after resizing. Sizes of frames are one number (a square) or (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from bench.data.input_size import Size, count_pixels, split_size, unify, write_size
from bench.errors import BenchError, suggestions
from bench.size_limits import IMAGE_PIXELS
from bench.types import Sample, UInt8Image

RESIZES = ("squash", "short", "none")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


class Framed(NamedTuple):
    """One sample in the preprocessed frame.

    pixels: uint8 [h,w,3].  boxes: float32 [m,4] or None.  mask, ignore, others: bool [h,w] or None.
    """

    pixels: UInt8Image
    boxes: torch.Tensor | None
    mask: torch.Tensor | None
    ignore: torch.Tensor | None
    others: torch.Tensor | None


@dataclass(frozen=True)
class Geometry:
    """Resize, then centre crop to `size`: a square of that side, or (height, width).

    resize: "squash" (the whole image to resize_size), "short" or "none" (stored pixels; resize_size
    is not used).  "short" keeps the image's proportions. Where resize_size is a number, the short
    side becomes that and the long side int(resize_size * long / short), as torchvision does. Where
    it is (height, width), the image is scaled until it just covers them, and its other side is
    rounded, as timm does for inputs that are not square. interpolation: of the image only,
    antialiased; masks are always nearest.
    """

    size: Size
    resize: str
    resize_size: Size
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        for name in ("size", "resize_size"):
            object.__setattr__(self, name, unify(getattr(self, name)))
        if self.resize not in RESIZES:
            raise BenchError(f"Unknown resize {self.resize!r}.{suggestions(self.resize, RESIZES)}")
        if self.interpolation not in INTERPOLATIONS:
            known = suggestions(self.interpolation, INTERPOLATIONS)
            raise BenchError(f"Unknown interpolation {self.interpolation!r}.{known}")
        if min(self.shape) < 1:
            raise BenchError(
                f"The geometry's size is {write_size(self.size)}; it must be at least 1 pixel."
            )
        pairs = zip(split_size(self.resize_size), self.shape, strict=True)
        if self.resize != "none" and any(resized < side for resized, side in pairs):
            raise BenchError(
                f"The geometry resizes to {write_size(self.resize_size)} and then crops "
                f"{write_size(self.size)} pixels; resize_size must not be smaller than size."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Return (height, width) of the frame."""
        return split_size(self.size)

    @property
    def pixels(self) -> int:
        """Return the number of pixels of the frame."""
        return count_pixels(self.size)

    @property
    def id(self) -> str:
        """Return a short stable text, e.g. `short256-bicubic-crop224`, `none-crop224`,
        `short73x110-bicubic-crop64x96` (height x width).
        """
        crop = f"crop{write_size(self.size)}"
        if self.resize == "none":
            return f"none-{crop}"
        return f"{self.resize}{write_size(self.resize_size)}-{self.interpolation}-{crop}"

    def resize_shape(self, height0: int, width0: int) -> tuple[int, int]:
        """Return (height, width) after resizing and before cropping, in pixels."""
        if self.resize == "squash":
            return split_size(self.resize_size)
        if self.resize == "none":
            return height0, width0
        if not isinstance(self.resize_size, int):
            height, width = self.resize_size
            if height0 * width <= width0 * height:  # the height needs the larger scale
                return height, round(width0 * height / height0)
            return round(height0 * width / width0), width
        if height0 <= width0:
            return self.resize_size, self.resize_size * width0 // height0
        return self.resize_size * height0 // width0, self.resize_size

    def offset(self, height0: int, width0: int) -> tuple[int, int]:
        """Return (top, left) of the centre crop in the resized image: floor((r - size) / 2) each.

        Raises BenchError where the resized image is smaller than the crop: padding would be pixels
        of nothing.
        """
        height, width = self.resize_shape(height0, width0)
        rows, columns = self.shape
        if height < rows or width < columns:
            raise BenchError(
                f"An image of {width0}x{height0} pixels is smaller than the crop of "
                f"{write_size(self.size)} after resize={self.resize!r}; use resize='short' or "
                "'squash', or a smaller size."
            )
        return (height - rows) // 2, (width - columns) // 2

    def frame(self, image: UInt8Image) -> UInt8Image:
        """Return the frame uint8 [h,w,3] of an image uint8 [H0,W0,3]."""
        height0, width0 = image.shape[:2]
        top, left = self.offset(height0, width0)
        height, width = self.resize_shape(height0, width0)
        if height * width > IMAGE_PIXELS.number:
            raise BenchError(
                f"An image of {width0}x{height0} pixels is so thin that it would be resized to "
                f"{width}x{height}; crop it, take it out, or raise {IMAGE_PIXELS.variable}."
            )
        if (height, width) != (height0, width0):
            resample = INTERPOLATIONS[self.interpolation]
            image = np.asarray(Image.fromarray(image).resize((width, height), resample))
        rows, columns = self.shape
        return np.ascontiguousarray(image[top : top + rows, left : left + columns])

    def boxes(
        self, boxes: FloatArray, height0: int, width0: int, min_visible: float = 0.25
    ) -> torch.Tensor:
        """Return boxes [n,4] (xyxy edges, stored pixels) in the frame: float32 [m,4], clipped to
        it.

        A box is dropped where less than `min_visible` of its area lies in the frame, or none of it.
        """
        top, left = self.offset(height0, width0)
        height, width = self.resize_shape(height0, width0)
        edges = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        scale = np.array([width / width0, height / height0] * 2)
        moved = edges * scale - np.array([left, top, left, top])
        rows, columns = self.shape
        clipped = moved.clip(0, np.array([columns, rows] * 2))
        area, seen = _areas(moved), _areas(clipped)
        keep = (seen > 0) & (seen >= min_visible * area)
        return torch.from_numpy(clipped[keep].astype(np.float32))

    def mask(self, mask: BoolArray) -> torch.Tensor:
        """Return a mask bool [H0,W0] in the frame: bool [h,w], each pixel from where its centre
        lies.
        """
        height0, width0 = mask.shape
        top, left = self.offset(height0, width0)
        height, width = self.resize_shape(height0, width0)
        # Pixel j's centre is at (j + 1/2) * old / new; in whole numbers, so that no rounding moves
        # an edge.
        down, across = (np.arange(side) for side in self.shape)
        rows = (2 * (down + top) + 1) * height0 // (2 * height)
        columns = (2 * (across + left) + 1) * width0 // (2 * width)
        return torch.from_numpy(mask[rows[:, None], columns[None, :]])

    def sample(self, sample: Sample, min_visible: float = 0.25) -> Framed:
        """Return a sample's pixels and truth in the frame; what the sample does not have stays
        None.
        """
        height0, width0 = sample.image.shape[:2]
        return Framed(
            pixels=self.frame(sample.image),
            boxes=None
            if sample.boxes is None
            else self.boxes(sample.boxes, height0, width0, min_visible),
            mask=None if sample.mask is None else self.mask(sample.mask),
            ignore=None if sample.ignore is None else self.mask(sample.ignore),
            others=None if sample.others is None else self.mask(sample.others),
        )


@dataclass(frozen=True)
class GreyGeometry(Geometry):
    """The same for networks with one channel: the image becomes grey before it is resized.

    Grey is the luma of Pillow's `convert("L")`. All three channels of the frame hold it.
    """

    @property
    def id(self) -> str:
        """Return the text of `Geometry.id`, and that frames are grey."""
        return f"{super().id}-grey"

    def frame(self, image: UInt8Image) -> UInt8Image:
        """Return the grey frame uint8 [h,w,3] of an image uint8 [H0,W0,3]."""
        return super().frame(np.asarray(Image.fromarray(image).convert("L").convert("RGB")))


def match_channels(geometry: Geometry, channels: int) -> Geometry:
    """Return a geometry for networks with so many channels: grey frames for 1, else colour."""
    kind = GreyGeometry if channels == 1 else Geometry
    if type(geometry) is kind:
        return geometry
    return kind(geometry.size, geometry.resize, geometry.resize_size, geometry.interpolation)


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    areas: npt.NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return areas

"""Pasted objects: the box of one photograph stands in another one, where only it can move a class.

A paste takes the box of a source image (class B), rescales it, and puts it into a target image
(class A) with a soft edge. The truth is where the pasted box decides at least half of a pixel.
Everything happens in the frame that networks see. `bench.run.paste_search` chooses the pastes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.data.geometry import Geometry
from bench.data.subset import Subset
from bench.types import Sample, UInt8Image

Floats = npt.NDArray[np.float64]
LEAST_SHARE, MOST_SHARE = 0.10, 0.35
"""The pasted box covers this share of the frame."""
UNSCALED_SHARE = 0.5
"""A box that keeps its size covers at most this share: else hardly anything is left of A."""
EDGE, EDGE_SIDE = 12.0, 224
"""Width of the soft edge in pixels, in frames of this side; other frames have it in proportion."""
_REMEMBERED = 64
"""Frames that a pool keeps in memory."""


SCORED, CALIBRATING = 150, 60
"""Items of a subset of pastes, and further ones that choose box thresholds."""


@dataclass(frozen=True)
class Paste:
    """One paste. Images are numbers in the pool.

    Attributes:
        source: the image of class B, whose box is pasted.
        target: the image of class A, into which it is pasted.
        control: the image of a third class, whose box must not do the same.
        height, width: of the pasted box, in pixels of the frame.
        top, left: its place.
        attempt: the number of the attempt, which makes the item's id unique.
        before, after, controlled: p_B of the target alone, with the paste, with the control.
    """

    source: int
    target: int
    control: int
    height: int
    width: int
    top: int
    left: int
    attempt: int
    before: float = float("nan")
    after: float = float("nan")
    controlled: float = float("nan")


class FramePool:
    """The images of a subset in one geometry, by their number in its order; picklable."""

    def __init__(self, subset: Subset, geometry: Geometry) -> None:
        self.subset, self.geometry = subset, geometry
        self._kept: OrderedDict[int, tuple[UInt8Image, Floats]] = OrderedDict()

    def read(self, number: int) -> tuple[UInt8Image, Floats]:
        """Return a frame uint8 [h,w,3] and its boxes [m,4], of which any part is visible."""
        found = self._kept.get(number)
        if found is None:
            batch = self.subset.batch([number], self.geometry, 0.0)
            pixels = (batch.pixels[0] * 255).round().byte().permute(1, 2, 0).numpy()
            boxes = batch.truth.boxes
            edges = np.zeros((0, 4)) if boxes is None else boxes[0].double().numpy()
            found = np.ascontiguousarray(pixels), edges
            self._kept[number] = found
            while len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)
        return found

    def compose(self, paste: Paste, *, control: bool = False) -> UInt8Image:
        """Return the target with the pasted box, or with the control's in its place."""
        target, _ = self.read(paste.target)
        image, boxes = self.read(paste.control if control else paste.source)
        patch = cut_box(image, boxes[0], (paste.height, paste.width))
        alpha = make_alpha(paste.height, paste.width, find_edge(self.geometry.shape))
        return blend(target, patch, alpha, paste.top, paste.left)


def find_edge(frame: tuple[int, int]) -> float:
    """Return the width of the soft edge in a frame (height, width).

    >>> find_edge((224, 224)), find_edge((56, 112))
    (12.0, 3.0)
    """
    return EDGE * min(frame) / EDGE_SIDE


def make_alpha(height: int, width: int, edge: float) -> Floats:
    """Return how much of each pixel [h,w] the pasted box decides: 0 at its rim, 1 from `edge`
    pixels inside it on, linear in between.

    >>> make_alpha(1, 4, 2.0).tolist(), make_alpha(4, 4, 2.0)[1].tolist()
    ([[0.25, 0.25, 0.25, 0.25]], [0.25, 0.75, 0.75, 0.25])
    """
    down, across = (np.arange(side) + 0.5 for side in (height, width))
    to_rim = np.minimum(
        np.minimum(down, height - down)[:, None], np.minimum(across, width - across)[None, :]
    )
    alpha: Floats = np.clip(to_rim / edge, 0.0, 1.0)
    return alpha


def cut_box(image: UInt8Image, box: Floats, size: tuple[int, int]) -> UInt8Image:
    """Return the inside of a box (xyxy edges) of an image [H,W,3], resized to (height, width)."""
    edges = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    patch = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, box=edges)
    return np.asarray(patch)


def blend(target: UInt8Image, patch: UInt8Image, alpha: Floats, top: int, left: int) -> UInt8Image:
    """Return a copy of a target [H,W,3] with a patch [h,w,3] at a place, weighted by alpha [h,w].

    Halves are rounded up.
    """
    height, width = alpha.shape
    mixed = target.copy()
    place = mixed[top : top + height, left : left + width]
    weights = alpha[..., None]
    place[...] = np.floor(weights * patch + (1 - weights) * place + 0.5).astype(np.uint8)
    return mixed


def find_truth(
    paste: Paste, frame: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return the truth of a paste in a frame (height, width): its mask, alpha >= 1/2, and the box
    of the mask [1,4].
    """
    mask = np.zeros(frame, dtype=bool)
    inside = make_alpha(paste.height, paste.width, find_edge(frame)) >= 0.5
    mask[paste.top : paste.top + paste.height, paste.left : paste.left + paste.width] = inside
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return mask, np.array([edges], dtype=np.float32)


def bound_shares(box: Floats, frame: tuple[int, int]) -> tuple[float, float] | None:
    """Return the least and the largest share of a frame (height, width) that a box can cover.

    The box keeps its proportions, fits the frame, and is wide enough for its edges to meet no
    sooner than alpha is 1. None where no size does that and lies between the two limits.
    """
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    area = frame[0] * frame[1]
    largest = min(frame[0] / height, frame[1] / width) ** 2 * height * width / area
    thin = (2 * find_edge(frame) / min(height, width)) ** 2 * height * width / area
    least, most = max(LEAST_SHARE, thin), min(MOST_SHARE, largest)
    return (least, most) if least <= most else None


def scale_box(box: Floats, share: float, frame: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) in whole pixels of a box that covers a share of a frame.

    >>> scale_box(np.array([0.0, 0.0, 20.0, 10.0]), 0.125, (64, 64))
    (16, 32)
    """
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    scale = (share * frame[0] * frame[1] / (height * width)) ** 0.5
    return min(frame[0], round(height * scale)), min(frame[1], round(width * scale))


def keep_size(box: Floats, frame: tuple[int, int]) -> tuple[int, int] | None:
    """Return (height, width) in whole pixels of a box that keeps its size; None of one that is too
    large or too thin to be pasted.
    """
    height, width = round(float(box[3] - box[1])), round(float(box[2] - box[0]))
    large = height * width > UNSCALED_SHARE * frame[0] * frame[1]
    thin = min(height, width) < 2 * find_edge(frame)
    return None if large or thin else (height, width)


class PastedSource:
    """Pastes as a source of a `Subset`; composed when asked for, never stored. Picklable.

    pools: the images that scored items are made of, and those of the calibration part.  pastes: of
    the pools, one after the other.  network: the weights id of the network they are for.
    """

    has_boxes = True
    has_masks = True

    def __init__(
        self, pools: tuple[FramePool, ...], pastes: tuple[tuple[Paste, ...], ...], network: str
    ) -> None:
        self._places = [
            (pool, paste) for pool, some in zip(pools, pastes, strict=True) for paste in some
        ]
        first = pools[0].subset
        self.num_classes, self.class_names = first.num_classes, first.class_names
        self.ids = tuple(
            f"{pool.subset.ids[one.source]}-on-{pool.subset.ids[one.target]}-{one.attempt}-"
            f"{network}"
            for pool, one in self._places
        )
        self.image_ids = self.ids
        self.labels = np.array(
            [pool.subset.labels[one.source] for pool, one in self._places], dtype=np.int64
        )

    def read(self, position: int) -> Sample:
        """Return the item at a position: the target with the pasted box, and the truth."""
        pool, paste = self._places[position]
        mask, box = find_truth(paste, pool.geometry.shape)
        item = self.ids[position]
        return Sample(item, item, pool.compose(paste), int(self.labels[position]), box, mask)

    def attribution(self, position: int) -> str | None:
        """Return who must be named: of both photographs, or None."""
        pool, paste = self._places[position]
        named = [pool.subset.attribution(number) for number in (paste.source, paste.target)]
        return "; ".join(one for one in named if one) or None

"""The words of the pipeline as types, and the shape glossary.

Shapes: B images, 3 colour channels (1 of grey networks, any number in tensors that are given), H x
W pixels of the preprocessed frame, K channels and h x w
cells of the explained layer, C classes, N = H*W pixels, S steps of a curve.

Boxes are float32 `xyxy` in pixels of the frame they belong to, as edges: x0 <= x < x1. Pixel j
covers [j, j+1). Masks are bool `[H,W]`, true on the object.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

UInt8Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One image as stored: uint8 [H0,W0,3], its label, and the truth for objects of that label
    only.

    `id` names the item (image and explained class); `image_id` names the image, the unit that is
    resampled. They differ only where one image is explained for several classes.
    """

    id: str
    image_id: str
    image: UInt8Image
    label: int
    boxes: npt.NDArray[np.float32] | None = (
        None  # [n,4] xyxy edges, stored pixels; None = the subset has no boxes
    )
    mask: npt.NDArray[np.bool_] | None = (
        None  # [H0,W0], union of the label's objects; None = no masks
    )
    ignore: npt.NDArray[np.bool_] | None = None  # [H0,W0], pixels that pixel precision leaves out
    others: npt.NDArray[np.bool_] | None = (
        None  # [H0,W0], union of another class's objects; None = not known
    )
    other_label: int = -1  # that class; -1 = there is none


@dataclass(frozen=True)
class Truth:
    """Ground truth of a batch in the preprocessed frame: objects of the label's class only.

    boxes: per image [n,4] float32 xyxy edges (n = 0: nothing of the object is left in the frame,
    scores are NaN). masks: [B,H,W] bool.  ignore: [B,H,W] bool.  others: [B,H,W] bool, the objects
    of one other class, and other_labels [B] int64, that class (-1: none), of scenes with two.  Each
    is None where the subset does not have it.
    """

    boxes: tuple[torch.Tensor, ...] | None = None
    masks: torch.Tensor | None = None
    ignore: torch.Tensor | None = None
    others: torch.Tensor | None = None
    other_labels: torch.Tensor | None = None

    def select(self, index: torch.Tensor) -> Truth:
        """Return the truth of the images at `index` [n] (int64)."""
        return Truth(
            boxes=None if self.boxes is None else tuple(self.boxes[i] for i in index.tolist()),
            masks=None if self.masks is None else self.masks[index],
            ignore=None if self.ignore is None else self.ignore[index],
            others=None if self.others is None else self.others[index],
            other_labels=None if self.other_labels is None else self.other_labels[index],
        )

    def pixels(self, height: int, width: int) -> torch.Tensor | None:
        """Return the truth as pixels [B,H,W] bool: the masks, else the union of the boxes, else
        None.

        A pixel belongs to a box when its centre does.
        """
        if self.masks is not None:
            return self.masks
        if self.boxes is None:
            return None
        return torch.stack([box_pixels(boxes, height, width) for boxes in self.boxes])


def box_pixels(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the union of boxes [n,4] as pixels [H,W] bool; a pixel is in when its centre is
    (half-open edges).
    """
    x = torch.arange(width) + 0.5
    y = torch.arange(height) + 0.5
    inside_x = (x >= boxes[:, 0, None]) & (x < boxes[:, 2, None])
    inside_y = (y >= boxes[:, 1, None]) & (y < boxes[:, 3, None])
    return (inside_y[:, :, None] & inside_x[:, None, :]).any(dim=0)


class ItemContent(NamedTuple):
    """What an item holds, as digests (`bench.data.item_identity`).

    identity: of everything that decides its scores; "" where it cannot be read.  file: of its
    file's bytes, or "".  stamp: size and times of that file, or "" where they prove nothing.
    """

    identity: str
    file: str
    stamp: str


@dataclass(frozen=True)
class Batch:
    """Preprocessed images with labels and truth.

    pixels: [B,3,H,W] float32 in [0,1], not normalised (each model normalises in its own way).
    labels: [B] int64.  ids, image_ids: as in `Sample`.  contents: of each item, or (); None for an
    item that its manifest identifies.  unreadable: (id, reason) of the items left out.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    truth: Truth = field(default_factory=Truth)
    contents: tuple[ItemContent | None, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its pixels on `device`; truth stays on the CPU, where metrics read
        it.

        Pixels in pinned memory are copied while this process goes on; what a GPU computes of them
        waits for the copy.
        """
        return replace(self, pixels=self.pixels.to(device, non_blocking=self.pixels.is_pinned()))

    def pin(self) -> Batch:
        """Return the batch with its pixels in page-locked memory, from which a CUDA device copies
        by itself.
        """
        return replace(self, pixels=self.pixels.pin_memory())

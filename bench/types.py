"""The words of the pipeline as types, and the shape glossary.

Shapes: B images, 3 colour channels, H x W pixels of the preprocessed frame, N = H*W. The explained
layer has K channels and h x w cells. C is the number of classes, S that of the steps of a curve.
Grey networks have 1 channel; tensors that are given may have any number.

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
    """One image as stored, with its label and the truth for objects of that label only.

    `id` and `image_id` differ only where one image is explained for several classes.

    Attributes:
        id: Name of the item: image and explained class.
        image_id: Name of the image, the unit that is resampled.
        image: uint8 [H0,W0,3], stored pixels.
        label: Class, 0 to classes - 1.
        boxes: float32 [n,4], edges x0, y0, x1, y1 in stored pixels; None: the subset has no boxes.
        mask: bool [H0,W0], union of the label's objects; None: the subset has no masks.
        ignore: bool [H0,W0], pixels that pixel precision leaves out; None: there are none.
        others: bool [H0,W0], union of another class's objects; None: not known.
        other_label: That other class; -1: there is none.

    Example:
        >>> sample = bench.load_subset("scenes-val", limit=1)[0]
        >>> sample.image.shape, sample.image.dtype
        ((96, 96, 3), dtype('uint8'))
    """

    id: str
    image_id: str
    image: UInt8Image
    label: int
    boxes: npt.NDArray[np.float32] | None = None
    mask: npt.NDArray[np.bool_] | None = None
    ignore: npt.NDArray[np.bool_] | None = None
    others: npt.NDArray[np.bool_] | None = None
    other_label: int = -1


@dataclass(frozen=True)
class Truth:
    """Ground truth of a batch in the preprocessed frame: objects of the label's class only.

    A field is None where the subset does not have it.

    Attributes:
        boxes: For each image float32 [n,4], edges x0, y0, x1, y1 in pixels of the frame. Where no
            object is left in the frame, n is 0 and scores are NaN.
        masks: bool [B,H,W].
        ignore: bool [B,H,W], pixels that pixel precision leaves out.
        others: bool [B,H,W], the objects of one other class.
        other_labels: int64 [B], that other class; -1: there is none.

    Example:
        >>> truth = bench.Truth(boxes=(torch.tensor([[0.0, 0.0, 2.0, 1.0]]),))
        >>> truth.pixels(2, 2)
        tensor([[[ True,  True],
                 [False, False]]])
    """

    boxes: tuple[torch.Tensor, ...] | None = None
    masks: torch.Tensor | None = None
    ignore: torch.Tensor | None = None
    others: torch.Tensor | None = None
    other_labels: torch.Tensor | None = None

    def select(self, index: torch.Tensor) -> Truth:
        """Return the truth of some of the images.

        Args:
            index: Images [n] int64.

        Returns:
            The truth of n images.

        Example:
            >>> truth = bench.Truth(masks=torch.ones(3, 4, 4).bool())
            >>> truth.select(torch.tensor([0, 2])).masks.shape
            torch.Size([2, 4, 4])
        """
        return Truth(
            boxes=None if self.boxes is None else tuple(self.boxes[i] for i in index.tolist()),
            masks=None if self.masks is None else self.masks[index],
            ignore=None if self.ignore is None else self.ignore[index],
            others=None if self.others is None else self.others[index],
            other_labels=None if self.other_labels is None else self.other_labels[index],
        )

    def pixels(self, height: int, width: int) -> torch.Tensor | None:
        """Return the truth as pixels: the masks, else the union of the boxes, else None.

        A pixel belongs to a box when its centre does.

        Args:
            height: H of the frame in pixels.
            width: W of the frame in pixels.

        Returns:
            bool [B,H,W], or None where there is neither.

        Example:
            >>> bench.Truth().pixels(4, 4) is None
            True
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
    """The content of an item, as digests (`bench.data.item_identity`).

    Attributes:
        identity: Digest of everything that decides its scores; "" where it cannot be read.
        file: Digest of its file's bytes, or "".
        stamp: Size and times of that file, or "" where they prove nothing.
    """

    identity: str
    file: str
    stamp: str


@dataclass(frozen=True)
class Batch:
    """Preprocessed images with labels and truth.

    Attributes:
        pixels: float32 [B,3,H,W] in [0,1], not normalised: each model normalises in its own way.
        labels: int64 [B].
        ids: Item ids, as in `Sample`.
        image_ids: Image ids, as in `Sample`.
        truth: Ground truth of the label's objects.
        contents: The content of each item, or (); None for an item that its manifest identifies.
        unreadable: (id, reason) of the items left out.

    Example:
        >>> batch = subset.batch([0, 1], bench.load_model("resnet-scenes").geometry)
        >>> len(batch), batch.pixels.shape
        (2, torch.Size([2, 3, 96, 96]))
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
        """Return the batch with its pixels on a device; truth stays on the CPU.

        Pixels in pinned memory are copied while this process goes on.

        Args:
            device: A torch device, such as "cuda".

        Returns:
            A batch.

        Example:
            >>> batch = subset.batch([0], bench.load_model("resnet-scenes").geometry)
            >>> batch.to("cpu").pixels.device.type
            'cpu'
        """
        return replace(self, pixels=self.pixels.to(device, non_blocking=self.pixels.is_pinned()))

    def pin(self) -> Batch:
        """Return the batch with its pixels in page-locked memory, for CUDA's own copies.

        Returns:
            A batch.

        Example:
            >>> batch.pin().to("cuda")  # doctest: +SKIP
        """
        return replace(self, pixels=self.pixels.pin_memory())

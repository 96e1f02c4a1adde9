"""A subset: a fixed, ordered list of labelled images with ground truth, and the part kept aside for
calibration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.data.cache import FrameCache, open_frame_cache
from bench.data.calibration_split import CALIBRATION_SHARE as CALIBRATION_SHARE
from bench.data.calibration_split import describe_split as describe_split
from bench.data.calibration_split import id_hash as id_hash
from bench.data.calibration_split import split as split
from bench.data.geometry import Framed, Geometry
from bench.data.images import ImagesSource
from bench.data.item_contents import ItemContents
from bench.data.item_identity import identify_sample, join_frame
from bench.data.manifest import Manifest
from bench.data.reading import Note
from bench.data.sample_source import Int64s as Int64s
from bench.data.sample_source import Opener as Opener
from bench.data.sample_source import Source
from bench.errors import BenchError, UnreadableImage
from bench.types import Batch, ItemContent, Sample, Truth


@dataclass(frozen=True, eq=False)
class Subset(ItemContents):
    """Labelled images in a fixed order.

    Make one with `load_subset`. `subset[i]` is a `Sample`, as stored.

    Attributes:
        name: Name on boards.
        manifest: What the subset is, read from its manifest.
        source: Reads the samples.
        positions: Which samples of the source are scored, in order.
        calibrating: Which samples calibrate, the name of the subset that does, or None.
        data_root: Folder where a named calibration subset finds its files.
        opener: Opens a named calibration subset.
        found: Sentences about how files of the user's own data were read.

    Raises:
        BenchError: The subset is empty, or its calibration part overlaps its scored part.

    Example:
        >>> subset = bench.load_subset("scenes-val", limit=4)
        >>> len(subset), subset[0].id == subset.ids[0]
        (4, True)
    """

    name: str
    manifest: Manifest
    source: Source
    positions: tuple[int, ...]
    calibrating: tuple[int, ...] | str | None = None
    data_root: Path | None = None
    opener: Opener | None = None
    found: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.positions:
            raise BenchError(f"The subset {self.name} is empty; nothing can be scored on it.")
        if isinstance(self.calibrating, tuple) and set(self.calibrating) & set(self.positions):
            raise BenchError(
                f"The calibration part of the subset {self.name} overlaps its scored part."
            )

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> Sample:
        """Return sample i of the subset's order (IndexError outside); a file that cannot be read is
        a BenchError.
        """
        return self.source.read(self.positions[i])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @property
    def manifest_id(self) -> str:
        """Return the manifest's id: 12 hex digits."""
        return self.manifest.id

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Return the id of each item (image and explained class)."""
        return tuple(self.source.ids[p] for p in self.positions)

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Return the id of each item's image."""
        return tuple(self.source.image_ids[p] for p in self.positions)

    @cached_property
    def labels(self) -> Int64s:
        """Return the labels, int64 [n]."""
        return self.source.labels[list(self.positions)]

    @property
    def num_classes(self) -> int:
        """Return the number of classes; labels are below it."""
        return self.source.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the class names by label."""
        return self.source.class_names

    @property
    def has_boxes(self) -> bool:
        """Return whether the samples have boxes."""
        return self.source.has_boxes

    @property
    def has_masks(self) -> bool:
        """Return whether the samples have masks."""
        return self.source.has_masks

    @property
    def has_others(self) -> bool:
        """Return whether the samples have masks of another class's objects."""
        return bool(getattr(self.source, "has_others", False))

    @property
    def items_per_image(self) -> int:
        """Return how many items each image has where limits and parts count images; else 1."""
        return int(getattr(self.source, "items_per_image", 1))

    @property
    def notes(self) -> tuple[Note, ...]:
        """Return how the files were read, for the terminal and run.json; () if generated."""
        return tuple(getattr(self.source, "notes", ()))

    @property
    def geometry(self) -> Geometry | None:
        """Return the preprocessing that the manifest fixes for every model, or None."""
        return self.manifest.geometry

    @property
    def pictures(self) -> bool:
        """Return whether the pictures may be published."""
        return self.manifest.pictures

    def attribution(self, i: int) -> str | None:
        """Return who must be named where a picture is shown.

        Args:
            i: Item, 0 to n - 1.

        Returns:
            One line, or None where nobody must be named.

        Raises:
            IndexError: There is no such item.

        Example:
            >>> subset.attribution(0) is None  # generated scenes have no author
            True
        """
        return self.source.attribution(self.positions[i])

    def limit(self, n: int) -> Subset:
        """Return the first items of the subset's fixed order; limits are nested.

        Args:
            n: Number of items, at least 1; of grids, number of grids. All are taken if there are
                fewer.

        Returns:
            A subset of the same name and calibration part.

        Raises:
            BenchError: n is below 1.

        Example:
            >>> subset.limit(2).ids == subset.ids[:2]
            True
        """
        if n < 1:
            raise BenchError(
                f"A limit of {n} leaves nothing of the subset {self.name}; it must be at least 1."
            )
        return dataclasses.replace(self, positions=self.positions[: n * self.items_per_image])

    def part(self, start: int | None, stop: int | None) -> Subset:
        """Return a part of the fixed order, as a slice; it is called NAME[start:stop].

        Args:
            start: First item; None is 0.
            stop: The item after the last; None is the end.

        Returns:
            A subset with the same calibration part.

        Raises:
            BenchError: The part is empty.

        Example:
            >>> subset.part(1, 3).name
            'scenes-val[1:3]'
        """
        ends = (None if end is None else end * self.items_per_image for end in (start, stop))
        positions = self.positions[slice(*ends)]
        name = f"{self.name}[{'' if start is None else start}:{'' if stop is None else stop}]"
        if not positions:
            raise BenchError(f"{name} holds nothing: the subset {self.name} has {len(self)} items.")
        return dataclasses.replace(self, name=name, positions=positions)

    def calibration(self) -> Subset | None:
        """Return the part that box thresholds are chosen on; it is never scored.

        Returns:
            A subset, or None where nothing calibrates.

        Raises:
            BenchError: It is named, and this subset was not opened by `load_subset`.

        Example:
            >>> set(subset.calibration().ids) & set(subset.ids)
            set()
        """
        if not self.calibrating:
            return None
        if isinstance(self.calibrating, str):
            if self.opener is None:
                raise BenchError(
                    f"The subset {self.name} calibrates on {self.calibrating}; open it with "
                    "load_subset to find it."
                )
            return self.opener(self.calibrating, data_root=self.data_root)
        name = f"{self.name}/calibration"
        return dataclasses.replace(self, name=name, positions=self.calibrating, calibrating=None)

    def batch(
        self,
        indices: Iterable[int],
        geometry: Geometry,
        min_visible: float = 0.25,
        *,
        identify: bool = False,
        skip_unreadable: bool = False,
    ) -> Batch:
        """Return items in a frame.

        Files come from the cache of frames if they are kept there, with the same pixels.

        Args:
            indices: Items, 0 to n - 1.
            geometry: The frame, such as `model.geometry`.
            min_visible: Boxes with a smaller visible share after the crop are dropped, [0,1].
            identify: Fill `Batch.contents`.
            skip_unreadable: List images that cannot be read in `Batch.unreadable`, and raise
                nothing.

        Returns:
            A batch, pixels float32 in [0,1].

        Raises:
            UnreadableImage: An image cannot be read, and `skip_unreadable` is False.
            BenchError: A sample does not fit its label, boxes or masks.

        Example:
            >>> subset.batch([0, 1], model.geometry).pixels.shape
            torch.Size([2, 3, 8, 8])
        """
        cache = open_frame_cache()
        items: list[_FramedItem] = []
        contents: list[ItemContent | None] = []
        unreadable: list[tuple[str, str]] = []
        for i in indices:
            try:
                item, content = self._item(i, geometry, min_visible, cache, identify)
            except UnreadableImage as error:
                if not skip_unreadable:
                    raise
                unreadable.append((self.source.ids[self.positions[i]], str(error)))
            else:
                items.append(item)
                contents.append(content and join_frame(content, geometry.id, self.explain))
        batch = self._stack(items)
        known = tuple(contents) if identify else ()
        return dataclasses.replace(batch, contents=known, unreadable=tuple(unreadable))

    def _stack(self, items: list[_FramedItem]) -> Batch:
        """Return the batch of framed items."""
        framed = [item.framed for item in items]
        empty = np.zeros((0, 1, 1, 3), dtype=np.uint8)
        stacked = np.stack([one.pixels for one in framed]) if framed else empty
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        boxes = tuple(one.boxes for one in framed if one.boxes is not None)
        return Batch(
            pixels=pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255),
            labels=torch.tensor([item.label for item in items], dtype=torch.int64),
            ids=tuple(item.id for item in items),
            image_ids=tuple(item.image_id for item in items),
            truth=Truth(
                boxes=boxes if self.has_boxes else None,
                masks=_stack_masks([one.mask for one in framed]),
                ignore=_stack_masks([one.ignore for one in framed]),
                others=_stack_masks([one.others for one in framed]) if self.has_others else None,
                other_labels=torch.tensor([item.other_label for item in items])
                if self.has_others
                else None,
            ),
        )

    def _item(
        self,
        i: int,
        geometry: Geometry,
        min_visible: float,
        cache: FrameCache | None,
        identify: bool,
    ) -> tuple[_FramedItem, ItemContent | None]:
        """Return an item, and its content where that is asked for."""
        source = self.source
        identify = identify and self.identifies_items
        # Before the pixels: a file that changes in between is then computed once more.
        content = self._digest(self.positions[i]) if identify else None
        if (
            cache is not None and type(source) is ImagesSource
        ):  # one that is derived or wrapped may change the image
            position = self.positions[i]
            framed = source.read_framed(position, geometry, min_visible, cache)
            if framed is not None:
                item = _FramedItem(
                    source.ids[position],
                    source.image_ids[position],
                    int(source.labels[position]),
                    -1,
                    framed,
                )
                return item, content
        sample = self[i]
        try:
            framed = geometry.sample(sample, min_visible)
        except BenchError as error:
            raise BenchError(f"In the subset {self.name}: {error}") from error
        if identify and content is None:
            content = identify_sample(sample)
        item = _FramedItem(sample.id, sample.image_id, sample.label, sample.other_label, framed)
        return item, content


class _FramedItem(NamedTuple):
    """One item of a batch."""

    id: str
    image_id: str
    label: int
    other_label: int
    framed: Framed


def _stack_masks(masks: list[torch.Tensor | None]) -> torch.Tensor | None:
    present = [mask for mask in masks if mask is not None]
    return torch.stack(present) if present else None

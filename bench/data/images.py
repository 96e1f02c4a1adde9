"""Images in files, read one at a time through Hugging Face `datasets`; shared by folders, parquet
and ImageNet.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data.box_format import BOX_SLACK, Boxes, explain_outside, write_box
from bench.data.cache import FrameCache
from bench.data.class_names import IMAGENET_COUNT, imagenet_names
from bench.data.decode import decode, read_encoded
from bench.data.geometry import Framed, Geometry
from bench.data.inner_paths import refuse_outside
from bench.data.item_identity import (
    digest_file,
    identify_file,
    identify_sample,
    stamp_file,
    unreadable_content,
)
from bench.data.object_masks import ItemMasks
from bench.data.reading import Note, Reading, RowFiles
from bench.errors import BenchError, UnreadableImage
from bench.size_limits import check_parquet
from bench.types import ItemContent, Sample, UInt8Image


@dataclass(frozen=True)
class Items:
    """What is known of the items before any image is read; all sequences have one entry per item.

    ids: unique.  images: where the image of each item stands in the dataset.  labels: int64. boxes:
    float32 [n,4] xyxy edges in the pixels that are read, or as fractions of the image
    (`Reading.relative`); None for the whole subset.  credits: who is to be named.  masks: of the
    items' objects, or None for the whole subset.  sizes: (height, width) of the image that the
    annotation was made on, where it is known.
    """

    ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    images: tuple[int, ...]
    labels: npt.NDArray[np.int64]
    boxes: tuple[Boxes, ...] | None = None
    credits: tuple[str | None, ...] | None = None
    masks: ItemMasks | None = None
    sizes: tuple[tuple[int, int] | None, ...] | None = None


class ImagesSource:
    """A source of a `Subset` over a `datasets.Dataset` with an undecoded column `image`; picklable.

    clip_boxes: official boxes are clipped to the image, however far they leave it; others must lie
    inside.
    """

    def __init__(
        self,
        name: str,
        dataset: Any,
        items: Items,
        classes: tuple[str, ...] | str,
        clip_boxes: bool,
        reading: Reading | None = None,
    ) -> None:
        self.name = name
        self._reading = reading or Reading()
        self.ids, self.image_ids, self.labels = items.ids, items.image_ids, items.labels
        self.has_boxes, self.has_masks = items.boxes is not None, items.masks is not None
        self._dataset, self._items, self._classes, self._clip = dataset, items, classes, clip_boxes
        _check_ids(name, items.ids)
        _check_labels(name, items, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return IMAGENET_COUNT if isinstance(self._classes, str) else len(self._classes)

    @property
    def notes(self) -> tuple[Note, ...]:
        """Return how the files were read."""
        return self._reading.notes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the class names by label."""
        return imagenet_names() if isinstance(self._classes, str) else self._classes

    def read(self, position: int) -> Sample:
        """Return the sample at a position; an image that cannot be read is a BenchError naming its
        file.
        """
        record, where = self._record(position)
        image = _decode_image(record, where, self._reading.turned)
        boxes = self._boxes(position, image.shape[:2], where)
        ids, label = (self.ids[position], self.image_ids[position]), int(self.labels[position])
        if self._items.masks is None:
            return Sample(*ids, image, label, boxes)
        found = self._items.masks.read(position, (image.shape[0], image.shape[1]), where)
        return Sample(*ids, image, label, boxes, found.mask, found.ignore)

    def read_framed(
        self, position: int, geometry: Geometry, min_visible: float, cache: FrameCache
    ) -> Framed | None:
        """Return what `Geometry.sample` makes of the sample at a position, its pixels from a cache
        where they are kept.

        None where the image cannot be read: then `read` says why.
        """
        record, where = self._record(position)
        try:
            content, turned = read_encoded(record), self._reading.turned
            frame = cache.frame(
                content, geometry, lambda: decode({"bytes": content}, where, turned), turned
            )
        except (OSError, BenchError):
            return None
        boxes = self._boxes(position, frame.stored, where)
        moved = None if boxes is None else geometry.boxes(boxes, *frame.stored, min_visible)
        if self._items.masks is None:
            return Framed(frame.pixels, moved, None, None, None)
        found = self._items.masks.read(position, frame.stored, where)
        mask, ignore = geometry.mask(found.mask), geometry.mask(found.ignore)
        return Framed(frame.pixels, moved, mask, ignore, None)

    def relabel(self, labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> ImagesSource:
        """Return the same items under other labels [n] of other classes."""
        other = copy(self)
        other.labels, other._classes = labels, classes
        other._items = replace(self._items, labels=labels)
        _check_labels(other.name, other._items, other.num_classes)
        return other

    def digest_item(self, position: int, known: ItemContent | None = None) -> ItemContent:
        """Return the content of the item at a position.

        known: of an earlier run; while its stamp is the file's, the file is not read.
        """
        if self.has_masks:  # they lie in files of their own
            try:
                return identify_sample(self.read(position))
            except UnreadableImage:
                return unreadable_content()
        try:
            file, stamp = self._digest_image(position, known)
        except OSError:
            return unreadable_content()
        boxes = None if self._items.boxes is None else self._items.boxes[position]
        turned = self._reading.turned
        return identify_file(file, stamp, int(self.labels[position]), boxes, turned)

    def _digest_image(self, position: int, known: ItemContent | None) -> tuple[str, str]:
        """Return the digest and the stamp of an image's file; bytes in a table have no stamp."""
        if known is not None and known.stamp:  # without the row, which takes longer than the file
            path = self._paths[self._items.images[position]]
            if path is not None and stamp_file(Path(path)) == known.stamp:
                return known.file, known.stamp
        record, _ = self._record(position)
        embedded = record.get("bytes") is not None
        stamp = "" if embedded else stamp_file(Path(record.get("path") or ""))
        return digest_file(read_encoded(record)), stamp

    @functools.cached_property
    def _paths(self) -> list[str | None]:
        return image_paths(self._dataset)

    def _record(self, position: int) -> tuple[dict[str, Any], str]:
        """Return {"bytes", "path"} of an image, and what it is called in errors."""
        return read_record(
            self._dataset, self._items.images[position], self.ids[position], self._reading.rows
        )

    def _boxes(self, position: int, stored: tuple[int, ...], where: str) -> Boxes | None:
        if self._items.sizes is not None:
            _check_size(self._items.sizes[position], stored, where)
        return (
            None
            if self._items.boxes is None
            else self._clip_boxes(self._items.boxes[position], stored, where)
        )

    def attribution(self, position: int) -> str | None:
        """Return who is to be named where the picture is shown, or None."""
        return None if self._items.credits is None else self._items.credits[position]

    def _clip_boxes(self, boxes: Boxes, stored: tuple[int, ...], where: str) -> Boxes:
        """Return boxes in pixels, clipped to their image (height, width)."""
        height, width = stored
        limit = np.array([width, height] * 2, dtype=np.float32)
        if self._reading.relative:
            boxes = boxes * limit
        if not self._clip:
            outside = ((boxes < -BOX_SLACK) | (boxes > limit + BOX_SLACK)).any(axis=1)
            if outside.any():
                box = boxes[outside][0]
                raise BenchError(
                    f"The box {write_box(box)} of {where} lies outside its image of "
                    f"{width}x{height} pixels; {explain_outside(box, stored)}."
                )
        clipped = boxes.clip(0, limit).astype(np.float32)
        return clipped[(clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])]


def _decode_image(record: dict[str, Any], where: str, turned: bool) -> UInt8Image:
    """Return the image of a record; one that cannot be read is an `UnreadableImage`."""
    try:
        return decode(record, where, turned)
    except BenchError as error:
        raise UnreadableImage(str(error)) from error


def read_record(
    dataset: Any, row: int, name: str, rows: RowFiles | None = None
) -> tuple[dict[str, Any], str]:
    """Return {"bytes", "path"} of an image, and what it is called in errors.

    name: what it is called where its record has no path.  rows: the files that hold the records.
    """
    record = dataset[row]["image"] or {}
    called = str(record.get("path") or name)
    if rows is not None and record.get("bytes") is None and record.get("path"):
        record = {"bytes": None, "path": str(rows.locate(called))}
    return record, called if rows is None else f"{called} ({rows.place(row)})"


def files_dataset(files: Sequence[Path], root: Path) -> Any:
    """Return a `datasets.Dataset` whose column `image` holds the paths of image files,
    undecoded.

    Raises BenchError where a file lies outside `root`, the folder of the data.
    """
    refuse_outside(files, root, f"The data of {root}")
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(decode=False)})
    return Dataset.from_dict({"image": [str(file.absolute()) for file in files]}, features=features)


def parquet_dataset(files: Sequence[Path], name: str) -> Any:
    """Return parquet files as one `datasets.Dataset` with its column `image` undecoded.

    Raises BenchError where a file is not parquet or there is no column `image` of encoded images.
    """
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    row_files(files)  # which names the one that cannot be read
    try:
        with _quiet_datasets():
            dataset = load_dataset(
                "parquet", data_files=[str(file) for file in files], split="train"
            )
    except Exception as error:  # datasets wraps what went wrong in errors of its own
        cause = error.__cause__ or error
        raise BenchError(
            f"The parquet files of the subset {name} cannot be read as one table ({cause}), from "
            f"{files[0]} on; give them the same columns."
        ) from error
    if "image" not in dataset.column_names:
        have = ", ".join(dataset.column_names)
        raise BenchError(
            f"The parquet of the subset {name} has no column 'image'; its columns are {have}."
        )
    try:
        return dataset.cast_column("image", ImageFeature(decode=False))
    except Exception as error:  # pyarrow and datasets raise errors of many kinds
        raise BenchError(
            f"The column 'image' of the parquet of the subset {name} holds no images "
            f"({dataset.features['image']}); store each as bytes of a PNG or JPEG, or as a path."
        ) from error


def row_files(files: Sequence[Path]) -> RowFiles:
    """Return which rows lie in which parquet file; one that cannot be read is a BenchError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    starts = [0]
    for file in files:
        try:
            check_parquet(file, "The parquet file")
            starts.append(starts[-1] + int(pq.read_metadata(file).num_rows))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise BenchError(
                f"The parquet file cannot be read ({reason}): {file}; write or fetch it again."
            ) from error
    return RowFiles(tuple(map(str, files)), tuple(starts[:-1]))


def image_paths(dataset: Any) -> list[str | None]:
    """Return the path stored with each image of a dataset, without reading the images."""
    column: list[str | None] = list(dataset.select_columns(["image"]).flatten()["image.path"])
    return column


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Keep the bars and messages of `datasets` out of the output, and leave its settings as they
    were.
    """
    import datasets

    before, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not before:
            datasets.enable_progress_bars()


def files_digest(files: Sequence[Path]) -> str:
    """Return the sha256 of a file, or of the sha256 texts of several in their order (64 hex
    digits).
    """
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _check_ids(name: str, ids: tuple[str, ...]) -> None:
    twice = [item for item, count in Counter(ids).items() if count > 1]
    if twice:
        raise BenchError(f"The subset {name} has the id {twice[0]!r} twice; ids must be unique.")


def _check_labels(name: str, items: Items, num_classes: int) -> None:
    bad = np.flatnonzero((items.labels < 0) | (items.labels >= num_classes))
    if bad.size:
        first = int(bad[0])
        raise BenchError(
            f"The label {int(items.labels[first])} of {items.ids[first]} in the subset {name} is "
            f"not one of its {num_classes} classes (0..{num_classes - 1})."
        )


def _check_size(annotated: tuple[int, int] | None, stored: tuple[int, ...], where: str) -> None:
    """Refuse an image (height, width) of another size than the one that was annotated."""
    if annotated is not None and annotated != tuple(stored):
        turned = " (turned by its EXIF orientation?)" if annotated[::-1] == tuple(stored) else ""
        raise BenchError(
            f"The image {where} has {stored[1]}x{stored[0]} pixels{turned} and its annotation says "
            f"{annotated[1]}x{annotated[0]}, so boxes and masks would not fit; give the image that "
            "was annotated."
        )

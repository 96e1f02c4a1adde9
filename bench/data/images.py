"""Images in files, read one at a time through Hugging Face `datasets`; shared by folders, parquet
and ImageNet.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data.cache import FrameCache
from bench.data.decode import decode
from bench.data.geometry import Framed, Geometry
from bench.data.item_identity import (
    digest_file,
    identify_file,
    identify_sample,
    stamp_file,
    unreadable_content,
)
from bench.data.manifest import IMAGENET_CLASSES
from bench.errors import BenchError, UnreadableImage
from bench.types import ItemContent, Sample, UInt8Image

Boxes = npt.NDArray[np.float32]
BOX_SLACK = 1.0
"""Pixels by which a box may leave its image, as rounded boxes do; what leaves it is clipped."""


@dataclass(frozen=True)
class Items:
    """What is known of the items before any image is read; all sequences have one entry per item.

    ids: unique.  images: where the image of each item stands in the dataset.  labels: int64. boxes:
    float32 [n,4] xyxy edges in stored pixels, or None for the whole subset.  credits: who is to be
    named.
    """

    ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    images: tuple[int, ...]
    labels: npt.NDArray[np.int64]
    boxes: tuple[Boxes, ...] | None = None
    credits: tuple[str | None, ...] | None = None


class ImagesSource:
    """A source of a `Subset` over a `datasets.Dataset` with an undecoded column `image`; picklable.

    clip_boxes: official boxes are clipped to the image, however far they leave it; others must lie
    inside.
    """

    has_masks = False

    def __init__(
        self,
        name: str,
        dataset: Any,
        items: Items,
        classes: tuple[str, ...] | str,
        clip_boxes: bool,
    ) -> None:
        self.name = name
        self.ids, self.image_ids, self.labels = items.ids, items.image_ids, items.labels
        self.has_boxes = items.boxes is not None
        self._dataset, self._items, self._classes, self._clip = dataset, items, classes, clip_boxes
        _check_ids(name, items.ids)
        _check_labels(name, items, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return IMAGENET_COUNT if isinstance(self._classes, str) else len(self._classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the class names by label."""
        return imagenet_names() if isinstance(self._classes, str) else self._classes

    def read(self, position: int) -> Sample:
        """Return the sample at a position; an image that cannot be read is a BenchError naming its
        file.
        """
        record, where = self._record(position)
        image = _decode_image(record, where)
        boxes = self._boxes(position, image.shape[:2], where)
        return Sample(
            self.ids[position], self.image_ids[position], image, int(self.labels[position]), boxes
        )

    def read_framed(
        self, position: int, geometry: Geometry, min_visible: float, cache: FrameCache
    ) -> Framed | None:
        """Return what `Geometry.sample` makes of the sample at a position, its pixels from a cache
        where they are kept.

        None where the image cannot be read: then `read` says why.
        """
        record, where = self._record(position)
        try:
            content = _read_encoded(record)
            frame = cache.frame(content, geometry, lambda: decode({"bytes": content}, where))
        except (OSError, BenchError):
            return None
        boxes = self._boxes(position, frame.stored, where)
        moved = None if boxes is None else geometry.boxes(boxes, *frame.stored, min_visible)
        return Framed(frame.pixels, moved, None, None, None)

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
        return identify_file(file, stamp, int(self.labels[position]), boxes)

    def _digest_image(self, position: int, known: ItemContent | None) -> tuple[str, str]:
        """Return the digest and the stamp of an image's file; bytes in a table have no stamp."""
        if known is not None and known.stamp:  # without the row, which takes longer than the file
            path = self._paths[self._items.images[position]]
            if path is not None and stamp_file(Path(path)) == known.stamp:
                return known.file, known.stamp
        record, _ = self._record(position)
        embedded = record.get("bytes") is not None
        stamp = "" if embedded else stamp_file(Path(record.get("path") or ""))
        return digest_file(_read_encoded(record)), stamp

    @functools.cached_property
    def _paths(self) -> list[str | None]:
        return image_paths(self._dataset)

    def _record(self, position: int) -> tuple[dict[str, Any], str]:
        """Return {"bytes", "path"} of an image, and what it is called in errors."""
        record = self._dataset[self._items.images[position]]["image"] or {}
        return record, str(record.get("path") or self.ids[position])

    def _boxes(self, position: int, stored: tuple[int, ...], where: str) -> Boxes | None:
        return (
            None
            if self._items.boxes is None
            else self._clip_boxes(self._items.boxes[position], stored, where)
        )

    def attribution(self, position: int) -> str | None:
        """Return who is to be named where the picture is shown, or None."""
        return None if self._items.credits is None else self._items.credits[position]

    def _clip_boxes(self, boxes: Boxes, stored: tuple[int, ...], where: str) -> Boxes:
        """Return boxes clipped to their stored image (height, width)."""
        height, width = stored
        limit = np.array([width, height] * 2, dtype=np.float32)
        if not self._clip:
            outside = ((boxes < -BOX_SLACK) | (boxes > limit + BOX_SLACK)).any(axis=1)
            if outside.any():
                box = _write_box(boxes[outside][0])
                raise BenchError(
                    f"The box {box} of {where} lies outside its image of {width}x{height} pixels; "
                    "mend it."
                )
        clipped = boxes.clip(0, limit).astype(np.float32)
        return clipped[(clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])]


def _decode_image(record: dict[str, Any], where: str) -> UInt8Image:
    """Return the image of a record; one that cannot be read is an `UnreadableImage`."""
    try:
        return decode(record, where)
    except BenchError as error:
        raise UnreadableImage(str(error)) from error


def _read_encoded(record: dict[str, Any]) -> bytes:
    """Return the encoded bytes of a record {"bytes", "path"}; an OSError where there are none."""
    content = record.get("bytes")
    if content is None:
        return Path(record.get("path") or "").read_bytes()
    return bytes(content)


def read_boxes(values: Any, where: str, inclusive: bool = False) -> Boxes:
    """Return boxes [n,4] float32 from a list of boxes, one box or None; `where` names them in
    errors.

    inclusive: x1, y1 are the last pixel of the object, not the edge after it. Raises BenchError for
    a box that is not four finite numbers or is reversed (x0 >= x1 or y0 >= y1).
    """
    try:
        boxes = np.array(
            [] if values is None else [list(b) if np.ndim(b) else b for b in values],
            dtype=np.float32,
        )
    except (TypeError, ValueError) as error:
        raise BenchError(
            f"The boxes of {where} are not lists of four numbers (x0, y0, x1, y1)."
        ) from error
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else np.atleast_2d(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise BenchError(
            f"The boxes of {where} are not lists of four finite numbers (x0, y0, x1, y1)."
        )
    if inclusive:
        boxes = boxes + np.array([0, 0, 1, 1], dtype=np.float32)
    reversed_ = (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])
    if reversed_.any():
        box = _write_box(boxes[reversed_][0])
        raise BenchError(
            f"The box {box} of {where} is reversed or empty; boxes are x0, y0, x1, y1 with x0 < "
            "x1, y0 < y1."
        )
    return boxes


def files_dataset(files: Sequence[Path]) -> Any:
    """Return a `datasets.Dataset` whose column `image` holds the paths of image files,
    undecoded.
    """
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

    try:
        with _quiet_datasets():
            dataset = load_dataset(
                "parquet", data_files=[str(file) for file in files], split="train"
            )
    except Exception as error:  # datasets wraps what went wrong in errors of its own
        cause = error.__cause__ or error
        raise BenchError(
            f"The parquet of the subset {name} cannot be read ({cause}): {files[0]}."
        ) from error
    if "image" not in dataset.column_names:
        have = ", ".join(dataset.column_names)
        raise BenchError(
            f"The parquet of the subset {name} has no column 'image'; its columns are {have}."
        )
    return dataset.cast_column("image", ImageFeature(decode=False))


def image_paths(dataset: Any) -> list[str | None]:
    """Return the path stored with each image of a dataset, without reading the images."""
    column: list[str | None] = list(dataset.select_columns(["image"]).flatten()["image.path"])
    return column


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Keep the progress bars of `datasets` out of the output, and leave its setting as it was."""
    import datasets

    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.enable_progress_bars()


# --- ImageNet's classes
# -----------------------------------------------------------------------------------------------
IMAGENET_COUNT = 1000


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1000 wnids in label order, which is their sorted order (from timm, which ships the
    list).
    """
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """Return the 1000 class names in label order: the first of each synset's words."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(str(info.index_to_description(i)).split(",")[0] for i in range(IMAGENET_COUNT))


def class_list(classes: tuple[str, ...] | str, folder: Path, name: str) -> tuple[str, ...] | str:
    """Return a manifest's classes with a text file read: names, or "imagenet-1k", or () for "from
    the data".
    """
    if not isinstance(classes, str) or classes == IMAGENET_CLASSES:
        return classes
    file = folder / classes
    if not file.is_file():
        raise BenchError(
            f"The subset {name} takes its class names from {file}, which is not there."
        )
    return tuple(
        line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    )


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


def _write_box(box: npt.NDArray[Any]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"

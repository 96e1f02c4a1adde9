"""COCO's json of instances: one item per image and category, with its boxes and masks.

Boxes are x, y, width, height in pixels, which become edges. Labels count the categories in the
order of their ids, which may have gaps. Crowd annotations are regions and no objects: they have no
box, and pixel precision leaves their pixels out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.data.images import files_dataset, files_digest
from bench.data.inner_paths import join_inside, require_files
from bench.data.layouts.coco_masks import CocoMasks, check_segmentation, import_pycocotools
from bench.data.layouts.gathered import (
    Classes,
    Gathered,
    ImageObjects,
    count_words,
    describe_truth,
    index_names,
    list_object_items,
    shorten_names,
)
from bench.errors import BenchError
from bench.schema import parse_json
from bench.size_limits import check_text_size

_TABLES = ("images", "annotations", "categories")
_ANNOTATIONS = "annotations"
_IMAGES = "images"
_INSTANCES = "instances"
_HEAD = 4096


def find_coco_files(place: Path) -> list[Path]:
    """Return the COCO json files of a folder, or of its folder `annotations`; or the file itself.

    A file counts by what its json holds. Where files are called instances_..., others are COCO's
    captions and keypoints, and do not count.
    """
    if place.is_file():
        return [place] if place.suffix.lower() == ".json" else []
    for folder in (place, place / _ANNOTATIONS):
        found = sorted(file for file in folder.glob("*.json") if _looks_like_coco(file))
        named = [file for file in found if file.name.startswith(_INSTANCES)]
        if found:
            return named or found
    return []


def _looks_like_coco(file: Path) -> bool:
    """Tell from a file's text whether its json has COCO's tables; large files are not parsed."""
    check_text_size(file, "The file")
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    return text[:_HEAD].lstrip().startswith("{") and all(f'"{key}"' in text for key in _TABLES[:2])


def gather_coco(place: Path, classes: Classes = ()) -> Gathered:
    """Return the items of a COCO json file, or of a folder with one.

    Raises:
        BenchError: there are several files; a table, image, category or box is missing or wrong;
            segmentations are there and pycocotools is not installed.
    """
    files = find_coco_files(place)
    if len(files) > 1:
        names = [file.name for file in files]
        raise BenchError(
            f"The folder {place} has {len(files)} COCO files ({shorten_names(names, 6)}); give the "
            f"path of one, such as {files[0]}."
        )
    if not files:
        raise BenchError(f"There is no COCO json at {place}; give its file.")
    content = _CocoContent.read(files[0], classes)
    paths = content.find_images()
    objects = content.list_objects()
    used = [i for i, one in enumerate(objects) if one.boxes]
    if not used:
        raise BenchError(f"No image of {files[0]} has an object; the subset is empty.")
    masks = content.list_masks([objects[i] for i in used], [content.image_ids[i] for i in used])
    items = list_object_items([objects[i] for i in used], content.with_boxes, masks)
    kept = count_words(len(used), "image")
    return Gathered(
        dataset=files_dataset([paths[i] for i in used], content.folder),
        items=items,
        classes=content.classes,
        what=f"{count_words(len(items.ids), 'item')} (image and category) of {kept} by "
        f"{files[0].name}; {describe_truth(items)}",
        content=files_digest(files),
        notes=(content.describe_labels(), *content.list_notes(len(objects) - len(used))),
        part=files[0].stem if files[0].parent.name == _ANNOTATIONS and place.is_dir() else "",
    )


@dataclass(frozen=True)
class _CocoContent:
    """The tables of a file.

    labels: by category id.  annotations: by image id.
    """

    file: Path
    images: tuple[Mapping[str, Any], ...]
    categories: tuple[tuple[int, str], ...]
    labels: Mapping[int, int]
    classes: Classes
    annotations: Mapping[Any, list[Mapping[str, Any]]]
    degenerate: int

    @classmethod
    def read(cls, file: Path, classes: Classes) -> _CocoContent:
        """Read and check the tables of a file."""
        tables = read_tables(file)
        pairs = sorted((_read_id(c, file), str(c.get("name", c["id"]))) for c in tables[2])
        if len({number for number, _ in pairs}) < len(pairs):
            raise BenchError(f"Two categories of {file} have the same id; give each its own.")
        names = [name for _, name in pairs]
        labels = index_names(names, classes, str(file))[0] if classes else [*range(len(names))]
        by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        known, degenerate = _read_image_ids(tables[0], file), 0
        numbers = {number for number, _ in pairs}
        for annotation in tables[1]:
            _check_annotation(annotation, known, numbers, file)
            if _is_degenerate(annotation):
                degenerate += 1
            else:
                by_image[annotation["image_id"]].append(annotation)
        index = {number: label for (number, _), label in zip(pairs, labels, strict=True)}
        return cls(
            file, tables[0], tuple(pairs), index, classes or tuple(names), by_image, degenerate
        )

    @property
    def image_ids(self) -> list[Any]:
        """Return the id of each image in the file."""
        return [image["id"] for image in self.images]

    @cached_property
    def _objects(self) -> list[Mapping[str, Any]]:
        return [a for found in self.annotations.values() for a in found if not is_crowd(a)]

    @cached_property
    def with_boxes(self) -> bool:
        """Return whether every object has a box."""
        return all(a.get("bbox") for a in self._objects)

    @cached_property
    def lacking(self) -> int:
        """Return how many objects have no segmentation."""
        return sum(not a.get("segmentation") for a in self._objects)

    @property
    def with_masks(self) -> bool:
        """Return whether every object has a segmentation."""
        return not self.lacking

    @property
    def folder(self) -> Path:
        """Return the folder of the whole data set."""
        beside = self.file.parent
        return beside.parent if beside.name == _ANNOTATIONS else beside

    def find_images(self) -> list[Path]:
        """Return the file of each image."""
        names = [str(image.get("file_name") or "") for image in self.images]
        if not names or not all(names):
            raise BenchError(f"An image of {self.file} has no file_name; add it.")
        beside = self.file.parent
        roots = [beside / _IMAGES, beside]
        if beside.name == _ANNOTATIONS:
            part = self.file.stem.rpartition("_")[2]
            roots += [beside.parent / part, beside.parent / _IMAGES / part]
            roots += [beside.parent / _IMAGES, beside.parent]
        for root in roots:
            if join_inside(root, names[0], str(self.file)).is_file():
                break
        else:
            folders = ", ".join(str(root) for root in roots)
            raise BenchError(
                f"The image {names[0]} of {self.file} is in none of {folders}; put the images "
                "there."
            )
        paths = [join_inside(root, name, str(self.file)) for name in names]
        require_files(paths, str(self.file))
        return paths

    def list_objects(self) -> list[ImageObjects]:
        """Return the objects of each image; those of a crowd are none."""
        found = []
        for image in self.images:
            size = _read_size(image)
            one = ImageObjects(image["file_name"].replace("\\", "/"), size)
            for annotation in self.annotations.get(image["id"], ()):
                if not is_crowd(annotation):
                    label = self.labels[annotation["category_id"]]
                    boxes = one.boxes.setdefault(label, [])
                    if self.with_boxes:
                        boxes.append(_read_box(annotation, self.file))
            found.append(one)
        self._check_fractions(found)
        return found

    def _check_fractions(self, found: Sequence[ImageObjects]) -> None:
        edges = [box for one in found for boxes in one.boxes.values() for box in boxes]
        shares = [box for box in edges if max(box) <= 1 and any(value % 1 for value in box)]
        if edges and len(shares) == len(edges):
            raise BenchError(
                f"The boxes of {self.file} are fractions of the image; COCO's are x, y, width, "
                "height in pixels, so multiply them by the image's size."
            )
        if shares:
            x0, y0, x1, y1 = shares[0]
            raise BenchError(
                f"The box ({x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}) of {self.file} lies within "
                "one pixel, as a fraction of the image would; write all boxes in pixels."
            )

    def list_masks(self, objects: Sequence[ImageObjects], ids: Sequence[Any]) -> CocoMasks | None:
        """Return the masks of the items of some images, or None where objects lack a
        segmentation.
        """
        if not self.with_masks:
            return None
        import_pycocotools(str(self.file))
        shapes, crowds = [], []
        for one, image in zip(objects, ids, strict=True):
            for label in one.boxes:
                of_label = [
                    a for a in self.annotations[image] if self.labels[a["category_id"]] == label
                ]
                for annotation in of_label:
                    check_segmentation(annotation.get("segmentation"), annotation, self.file)
                shapes.append(tuple(a["segmentation"] for a in of_label if not is_crowd(a)))
                crowds.append(
                    tuple(a["segmentation"] for a in of_label if is_crowd(a) and a["segmentation"])
                )
        return CocoMasks(tuple(shapes), tuple(crowds))

    def describe_labels(self) -> str:
        """Return the labels with their categories and these's ids, in one sentence."""
        words = [f"{self.labels[number]} {name} (id {number})" for number, name in self.categories]
        return f"Labels of the categories, by the order of their ids: {', '.join(words)}."

    def list_notes(self, without: int) -> list[str]:
        """Return sentences about what is left out; without: images without an object."""
        crowd = sum(is_crowd(a) for found in self.annotations.values() for a in found)
        no_box = sum(not a.get("bbox") for a in self._objects)
        boxless = 0 if no_box == len(self._objects) else no_box
        lacking = 0 if self.with_masks or self.lacking == len(self._objects) else self.lacking
        sentences = {
            f"Left out, without an object: {count_words(without, 'image')}.": without,
            f"No objects, since they are regions of a crowd: {count_words(crowd, 'annotation')}; "
            "they have no box, and pixel precision leaves their pixels out.": crowd,
            f"Left out, without an area: {count_words(self.degenerate, 'annotation')}.": (
                self.degenerate
            ),
            f"There are no boxes, since bbox is missing for {count_words(boxless, 'object')}.": (
                boxless
            ),
            "There are no masks, since a segmentation is missing for "
            f"{count_words(lacking, 'object')}.": lacking,
        }
        return [sentence for sentence, count in sentences.items() if count]


def read_tables(file: Path) -> tuple[tuple[Mapping[str, Any], ...], ...]:
    """Return the tables images, annotations and categories of a COCO file."""
    check_text_size(file, "The file")
    try:
        content = parse_json(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"The file {file} cannot be read as JSON ({error}).") from error
    missing = [
        name
        for name in _TABLES
        if not isinstance(content, dict)
        or not isinstance(content.get(name), list)
        or not all(isinstance(row, dict) for row in content[name])
    ]
    if missing:
        raise BenchError(
            f"The file {file} is no COCO json of instances: it has no list of "
            f"{', no list of '.join(missing)}."
        )
    return tuple(tuple(content[name]) for name in _TABLES)


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Tell whether an annotation is the region of a crowd."""
    return bool(annotation.get("iscrowd"))


def _read_image_ids(images: Sequence[Mapping[str, Any]], file: Path) -> set[Any]:
    """Return the ids of images, of which each image has its own."""
    counts = Counter(image.get("id") for image in images)
    for number, count in counts.items():
        if number is None or count > 1:
            what = "without an id" if number is None else f"with the id {number!r}"
            raise BenchError(
                f"{file} lists {count_words(count, 'image')} {what}; give each an id of its own."
            )
    return set(counts)


def _read_id(category: Mapping[str, Any], file: Path) -> int:
    if not isinstance(category.get("id"), int):
        raise BenchError(f"A category of {file} has no whole number as its id.")
    return int(category["id"])


def _check_annotation(
    annotation: Mapping[str, Any], images: set[Any], categories: set[int], file: Path
) -> None:
    """Refuse an annotation of an unknown image or category."""
    for key, known in (("image_id", images), ("category_id", categories)):
        if annotation.get(key) not in known:
            raise BenchError(
                f"The annotation {annotation.get('id')} of {file} has the {key} "
                f"{annotation.get(key)!r}, which the file does not list."
            )


def _is_degenerate(annotation: Mapping[str, Any]) -> bool:
    """Tell whether an annotation has a box of width or height 0, as COCO has a few."""
    box = annotation.get("bbox")
    return isinstance(box, list) and len(box) == 4 and 0 in box[2:]


def _read_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    known = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return (int(str(height)), int(str(width))) if known else None


def _read_box(annotation: Mapping[str, Any], file: Path) -> list[float]:
    """Return the edges x0, y0, x1, y1 of an annotation's box."""
    box = annotation["bbox"]
    numbers = isinstance(box, list) and all(type(v) in (int, float) for v in box)
    if not numbers or len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        raise BenchError(
            f"The box {box} of the annotation {annotation.get('id')} in {file} is not x, y, width, "
            "height with a width and a height above 0."
        )
    x, y, width, height = map(float, box)
    return [x, y, x + width, y + height]

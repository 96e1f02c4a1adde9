"""Pascal VOC's xml: `Annotations/*.xml` with `JPEGImages/`, or xml beside images.

One item per image and class. VOC counts pixels from 1 and its corners are inside the box, so the
edges are xmin - 1, ymin - 1, xmax, ymax. Objects marked as difficult are objects.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from bench.data.images import files_dataset, files_digest
from bench.data.inner_paths import is_there, join_inside
from bench.data.labels import read_labels
from bench.data.layouts.gathered import (
    Classes,
    Gathered,
    ImageObjects,
    count_words,
    describe_truth,
    is_hidden,
    is_image_name,
    list_object_items,
    shorten_names,
)
from bench.errors import BenchError
from bench.size_limits import check_text_size

_ANNOTATIONS = ("Annotations", "annotations")
_IMAGES = ("JPEGImages", "images", "Images")
_HEAD = 4096
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _VocObject:
    name: str
    box: list[float]
    difficult: bool
    from_zero: bool


@dataclass(frozen=True)
class _VocImage:
    file: Path
    path: Path
    size: tuple[int, int] | None
    objects: tuple[_VocObject, ...]


def find_voc_files(place: Path) -> list[Path]:
    """Return the xml files of a folder's `Annotations`, or those in the folder itself, where the
    first is an annotation.
    """
    if not place.is_dir():
        return []
    for name in _ANNOTATIONS:
        if found := _list_xml(place / name):
            return found
    found = _list_xml(place)
    return found if found and b"<annotation" in found[0].read_bytes()[:_HEAD] else []


def _list_xml(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.[xX][mM][lL]") if not is_hidden(path))


def gather_voc(place: Path, classes: Classes = ()) -> Gathered:
    """Return the items of a folder with VOC's xml files.

    Raises:
        BenchError: an xml or its image is missing or wrong.
    """
    files = find_voc_files(place)
    if not files:
        raise BenchError(f"The folder {place} has no xml files of Pascal VOC.")
    images = _read_images(place, files)
    names = [one.name for image in images for one in image.objects]
    files_of = [image.file for image in images for _ in image.objects]
    used = [image for image in images if image.objects]
    if not used:
        raise BenchError(f"No xml of {place} has an object; the subset is empty.")
    read = read_labels(names, classes, str(place), lambda i: f"an object of {files_of[i]}")
    labels, known = read.labels, read.classes
    index = dict(zip(names, labels, strict=True))
    listed = []
    for image in used:
        one = ImageObjects(image.path.relative_to(place).as_posix(), image.size)
        for found in image.objects:
            one.boxes.setdefault(index[found.name], []).append(found.box)
        listed.append(one)
    items = list_object_items(listed, with_boxes=True)
    numbers = sorted({(label, name) for name, label in index.items()})
    order = shorten_names([f"{label} {name}" for label, name in numbers])
    return Gathered(
        dataset=files_dataset([image.path for image in used], place),
        items=items,
        classes=known,
        what=f"{count_words(len(items.ids), 'item')} (image and class) of "
        f"{count_words(len(used), 'image')} by Pascal VOC's xml; labels: {order}; "
        f"{describe_truth(items)}",
        content=files_digest(files),
        notes=(*read.cautions, *_list_notes(images)),
    )


def _read_images(place: Path, files: list[Path]) -> list[_VocImage]:
    folders = [files[0].parent]
    if folders[0] != place:
        folders = [place / name for name in _IMAGES if (place / name).is_dir()] or [place]
    there = {
        path.stem: path
        for folder in reversed(folders)
        for path in sorted(folder.iterdir())
        if path.is_file() and is_image_name(path)
    }
    return [_read_image(file, folders[0], there) for file in files]


def _read_image(file: Path, folder: Path, there: dict[str, Path]) -> _VocImage:
    check_text_size(file, "The annotation")
    try:
        root = ET.parse(file).getroot()
    except (ET.ParseError, OSError) as error:
        raise BenchError(f"The annotation {file} cannot be read as XML ({error}).") from error
    if root.tag != "annotation":
        raise BenchError(
            f"The file {file} is no annotation of Pascal VOC: its first element is <{root.tag}>, "
            "not <annotation>."
        )
    path = there.get(file.stem)
    if path is None:
        path = join_inside(folder, root.findtext("filename") or file.stem, str(file))
    if not is_there(path):
        raise BenchError(
            f"The image {path} of {file} is missing; fetch it, or take the xml file away."
        )
    height, width = (_read_side(root.findtext(f"size/{side}")) for side in ("height", "width"))
    size = (height, width) if height and width else None
    return _VocImage(file, path, size, tuple(_read_object(o, file) for o in root.findall("object")))


def _read_side(text: str | None) -> int:
    return int(text) if text and text.strip().isdigit() else 0


def _read_object(element: ET.Element, file: Path) -> _VocObject:
    name = (element.findtext("name") or "").strip()
    try:
        x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{key}") or "") for key in _CORNERS)
    except ValueError as error:
        raise BenchError(
            f"An object of {file} has no bndbox of four numbers (xmin, ymin, xmax, ymax)."
        ) from error
    if not name or not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 < x0 or y1 < y0:
        raise BenchError(
            f"The object {name!r} of {file} has no name, or its box ({x0:g}, {y0:g}, {x1:g}, "
            f"{y1:g}) is reversed; mend it."
        )
    if max(x1, y1) <= 1 and (x1, y1) != (1, 1):
        raise BenchError(
            f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) of {file} is a fraction of the image; VOC's "
            "corners are pixels."
        )
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return _VocObject(name, [x0 - 1, y0 - 1, x1, y1], difficult, min(x0, y0) < 1)


def _list_notes(images: list[_VocImage]) -> list[str]:
    found = [one for image in images for one in image.objects]
    difficult = sum(one.difficult for one in found)
    from_zero = sum(one.from_zero for one in found)
    without = sum(not image.objects for image in images)
    sentences = {
        "Marked as difficult, and counted like other objects: "
        f"{count_words(difficult, 'object')}.": difficult,
        f"Left out, without an object: {count_words(without, 'image')}.": without,
        "Pascal VOC counts pixels from 1, and corners at 0 were found in "
        f"{count_words(from_zero, 'box')}: all are read as VOC's and clipped to the image, so "
        "boxes may be off by one pixel.": from_zero,
    }
    return [sentence for sentence, count in sentences.items() if count]

"""The gallery: a few images of a run under every method, kept as small arrays and drawn as one
picture per model.

A part is `gallery/<model>-<shard>.npz` (characters of the model's name other than letters, digits,
`.`, `-` and `_` are `_`) with the keys `<item>|image` (uint8 [H,W,3]), `<item>|title` (text),
`<item>|boxes` (float32 [n,4], where there are boxes) and `<item>|<method>` (map [h,w]: float16 in a
run, uint8 of its positive part in a published board). Scores stand in the records.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from bench.files import replaced_file
from bench.inner_places import name_part, replace_signs
from bench.records.gallery_parts import (
    BOXES,
    GALLERY_ITEMS,
    list_gallery,
    read_arrays,
    write_sealed_npz,
)

FOLDER = "gallery"
TILE = 224
"""Largest longer side, in pixels, of a picture that is drawn or published: the frame of usual
networks. Smaller frames stay as they are.
"""
MAP_SIDE = 56
"""Pixels of the longer side of a kept map: CAM grids are coarser, pixel maps lose detail that a
tile hardly shows.
"""
MAP_COLOURS = "inferno"
"""The colour map of positive maps in every picture: perceptually uniform, legible in grey."""
OPACITY = 0.55
ITEMS = 5
"""Images in a drawn gallery."""
GREY_PIXEL = 128
"""What stands for the pixels of a picture that may not be shown."""


@dataclass
class Picture:
    """One image with its maps.

    Attributes:
        image: Pixels [H,W,3] uint8.
        maps: {method: map [h,w] float32}, signed, of any scale.
        boxes: Edges [n,4] of x0, y0, x1, y1 in pixels of the image.
    """

    image: npt.NDArray[np.uint8]
    title: str = ""
    maps: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    boxes: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))


Gallery = dict[str, dict[str, Picture]]
"""{model: {item: picture}}."""


def save_gallery_part(
    path: Path,
    images: Mapping[str, npt.NDArray[np.uint8]],
    maps: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    titles: Mapping[str, str] | None = None,
    boxes: Mapping[str, npt.NDArray[Any]] | None = None,
) -> None:
    """Write one part atomically.

    images: {item: [H,W,3]}.  maps: {item: {method: [h,w]}}.  titles: {item: text}.  boxes: {item:
    [n,4]}, in pixels of the image.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for item, image in sorted(images.items()):
        arrays[f"{item}|image"] = np.asarray(image, np.uint8)
        arrays[f"{item}|title"] = np.asarray((titles or {}).get(item, ""))
        if len(own := (boxes or {}).get(item, ())):
            arrays[f"{item}|{BOXES}"] = np.asarray(own, np.float32)
        for method, values in sorted(maps.get(item, {}).items()):
            array = np.asarray(values)
            if array.dtype != np.uint8:
                array = np.clip(array.astype(np.float32), -6e4, 6e4).astype(np.float16)
            arrays[f"{item}|{method}"] = array
    with replaced_file(path) as temporary:
        write_sealed_npz(temporary, arrays)


def is_gallery_part(path: Path) -> bool:
    """Tell whether a file is a part of a gallery, and no link."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not path.is_symlink() and any("|image" in name for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def load_gallery(folder: str | Path, models: list[str] | None = None) -> Gallery:
    """Read every part under `folder/gallery`; an absent folder is an empty gallery.

    models: the names that file names start with (the longest that fits); default: the file name up
    to its last "-".
    """
    gallery: Gallery = {}
    for path in list_gallery(Path(folder) / FOLDER):
        pictures = gallery.setdefault(find_model(path.stem, models or []), {})
        add_part(pictures, read_arrays(path))
    return gallery


def find_model(stem: str, models: list[str]) -> str:
    """Return the model whose name, as a file name, begins this file name.

    Parts that were written before names had hashes begin with the plain file name.
    """
    for write in (name_part, replace_signs):
        fits = [m for m in models if stem.startswith(write(m) + "-")]
        if fits:
            return max(fits, key=lambda m: len(write(m)))
    return stem.rpartition("-")[0] or stem


def add_part(pictures: dict[str, Picture], arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Add the arrays of a part to the pictures of its model; a map without its image is left
    out.
    """
    for key, array in arrays.items():
        item, _, kind = key.rpartition("|")
        if kind == "image" and item not in pictures:
            pictures[item] = Picture(array)
    for key, array in arrays.items():
        item, _, kind = key.rpartition("|")
        if item not in pictures or kind == "image":
            continue
        if kind == "title":
            pictures[item].title = str(array)
        elif kind == BOXES:
            pictures[item].boxes = array.astype(np.float32)
        else:
            pictures[item].maps[kind] = array.astype(np.float32)


def shrink_gallery(gallery: Gallery) -> Gallery:
    """Return the part of a gallery that is drawn: the first `ITEMS` items, reduced to the size of a
    tile.
    """
    return _change_pictures(gallery, ITEMS, shrink_picture)


def reduce_gallery(gallery: Gallery, *, pixels: bool) -> Gallery:
    """Return what a published board keeps of a gallery: the first `GALLERY_ITEMS` items, reduced to
    the size of a tile, and the positive part of each map in 256 levels.

    pixels: Whether pictures may be shown; else each is a grey frame of its size.
    """

    def reduce_picture(picture: Picture) -> Picture:
        small = shrink_picture(picture)
        image = small.image if pixels else np.full_like(small.image, GREY_PIXEL)
        maps = {name: level_map(values) for name, values in small.maps.items()}
        return replace(small, image=image, maps=maps)

    return _change_pictures(gallery, GALLERY_ITEMS, reduce_picture)


def _change_pictures(gallery: Gallery, most: int, change: Callable[[Picture], Picture]) -> Gallery:
    """Return the first items of each model, changed; models and items by name."""
    return {
        model: {item: change(picture) for item, picture in sorted(pictures.items())[:most]}
        for model, pictures in sorted(gallery.items())
    }


def shrink_picture(picture: Picture) -> Picture:
    """Return a picture that fits a tile, with its boxes, and maps that fit `MAP_SIDE`."""
    return Picture(
        shrink_image(picture.image, TILE),
        picture.title,
        {name: shrink_map(values, MAP_SIDE) for name, values in picture.maps.items()},
        picture.boxes * min(1, TILE / max(picture.image.shape[:2])),
    )


def level_map(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return unit(L) = mm(max(L,0)) of a map in 256 levels, as uint8; the same for levels again."""
    unit = scale_range(take_positive(values).astype(np.float64))
    levels: npt.NDArray[Any] = np.round(255 * unit).astype(np.uint8)
    return levels


def take_positive(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return max(L,0) of a map; what is not finite counts as 0."""
    positive: npt.NDArray[Any] = np.maximum(
        np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), 0
    )
    return positive


def scale_range(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values scaled to [0,1]; a constant becomes 0."""
    scaled: npt.NDArray[Any] = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    return scaled


def shrink_image(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Reduce [H,W,3] to a longer side of at most `side`; smaller images stay as they are."""
    if max(image.shape[:2]) <= side:
        return image
    return np.asarray(
        Image.fromarray(image).resize(scale_size(image.shape, side), Image.Resampling.BOX)
    )


def shrink_map(values: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Reduce [h,w] likewise, by area."""
    if max(values.shape) <= side:
        return values
    return np.asarray(
        Image.fromarray(values).resize(scale_size(values.shape, side), Image.Resampling.BOX)
    )


def scale_size(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return (width, height) of an array [H,W,...] scaled to a longer side of `side`."""
    scale = side / max(shape[:2])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def draw_overlay(picture: Picture, method: str | None, side: int = TILE) -> npt.NDArray[np.uint8]:
    """Draw a picture under a method's map (None: the bare picture), with its boxes, on a white tile
    [side,side,3].

    The map is unit(L) = mm(max(L,0)); a method without a map of this picture gets an empty tile.
    """
    tile = np.full((side, side, 3), 255, np.uint8)
    if method is not None and method not in picture.maps:
        return tile
    image = Image.fromarray(picture.image).resize(
        scale_size(picture.image.shape, side), Image.Resampling.BILINEAR
    )
    if method is not None:
        image = lay_map(image, picture.maps[method])
    frame_boxes(image, picture.boxes * side / max(picture.image.shape[:2]))
    top, left = (side - image.height) // 2, (side - image.width) // 2
    tile[top : top + image.height, left : left + image.width] = np.asarray(image)
    return tile


def lay_map(image: Image.Image, values: npt.NDArray[np.float32]) -> Image.Image:
    """Return the grey version of an image under the positive part of a map, in `MAP_COLOURS`."""
    import matplotlib as mpl

    grey = np.asarray(image, np.float32).mean(2, keepdims=True) / 255
    resized = Image.fromarray(take_positive(values).astype(np.float32)).resize(
        image.size, Image.Resampling.BILINEAR
    )
    heat = scale_range(np.asarray(resized))
    drawn = (1 - OPACITY) * grey + OPACITY * mpl.colormaps[MAP_COLOURS](heat)[..., :3]
    return Image.fromarray(np.round(255 * drawn).astype(np.uint8))


def frame_boxes(image: Image.Image, boxes: npt.NDArray[np.float32]) -> None:
    """Draw boxes into an image: a white line within a black one, which shows on any colour."""
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in boxes.round().astype(int).tolist():
        right, bottom = max(x1 - 1, x0), max(y1 - 1, y0)
        pen.rectangle((x0 - 1, y0 - 1, right + 1, bottom + 1), outline=(0, 0, 0))
        pen.rectangle((x0, y0, right, bottom), outline=(255, 255, 255))

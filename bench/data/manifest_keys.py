"""The keys of a manifest: what each means, and the types of their values."""

from __future__ import annotations

from typing import Literal

from bench.data.box_format import BOX_KEYS
from bench.schema import Keys, describe_key

TEXT, NUMBER, TRUTH = "text", "a whole number", "true or false"
PAIR = "a whole number, or [height, width]"


class GeometryKeys(Keys):
    """The keys of a manifest's geometry."""

    size: int | list[int] = describe_key(
        ..., PAIR, "side of the frame in pixels, or its height and width"
    )
    resize: Literal["squash", "short", "none"] = describe_key(
        ..., "", "the whole image, its short side, or nothing is resized"
    )
    resize_size: int | list[int] | None = describe_key(
        None, PAIR, "side after resizing, or height and width; else `size`"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = describe_key(
        "bicubic", "", "of the image; masks are always nearest"
    )


class ManifestKeys(Keys):
    """The keys of a manifest."""

    name: str = describe_key(..., 'text, such as name = "mine"', "what boards call the subset")
    kind: str = describe_key(
        ...,
        "one of scenes, imagenet, folder, parquet, class_folders, saved_dataset, coco, voc, "
        "imagenet_s",
        "how the files are read",
    )
    title: str = describe_key("", TEXT, "one line for a reader")
    licence: str = describe_key("", TEXT, "of the images")
    pictures: bool = describe_key(False, TRUTH, "whether boards may publish the pictures")
    classes: list[str] | str = describe_key(
        [],
        "a list of strings, or one string",
        'names by label; or "imagenet-1k"; or a text file beside the data, one name a line; else '
        "from the data",
    )
    geometry: GeometryKeys | None = describe_key(
        None, "a table with size and resize", "preprocessing for every model; else each model's own"
    )
    calibration: str = describe_key(
        "none",
        TEXT,
        'another subset; or "hash", a fifth of the images; or "last-1000" (imagenet); or "none"',
    )
    explain: str = describe_key(
        "default", "one of default, label", "`label`: every metric explains the label"
    )
    boxes: str = describe_key(
        "edges",
        f"one of {', '.join(BOX_KEYS)}",
        "order and unit of a box's numbers; `pixels`: the last corner lies inside the box",
    )
    exif: str = describe_key(
        "",
        "one of stored, turned",
        "whether the EXIF orientation is applied; else boxes decide, and it is said",
    )
    path: str = describe_key(
        "", TEXT, "file or folder of the images, relative to the manifest, else to the data root"
    )
    root: str = describe_key("", TEXT, "data root of its own, relative to the manifest's folder")
    sha256: str = describe_key(
        "", TEXT, "of annotations.csv, of the parquet file, or of the generated images"
    )
    sha256_head: str = describe_key("", TEXT, "of the first images (scenes)")
    seed: int = describe_key(0, NUMBER, "of the generated images (scenes)")
    size: int = describe_key(0, NUMBER, "how many images (scenes, imagenet)")
    pairs: bool = describe_key(False, TRUTH, "two classes per image (scenes)")
    ids: list[str] = describe_key([], "a list of strings", "official ids of images (imagenet)")

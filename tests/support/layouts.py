"""Small data sets in the layouts that people have, made of drawn images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 36


def draw_image(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return a picture of its own for each number: uint8 [H,W,3]."""
    rows, columns = np.mgrid[:height, :width]
    channels = [rows * 7 + number * 13, columns * 5 + number * 29, rows * columns + number]
    return np.stack(channels, axis=-1).astype(np.uint8)


def save_image(file: Path, number: int = 0) -> Path:
    """Write a picture, with the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_image(number)).save(file, format="PNG")
    return file


def save_mask(file: Path, values: np.ndarray, **options: Any) -> Path:
    """Write a mask of one channel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(file, **options)
    return file


def box_mask(x0: int, y0: int, x1: int, y1: int, value: int = 255) -> np.ndarray:
    """Return a mask of an image, with a value inside the edges of a box."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[y0:y1, x0:x1] = value
    return mask


def write_annotations(place: Path, rows: Sequence[str], header: str) -> Path:
    """Write annotations.csv."""
    (place / "annotations.csv").write_text("\n".join([header, *rows]) + "\n")
    return place


def write_coco(
    file: Path,
    names: Sequence[str],
    annotations: Sequence[dict[str, Any]],
    categories: Sequence[tuple[int, str]],
    size: tuple[int, int] | None = (WIDTH, HEIGHT),
) -> Path:
    """Write a COCO json; image i has the id 100 + i."""
    sides = {} if size is None else {"width": size[0], "height": size[1]}
    images = [{"id": 100 + i, "file_name": name, **sides} for i, name in enumerate(names)]
    listed = [{"id": i, "iscrowd": 0, **one} for i, one in enumerate(annotations)]
    content = {
        "images": images,
        "annotations": listed,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write_voc(
    file: Path, objects: Sequence[tuple], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Path:
    """Write an xml of Pascal VOC; an object is (name, corners) or (name, corners, difficult)."""
    parts = []
    for name, corners, *difficult in objects:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        hard = f"<difficult>{difficult[0]}</difficult>" if difficult else ""
        parts.append(f"<object><name>{name}</name>{hard}<bndbox>{box}</bndbox></object>")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"<annotation><filename>{file.stem}.jpg</filename><size><width>{size[0]}</width><height>"
        f"{size[1]}</height><depth>3</depth></size>{''.join(parts)}</annotation>"
    )
    return file


def list_samples(subset: Any) -> dict[str, Any]:
    """Return the samples of a subset and of its calibration part by id."""
    calibration = subset.calibration()
    return {one.id: one for part in (subset, calibration) if part is not None for one in part}

"""The ILSVRC2012 validation set, from any of the forms it is kept in.

Forms under the data root (or `path` under it), looked for in this order: 1. ILSVRC/Kaggle:
`ILSVRC/Data/CLS-LOC/val/*.JPEG` with `LOC_val_solution.csv` (labels and boxes). 2. Images
`ILSVRC2012_val_00000001.JPEG` ..., in one folder or in one per wnid, with the bounding-box XML of
the same
   names in any folder (labels and boxes). Folders per wnid also do without XML: labels, no boxes.
3. Parquet as in the Hugging Face repository ILSVRC/imagenet-1k (labels from the stored file names),
with boxes where
   the XML files lie beside it.

Labels count the 1000 wnids in sorted order. The ids are in the order of sha256(official id): the
last 1,000 calibrate, the first n are scored, so the subsets are nested and unbiased. Official boxes
are taken as they are, as edges in the stored pixels, and clipped to the image.
"""

from __future__ import annotations

import csv
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.box_format import Boxes
from bench.data.class_names import imagenet_wnids
from bench.data.images import (
    ImagesSource,
    Items,
    files_dataset,
    image_paths,
    parquet_dataset,
)
from bench.data.manifest import HASH, IMAGENET_CLASSES, LAST, NONE, Manifest
from bench.data.subset import CALIBRATION_SHARE, Subset, id_hash
from bench.errors import BenchError

OFFICIAL_COUNT = 50_000
CALIBRATION_COUNT = 1_000
_SOLUTION = "LOC_val_solution.csv"
_KAGGLE_IMAGES = Path("ILSVRC/Data/CLS-LOC/val")
_WNID = re.compile(r"n\d{8}")
_STORED_NAME = re.compile(r"(ILSVRC2012_val_\d{8})_(n\d{8})")
_IMAGE_SUFFIX = ".JPEG"
_DEPTH = (
    5  # how many folders deep images and XML are looked for: ILSVRC/Annotations/CLS-LOC/val is four
)
_NUMBERS_PER_BOX = 5  # wnid x0 y0 x1 y1


@dataclass(frozen=True)
class _Found:
    """What a form of the data set says of the ids asked for.

    dataset: images, undecoded.  images: the row of each id.  wnids: the class of each id.  boxes:
    or None.
    """

    dataset: Any
    images: tuple[int, ...]
    wnids: tuple[str, ...]
    boxes: tuple[Boxes, ...] | None


def open_imagenet(manifest: Manifest, data_root: Path | None) -> Subset:
    """Return the subset of a manifest of kind "imagenet".

    Raises BenchError, saying what to fetch, where the images, labels or an id of the subset are
    missing.
    """
    scored, calibrating = split_official(manifest)
    ids = (*scored, *calibrating)
    found = _find(manifest, _root(manifest, data_root), ids)
    labels = _labels(manifest, found.wnids)
    source = ImagesSource(
        manifest.name,
        found.dataset,
        Items(ids, ids, found.images, labels, found.boxes),
        IMAGENET_CLASSES,
        clip_boxes=True,
    )
    n = len(scored)
    named = None if manifest.calibration in (LAST, HASH, NONE) else manifest.calibration
    return Subset(
        manifest.name,
        manifest,
        source,
        tuple(range(n)),
        named or tuple(range(n, len(ids))),
        data_root,
    )


def split_official(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (scored, calibrating) official ids of a manifest, each in the order of sha256(id).

    The ids are the manifest's own, else all 50,000. `last-1000`: the last 1,000 of the order
    calibrate; `hash`: those with sha256(id) mod 5 == 0. The first `size` of the others are scored
    (all, where size is 0).
    """
    ids = manifest.ids or tuple(
        f"ILSVRC2012_val_{number:08d}" for number in range(1, OFFICIAL_COUNT + 1)
    )
    order = sorted(set(ids), key=id_hash)
    aside: list[str] = []
    if manifest.calibration == LAST:
        aside = order[-CALIBRATION_COUNT:]
    elif manifest.calibration == HASH:
        aside = [item for item in order if int(id_hash(item), 16) % CALIBRATION_SHARE == 0]
    kept = set(aside)
    others = [item for item in order if item not in kept]
    if len(others) < max(1, manifest.size):
        raise BenchError(
            f"The subset {manifest.name} asks for {manifest.size or 'some'} images, and "
            f"{len(others)} are left beside the {len(aside)} that calibrate; lower its size or "
            "set calibration to 'hash' or 'none'."
        )
    return tuple(others[: manifest.size or None]), tuple(aside)


def read_xml(file: Path) -> tuple[str, list[list[float]]]:
    """Return (wnid, boxes) of a bounding-box XML file: the class of its first object, and that
    class's boxes.
    """
    try:
        objects = ET.parse(file).getroot().findall("object")
        found = [
            (str(o.findtext("name")), [float(o.findtext(f"bndbox/{k}") or "") for k in _XML_BOX])
            for o in objects
        ]
    except (ET.ParseError, OSError, ValueError) as error:
        raise BenchError(
            f"The annotation {file} cannot be read ({error}); fetch ILSVRC2012_bbox_val_v3.tgz "
            "again."
        ) from error
    if not found:
        raise BenchError(
            f"The annotation {file} names no object; fetch ILSVRC2012_bbox_val_v3.tgz again."
        )
    wnid = found[0][0]
    return wnid, [box for name, box in found if name == wnid]


_XML_BOX = ("xmin", "ymin", "xmax", "ymax")


def read_solution(file: Path) -> dict[str, tuple[str, list[list[float]]]]:
    """Return {id: (wnid, boxes)} of LOC_val_solution.csv (ImageId, PredictionString "wnid x0 y0 x1
    y1 ...").
    """
    found = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            words = (row.get("PredictionString") or "").split()
            if not row.get("ImageId") or not words or len(words) % _NUMBERS_PER_BOX:
                raise BenchError(
                    f"The table {file} is not Kaggle's: its rows are ImageId,'wnid x0 y0 x1 y1 "
                    "...'."
                )
            objects = [
                words[k : k + _NUMBERS_PER_BOX] for k in range(0, len(words), _NUMBERS_PER_BOX)
            ]
            wnid = words[0]
            found[row["ImageId"]] = (
                wnid,
                [[float(x) for x in o[1:]] for o in objects if o[0] == wnid],
            )
    return found


# --- the three forms
# --------------------------------------------------------------------------------------------------
def _root(manifest: Manifest, data_root: Path | None) -> Path:
    wanted = (
        "the ILSVRC2012 validation images (ILSVRC2012_img_val.tar) with their boxes "
        "(ILSVRC2012_bbox_val_v3.tgz), both from image-net.org; or Kaggle's "
        "imagenet-object-localization-challenge; or the validation parquet of ILSVRC/imagenet-1k "
        "on Hugging Face"
    )
    if data_root is None:
        raise BenchError(
            f"The subset {manifest.name} needs ImageNet: fetch {wanted}, and give their folder as "
            "the data root (--data-root, or the environment variable CAMBENCH_DATA)."
        )
    root = data_root / manifest.path
    if not root.is_dir():
        raise BenchError(
            f"The data root {root} of the subset {manifest.name} is not a folder; it must hold "
            f"{wanted}."
        )
    return root


def _find(manifest: Manifest, root: Path, ids: tuple[str, ...]) -> _Found:
    solution = root / _SOLUTION
    if (root / _KAGGLE_IMAGES).is_dir() and solution.is_file():
        files = {item: root / _KAGGLE_IMAGES / f"{item}{_IMAGE_SUFFIX}" for item in ids}
        return _from_files(manifest, ids, files, read_solution(solution), str(solution), root)
    tree = _Tree(root, ids[0])
    annotations = tree.annotations(ids)
    if tree.images is not None:
        return _from_files(
            manifest, ids, tree.files(ids), annotations, "bounding-box XML files", root
        )
    parquet = tree.parquet()
    if parquet:
        return _from_parquet(manifest, ids, parquet, annotations)
    raise BenchError(
        f"The subset {manifest.name} finds no ImageNet validation images below {root}: neither "
        f"{_KAGGLE_IMAGES} with {_SOLUTION}, nor {ids[0]}{_IMAGE_SUFFIX} in a folder or in one "
        "per wnid, nor validation parquet; fetch one of them from image-net.org, Kaggle or "
        "Hugging Face (ILSVRC/imagenet-1k)."
    )


Annotations = Mapping[str, tuple[str, list[list[float]]]]


class _Tree:
    """The folders below a root where images, XML files and parquet are looked for, folders of a
    class aside.
    """

    def __init__(self, root: Path, first: str) -> None:
        self._folders = [root, *_folders_below(root, _DEPTH)]
        self._xml = next((f for f in self._folders if (f / f"{first}.xml").is_file()), None)
        self.images, self.by_wnid = self._find_images(first)

    def _find_images(self, first: str) -> tuple[Path | None, bool]:
        for folder in self._folders:
            if (folder / f"{first}{_IMAGE_SUFFIX}").is_file():
                return folder, False
        for folder in self._folders:
            if any(folder.glob(f"n????????/{first}{_IMAGE_SUFFIX}")):
                return folder, True
        return None, False

    def files(self, ids: Sequence[str]) -> dict[str, Path]:
        """Return the image file of each id, where there is a folder of images; one that is missing
        gets a guess.
        """
        assert self.images is not None
        guess = {item: self.images / f"{item}{_IMAGE_SUFFIX}" for item in ids}
        if not self.by_wnid:
            return guess
        return guess | {
            file.stem: file
            for file in self.images.glob(f"n????????/*{_IMAGE_SUFFIX}")
            if file.stem in guess
        }

    def annotations(self, ids: Sequence[str]) -> Annotations | None:
        """Return {id: (wnid, boxes)} of the XML files; None where there are none."""
        if self._xml is None:
            return None
        files = {item: self._xml / f"{item}.xml" for item in ids}
        missing = [item for item, file in files.items() if not file.is_file()]
        if missing:
            raise BenchError(
                f"{len(missing)} of {len(ids)} annotations are missing in {self._xml}, the first "
                f"is {missing[0]}.xml; fetch ILSVRC2012_bbox_val_v3.tgz from image-net.org."
            )
        return {item: read_xml(file) for item, file in files.items()}

    def parquet(self) -> list[Path]:
        """Return the validation parquet files by name: those named so, else all of the first folder
        that has any.
        """
        for folder in self._folders:
            files = sorted(folder.glob("*.parquet"))
            if files:
                return [file for file in files if file.name.startswith("val")] or files
        return []


def _folders_below(root: Path, depth: int) -> list[Path]:
    """Return the folders below a root in sorted order, not those of single classes (a thousand of
    them).
    """
    if depth == 0:
        return []
    with os.scandir(root) as entries:
        here = sorted(
            Path(e.path)
            for e in entries
            if e.is_dir() and not _WNID.fullmatch(e.name) and e.name != "train"
        )
    return [*here, *(deeper for folder in here for deeper in _folders_below(folder, depth - 1))]


def _from_files(
    manifest: Manifest,
    ids: tuple[str, ...],
    files: Mapping[str, Path],
    annotations: Annotations | None,
    where: str,
    root: Path,
) -> _Found:
    missing = [item for item in ids if not files[item].is_file()]
    if missing:
        raise BenchError(
            f"{len(missing)} of the {len(ids)} images of the subset {manifest.name} are missing, "
            f"the first is {files[missing[0]]}; fetch the whole validation set "
            "(ILSVRC2012_img_val.tar from image-net.org)."
        )
    by_folder = tuple(files[item].parent.name for item in ids)
    if annotations is None and not all(_WNID.fullmatch(name) for name in by_folder):
        raise BenchError(
            f"The images of the subset {manifest.name} in {files[ids[0]].parent} come without "
            "labels; put the bounding-box XML files (ILSVRC2012_bbox_val_v3.tgz from "
            "image-net.org) beside them."
        )
    wnids, boxes = (
        _match_annotations(manifest, ids, annotations, where)
        if annotations is not None
        else (by_folder, None)
    )
    return _Found(
        files_dataset([files[item] for item in ids], root), tuple(range(len(ids))), wnids, boxes
    )


def _from_parquet(
    manifest: Manifest, ids: tuple[str, ...], files: list[Path], annotations: Annotations | None
) -> _Found:
    dataset = parquet_dataset(files, manifest.name)
    rows: dict[str, tuple[int, str]] = {}
    for row, path in enumerate(image_paths(dataset)):
        match = _STORED_NAME.search(path or "")
        if match:
            rows[match.group(1)] = (row, match.group(2))
    missing = [item for item in ids if item not in rows]
    if missing:
        raise BenchError(
            f"{len(missing)} of the {len(ids)} images of the subset {manifest.name} are not in "
            f"{files[0].parent}, the first is {missing[0]}; fetch all validation parquet files of "
            "ILSVRC/imagenet-1k from Hugging Face."
        )
    boxes = (
        None
        if annotations is None
        else _match_annotations(manifest, ids, annotations, "bounding-box XML files")[1]
    )
    return _Found(
        dataset, tuple(rows[item][0] for item in ids), tuple(rows[item][1] for item in ids), boxes
    )


def _match_annotations(
    manifest: Manifest, ids: tuple[str, ...], annotations: Annotations, where: str
) -> tuple[tuple[str, ...], tuple[Boxes, ...]]:
    """Return (wnids, boxes) of the ids."""
    missing = [item for item in ids if item not in annotations]
    if missing:
        raise BenchError(
            f"{len(missing)} of the {len(ids)} images of the subset {manifest.name} are not in "
            f"{where}, the first is {missing[0]}; fetch the whole annotation."
        )
    boxes = tuple(np.array(annotations[item][1], dtype=np.float32).reshape(-1, 4) for item in ids)
    return tuple(annotations[item][0] for item in ids), boxes


def _labels(manifest: Manifest, wnids: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    index = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    unknown = [wnid for wnid in wnids if wnid not in index]
    if unknown:
        raise BenchError(
            f"The class {unknown[0]!r} in the subset {manifest.name} is not one of ImageNet's 1000 "
            "wnids."
        )
    return np.array([index[wnid] for wnid in wnids], dtype=np.int64)

"""What defines a subset: a small TOML file with strict keys, whose hash stands in every record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data.box_format import BOX_KEYS
from bench.data.geometry import Geometry
from bench.data.input_size import Size, read_size
from bench.data.manifest_keys import GeometryKeys, ManifestKeys
from bench.errors import BenchError, suggestions
from bench.schema import check_table
from bench.toml_file import read_toml

KINDS = (
    *("scenes", "imagenet", "folder", "parquet"),
    *("class_folders", "saved_dataset", "coco", "voc"),  # layouts of people's own data
    "imagenet_s",
)
EXPLAIN = ("default", "label")
EXIF = ("", "stored", "turned")
IMAGENET_CLASSES = "imagenet-1k"
LAST = "last-1000"  # calibration of the ImageNet validation set
HASH = "hash"  # calibration: ids with sha256(id) mod 5 == 0
NONE = "none"  # no calibration part
_ID_LENGTH = 12
_NOT_CONTENT = ("root",)  # where the files lie on one machine says nothing about what they are
# Keys that older manifests lack; not written, they are no part of the id.
_LATER = {"exif": "", "network": "", "weights": "", "left_out": ()}


@dataclass(frozen=True)
class Manifest:
    """A subset's definition.

    name: the subset's name, and the stem of its file.  kind: "scenes" (generated), "imagenet" (the
    ILSVRC2012 validation set), "folder" (annotations.csv) or "parquet", or a layout of people's own
    data: "class_folders", "saved_dataset", "coco", "voc", "imagenet_s".  title, licence: for a
    reader. pictures: whether boards may publish its pictures.  classes: names by label; or
    "imagenet-1k"; or a text file with one name per line, beside the data; empty: taken from the
    data.  geometry: fixes the preprocessing for every model. calibration: another subset's name,
    "hash", "last-1000" (imagenet) or "none". explain: "label" makes every metric explain the label.
    boxes: "edges" where x1, y1 are edges; "pixels" where they are the last pixels inside; else the
    order and unit of the four numbers (`BOX_KEYS`; folder, parquet).  exif: "turned" applies the
    EXIF orientation, "stored" does not.  path: file or folder, relative to the manifest's folder or
    else to the data root.  root: a data root of its own, relative to the manifest's folder.
    sha256: of the generated content (scenes), annotations.csv (folder) or the file (parquet);
    sha256_head: of the first items (scenes).  seed, size, pairs: of scenes; size also: how many
    images of imagenet are scored.  ids: official image ids to use instead of the whole validation
    set (imagenet).  network, weights, left_out: the network that the subset belongs to, the first
    12 hex digits of its fingerprint, and the scenes that it left out (scenes with the trigger).
    """

    name: str
    kind: str
    title: str = ""
    licence: str = ""
    pictures: bool = False
    classes: tuple[str, ...] | str = ()
    geometry: Geometry | None = None
    calibration: str = NONE
    explain: str = "default"
    boxes: str = "edges"
    exif: str = ""
    path: str = ""
    root: str = ""
    sha256: str = ""
    sha256_head: str = ""
    seed: int = 0
    size: int = 0
    pairs: bool = False
    ids: tuple[str, ...] = ()
    network: str = ""
    weights: str = ""
    left_out: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Return the first 12 hex digits of the sha256 of the canonical JSON of everything but
        `root`.
        """
        content = {
            k: v
            for k, v in dataclasses.asdict(self).items()
            if k not in _NOT_CONTENT and (k, v) not in _LATER.items()
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]

    @staticmethod
    def read(file: Path) -> Manifest:
        """Read a manifest; a missing file, bad TOML, an unknown key or a bad value is a
        BenchError.
        """
        content = read_toml(file, "The manifest", "give the path of a .toml")
        return Manifest.parse(content, str(file))

    @staticmethod
    def parse(content: dict[str, Any], where: str) -> Manifest:
        """Return the manifest of a parsed TOML table; `where` names it in errors."""
        keys = check_table(ManifestKeys, content, f"The manifest {where}")
        if not keys.name:
            raise BenchError(f"The manifest {where} has an empty name; give one.")
        values = dict(content)
        if keys.geometry is not None:
            values["geometry"] = _make_geometry(keys.geometry, where)
        for key in ("classes", "ids", "left_out"):
            if isinstance(values.get(key), list):
                values[key] = tuple(values[key])
        manifest = Manifest(**values)
        _check_values(manifest, where)
        return manifest


def manifest_folder() -> Path:
    """Return the folder of the manifests that come with cambench: inside the package (wheel) or
    beside it (clone).
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "data_manifests"
    return installed if installed.is_dir() else package.parent / "data_manifests"


def _check_values(manifest: Manifest, where: str) -> None:
    if manifest.kind not in KINDS:
        raise BenchError(
            f"The manifest {where} has the unknown kind "
            f"{manifest.kind!r}.{suggestions(manifest.kind, KINDS)}"
        )
    if manifest.explain not in EXPLAIN:
        known = suggestions(manifest.explain, EXPLAIN)
        raise BenchError(
            f"The manifest {where} has the unknown explain {manifest.explain!r}.{known}"
        )
    for key, known_values in (("boxes", BOX_KEYS), ("exif", EXIF)):
        if (value := getattr(manifest, key)) not in known_values:
            known = suggestions(value, filter(None, known_values))
            raise BenchError(f"The manifest {where} has the unknown {key} {value!r}.{known}")
    if manifest.kind == "scenes" and manifest.size < 1:
        raise BenchError(
            f"The manifest {where} asks for {manifest.size} scenes; size must be at least 1."
        )
    if manifest.size < 0 or manifest.seed < 0:
        raise BenchError(
            f"The manifest {where} has a negative size or seed; both must be 0 or more."
        )
    if bool(manifest.network) != bool(manifest.weights):
        raise BenchError(
            f"The manifest {where} names a network without its weights, or weights without their "
            "network; give both, or neither."
        )
    if manifest.calibration == manifest.name:
        raise BenchError(
            f"The manifest {where} names itself as its calibration part; what is scored cannot "
            "calibrate."
        )


def _make_geometry(keys: GeometryKeys, where: str) -> Geometry:
    size = _read_side(keys.size, f"The geometry of the manifest {where}, size")
    resize_size = (
        size
        if keys.resize_size is None
        else _read_side(keys.resize_size, f"The geometry of the manifest {where}, resize_size")
    )
    try:
        return Geometry(size, keys.resize, resize_size, keys.interpolation)
    except BenchError as error:
        raise BenchError(f"The manifest {where} is wrong in its geometry: {error}") from None


def _read_side(value: int | list[int], where: str) -> Size:
    """Return a size; a number is checked by the geometry, as before."""
    return read_size(value, where) if isinstance(value, list) else value

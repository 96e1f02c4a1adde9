"""Edited attention maps on disk: one PNG each, which carries what it is about, so that one atomic
file is all.

8-bit grey, as large as the model's input; grey / 255 is the attention M in [0,1]. The PNG's text
chunk "cambench" holds the facts as JSON (`KEYS`). Only `DIR/*.png` are maps: older versions lie in
`DIR/history`.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, PngImagePlugin

from bench.data.input_size import Size, split_size
from bench.data.subset import Subset
from bench.errors import BenchError, take_first_line
from bench.file_contents import list_files, refuse_pipe
from bench.files import replaced_file
from bench.inner_places import cut_bytes, hash_name, is_device, replace_signs
from bench.models.abn import to_grid
from bench.models.explainee import Explainee
from bench.seals import add_trailer, check_file

FORMAT = 1
CHUNK = "cambench"
KEYS: dict[str, type] = {
    "format": int,
    "item": str,  # id of the item: image and explained class
    "image_id": str,
    "subset": str,
    "manifest_id": str,
    "model": str,
    "weights_id": str,
    "label": int,
    "size": int,  # side of the map, pixels of the model's input
    "when": str,  # UTC, ISO 8601
    "source": str,  # "editor", "simulated:boxes" or "simulated:masks"
    "revision": int,  # 1 for the first save of an item
}
"""What every map says of itself; more may stand beside it ("before", "after": energy inside the
truth, ...).
"""

MAP_REMEDY = "move it out of the folder; earlier versions of a drawn map lie in its history"
"""What to do about a damaged map, which nothing overwrites."""

DRAWN, SIMULATED = "editor", "simulated:"
LONGEST_NAME = 120
LONGEST_BYTES = 200
UNREADABLE = (ArithmeticError, LookupError, OSError, SyntaxError, TypeError, ValueError)
"""What Pillow raises on files that are broken."""
LARGEST_SIDE = 4096
"""Pixels of the widest map that is read: maps are as wide as a model's input."""
LARGEST_FILE = 64 << 20
LARGEST_NUMBER = 2**53 - 1
"""The largest number in the facts: the page's JavaScript keeps none above it."""
SMOOTH_ROUNDS, EVEN_ROUNDS = 4, 32

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class EditedMap:
    """An attention map for one item: values [H,W] float32 in [0,1], and the facts (`KEYS`) that are
    stored with it.
    """

    values: npt.NDArray[np.float32]
    facts: dict[str, Any]

    @property
    def item(self) -> str:
        """Return the id of the item (image and explained class)."""
        return str(self.facts["item"])

    @property
    def simulated(self) -> bool:
        """Return whether a rule made the map, and not a person."""
        return str(self.facts["source"]).startswith(SIMULATED)

    @property
    def grey(self) -> Grey:
        """Return the map as it is stored: uint8 [H,W], rounded from value * 255."""
        return grey_of(self.values)


def grey_of(values: npt.NDArray[np.floating[Any]]) -> Grey:
    """Return values in [0,1] as they are stored: uint8, rounded from value * 255."""
    return np.asarray(np.rint(np.asarray(values, dtype=np.float64) * 255), dtype=np.uint8)


def make_edited_map(grey: Grey, facts: dict[str, Any]) -> EditedMap:
    """Return the map of stored values uint8 [H,W] with its facts; `format` and `size` are filled
    in.
    """
    values = grey.astype(np.float32) / np.float32(255)
    return EditedMap(values, {"format": FORMAT, "size": int(grey.shape[0]), **facts})


def utc_now() -> str:
    """Return the time as the maps' `when`: ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# --- files


def map_path(folder: Path, item: str) -> Path:
    """Return the file of an item's map: its id where that can be a file name, else with a hash that
    keeps ids apart.
    """
    name = replace_signs(item).lstrip(".")  # hidden files are no maps
    short = cut_bytes(name[:LONGEST_NAME], LONGEST_BYTES)
    if short != item or is_device(name):
        short = f"{short}-{hash_name(item)}"
    return Path(folder) / f"{short}.png"


def save_map(folder: str | Path, edited: EditedMap) -> Path:
    """Write a map into a folder, atomically, over an older one of the same item; return its path.

    Raises BenchError where the values or the facts are not those of a map, or the folder cannot be
    written to.
    """
    path = map_path(Path(folder), edited.item)
    write_map(path, edited)
    return path


def write_map(path: Path, edited: EditedMap) -> None:
    """Write a map to a path, atomically; when it returns, the disk has it."""
    where = f"the attention map of {edited.facts.get('item')}"
    _check_facts(edited.facts, where)
    values, size = edited.values, edited.facts["size"]
    if values.shape != (size, size):
        raise BenchError(
            f"The values of {where} are {values.shape}; its size says {size} x {size}."
        )
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise BenchError(f"The values of {where} are not all between 0 and 1; attention is.")
    text = PngImagePlugin.PngInfo()
    # Plain ASCII, since a tEXt chunk is Latin-1; no NaN, which is not JSON.
    text.add_text(CHUNK, json.dumps(edited.facts, sort_keys=True, allow_nan=False))
    with replaced_file(path, durable=True) as temporary:
        Image.fromarray(edited.grey).save(temporary, format="PNG", pnginfo=text)
        add_trailer(temporary)


def load_map(path: str | Path) -> EditedMap:
    """Return the map in a file; one that is missing, broken or not an edited map is a
    BenchError.
    """
    path = Path(path)
    refuse_pipe(path, "attention map")
    try:
        check_file(path, "The attention map", MAP_REMEDY)
        mode, grey, text = _read_png(path)
    except FileNotFoundError:
        raise BenchError(f"There is no attention map {path}; check the path.") from None
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        reason = take_first_line(error) or type(error).__name__
        raise BenchError(
            f"The attention map {path} cannot be read ({reason}); {MAP_REMEDY}."
        ) from None
    if text is None or mode != "L":
        raise BenchError(
            f"{path} is not an attention map saved by cambench; move it out of the folder."
        )
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        raise BenchError(f"The facts inside {path} are not valid JSON; {MAP_REMEDY}.") from None
    _check_facts(facts, str(path))
    if grey.shape != (facts["size"], facts["size"]):
        raise BenchError(
            f"{path} has {grey.shape[1]} x {grey.shape[0]} pixels, not {facts['size']}; save it "
            "again."
        )
    return make_edited_map(grey, facts)


def _read_png(path: Path) -> tuple[str, Grey, str | None]:
    """Return the mode, the pixels and the facts of a PNG whose every chunk has its checksum.

    Pillow decodes pixels without a look at their checksum: a damaged map would read as another.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE >> 20} MiB")
    content = path.read_bytes()
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        if max(image.size) > LARGEST_SIDE:
            raise ValueError(f"it has {image.size[0]} x {image.size[1]} pixels")
        image.verify()
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.load()
        return image.mode, np.asarray(image), getattr(image, "text", {}).get(CHUNK)


def load_maps(folder: str | Path) -> list[EditedMap]:
    """Return the maps of a folder, by item; they are of one model, one subset and one size.

    Raises BenchError, one sentence: no folder, no maps, a broken file, maps of mixed models,
    subsets or sizes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BenchError(
            f"There is no folder {folder} of attention maps; make one with `cambench edit`."
        )
    maps = [load_map(path) for path in map_files(folder)]
    if not maps:
        raise BenchError(
            f"The folder {folder} has no attention maps (*.png); make them with `cambench edit`."
        )
    for key, what in (("weights_id", "models"), ("manifest_id", "subsets"), ("size", "sizes")):
        found = Counter(str(one.facts[key]) for one in maps)
        if len(found) > 1:
            counts = ", ".join(f"{n} of {value}" for value, n in found.most_common(3))
            raise BenchError(
                f"The folder {folder} mixes maps of {len(found)} {what} ({counts}); keep one."
            )
    check_twice(maps, folder)
    return sorted(maps, key=lambda one: one.item)


def check_twice(maps: Sequence[EditedMap], folder: Path) -> None:
    """Raise BenchError where two maps of a folder are of one item."""
    twice = [item for item, n in Counter(one.item for one in maps).items() if n > 1]
    if twice:
        raise BenchError(f"The folder {folder} has two maps of {twice[0]}; remove one.")


def map_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are maps by their name, in order."""
    return list_files(folder, ".png")


def _check_facts(facts: Any, where: str) -> None:
    if not isinstance(facts, dict):
        raise BenchError(f"The facts of {where} are not an object; save the map again.")
    for key, kind in KEYS.items():
        if not isinstance(facts.get(key), kind) or isinstance(facts.get(key), bool):
            raise BenchError(
                f"The facts of {where} have {key} = {facts.get(key)!r}; it must be {kind.__name__}."
            )
        if kind is int and not 0 <= facts[key] <= LARGEST_NUMBER:
            raise BenchError(
                f"The facts of {where} have {key} outside 0 to {LARGEST_NUMBER}; save the map "
                "again."
            )
    if facts["format"] != FORMAT:
        raise BenchError(
            f"{where} has format {facts['format']}; this cambench reads format {FORMAT}."
        )


# --- what maps are of


def check_maps(maps: Sequence[EditedMap], model: Explainee, subset: Subset) -> None:
    """Raise BenchError for maps of another model (weights), another subset or another size, and for
    unknown items.
    """
    check_origin(maps, model, subset)
    labels = dict(zip(subset.ids, subset.labels.tolist(), strict=True))
    for one in maps:
        if one.item not in labels:
            raise BenchError(
                f"There is a map of {one.item}, which is not in the subset {subset.name}; remove "
                "it."
            )
        if one.facts["label"] != labels[one.item]:
            raise BenchError(
                f"The map of {one.item} was made for class {one.facts['label']}, but the subset "
                f"{subset.name} says {labels[one.item]}; make it again."
            )


def check_origin(maps: Sequence[EditedMap], model: Explainee, subset: Subset) -> None:
    """Raise BenchError for maps of another model, subset or size; items outside a limited subset
    are no error.
    """
    for one in maps:
        facts = one.facts
        if facts["weights_id"] != model.weights_id:
            raise BenchError(
                f"The map of {one.item} is of the model {facts['model']} ({facts['weights_id']}), "
                f"not of {model.name} ({model.weights_id}); use that model or another folder of "
                "maps."
            )
        if facts["manifest_id"] != subset.manifest_id:
            raise BenchError(
                f"The map of {one.item} is of the subset {facts['subset']} "
                f"({facts['manifest_id']}), not of {subset.name} ({subset.manifest_id}); use that "
                "subset or another folder of maps."
            )
        if facts["size"] != model.size:
            raise BenchError(
                f"The map of {one.item} is {facts['size']} pixels wide and the input of "
                f"{model.name} {model.size}; use maps made for this model."
            )


def map_facts(maps: Sequence[EditedMap]) -> dict[str, Any]:
    """Return what a card or stamp says of maps: how many, their sources, whether any is simulated,
    and their sha256.
    """
    digest = hashlib.sha256()
    for one in sorted(maps, key=lambda one: one.item):
        digest.update(f"{one.item}\x1f{one.facts['label']}\x1f{one.facts['source']}\x1f".encode())
        digest.update(one.grey.tobytes())
    return {
        "count": len(maps),
        "sources": dict(sorted(Counter(str(one.facts["source"]) for one in maps).items())),
        "simulated": any(one.simulated for one in maps),
        "sha256": digest.hexdigest(),
    }


# --- between the network's grid and the image


def upsample_attention(attention: torch.Tensor, size: Size) -> torch.Tensor:
    """Return attention [B,1,h,w] over the image, [B,H,W]: bilinear, as the method
    `attention_branch` shows it.
    """
    return F.interpolate(attention, size=split_size(size), mode="bilinear", align_corners=False)[
        :, 0
    ]


def expand_attention(attention: torch.Tensor, size: Size) -> torch.Tensor:
    """Return maps [B,size,size] in [0,1], smooth, which `to_grid` takes back to the attention
    [B,1,h,w].

    A bilinear map pools to a blur of what it came from (cells move by up to .4): a map that nobody
    has painted on would change the network. So what pooling loses is added again, smoothly at
    first, at last evenly within each cell.
    """
    (height, width), frame = attention.shape[-2:], split_size(size)
    maps = upsample_attention(attention, size)
    for _ in range(SMOOTH_ROUNDS):
        maps = (maps + upsample_attention(attention - to_grid(maps, height, width), size)).clamp(
            0, 1
        )
    for _ in range(EVEN_ROUNDS):
        lost = attention - to_grid(maps, height, width)
        maps = (maps + F.interpolate(lost, size=frame, mode="nearest-exact")[:, 0]).clamp(0, 1)
    return maps

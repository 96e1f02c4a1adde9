"""Grids: mosaics of n x n images of distinct classes, of which each cell's class is explained.

After Rao, Böhle, Schiele, "Towards Better Understanding Attribution Methods", CVPR 2022. Which
images a grid holds depends on the networks of a run (`bench.run.grid_choice`); until these are
known a subset of grids is `OpenGrids`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import numpy as np

from bench.data.geometry import Geometry
from bench.data.item_identity import unreadable_content
from bench.data.manifest import NONE, Manifest
from bench.data.subset import Int64s, Subset, id_hash
from bench.errors import BenchError
from bench.types import ItemContent, Sample, UInt8Image

SIDES = (2, 3)
"""Cells along each side of a grid."""

CONFIDENCE = 0.9
"""Every network of a run is right about every image of a grid with more than this probability."""

SEED = 0
"""Of the draw of images and their places; part of every item's id."""


class GridForm(NamedTuple):
    """What grids a subset is made of.

    side: cells along each side.  separate: whether networks see each cell apart (`di_full`).
    """

    side: int
    separate: bool

    @property
    def cells(self) -> int:
        """Return the number of cells of a grid."""
        return self.side**2

    def write(self, inner: str) -> str:
        """Return the expression that stands for these grids of a subset.

        >>> GridForm(2, False).write("scenes-val")
        'grid(scenes-val,2)'
        """
        return f"{'di_full' if self.separate else 'grid'}({inner},{self.side})"


class OpenGrids:
    """The source of grids whose images no network has chosen yet: only what all grids share."""

    has_boxes = True
    has_masks = True

    def __init__(self, inner: Subset, form: GridForm) -> None:
        self.inner, self.form = inner, form
        self.items_per_image = form.cells

    @property
    def num_classes(self) -> int:
        """Return the number of classes of the images."""
        return self.inner.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes of the images."""
        return self.inner.class_names

    def _refuse(self) -> NoReturn:
        raise BenchError(
            f"The networks of a run choose the images of {self.form.write(self.inner.name)}, so "
            "only `cambench run`, `plan`, `score` and `evaluate` take such a subset; name another."
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """Raise BenchError: nobody has chosen the images yet."""
        self._refuse()

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Raise BenchError: nobody has chosen the images yet."""
        self._refuse()

    @property
    def labels(self) -> Int64s:
        """Raise BenchError: nobody has chosen the images yet."""
        self._refuse()

    def read(self, position: int) -> Sample:
        """Raise BenchError: nobody has chosen the images yet."""
        self._refuse()

    def attribution(self, position: int) -> str | None:
        """Raise BenchError: nobody has chosen the images yet."""
        self._refuse()


def open_grids(inner: Subset, form: GridForm) -> Subset:
    """Return the subset of a subset's grids, whose images no network has chosen yet.

    Grids have calibration images of their own, so those of the subset are used as well.
    """
    whole = _join_calibration(inner)
    most = len(whole) // form.cells
    if most < 1:
        raise BenchError(
            f"The subset {inner.name} has {len(whole)} images, and a grid needs {form.cells}; "
            "choose a larger subset."
        )
    name = form.write(inner.name)
    manifest = dataclasses.replace(
        inner.manifest,
        name=name,
        kind="grid",
        title=f"{form.side}x{form.side} grids: {inner.manifest.title}",
        geometry=None,
        calibration=NONE,
        explain="label",
    )
    source = OpenGrids(whole, form)
    return Subset(name, manifest, source, tuple(range(most * form.cells)))


def _join_calibration(inner: Subset) -> Subset:
    """Return a subset with its calibration images, unless it is a part of another."""
    aside = inner.calibrating if isinstance(inner.calibrating, tuple) else ()
    everything = (*inner.positions, *aside)
    if len(everything) < len(inner.source.ids):
        everything = inner.positions
    return dataclasses.replace(inner, positions=everything, calibrating=None)


# --- the choice


def draw_grids(subset: Subset, positions: list[int], form: GridForm) -> list[tuple[int, ...]]:
    """Draw as many grids as possible of the images at `positions` of a subset's source.

    Each image is in at most one grid, and the classes of a grid are distinct. A grid takes the
    classes with the most images left, which makes the largest number of grids. The order of images,
    classes, cells and grids comes from hashes of the seed and the ids.

    Returns:
        The positions of each grid's cells, row by row.
    """
    source, left = subset.source, dict[int, list[int]]()
    order = {position: id_hash(f"{SEED} {source.ids[position]}") for position in positions}
    seen = set[str]()
    for position in sorted(positions, key=order.__getitem__):
        if source.image_ids[position] not in seen:
            seen.add(source.image_ids[position])
            left.setdefault(int(source.labels[position]), []).append(position)
    grids = []
    while True:
        fullest = sorted(
            (label for label in left if left[label]),
            key=lambda label: (-len(left[label]), order[left[label][0]]),
        )[: form.cells]
        if len(fullest) < form.cells:
            break
        chosen = [left[label].pop(0) for label in fullest]
        grids.append(tuple(sorted(chosen, key=lambda p: id_hash(f"cell {order[p]}"))))
    return sorted(grids, key=lambda cells: id_hash(f"grid {[order[p] for p in cells]}"))


@dataclass
class GridSource:
    """Grids as a source of samples: item i is cell i mod n*n of grid i // (n*n).

    Args:
        inner: the images.  frames: the geometry of a cell.  form: of the grids.
        grids: positions of each grid's cells in the inner source, row by row.
        networks: weights ids of the networks that chose them; part of the ids.
    """

    inner: Subset
    frames: Geometry
    form: GridForm
    grids: tuple[tuple[int, ...], ...]
    networks: tuple[str, ...]
    ids: tuple[str, ...] = field(init=False)
    image_ids: tuple[str, ...] = field(init=False)
    labels: Int64s = field(init=False)
    _last: tuple[int, UInt8Image] | None = field(default=None, init=False)

    has_boxes = True
    has_masks = True

    def __post_init__(self) -> None:
        self.items_per_image = self.form.cells
        names = [self._name(cells) for cells in self.grids]
        self.image_ids = tuple(name for name in names for _ in range(self.form.cells))
        self.ids = tuple(f"{name}#{i}" for name in names for i in range(self.form.cells))
        labels = self.inner.source.labels
        step = self.inner.num_classes if self.form.separate else 0
        self.labels = np.array(
            [labels[p] + i * step for cells in self.grids for i, p in enumerate(cells)], np.int64
        )

    def _name(self, cells: tuple[int, ...]) -> str:
        """Return the id of a grid: its images in their places, the seed and the networks."""
        images = [self.inner.source.ids[p] for p in cells]
        return f"grid{self.form.side}-{_digest([images, SEED, sorted(self.networks)])[:12]}"

    @property
    def num_classes(self) -> int:
        """Return the number of classes; of separate cells each has its own."""
        return self.inner.num_classes * (self.form.cells if self.form.separate else 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes; of separate cells with the cell's number."""
        names = self.inner.class_names
        if not self.form.separate:
            return names
        return tuple(f"{name} in cell {i}" for i in range(self.form.cells) for name in names)

    def read(self, position: int) -> Sample:
        """Return one item: the grid uint8 [nH,nW,3], and the explained cell as box and mask."""
        number, cell = divmod(position, self.form.cells)
        height, width = self.frames.shape
        row, column = divmod(cell, self.form.side)
        top, left = row * height, column * width
        image = self._draw(number)
        mask = np.zeros(image.shape[:2], np.bool_)
        mask[top : top + height, left : left + width] = True
        return Sample(
            id=self.ids[position],
            image_id=self.image_ids[position],
            image=image,
            label=int(self.labels[position]),
            boxes=np.array([[left, top, left + width, top + height]], np.float32),
            mask=mask,
        )

    def _draw(self, number: int) -> UInt8Image:
        """Return a grid, uint8 [nH,nW,3]; the last one is kept, since its cells follow it."""
        last = self._last
        if last is None or last[0] != number:
            frames = [
                self.frames.frame(self.inner.source.read(position).image)
                for position in self.grids[number]
            ]
            side = self.form.side
            rows = [np.concatenate(frames[i * side : i * side + side], 1) for i in range(side)]
            last = self._last = (number, np.concatenate(rows, 0))
        return last[1]

    def digest_item(self, position: int, known: ItemContent | None) -> ItemContent | None:
        """Return an item's content by those of its images; None where these state none."""
        number, cell = divmod(position, self.form.cells)
        found = [self.inner.identify_at(p, self.frames) for p in self.grids[number]]
        images = [content.identity for content in found if content is not None]
        if len(images) < len(found):
            return None
        if not all(images):
            return unreadable_content()
        text = " ".join(["grid", *images, str(cell), str(int(self.labels[position]))])
        return ItemContent(hashlib.sha256(text.encode()).hexdigest(), "", "")

    def attribution(self, position: int) -> str | None:
        """Return who must be named where a grid is shown: those of its images."""
        cells = self.grids[position // self.form.cells]
        named = [self.inner.source.attribution(p) for p in cells]
        return "; ".join(dict.fromkeys(name for name in named if name)) or None


def close_grids(subset: Subset, source: GridSource, found: tuple[str, ...]) -> Subset:
    """Return a subset of open grids with the grids that networks have chosen.

    Grids that are not scored calibrate, the last ones first, so that a larger limit takes few of
    them.
    """
    count = len(source.ids)
    scored = tuple(p for p in subset.positions if p < count)
    taken = {p // source.form.cells for p in scored}
    rest = [number for number in reversed(range(len(source.grids))) if number not in taken]
    cells = range(source.form.cells)
    aside = tuple(number * source.form.cells + cell for number in rest for cell in cells)
    return dataclasses.replace(
        subset,
        manifest=_describe_grids(subset.manifest, source),
        source=source,
        positions=scored,
        calibrating=aside or None,
        found=(*subset.found, *found),
    )


def _describe_grids(manifest: Manifest, source: GridSource) -> Manifest:
    """Return the manifest of chosen grids; its id holds the images, their order and the frames."""
    content = [source.inner.manifest_id, source.frames.id, source.form, source.image_ids]
    return dataclasses.replace(
        manifest, seed=SEED, size=len(source.grids), sha256=_digest(content), sha256_head=""
    )


def _digest(content: object) -> str:
    """Return the sha256 of JSON content, 64 hex digits."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

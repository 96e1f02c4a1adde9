"""Maps made elsewhere, as a method: read from files, judged like any other, and never run again.

maps = bench.load_maps("theirs.npz", "scenes-val", target="predicted")
records = bench.evaluate("scenes-val", "resnet-scenes", ["control/*", "grad_cam", maps])
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import torch

from bench.data import Subset, load_subset
from bench.engine.trace import Trace
from bench.errors import BenchError, suggestions
from bench.files import file_name
from bench.identity import digest
from bench.methods import METHODS, Method
from bench.records.store import MIN_CALIBRATION
from bench.run.explained_class import LABEL, PREDICTED
from bench.run.map_files import Read, read_entries, resize_map
from bench.run.map_values import check_map, is_beyond_float32

Report = Callable[[int, int], None]

TARGETS = (PREDICTED, LABEL)
"""Which class the maps can explain."""

READING = 2
"""Raised when maps are read or resized in another way; part of the method's id."""

NAMES = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class Item:
    """An item that can have a map: its id, the id of its image, and its label."""

    id: str
    image: str
    label: int


@dataclass(frozen=True)
class ExternalMethod(Method):
    """Maps from files as a method: the map of an item is looked up, and nothing is run.

    reads: {item id: read its map}, of the items that have one.  items: {image id: its items}, of
    the subset and its calibration part.  target: the class that the maps explain; asked for another
    one, the answer is NaN. sha256: of all maps.  sizes: {(h, w): maps}.  non_finite: maps with a
    NaN or infinite value. notes: what was not as expected, one sentence each.  precise: whether the
    maps are float64.
    """

    reads: Mapping[str, Read] = field(default_factory=dict, repr=False)
    items: Mapping[str, Sequence[Item]] = field(default_factory=dict, repr=False)
    target: str = TARGETS[0]
    sha256: str = ""
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    non_finite: int = 0
    notes: tuple[str, ...] = ()
    precise: bool = False

    @property
    def id(self) -> str:
        """Return name@hash of the maps' bytes and of the class they explain."""
        return f"{self.name}@{digest([self.sha256, self.target, READING])}"

    @property
    def all_parameters(self) -> dict[str, Any]:
        """Return none: the maps are what they are."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what run.json says of the maps."""
        return super().facts() | {
            "parameters": {
                "target": self.target,
                "maps": sum(self.sizes.values()),
                "sizes": self.said_sizes,
                "resize": "bilinear, to the frame",
                "non_finite": self.non_finite,
                "sha256": self.sha256,
            }
        }

    @property
    def said_sizes(self) -> str:
        """Return the maps' sizes for a reader: "7x7", or the commonest of several."""
        (height, width), _ = Counter(self.sizes).most_common(1)[0]
        more = f" and {len(self.sizes) - 1} more sizes" if len(self.sizes) > 1 else ""
        return f"{height}x{width}{more}"

    def maps(self, trace: Trace) -> torch.Tensor:
        """Return the maps [B,H,W] of a trace's images; NaN where there is none of the class that
        the trace explains.
        """
        predicted = trace.predicted.tolist()
        rows = zip(trace.ids, trace.targets.tolist(), predicted, strict=True)
        return torch.stack([self._one(trace.size, *row) for row in rows])

    def _one(self, size: tuple[int, int], image: str, target: int, predicted: int) -> torch.Tensor:
        items = self.items.get(image, ())
        if self.target == PREDICTED:
            # All items of an image share its prediction, so any of their maps will do.
            items = items if target == predicted else ()
        else:
            items = [item for item in items if item.label == target]
        item = next((item for item in items if item.id in self.reads), None)
        kind = torch.float64 if self.precise else torch.float32
        if item is None:
            return torch.full(size, torch.nan, dtype=kind)
        return resize_map(check_map(self.reads[item.id](), item.id), size).to(kind)

    def _check_maps(self, maps: Any, trace: Trace) -> torch.Tensor:
        """Return the maps as they are: float64 ones would lose their ranking in float32."""
        checked = super()._check_maps(maps, trace)
        return maps.contiguous() if self.precise else checked

    def gaps(self, scored: Subset, calibration: Subset | None) -> Iterator[str]:
        """Yield a sentence on scored items without a map, and one where too few calibrate a box
        threshold.
        """
        missing = [item for item in scored.ids if item not in self.reads]
        if missing:
            yield (
                f"{_count(missing, 'item')} of {len(scored)} of {scored.name} without a map: "
                "scored on the others, shown with their n, and unranked."
            )
        known = 0 if calibration is None else sum(item in self.reads for item in calibration.ids)
        if calibration is not None and known < MIN_CALIBRATION:
            yield (
                f"{known} maps of {calibration.name}, which chooses box thresholds from at least "
                f"{MIN_CALIBRATION}: box accuracy is n/a and only box_accuracy_oracle is shown."
            )

    def check_frame(self, height: int, width: int) -> None:
        """Refuse maps of another shape than the frame: they were made of images that were cropped
        in another way.
        """
        wrong = [(h, w) for h, w in self.sizes if h * width != w * height]
        if wrong:
            raise BenchError(
                f"The maps {self.name} are {wrong[0][0]}x{wrong[0][1]} (height x width) and the "
                f"models see a frame of {height}x{width}; give maps of the preprocessed frame, "
                "cropped as the images are."
            )


def load_maps(
    maps: str | Path | Mapping[str, Any],
    subset: str | Path | Subset,
    target: str = "predicted",
    name: str | None = None,
    report: Report | None = None,
) -> ExternalMethod:
    """Return maps made elsewhere as a method for `evaluate`; they are read as they are needed.

    Real numbers, higher = more evidence. Maps of another size than the frame are resized
    bilinearly.

    Args:
        maps: An .npz with one array [h,w] per item id, or with the arrays "ids" [N] and "maps"
            [N,h,w]; a folder of ID.npy files [h,w]; an .npy [N,h,w] in the subset's order; or a
            dictionary {id: [h,w]}. Ids with a slash lie in folders or are percent-encoded.
        subset: The items that they are maps of. Maps of its calibration part choose box thresholds;
            without them box accuracy stays unranked.
        target: The class that they explain, "predicted" or "label". A metric of the other class is
            scored only where the two agree.
        name: Name on boards; None takes the file's.
        report: Is called with (done, total) while maps are read.

    Returns:
        A method that looks up its maps.

    Raises:
        BenchError: The maps cannot be read, or none is of the subset.

    Example:
        >>> theirs = bench.load_maps({subset.ids[0]: np.ones((7, 7))}, subset, name="theirs")
        >>> theirs.name, theirs.said_sizes
        ('theirs', '7x7')
    """
    if target not in TARGETS:
        raise BenchError(f"The maps' target is {target!r}; it can be {' or '.join(TARGETS)}.")
    chosen = subset if isinstance(subset, Subset) else load_subset(subset)
    where = "the maps given" if isinstance(maps, Mapping) else str(maps)
    called = _choose_name(name, maps)
    found, in_order = read_entries(maps, chosen)
    if not found:
        raise BenchError(
            f"There are no maps in {where}; see `cambench score --help` for what can be read."
        )
    seen = _look(found, report)
    items = _items_of(chosen)
    match = _match_in_order if in_order else _match_by_id
    reads, notes = match(found, items, chosen, where)
    by_image: dict[str, list[Item]] = {}
    for item in items:
        by_image.setdefault(item.image, []).append(item)
    return ExternalMethod(
        name=called,
        function=_refuse_run,
        group="external",
        fidelity="external",
        citation=f"{len(found)} maps of the {target} class, {where}, sha256 {seen.sha256[:12]}",
        reads=reads,
        items=by_image,
        target=target,
        sha256=seen.sha256,
        sizes=dict(seen.sizes),
        non_finite=seen.non_finite,
        precise=seen.precise,
        notes=(*notes, *seen.notes),
    )


def _refuse_run(_trace: Trace) -> torch.Tensor:
    raise BenchError("Maps made elsewhere cannot be made again.")


def _choose_name(name: str | None, maps: str | Path | Mapping[str, Any]) -> str:
    if name is None:
        if isinstance(maps, Mapping):
            raise BenchError("Maps in memory have no name; give name=...")
        path = Path(maps)
        name = file_name(path.name if path.is_dir() else path.stem)
    if not NAMES.fullmatch(name):
        raise BenchError(
            f"Maps cannot be called {name!r}; a name has letters, digits and . _ + - only."
        )
    if name in METHODS:
        raise BenchError(
            f"There is already a method named {name!r}; give the maps another name (--name)."
        )
    return name


def describe_targets(frame: pd.DataFrame, given: ExternalMethod) -> str:
    """Return a sentence on the items whose prediction is not the label, of a run's records of these
    maps.
    """
    rows = frame[(frame["method"] == given.name) & (frame["part"] == "eval")].drop_duplicates(
        "item"
    )
    other = int((~rows["correct"].astype(bool)).sum())
    metrics = "the label" if given.target == PREDICTED else "the predicted class"
    return (
        f"{given.name} explains the {given.target} class; on {other} of {len(rows)} items "
        f"prediction and label differ, and there metrics of {metrics} are not scored."
    )


@dataclass(frozen=True)
class _MapFacts:
    sha256: str
    sizes: Counter[tuple[int, int]]
    non_finite: int
    precise: bool
    notes: tuple[str, ...]


def _look(found: Mapping[str, Read], report: Report | None) -> _MapFacts:
    """Read every map once: check it, and hash its id, shape and values."""
    hashed, sizes, broken = hashlib.sha256(), Counter[tuple[int, int]](), []
    precise, fine = False, []
    for number, key in enumerate(sorted(found)):
        one = check_map(found[key](), key)
        hashed.update(f"{key}\x1f{one.shape}\x1f".encode())
        hashed.update(one.tobytes())
        sizes[one.shape] += 1
        if not np.isfinite(one).all():
            broken.append(key)
        precise = precise or one.dtype == np.float64
        if is_beyond_float32(one):
            fine.append(key)
        if report is not None:
            report(number + 1, len(found))
    notes = (
        [f"{_count(broken, 'map')} with NaN, infinite or masked values: counted and not scored."]
        if broken
        else []
    )
    if fine:
        notes.append(
            f"{_count(fine, 'map')} with values that float32 cannot tell apart: scored in float64."
        )
    return _MapFacts(hashed.hexdigest(), sizes, len(broken), precise, tuple(notes))


def _items_of(subset: Subset) -> list[Item]:
    """Return the items of a subset, beyond any limit, and of its calibration part."""
    sources = [subset.source]
    with contextlib.suppress(BenchError):  # whether it is needed, the plan knows
        calibration = subset.calibration()
        if calibration is not None and calibration.source is not subset.source:
            sources.append(calibration.source)
    return [
        Item(item, image, int(label))
        for source in sources
        for item, image, label in zip(source.ids, source.image_ids, source.labels, strict=True)
    ]


def _match_by_id(
    found: Mapping[str, Read], items: Sequence[Item], subset: Subset, where: str
) -> tuple[dict[str, Read], list[str]]:
    """Return {item id: read} of the maps whose ids the subset knows, and a sentence about the
    others.
    """
    known = {item.id for item in items}
    names = {key: key if key in known else unquote(key) for key in found}
    reads = {names[key]: read for key, read in found.items() if names[key] in known}
    unknown = [key for key in found if names[key] not in known]
    if not unknown:
        return reads, []
    near = suggestions(unknown[0], known)
    if not reads:
        raise BenchError(
            f"None of the {len(found)} ids in {where} is an item of {subset.name}: "
            f"{unknown[0]!r}.{near}"
        )
    return reads, [f"{_count(unknown, 'map')} of no item of {subset.name}, left out.{near}"]


def _match_in_order(
    found: Mapping[str, Read], _items: Sequence[Item], subset: Subset, where: str
) -> tuple[dict[str, Read], list[str]]:
    """Return {item id: read} of maps without ids: the first is of the subset's first item, and so
    on.
    """
    if len(found) < len(subset):
        raise BenchError(
            f"{where} holds {len(found)} maps without ids and {subset.name} has {len(subset)} "
            f"items to score; give --limit {len(found)}, or an .npz of maps by id."
        )
    rest = (
        f"; the {len(found) - len(subset)} after them are left out"
        if len(found) > len(subset)
        else ""
    )
    note = (
        f"The maps have no ids: they are taken as those of the first {len(subset)} items of "
        f"{subset.name}{rest}."
    )
    return dict(zip(subset.ids, found.values(), strict=False)), [note]


def _count(ids: Sequence[str], noun: str) -> str:
    """Return "1 map (a)" or "3 maps (a, ...)"."""
    return f"{len(ids)} {noun}{'s' * (len(ids) > 1)} ({ids[0]}{', ...' * (len(ids) > 1)})"

"""What a reader of files hands over: images, items, classes, and how they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.data.box_columns import find_unused_boxes
from bench.data.box_reading import BoxReading
from bench.data.image_survey import ImageFacts, choose_turned, describe_images
from bench.data.images import Items
from bench.data.labels import Classes, LabelReading
from bench.data.manifest import Manifest
from bench.data.reading import Note, Reading, RowFiles


@dataclass(frozen=True)
class OpenedFiles:
    """A subset's files, opened.

    Attributes:
        dataset: the images, undecoded.
        items: what is known of each item.
        classes: names by label, or "imagenet-1k".
        reading: how the files were read.
        manifest: with what was found about boxes and EXIF, which the subset's id has to cover.
    """

    dataset: Any
    items: Items
    classes: Classes
    reading: Reading
    manifest: Manifest


def collect_reading(
    manifest: Manifest,
    labels: LabelReading,
    boxes: BoxReading | None,
    facts: Mapping[int, ImageFacts],
    unused: Sequence[str] = (),
    rows: RowFiles | None = None,
) -> tuple[Reading, Manifest]:
    """Return how files were read, and the manifest with what was found.

    Args:
        manifest: of the subset.
        labels: as read.
        boxes: as read; None where the files have none.
        facts: what the headers of the images say.
        unused: columns that nothing was read from.
        rows: the files of the data set's rows, where images lie in tables.
    """
    notes = [Note(f"Labels: {labels.sentence}."), *(Note(one, True) for one in labels.cautions)]
    if boxes is None:
        turned, cautions = choose_turned(facts, manifest.exif)
        notes.append(Note("Boxes: none."))
        if outlines := find_unused_boxes(unused):
            notes.append(Note(f"Of the columns {', '.join(outlines)} no box is read.", True))
    else:
        turned, cautions = boxes.turned, boxes.cautions
        notes.append(Note(f"Boxes: {boxes.sentence}."))
        if manifest.boxes == "edges" and boxes.found != "xyxy":
            manifest = replace(manifest, boxes=boxes.form.key)
    notes += [Note(one, True) for one in (*cautions, *describe_images(facts))]
    if plain := [one for one in unused if one not in find_unused_boxes(unused)]:
        notes.append(Note(f"Columns not used: {', '.join(plain)}."))
    if turned:
        manifest = replace(manifest, exif="turned")
    relative = boxes is not None and boxes.form.relative
    return Reading(tuple(notes), relative, turned, rows), manifest

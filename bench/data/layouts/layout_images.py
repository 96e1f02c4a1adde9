"""What the headers of a layout's images say, for layouts whose boxes stand in no columns."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from bench.data.box_format import BoxFormat, BoxTable
from bench.data.image_survey import ImageFacts, choose_turned, describe_images, survey_images
from bench.data.images import Items, read_record
from bench.data.layouts.gathered import Gathered
from bench.data.manifest import Manifest
from bench.data.reading import Note, Reading


def settle_images(found: Gathered, manifest: Manifest) -> tuple[Reading, Manifest]:
    """Return how a layout's images are read, and the manifest with what was found.

    Images are turned by their EXIF orientation where their boxes or the stated sizes fit only then,
    or where the manifest says so.
    """
    if found.settled is not None:  # by the columns of a table
        formats = replace(manifest, boxes=found.settled.boxes, exif=found.settled.exif)
        return found.reading, formats
    names = dict(zip(found.items.images, found.items.image_ids, strict=True))
    facts = survey_images(
        lambda i: (read_record(found.dataset, i, names[i])[0], names[i]), len(names)
    )
    fits = _ImageFit(found.items, facts)
    known = found.items.boxes is not None or found.items.sizes is not None
    turned, cautions = choose_turned(facts, manifest.exif, fits.check if known else None)
    notes = tuple(Note(one, True) for one in (*cautions, *describe_images(facts)))
    return Reading(notes, turned=turned), replace(manifest, exif="turned") if turned else manifest


class _ImageFit:
    """Tells whether the annotations of an image fit it, as stored or turned."""

    def __init__(self, items: Items, facts: dict[int, ImageFacts]) -> None:
        self._items, self._facts = items, facts
        self._rows: dict[int, list[int]] = defaultdict(list)
        for row, image in enumerate(items.images):
            self._rows[image].append(row)

    def check(self, image: int, turned: bool) -> bool:
        """Return whether all boxes of an image lie inside it, and its stated size is its own."""
        width, height = self._facts[image].shown(turned)
        rows, sizes = self._rows[image], self._items.sizes
        stated = {sizes[row] for row in rows} - {None} if sizes else set()
        boxes = [self._items.boxes[row].tolist() for row in rows] if self._items.boxes else []
        table = BoxTable.build(boxes, dict.fromkeys(range(len(rows)), (width, height)))
        return stated <= {(height, width)} and not table.misfits(BoxFormat("xyxy")).any()

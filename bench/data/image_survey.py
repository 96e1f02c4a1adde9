"""What the headers of a subset's images say: sizes, EXIF orientation, transparency, frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bench.data.decode import FAILURES, read_encoded
from bench.data.pixel_modes import has_alpha, has_wide_pixels, read_orientation
from bench.errors import BenchError

MOST_IMAGES = 1000
"""Images whose headers are read when a subset is opened; about 0.2 ms each."""
_STILL = ("MPO", "JPEG")  # their second picture is a preview, or the other eye's
_SWAPPED = 5  # from this orientation on, width and height change places


@dataclass(frozen=True)
class ImageFacts:
    """What an image's header says.

    Attributes:
        name: what the image is called.
        size: stored width and height in pixels.
        orientation: of EXIF, 1 to 8.
        alpha, wide, animated: it may have transparent pixels; one channel of more than 8 bits;
            several frames.
    """

    name: str
    size: tuple[int, int]
    orientation: int = 1
    alpha: bool = False
    wide: bool = False
    animated: bool = False

    @property
    def swapped(self) -> bool:
        """Return whether EXIF exchanges width and height."""
        return self.orientation >= _SWAPPED

    def shown(self, turned: bool) -> tuple[int, int]:
        """Return width and height as they are read: as stored, or turned by EXIF."""
        return self.size[::-1] if turned and self.swapped else self.size


def survey_images(
    read: Callable[[int], tuple[dict[str, Any], str]], count: int
) -> dict[int, ImageFacts]:
    """Return the facts of at most 1000 images, evenly spread; images that cannot be read are left
    out.

    Args:
        read: returns the record {"bytes", "path"} of image i, and its name.
        count: how many images there are.
    """
    step = max(1, -(-count // MOST_IMAGES))
    found = {}
    for i in range(0, count, step):
        record, name = read(i)
        with suppress(*FAILURES):
            source = record.get("path") if record.get("bytes") is None else None
            with Image.open(source or io.BytesIO(read_encoded(record))) as image:
                found[i] = _read_facts(image, name)
    return found


def _read_facts(image: Image.Image, name: str) -> ImageFacts:
    animated = image.format not in _STILL and bool(getattr(image, "is_animated", False))
    return ImageFacts(
        name,
        (image.width, image.height),
        read_orientation(image),
        has_alpha(image),
        has_wide_pixels(image),
        animated,
    )


def describe_images(facts: Mapping[int, ImageFacts]) -> tuple[str, ...]:
    """Return what was assumed about the pixels of images, as sentences; () for ordinary ones."""
    rules = (
        ("alpha", "may have transparent pixels; these are composited on white"),
        ("wide", "have one channel of more than 8 bits; black and white are kept"),
        ("animated", "have several frames; the first is read"),
    )
    sentences = []
    for name, words in rules:
        found = [one for one in facts.values() if getattr(one, name)]
        if found:
            sentences.append(f"{_count_images(found, facts)} {words}.")
    return tuple(sentences)


def describe_file(path: str | Path) -> tuple[str, ...]:
    """Return what was assumed about the pixels of one image file, as sentences."""
    facts = survey_images(lambda _: ({"path": str(path)}, str(path)), 1)
    marked = [one for one in facts.values() if one.orientation > 1]
    turned = (
        f"{path} has an EXIF orientation, which viewers apply; the pixels are read as stored. Turn "
        "the pixels and remove the tag to see it as a viewer shows it."
    )
    return (*describe_images(facts), *[turned for _ in marked])


def _count_images(found: list[ImageFacts], facts: Mapping[int, ImageFacts]) -> str:
    return f"{len(found)} of {len(facts)} images, such as {found[0].name},"


# --- EXIF orientation
# --------------------------------------------------------------------------------------------------
def choose_turned(
    facts: Mapping[int, ImageFacts],
    wanted: str,
    fits: Callable[[int, bool], bool] | None = None,
) -> tuple[bool, tuple[str, ...]]:
    """Return whether images are turned by their EXIF orientation, and what to mind about it.

    The manifest's `exif` rules. Else they are turned where boxes fit only then.

    Args:
        facts: of the images.
        wanted: the manifest's `exif`: "stored", "turned" or "" (not written).
        fits: whether all boxes of image i lie inside it as stored (False) or turned (True).

    Raises:
        BenchError: the boxes of one image fit only turned, those of another only stored.
    """
    marked = {i: one for i, one in facts.items() if one.orientation > 1}
    if wanted or not marked:
        return wanted == "turned", ()
    checked = [i for i, one in marked.items() if one.swapped] if fits else []
    turned = [i for i in checked if fits and fits(i, True) and not fits(i, False)]
    stored = [i for i in checked if fits and fits(i, False) and not fits(i, True)]
    if turned and stored:
        raise BenchError(
            f"The boxes of {facts[turned[0]].name} fit only when its EXIF orientation is applied, "
            f"and those of {facts[stored[0]].name} only without it; turn the pixels of all images "
            "and remove the EXIF tag."
        )
    subject = f"{_count_images([*marked.values()], facts)} have an EXIF orientation"
    if turned:
        return True, (f"{subject}, and boxes fit only when it is applied; all are turned by it.",)
    if stored:
        return False, (f"{subject}, and boxes fit only without it; pixels are read as stored.",)
    return False, (
        f"{subject}, which viewers apply; pixels are read as stored. If labels or boxes were made "
        'in a viewer, write exif = "turned" into manifest.toml.',
    )

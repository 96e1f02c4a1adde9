"""Which images of a subset are scored, and which are kept aside for calibration."""

from __future__ import annotations

import hashlib

from bench.data.manifest import HASH, NONE, Manifest
from bench.data.sample_source import Source

CALIBRATION_SHARE = 5  # rule "hash": one id in five calibrates


def id_hash(item: str) -> str:
    """Return the sha256 of an id as 64 hex digits: what orders and splits subsets."""
    return hashlib.sha256(item.encode()).hexdigest()


def split(
    manifest: Manifest, source: Source
) -> tuple[tuple[int, ...], tuple[int, ...] | str | None]:
    """Return (scored, calibrating) positions of a folder or parquet source.

    The order is that of sha256(image id), then id: every limit is an unbiased sample, and limits
    are nested. Under the rule "hash" the images with sha256(image id) mod 5 == 0 calibrate and are
    never scored. Where that would be all of them, none calibrates (`describe_split`).
    """
    hashes = {image: id_hash(image) for image in source.image_ids}
    order = sorted(
        range(len(source.ids)), key=lambda p: (hashes[source.image_ids[p]], source.ids[p])
    )
    if manifest.calibration != HASH:
        return tuple(order), None if manifest.calibration == NONE else manifest.calibration
    aside = {p for p in order if int(hashes[source.image_ids[p]], 16) % CALIBRATION_SHARE == 0}
    if len(aside) == len(order):  # of a few images, the rule may take all
        return tuple(order), None
    return tuple(p for p in order if p not in aside), tuple(p for p in order if p in aside)


def describe_split(
    manifest: Manifest, calibrating: tuple[int, ...] | str | None
) -> tuple[str, ...]:
    """Return a sentence where the rule "hash" finds too few images to set one aside; else ()."""
    if manifest.calibration != HASH or calibrating:
        return ()
    return ("All images are scored: they are too few to set one aside for box thresholds.",)

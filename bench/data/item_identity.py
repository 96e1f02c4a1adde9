"""The identity of an item: what decides its scores, apart from the network and the methods.

It is a digest of the bytes of the image's file, the boxes, the masks and the label. It holds no
name and no date, so a renamed list or a copied folder changes nothing. A stamp of the file (size,
times, path) spares a later run the reading: while the stamp stays, so does the digest of the bytes.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.types import ItemContent, Sample

FILE_DIGITS = 32
"""Hex digits that are kept of the sha256 of a file."""
ITEM_DIGITS = 16
"""Hex digits of an item's identity."""
RECENT_NS = 2_000_000_000
"""A file that changed this recently gets no stamp: it may change again without another time."""


def digest_file(content: bytes) -> str:
    """Return the digest of a file's bytes, 32 hex digits."""
    return hashlib.sha256(content).hexdigest()[:FILE_DIGITS]


def stamp_file(path: Path) -> str:
    """Return what changes with a file's content: size, times of change and path.

    Returns "" where the file changed within the last two seconds, or where the clock says that it
    will change in the future: its content is then read each time.
    Raises OSError where there is no such file.
    """
    facts = path.stat()
    latest = max(facts.st_mtime_ns, facts.st_ctime_ns)
    if latest > time.time_ns() - RECENT_NS:
        return ""
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return f"{facts.st_size}.{facts.st_mtime_ns}.{facts.st_ctime_ns}.{place}"


def identify_file(
    file: str,
    stamp: str,
    label: int,
    boxes: npt.NDArray[np.float32] | None,
    turned: bool = False,
) -> ItemContent:
    """Return the content of an item whose image is a file.

    Args:
        file: `digest_file` of its bytes.  stamp: `stamp_file`, or "".
        label: the class.  boxes: float32 [n,4] as the subset states them, or None.
        turned: whether the image is read as its EXIF orientation says.
    """
    image = f"{file} turned" if turned else file
    return ItemContent(_digest_parts(image, label, boxes), file, stamp)


def identify_sample(sample: Sample) -> ItemContent:
    """Return the content of an item by its pixels and ground truth, for sources without files."""
    total = hashlib.sha256()
    for array in (sample.image, sample.mask, sample.ignore, sample.others):
        total.update(_write_array(array))
    total.update(str(sample.other_label).encode())
    pixels = "pixels " + total.hexdigest()
    return ItemContent(_digest_parts(pixels, sample.label, sample.boxes), "", "")


def unreadable_content() -> ItemContent:
    """Return the content of an item whose file cannot be read: it equals no other."""
    return ItemContent("", "", "")


def join_frame(content: ItemContent, geometry: str, explain: str) -> ItemContent:
    """Return the content with the identity of the item as networks see it: 16 hex digits.

    Args:
        geometry: the id of the geometry.  explain: which class the subset has explained.
    """
    if not content.identity:
        return content
    text = f"{content.identity} {geometry} {explain}"
    return content._replace(identity=hashlib.sha256(text.encode()).hexdigest()[:ITEM_DIGITS])


def _digest_parts(image: str, label: int, boxes: npt.NDArray[np.float32] | None) -> str:
    total = hashlib.sha256(f"{image} {label} ".encode())
    total.update(_write_array(None if boxes is None else np.asarray(boxes, dtype=np.float32)))
    return total.hexdigest()


def _write_array(array: npt.NDArray[np.generic] | None) -> bytes:
    """Return an array as bytes that no other array has: shape and type go first."""
    if array is None:
        return b"none;"
    return f"{array.dtype.str}{array.shape};".encode() + np.ascontiguousarray(array).tobytes()

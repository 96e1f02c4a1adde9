"""Frames kept between runs: decoded, resized and cropped pixels of image files, on disk, bounded in
size.

An entry is found by what decides its pixels and by nothing else: the sha256 of the encoded bytes,
the geometry, and the versions of the code that decodes and resizes. A file that changes is
therefore another entry, whatever its name, size or date say; subsets that share images share
entries.

One file per entry: a header (magic, height and width of the stored image, rows of the frame, crc32
of everything else), the key, and the raw pixels. Reading and checking 224x224 raw pixels takes a
tenth of a millisecond; decoding a compressed form takes several times as long. Several processes
add, use and remove entries one by one, so each has a file of its own. The files' modification times
show which entries were used last.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import math
import os
import platform
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import features

from bench.data import pixel_modes
from bench.data.decode import decode
from bench.data.geometry import Geometry, GreyGeometry
from bench.errors import BenchError, state_assumption, take_first_line
from bench.files import cache_folder, replaced_file
from bench.types import UInt8Image
from bench.version import __version__

BOUND_VARIABLE = "CAMBENCH_CACHE_GIB"
"""The environment variable that bounds the cache, in GiB; 0 turns it off."""
DEFAULT_GIB = 4.0

SUFFIX = ".frame"
_MAGIC = b"camframe"
_HEADER = struct.Struct(
    "<8sIIII"
)  # magic, stored height and width, rows of the frame, crc32 of all but magic and crc
_KEY_BYTES = 32
_LOOK_AGAIN = (
    32  # a process looks at the folder anew when it has itself written this part of the bound
)
_LEAVE = 0.9  # of the bound; what is over is dropped in one go, so that this is rare
_ABANDONED_SECONDS = 3600.0  # a temporary file this old belongs to a process that was killed


class Frame(NamedTuple):
    """The pixels of a frame, uint8 [h,w,3], and the height and width of the stored image."""

    pixels: UInt8Image
    stored: tuple[int, int]


@dataclass(frozen=True)
class Usage:
    """What a cache holds: entries, and their bytes."""

    entries: int
    size: int


class FrameCache:
    """A folder of frames, at most `bound` bytes of them; what was not used for longest is dropped.

    The bound holds for one process at any time; each further one that writes at the same time may
    exceed it by 1/32. A cache never fails a run: where it cannot be written, frames are made as
    without it.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder, self.bound = folder, bound
        self._known: int | None = None  # bytes in the folder, as far as this process knows
        self._added = 0  # by this process since it last looked
        self._writable = True

    def frame(
        self,
        content: bytes,
        geometry: Geometry,
        decode: Callable[[], UInt8Image],
        turned: bool = False,
    ) -> Frame:
        """Return the frame of an encoded image: the one that is kept, else a new one, which is
        kept.

        decode: gives the image uint8 [H0,W0,3] of `content`; what it raises is passed on, and
        nothing is kept.  turned: by its EXIF orientation.
        """
        key = frame_key(content, geometry, turned)
        found = self._read(key, geometry.shape)
        if found is not None:
            return found
        image = decode()
        frame = Frame(geometry.frame(image), (image.shape[0], image.shape[1]))
        self._write(key, frame)
        return frame

    def usage(self) -> Usage:
        """Return what the folder holds."""
        sizes = [size for _, size, _ in self._entries()]
        return Usage(len(sizes), sum(sizes))

    def clear(self) -> Usage:
        """Drop every entry; return what was dropped."""
        dropped = [size for path, size, _ in self._entries() if _drop(path)]
        self._known = None
        for shard in self._shards():
            with contextlib.suppress(OSError):  # not empty: somebody writes into it
                shard.rmdir()
        return Usage(len(dropped), sum(dropped))

    def path(self, key: bytes) -> Path:
        """Return where the entry of a key lies."""
        return self.folder / key.hex()[:2] / f"{key.hex()}{SUFFIX}"

    def _read(self, key: bytes, shape: tuple[int, int]) -> Frame | None:
        """Return an entry that is whole and mark it as used; drop one that is not."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        frame = _unpack(content, key, shape)
        if frame is None:
            _drop(path)
        else:
            with contextlib.suppress(OSError):  # dropped meanwhile, or not ours to touch
                os.utime(path)
        return frame

    def _write(self, key: bytes, frame: Frame) -> None:
        content = _pack(key, frame)
        if not self._writable or len(content) > self.bound:
            return
        try:
            self._make_room(len(content))
            with replaced_file(self.path(key)) as temporary:
                temporary.write_bytes(content)
        except (BenchError, OSError) as error:  # read-only, or full
            self._writable = False
            state_assumption(
                f"Decoded images are not kept for the next time in {self.folder}, which takes "
                f"none ({take_first_line(error)})."
            )

    def _make_room(self, size: int) -> None:
        """Drop the entries that were not used for longest, where `size` bytes more would exceed the
        bound.
        """
        if (
            self._known is None
            or self._added > self.bound // _LOOK_AGAIN
            or self._known + size > self.bound
        ):
            entries = sorted(self._entries(), key=lambda entry: entry[2], reverse=True)
            total = sum(size for _, size, _ in entries)
            if total + size > self.bound:
                keep = max(0.0, self.bound * _LEAVE - size)
                while entries and total > keep:
                    path, freed, _ = entries.pop()
                    _drop(path)
                    total -= freed
            self._known, self._added = total, 0
        self._known += size
        self._added += size

    def _entries(self) -> Iterator[tuple[Path, int, float]]:
        """Yield (path, bytes, time of last use) of each entry; leftovers of killed processes are
        removed.
        """
        for shard in self._shards():
            with contextlib.suppress(OSError), os.scandir(shard) as files:
                for file in files:
                    with contextlib.suppress(OSError):  # gone meanwhile
                        facts = file.stat()
                        if file.name.endswith(SUFFIX):
                            yield Path(file.path), facts.st_size, facts.st_mtime
                        elif (
                            file.name.endswith(".tmp")
                            and time.time() - facts.st_mtime > _ABANDONED_SECONDS
                        ):
                            _drop(Path(file.path))

    def _shards(self) -> list[Path]:
        return [path for path in self.folder.glob("??") if path.is_dir()]


def open_frame_cache() -> FrameCache | None:
    """Return the user's cache, or None where it is turned off.

    Raises BenchError where `CAMBENCH_CACHE_GIB` is no number.
    """
    bound = read_cache_bound()
    return _open_cache(find_frame_folder(), bound) if bound else None


@functools.lru_cache(maxsize=8)
def _open_cache(folder: Path, bound: int) -> FrameCache:
    return FrameCache(folder, bound)  # one per process, which knows what it has written


def find_frame_folder() -> Path:
    """Return the folder of the user's cache of frames."""
    return cache_folder() / "decoded"


def read_cache_bound() -> int:
    """Return the bound of the user's cache in bytes; 0: it is turned off."""
    text = os.environ.get(BOUND_VARIABLE, "").strip()
    try:
        gib = float(text) if text else DEFAULT_GIB
    except ValueError:
        gib = math.nan
    if not (0 <= gib < math.inf):
        raise BenchError(
            f"{BOUND_VARIABLE} is {text!r}; give the cache's bound in GiB, such as 4, or 0 for no "
            "cache."
        )
    return int(gib * 2**30)


def turn_off() -> None:
    """Do without the cache in this process, and in those that it starts."""
    os.environ[BOUND_VARIABLE] = "0"


def frame_key(content: bytes, geometry: Geometry, turned: bool = False) -> bytes:
    """Return the key (32 bytes) of the frame of an encoded image; turned: by its EXIF
    orientation.
    """
    form = f"{geometry.id}{' turned' * turned} {pixels_version()}"
    return hashlib.sha256(hashlib.sha256(content).digest() + form.encode()).digest()


@functools.cache
def pixels_version() -> str:
    """Return what decides the pixels of a frame beside image and geometry: codecs, Pillow, and our
    own code.
    """
    codecs = [
        f"{name}={features.version(name)}"
        for name in ("jpg", "libjpeg_turbo", "webp", "jpg_2000", "avif")
    ]
    try:
        parts = (decode, pixel_modes, Geometry, GreyGeometry)
        source = "".join(inspect.getsource(part) for part in parts)
        own = hashlib.sha256(source.encode()).hexdigest()
    except OSError:  # installed without its source
        own = __version__
    return " ".join([PIL.__version__, *codecs, platform.machine(), own])


def _pack(key: bytes, frame: Frame) -> bytes:
    body = key + np.ascontiguousarray(frame.pixels).tobytes()
    numbers = (*frame.stored, len(frame.pixels))
    return _HEADER.pack(_MAGIC, *numbers, _checksum(numbers, body)) + body


def _unpack(content: bytes, key: bytes, shape: tuple[int, int]) -> Frame | None:
    """Return the frame [h,w,3] of an entry, or None where it is not whole."""
    if len(content) != _HEADER.size + _KEY_BYTES + shape[0] * shape[1] * 3:
        return None
    magic, *numbers, checksum = _HEADER.unpack_from(content)
    body = memoryview(content)[_HEADER.size :]
    if (
        magic != _MAGIC
        or body[:_KEY_BYTES] != key
        or numbers[2] != shape[0]
        or checksum != _checksum(numbers, body)
    ):
        return None
    pixels = np.frombuffer(body, dtype=np.uint8, offset=_KEY_BYTES).reshape(*shape, 3)
    return Frame(pixels, (numbers[0], numbers[1]))


def _checksum(numbers: list[int] | tuple[int, ...], body: bytes | memoryview) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<3I", *numbers)))


def _drop(path: Path) -> bool:
    """Remove an entry; return whether it was there and is gone."""
    try:
        path.unlink()
    except OSError:
        return False
    return True

"""A disk of a few megabytes in memory that tests fill up, mounted where the rights allow that."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILLER = ".filler"
PAGE = 4096


class SmallDisk:
    """A mounted folder, and the file that takes its room away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def free(self) -> int:
        """Return the bytes that are free."""
        facts = os.statvfs(self.folder)
        return facts.f_bavail * facts.f_frsize

    def leave(self, size: int) -> None:
        """Take room away until `size` bytes are free, rounded up to a page."""
        with (self.folder / FILLER).open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while self.free >= size + PAGE:
                file.write(bytes(min(self.free - size, 1 << 20) // PAGE * PAGE))

    def make_room(self) -> None:
        """Give all room back."""
        (self.folder / FILLER).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all that lies on the disk."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_hindrance(folder: Path) -> str:
    """Return why no disk can be mounted at a folder, or ""."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        return "tmpfs is of Linux"
    if os.geteuid():
        return "mounting needs root"
    folder.mkdir(parents=True, exist_ok=True)
    done = _call("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    if done.returncode:
        return f"mounting is refused here: {done.stderr.strip()}"
    _call("umount", folder)
    return ""


@contextmanager
def mount_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """Mount an empty disk of `size` bytes at a folder for a block."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0777"
    done = _call("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)
    assert not done.returncode, done.stderr
    try:
        yield SmallDisk(folder)
    finally:
        _call("umount", "-l", folder)


def _call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)

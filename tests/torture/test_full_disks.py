"""Full disks: one sentence and exit 2; with room the same command ends as if nothing had been."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.errors import BenchError
from bench.file_errors import describe_write_error, find_file_error, refuse_file_errors
from bench.files import append_text, replaced_file
from tests.support.command_line import refused
from tests.torture.small_disk import SmallDisk, find_hindrance, mount_disk
from tests.torture.writers import BY_NAME, WRITERS, make_inputs

LEVELS = (0, 1 / 8, 1 / 2, 7 / 8)
"""Shares of the room that a command needs, at which the disk is full."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    hindrance = find_hindrance(tmp_path / "disk")
    if hindrance:
        pytest.skip(hindrance)
    with mount_disk(tmp_path / "disk", 1 << 26) as mounted:
        yield mounted


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": torch.randn(5000).tolist()}), path)


LIBRARIES = {
    "torch": lambda path: torch.save({"a": torch.randn(50_000)}, path),
    "safetensors": lambda path: save_file({"a": torch.randn(50_000)}, path),
    "pyarrow": write_parquet,
    "Pillow": lambda path: Image.effect_noise((300, 300), 90).save(path, format="PNG"),
    "text": lambda path: path.write_text("a" * 50_000),
    "csv": lambda path: pd.DataFrame({"a": range(9000)}).to_csv(path),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_is_one_sentence(library: str, disk: SmallDisk) -> None:
    path = disk.folder / "file"
    for free in (0, 4096, 12288):
        disk.leave(free)
        with pytest.raises(BenchError, match=r"^Cannot write .*file.*; free some space or"):
            write_with(library, path)
        assert [one.name for one in disk.folder.iterdir()] == [".filler"]
        disk.make_room()
    write_with(library, path)
    assert path.stat().st_size > 12288


def write_with(library: str, path: Path) -> None:
    with replaced_file(path) as temporary:
        LIBRARIES[library](temporary)


def test_a_text_is_appended_whole_or_not_at_all(disk: SmallDisk) -> None:
    path = disk.folder / "summary.md"
    append_text(path, "first\n")
    disk.leave(0)
    with pytest.raises(BenchError, match="No space left on device"):
        append_text(path, "x" * 10_000)
    assert path.read_text() == "first\n"
    disk.make_room()
    append_text(path, "second\n")
    assert path.read_text() == "first\nsecond\n"


def test_errors_of_the_work_are_none_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replaced_file(tmp_path / "a"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    assert find_file_error(ValueError("a number")) is None
    assert describe_write_error(KeyError("a"), tmp_path, tmp_path) is None
    with pytest.raises(KeyError), refuse_file_errors():
        raise KeyError("a")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "x"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write"),
        OSError("Error writing bytes to file. Detail: [errno 122] Disk quota exceeded"),
    ],
)
def test_wrapped_errors_are_known(error: Exception) -> None:
    with pytest.raises(BenchError, match="free some space"), refuse_file_errors():
        raise error


def check(name: str, disk: SmallDisk, inputs: Path, levels: tuple[float, ...]) -> None:
    """Run a command on an empty disk, then on full ones, and each time again with room."""
    writer = BY_NAME[name]
    writer.prepare(disk.folder, inputs)
    free = disk.free
    undisturbed = writer.start(disk.folder, inputs)
    assert undisturbed.returncode == 0, undisturbed.stderr
    used, expected = max(free - disk.free, os.sysconf("SC_PAGE_SIZE")), writer.digest(disk.folder)
    for level in levels:
        disk.clear()
        writer.prepare(disk.folder, inputs)
        disk.leave(int(used * level))
        done = writer.start(disk.folder, inputs)
        assert "Traceback" not in done.stderr
        if done.returncode or not level:
            refused(done, "free some space")
        assert not list(disk.folder.rglob("*.tmp"))
        disk.make_room()
        again = writer.start(disk.folder, inputs)
        assert again.returncode == 0, again.stderr
        assert writer.digest(disk.folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.name for one in WRITERS])
def test_every_command_goes_on_with_room(name: str, disk: SmallDisk, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    check(name, disk, make_inputs(inputs), LEVELS)


@pytest.mark.slow
def test_a_full_cache_never_stops_a_training(disk: SmallDisk, tmp_path: Path) -> None:
    writer = BY_NAME["aft"]
    disk.leave(0)
    done = writer.start(tmp_path, tmp_path, CAMBENCH_CACHE=str(disk.folder))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("are not kept for the next time") == 1

"""Bombs: files that claim or unpack to far more than they are. None is read, and none fills memory.

The peak of memory is that of a child process which tries them all.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench.board.gallery import load_gallery
from bench.data.decode import decode, read_image
from bench.data.geometry import Geometry
from bench.data.images import row_files
from bench.data.object_masks import read_mask_file
from bench.data.table_file import read_table
from bench.errors import BenchError
from bench.models.weights_files import read_checkpoint
from bench.records.store import read_table as read_records
from bench.run.external_maps import load_maps
from bench.size_limits import (
    IMAGE_PIXELS,
    MAP_PIXELS,
    TEXT_MIB,
    UNPACKED_MIB,
    check_archive,
    check_array_file,
    check_parquet,
)

GIGA = 2**30


def write_claim(path: Path, shape: tuple[int, ...], kind: str = "<f4") -> Path:
    """Write a .npy file whose header claims an array that is not there."""
    with path.open("wb") as file:
        header = {"descr": kind, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    return path


def pack_zeros(path: Path, name: str, shape: tuple[int, ...], kind: str = "<f4") -> None:
    """Add an array of zeros to an archive, a MiB at a time."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    left = int(np.prod(shape)) * np.dtype(kind).itemsize
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        file.write(head.getvalue())
        while left > 0:
            file.write(bytes(min(left, 2**20)))
            left -= 2**20


def write_banner(path: Path, width: int, height: int) -> Path:
    """Write a PNG whose header claims a size, with some of its pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(9))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


def test_claims_of_arrays_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    write_claim(folder / "a.npy", (10**6, 10**6))
    with pytest.raises(BenchError, match="claims 4,000,000,000,000 bytes and 192 are there"):
        load_maps(folder, "scenes-val")
    with pytest.raises(BenchError, match="claims"):
        load_maps(write_claim(tmp_path / "b.npy", (40, 10**5, 10**5)), "scenes-val")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        check_array_file(tmp_path / "objects.npy")
    np.save(tmp_path / "fine.npy", np.zeros((3, 4)))
    check_array_file(tmp_path / "fine.npy")


def test_an_archive_is_refused_by_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "maps.npz"
    pack_zeros(path, "maps.npy", (90, 400, 400))
    np.savez(tmp_path / "ids.npz", ids=np.array(["x"] * 90))
    with zipfile.ZipFile(tmp_path / "ids.npz") as ids, zipfile.ZipFile(path, "a") as archive:
        archive.writestr("ids.npy", ids.read("ids.npy"))
    check_archive(path, "The maps")
    monkeypatch.setenv(UNPACKED_MIB.variable, "32")
    with pytest.raises(BenchError, match=f"would unpack to 55 MiB; .*{UNPACKED_MIB.variable}"):
        load_maps(path, "scenes-val")
    (tmp_path / "run" / "gallery").mkdir(parents=True)
    path.rename(tmp_path / "run" / "gallery" / "net-0.npz")
    with pytest.raises(BenchError, match="would unpack"):
        load_gallery(tmp_path / "run")


def test_one_map_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = {"000000:0": np.zeros((30, 40), np.int8)}
    monkeypatch.setenv(MAP_PIXELS.variable, "1199")
    with pytest.raises(BenchError, match=MAP_PIXELS.variable):
        load_maps(maps, "scenes-val", name="mine")


@pytest.mark.parametrize("size", [(70_000, 60_000), (2**31 - 1, 1), (20_000, 9_000)])
def test_an_image_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    banner = write_banner(tmp_path / "wide.png", *size)
    for read in (read_image, lambda path: read_mask_file(path, (1, 1), "x")):
        with pytest.raises(BenchError, match=r"pixels|cannot be read"):
            read(banner)


def test_a_thin_image_is_refused_before_it_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((2, 30_000, 3), np.uint8)
    geometry = Geometry(192, "short", 224)
    with pytest.raises(BenchError, match=IMAGE_PIXELS.variable):
        geometry.frame(image)
    monkeypatch.setenv(IMAGE_PIXELS.variable, "1e5")
    with pytest.raises(BenchError, match="at most 100,000 are read"):
        decode({"bytes": encode(400, 300)}, "x")
    assert decode({"bytes": encode(300, 200)}, "x").shape == (200, 300, 3)


def encode(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height)).save(content, "PNG")
    return content.getvalue()


def test_no_program_is_read_as_an_image() -> None:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "EPS")
    with pytest.raises(BenchError, match="is EPS, which is a program"):
        decode({"bytes": content.getvalue()}, "x")


def test_tables_are_refused_by_their_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 2**23
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["x"]))
    file = tmp_path / "long.parquet"
    pq.write_table(pa.table({"label": one}), file, compression="zstd")
    assert file.stat().st_size * 4 < rows
    for read in (row_files, lambda files: read_records(files[0])):
        with pytest.raises(BenchError, match="claims 8,388,608 rows"):
            read([file])
    wide = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"a": np.zeros(2**19)}), wide, use_dictionary=False, compression="zstd")
    check_parquet(wide, "The records file")
    monkeypatch.setenv(UNPACKED_MIB.variable, "2")
    with pytest.raises(BenchError, match="would unpack to 4 MiB"):
        check_parquet(wide, "The records file")


def test_texts_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "annotations.csv"
    table.write_text("file,label\n" + "a.png,1\n" * 2**18)
    assert len(read_table(table).rows) == 2**18
    monkeypatch.setenv(TEXT_MIB.variable, "1")
    with pytest.raises(BenchError, match=TEXT_MIB.variable):
        read_table(table)
    monkeypatch.setenv(TEXT_MIB.variable, "many")
    with pytest.raises(BenchError, match="TEXT_MIB is 'many'"):
        read_table(table)


def test_packed_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "plain.pth")
    assert read_checkpoint(tmp_path / "plain.pth", "m")["w"].shape == (2**20,)
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    monkeypatch.setenv(UNPACKED_MIB.variable, "3")
    with pytest.raises(BenchError, match="would unpack to 4 MiB"):
        read_checkpoint(tmp_path / "packed.pth", "m")
    assert read_checkpoint(tmp_path / "plain.pth", "m")["w"].shape == (2**20,)


TRY = """
import resource, sys
from pathlib import Path
from bench.data.decode import read_image
from bench.errors import BenchError
from bench.models.weights_files import read_checkpoint
from bench.run.external_maps import load_maps

folder = Path(sys.argv[1])
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for read in (
    lambda: load_maps(folder / "bomb.npz", "scenes-val"),
    lambda: read_image(folder / "wide.png"),
    lambda: read_checkpoint(folder / "bomb.pth", "m"),
):
    try:
        read()
    except BenchError:
        refused += 1
print(refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_bombs_take_no_memory(tmp_path: Path) -> None:
    pack_zeros(tmp_path / "bomb.npz", "a.npy", (6, GIGA // 4))
    write_banner(tmp_path / "wide.png", 60_000, 50_000)
    torch.save({"w": torch.zeros(4)}, tmp_path / "small.pth")
    with (
        zipfile.ZipFile(tmp_path / "small.pth") as small,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for name in small.namelist():
            content = small.read(name)
            bomb.writestr(name, bytes(2 * GIGA) if "/data/0" in name else content)
    command = [sys.executable, "-c", TRY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    refused, growth = map(int, done.stdout.split())
    assert refused == 3
    assert growth < 150  # MiB

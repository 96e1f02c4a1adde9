"""Files that may not be read or written, and what is no file: one sentence, exit 2, no hang."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.file_contents import check_plain_file, list_files, read_json, read_text, refuse_pipe
from bench.files import replaced_file
from tests.support.command_line import cambench, refused
from tests.torture import plain_user
from tests.torture.rights_inputs import make_rights_inputs, thaw
from tests.torture.spoilers import CASES, FILE, Spoilt

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        for _ in range(2):  # a new file, and one in the place of another
            with replaced_file(tmp_path / "file") as temporary:
                temporary.write_text("content")
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
            (tmp_path / "file").chmod(0o600)
    finally:
        os.umask(before)


@pytest.mark.parametrize("way", FILE[1:])
def test_what_is_no_file_is_not_read(way: object, tmp_path: Path) -> None:
    assert callable(way)
    path = tmp_path / "file.json"
    path.write_text("{}")
    assert read_json(path, "card") == {}
    way(path)
    with pytest.raises(BenchError, match=r"^The card .*file\.json .*; check the path"):
        read_text(path, "card")
    with pytest.raises(BenchError, match="card"):
        check_plain_file(path, "card")


def test_a_pipe_is_neither_read_nor_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BenchError, match="is a pipe or a device"):
        refuse_pipe(tmp_path / "pipe", "table")
    refuse_pipe(tmp_path, "table")
    with (
        pytest.raises(BenchError, match="is a pipe or a device; give the path of a file"),
        replaced_file(tmp_path / "pipe"),
    ):
        raise AssertionError
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path: Path) -> None:
    assert list_files(tmp_path / "none", ".npz") == []
    (tmp_path / "b.npz").touch()
    (tmp_path / ".a.npz").touch()
    assert list_files(tmp_path, ".npz") == [tmp_path / "b.npz"]
    with pytest.raises(BenchError, match="cannot be read"):
        list_files(tmp_path / "b.npz", ".npz")


def spoil(case: Spoilt, way: object, folder: Path) -> None:
    assert callable(way)
    path = next(iter(sorted(folder.glob(case.path))), folder / case.path)
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    way(path)


@pytest.mark.slow
def test_every_spoilt_file_is_one_sentence(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    make_rights_inputs(inputs)
    pairs = [(case, way) for case in CASES for way in case.ways]
    for number, (case, way) in enumerate(pairs):
        folder = tmp_path / f"case-{number}"
        shutil.copytree(inputs, folder)
        spoil(case, way, folder)
        cache = {"CAMBENCH_CACHE": str(tmp_path / "cache")}
        done = cambench(*case.words(folder), cwd=folder, timeout=120, **cache, **plain_user.HOOK)
        where = f"{case.name} {case.path} {way.__name__}: {done.stderr}"
        thaw(folder)
        shutil.rmtree(folder)
        assert done.returncode in (0, 2), where
        assert "Traceback" not in done.stderr, where


@pytest.mark.slow
def test_permissions_bind_the_tests(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "card.json").chmod(0)
    words = ("list", "models", tmp_path / "card.json")
    refused(cambench(*words, cwd=tmp_path, **plain_user.HOOK), "Permission denied")

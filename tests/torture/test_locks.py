"""One owner for each folder: a second one is refused, a killed one's lock is free at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.files import replaced_file
from bench.folder_owner import own_file, own_folder
from bench.leftovers import is_leftover, name_temporary, sweep_leftovers
from tests.support.command_line import cambench, refused
from tests.support.lock_holders import start_holder
from tests.torture.writers import BY_NAME, make_inputs

ROOT = Path(__file__).parents[2]

HOLD = """
import sys, time
from pathlib import Path
from bench import folder_owner
from bench.leftovers import name_temporary

path = Path(sys.argv[2])
with getattr(folder_owner, sys.argv[1])(path, "study"):
    name_temporary(path / "half").touch() if path.is_dir() else None
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_owner_is_refused_and_a_killed_one_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with start_holder(HOLD, "own_folder", folder) as process:
        (half,) = folder.glob(".half*.tmp")
        sweep_leftovers(folder, owned=True)  # as a process without the lock may do
        assert half.exists()
        words = rf"Another study \(process {process.pid} on .*\) is writing to .*run; wait for it"
        with pytest.raises(BenchError, match=words), own_folder(folder):
            raise AssertionError
    with own_folder(folder):
        assert not half.exists()
    assert list(folder.iterdir()) == []  # neither a lock nor an owner stays


def test_a_file_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "base.parquet"
    with start_holder(HOLD, "own_file", path):
        with pytest.raises(BenchError, match=r"is writing .*base\.parquet; wait"), own_file(path):
            raise AssertionError
        with own_file(tmp_path / "other.parquet"):
            pass
    with own_file(path):
        pass
    monkeypatch.setenv("CAMBENCH_CACHE", "/dev/null")
    with own_file(path), replaced_file(path) as temporary:  # no cache: no lock, and whole files
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_one_thread_owns_a_folder_twice_and_two_do_not(tmp_path: Path) -> None:
    refusals: list[str] = []

    def take() -> None:
        try:
            with own_folder(tmp_path):
                pass
        except BenchError as error:
            refusals.append(str(error))

    with own_folder(tmp_path, "run"), own_folder(tmp_path, "board"):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert len(refusals) == 1
    assert "Another run (process" in refusals[0]
    take()
    assert len(refusals) == 1


def test_only_temporary_files_of_dead_processes_are_leftovers(tmp_path: Path) -> None:
    own = name_temporary(tmp_path / "a.parquet")
    assert not is_leftover(own)
    parts = own.name.split(".")
    machine, process, token, number = parts[-2].split("-")
    assert process == str(os.getpid())

    def rename(*mark: str) -> Path:
        return own.with_name(".".join([*parts[:-2], "-".join(mark), "tmp"]))

    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert is_leftover(rename(machine, str(ended.pid), token, number))
    assert is_leftover(rename(machine, process, "aaaaaa", number))  # the number was given again
    other = rename("aaaaaa", str(ended.pid), token, number)
    other.touch()
    assert not is_leftover(other)  # of another machine, which may be writing now
    os.utime(other, (0, 0))
    assert is_leftover(other)
    for name in ("a.tmp", ".a.tmp", ".mine.swp", "records.parquet"):
        assert not is_leftover(tmp_path / name, owned=True)


PAIRS = {
    "run": "run",
    "board": "run",
    "health": "judged",
    "merge": "merged",
    "classifier": "trained",
    "aft": "trained",
    "simulate": "maps",
    "channels": "channels",
    "explain": "pictures",
}
"""{command: the folder that it must own}."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_every_command_minds_an_owner(name: str, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    make_inputs(inputs)
    target = tmp_path / "target"
    target.mkdir()
    writer = BY_NAME[name]
    writer.prepare(target, inputs)
    with start_holder(HOLD, "own_folder", target / PAIRS[name]):
        before = sorted(target.rglob("*"))
        refused(writer.start(target, inputs), "Another study (process")
        assert sorted(target.rglob("*")) == before
    done = writer.start(target, inputs)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["baseline", "publish"])
def test_a_target_has_one_owner(name: str, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    place = tmp_path / {"baseline": "base.parquet", "publish": "board"}[name]
    writer = BY_NAME[name]
    for _ in range(2):  # a new target, and one that is replaced
        os.environ["CAMBENCH_CACHE"] = str(inputs / "cache")
        with start_holder(HOLD, "own_file", place):
            refused(writer.start(tmp_path, inputs), "Another study (process")
        del os.environ["CAMBENCH_CACHE"]
        done = writer.start(tmp_path, inputs)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_publication_is_repeated_after_it_was_stopped(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    words = ("board", inputs / "run", "--publish", tmp_path / "board")
    half = tmp_path / "board"
    half.mkdir()
    (half / "records.parquet").write_bytes(b"half")  # as an earlier version left it
    assert cambench(*words, cwd=tmp_path).returncode == 0
    (half / "notes.md").write_text("mine")
    (half / ".publishing").touch()
    (half / "run.json").unlink()  # stopped while it replaced a board
    assert cambench(*words, cwd=tmp_path).returncode == 0
    assert (half / "run.json").is_file()
    assert (half / "notes.md").read_text() == "mine"
    assert not (half / ".publishing").exists()
    (half / "run.json").unlink()
    refused(cambench(*words, cwd=tmp_path), "holds other files")

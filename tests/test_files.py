"""The lock of a folder: held by one process, told at once to a second, gone with a killed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.files import lock_folder
from bench.records.store import Store
from tests.support.lock_holders import start_holder

ROOT = Path(__file__).parents[1]

HOLD = """
import sys, time
from pathlib import Path
from bench.files import lock_folder

lock = lock_folder(Path(sys.argv[1]), "taken")
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_process_is_refused_at_once(tmp_path: Path) -> None:
    lock_folder(tmp_path, "taken").release()  # the first use imports filelock
    with start_holder(HOLD, tmp_path):
        start = time.monotonic()
        with pytest.raises(BenchError, match=r"^taken$"):
            lock_folder(tmp_path, "taken")
        assert time.monotonic() - start < 1
        with pytest.raises(BenchError, match="Another run is writing to"), Store(tmp_path).lock():
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    with start_holder(HOLD, tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Store(tmp_path).lock(), pytest.raises(BenchError, match="Another run is writing to"):
            lock_folder(tmp_path, f"Another run is writing to {tmp_path}")


def test_a_second_lock_of_one_process_is_refused(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path, "taken")
    with pytest.raises(BenchError, match="taken"):
        lock_folder(tmp_path, "taken")
    lock.release()
    lock_folder(tmp_path, "taken").release()


def test_any_thread_releases_the_lock(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path, "taken")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    lock_folder(tmp_path, "taken").release()


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Store(tmp_path).lock():
        raise ZeroDivisionError
    with Store(tmp_path).lock():
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_ends_leaves_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom bench.files import lock_folder\n"
        "folder = Path(sys.argv[1])\nlock = lock_folder(folder, 'taken')\nchild = os.fork()\n"
        "if child == 0:\n    os._exit(0)\nos.waitpid(child, 0)\nlock_folder(folder, 'still held')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "BenchError: still held" in done.stderr


def test_a_file_in_the_place_of_the_lock_is_an_error_of_writing(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(BenchError, match=r"Cannot write to .*; choose another --out"),
        Store(tmp_path).lock(),
    ):
        pass

"""Commands under the rules of Windows, as far as Linux can keep them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench.records.store import Records
from tests.support.command_line import cambench
from tests.torture.conftest import SMALL_RUN, finished_run

__all__ = ["finished_run"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RULES = "tests.platforms.windows_rules"


def run_all(place: Path, *lines: tuple[object, ...], main: str = RULES) -> str:
    """Run command lines in one process under the rules; return what it printed."""
    words = place / "words"
    words.write_text("\n".join("\t".join(map(str, line)) for line in lines), encoding="utf-8")
    done = cambench(str(words), CAMBENCH_TEST_HOOK=RULES, CAMBENCH_TEST_MAIN=main)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_a_run_and_a_baseline_under_the_rules_of_windows(tmp_path):
    run, base = tmp_path / "run", tmp_path / "base.parquet"
    run_all(
        tmp_path,
        (*SMALL_RUN, "--out", run),
        (*SMALL_RUN[:-1], "energy_pointing_game", "--out", run),
        ("baseline", run, "--out", base),
        ("baseline", run, "--out", base),
    )
    assert {"pointing", "energy"} <= set(Records.load(run).frame["metric"])
    assert base.is_file()


@pytest.mark.slow
def test_boards_merges_and_health_under_the_rules_of_windows(finished_run, tmp_path):
    run, board = tmp_path / "run", tmp_path / "board"
    shutil.copytree(finished_run, run)
    run_all(
        tmp_path,
        ("board", run, "--publish", board),
        ("board", run, "--publish", board),
        ("merge", run, "--out", tmp_path / "merged"),
        ("merge", run, "--out", tmp_path / "merged"),
        ("board", run),
        ("board", run),
    )
    rows = len(Records.load(run))
    assert rows == len(Records.load(board)) == len(Records.load(tmp_path / "merged"))


@pytest.mark.slow
def test_a_training_and_maps_under_the_rules_of_windows(tmp_path):
    train = ["finetune", "classifier", "--backbone", "resnet-scenes", "--subset", "scenes-val[:16]"]
    train += ["--batch-size", "8", "--out", str(tmp_path / "trained"), "--epochs"]
    maps = ["finetune", "simulate", "--model", "abn-scenes", "--subset", "scenes-val[:8]", "--out"]
    maps += [str(tmp_path / "maps")]
    run_all(tmp_path, (*train, "1"), (*train, "2"), (*train, "2"), tuple(maps), tuple(maps))
    assert list((tmp_path / "trained").glob("*.safetensors"))


def test_the_rules_refuse_what_windows_refuses(tmp_path):
    done = cambench(str(tmp_path / "x"), CAMBENCH_TEST_HOOK=RULES, CAMBENCH_TEST_MAIN=__name__)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["replace", "remove", "fork", "link"]


def main() -> None:
    """Break each rule once, in a process that has them, and print which were refused."""
    import os

    place = Path(sys.argv[1])
    with place.open("w", encoding="utf-8"):
        other = place.with_name("y")
        other.write_bytes(b"")
        for name, broken in (
            ("replace", lambda: other.replace(place)),
            ("remove", place.unlink),
            ("fork", lambda: os.fork()),
            ("link", lambda: other.with_name("z").symlink_to(other)),
        ):
            try:
                broken()
            except (OSError, AttributeError):
                print(name)
    sys.stdout.flush()
    os._exit(0)

"""Commands that are killed at any file operation, and then run again.

The law: the same command ends, what it gives is that of a run which nobody disturbed, no row is
lost, doubled or different, no temporary file stays, and no acknowledged save of the editor is lost.

The default suite kills each command at a few operations of a seeded sample. `CAMBENCH_TORTURE=all`
with `-m slow` kills it at every one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.finetune.attention_maps import load_map, load_maps
from tests.support.command_line import cambench
from tests.torture.conftest import SMALL_RUN
from tests.torture.editor_saves import identify, make_grey
from tests.torture.file_operations import DIED, orders
from tests.torture.mortal import Command, check_finished, check_same, read_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are of forked processes")

TRAIN = "finetune classifier --backbone resnet-scenes --subset scenes-val[:16] --epochs 2"
SIMULATE = "finetune simulate --model abn-scenes --subset scenes-val[:8]"
SAMPLE = 16
"""Operations that the slow test kills a command at, one after the other."""

SIZES = (1, 300, 4096, 20_000, 100_000, 1_000_000)
"""Bytes beyond which a file kills its writer."""

Make = Callable[[Path], Command]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the folders of the two shards of a small run."""
    place = tmp_path_factory.mktemp("shards")
    for number in (1, 2):
        words = (*SMALL_RUN, "--shard", f"{number}/2", "--out", str(place / f"{number}"))
        check_finished(cambench(*words))
    return [place / "1", place / "2"]


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with the controls by which `health` judges a metric."""
    folder = tmp_path_factory.mktemp("controlled") / "run"
    words = [*SMALL_RUN, "--methods", "grad_cam,layer_cam,oracle,random,center_gaussian"]
    words += ["--metrics", "pointing_game,energy_pointing_game", "--out", str(folder)]
    check_finished(cambench(*words))
    return folder


@pytest.fixture
def commands(finished_run: Path, controlled: Path, shards: list[Path]) -> dict[str, Make]:
    """Return {name: what makes the command for a folder that is to be written}."""

    def judge(out: Path) -> Command:
        if not out.exists():
            shutil.copytree(controlled, out)
        return Command(("health", str(out), "--stored"), out)

    def plain(*words: object, flag: str = "--out", file: str = "") -> Make:
        return lambda out: Command((*map(str, words), flag, str(out / file if file else out)), out)

    return {
        "run": plain(*SMALL_RUN),
        "merge": plain("merge", *shards),
        "baseline": plain("baseline", finished_run, file="base.parquet"),
        "publish": plain("board", finished_run, flag="--publish"),
        "health": judge,
        "classifier": plain(*TRAIN.split(), "--batch-size", "8", "--precision", "float32"),
        "simulate": plain(*SIMULATE.split()),
    }


NAMES = ["run", "merge", "baseline", "publish", "health", "classifier", "simulate"]


def outlive(make: Make, place: Path, deaths: int, seed: int) -> None:
    """Kill a command at random operations again and again, let it end, and compare."""
    first, second = make(place / "undisturbed"), make(place / "killed")
    done, operations = first.start()
    check_finished(done)
    draw = random.Random(seed)
    killed = 0
    for _ in range(deaths):
        done, _ = second.start(at=draw.randint(1, len(operations)))
        if done.returncode == DIED:
            killed += 1
        else:  # a later start has less to do
            check_finished(done)
    check_finished(second.start()[0])
    assert killed, "no process was killed"
    check_same(second.out, read_folder(first.out))


def test_a_run_outlives_kills(tmp_path):
    outlive(lambda out: Command((*SMALL_RUN, "--out", str(out)), out), tmp_path, deaths=1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_every_command_outlives_kill_after_kill(commands, tmp_path, name, seed):
    outlive(commands[name], tmp_path, deaths=6, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_operation_changes_nothing(commands, tmp_path, name):
    """One kill each: at a seeded sample of the operations, or at all of them."""
    first = commands[name](tmp_path / "undisturbed")
    done, operations = first.start()
    check_finished(done)
    expected = read_folder(first.out)
    places = range(1, len(operations) + 1)
    if os.environ.get("CAMBENCH_TORTURE") != "all":
        places = sorted(random.Random(0).sample(places, min(SAMPLE, len(places))))
    held = 0
    for at in places:
        command = commands[name](tmp_path / f"at{at}")
        done, _ = command.start(at=at)
        assert done.returncode == DIED, operations[at - 1]
        done, _ = command.start()
        assert done.returncode == 0, f"{operations[at - 1]}\n{done.stderr}"
        check_same(command.out, expected)
        shutil.rmtree(command.out)
        held += 1
    print(f"{name}: {held} of {len(places)} kills held")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_in_the_middle_of_a_write_changes_nothing(commands, tmp_path, name):
    first = commands[name](tmp_path / "undisturbed")
    check_finished(first.start()[0])
    expected, killed = read_folder(first.out), 0
    for size in SIZES:
        command = commands[name](tmp_path / f"size{size}")
        done, _ = command.start(size=size)
        if done.returncode:
            assert done.returncode == -signal.SIGXFSZ, done.stderr
            killed += 1
        check_finished(command.start()[0])
        check_same(command.out, expected)
    assert killed, "no process was killed"
    print(f"{name}: {killed} of {killed} kills held")


# --- the editor


def save_maps(folder: Path, times: int, at: int = 0) -> tuple[int, list[str]]:
    """Let a process save maps until it dies; return its exit code and the file operations."""
    log = folder.parent / "operations"
    given = orders(log, [folder], at) | {"CAMBENCH_TEST_MAIN": "tests.torture.editor_saves"}
    done = cambench(str(folder), str(folder.parent / "saved"), str(times), **given)
    assert done.returncode in (0, DIED), done.stderr
    return done.returncode, log.read_text(encoding="utf-8").splitlines()


def check_saves(folder: Path) -> int:
    """Check that every acknowledged map is current or in the history; return how many are."""
    lines = (folder.parent / "saved").read_text(encoding="utf-8").splitlines()
    held = {(m.item, m.facts["revision"]): identify(m.grey) for m in load_maps(folder)}
    for file in (folder / "history").glob("*.png"):
        old = load_map(file)
        held[old.item, old.facts["revision"]] = identify(old.grey)
    for line in lines:
        item, revision, digest = line.split()
        assert held.get((item, int(revision))) == digest, f"lost: {line}"
    return len(lines)


def test_no_acknowledged_save_is_lost(tmp_path):
    folder, draw = tmp_path / "maps", random.Random(2)
    _, operations = save_maps(folder, 4)
    for _ in range(2):
        save_maps(folder, 4, at=draw.randint(1, len(operations)))
    save_maps(folder, 1)
    assert check_saves(folder) >= 5
    left = [p.name for p in folder.rglob("*") if p.name.endswith(".tmp")]
    assert left == []


@pytest.mark.slow
def test_no_kill_at_any_operation_loses_a_save(tmp_path):
    (tmp_path / "count").mkdir()
    _, operations = save_maps(tmp_path / "count" / "maps", 6)
    for at in range(1, len(operations) + 1):
        folder = tmp_path / f"at{at}" / "maps"
        folder.parent.mkdir()
        assert save_maps(folder, 6, at=at)[0] == DIED
        save_maps(folder, 1)
        check_saves(folder)
    print(f"editor: {len(operations)} of {len(operations)} kills held")


# --- what these tests would see


def test_a_lost_a_doubled_and_a_changed_row_are_seen(finished_run, tmp_path):
    import pandas as pd

    expected = read_folder(finished_run)
    for number, break_rows in enumerate(
        (
            lambda rows: rows.iloc[1:],
            lambda rows: pd.concat([rows, rows.iloc[:1]]),
            lambda rows: rows.assign(value=rows["value"].where(rows.index > 0, 0.25)),
        )
    ):
        folder = tmp_path / f"{number}"
        shutil.copytree(finished_run, folder)
        check_same(folder, expected)
        part = next((folder / "records").glob("*.parquet"))
        break_rows(pd.read_parquet(part)).to_parquet(part)
        with pytest.raises(AssertionError):
            check_same(folder, expected)


def test_what_a_dead_process_leaves_is_seen(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / "tables" / ".board.csv.x.tmp").write_bytes(b"half")
    with pytest.raises(AssertionError):
        check_same(folder, read_folder(finished_run))


def test_a_lost_save_is_seen(tmp_path):
    folder = tmp_path / "maps"
    save_maps(folder, 3)
    assert check_saves(folder) == 3
    next((folder / "history").glob("*.png")).unlink()
    with pytest.raises(AssertionError, match="lost"):
        check_saves(folder)
    assert identify(make_grey(1, 8)) != identify(make_grey(2, 8))

"""Files that a command reads or writes, and ways to spoil them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.torture.writers import SMALL, TRAIN


def forbid(path: Path) -> None:
    """Let nobody read, write or search a file or folder."""
    path.chmod(0)


def protect(path: Path) -> None:
    """Let nobody write a file, or into a folder."""
    path.chmod(0o555 if path.is_dir() else 0o444)


def put_folder(path: Path) -> None:
    """Put a folder in the place of a file."""
    remove(path)
    path.mkdir(parents=True)


def put_pipe(path: Path) -> None:
    """Put a pipe in the place of a file: who reads it waits for ever."""
    remove(path)
    os.mkfifo(path)


def put_dangling_link(path: Path) -> None:
    """Put a link to nowhere in the place of a file."""
    remove(path)
    path.symlink_to(path.with_name("nowhere"))


def put_full_device(path: Path) -> None:
    """Put a link to a device that takes nothing in the place of a file."""
    remove(path)
    path.symlink_to("/dev/full")


def remove(path: Path) -> None:
    """Remove what lies at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


FILE = (forbid, put_folder, put_pipe, put_dangling_link)
OUTPUT = (put_folder, put_pipe, put_full_device)
FOLDER = (forbid,)
WRITTEN = (forbid, protect)


@dataclass(frozen=True)
class Spoilt:
    """A command, what of its inputs or outputs is spoilt (a path inside them), and how."""

    name: str
    words: Callable[[Path], list[str | Path]]
    path: str
    ways: tuple[Callable[[Path], None], ...]


def _board(at: Path) -> list[str | Path]:
    return ["board", at / "run"]


def _publish(at: Path) -> list[str | Path]:
    return ["board", at / "run", "--publish", at / "out" / "board"]


def _run(at: Path) -> list[str | Path]:
    return ["run", *SMALL, "--out", at / "run"]


def _run_folder(at: Path) -> list[str | Path]:
    few = ("--methods", "random", "--metrics", "pointing_game", "--calibration", "0")
    return [
        *("run", "--models", "resnet-scenes", "--subset", at / "images", *few),
        *("--out", at / "out" / "run"),
    ]


def _check(at: Path) -> list[str | Path]:
    return [
        *("check", at / "run", "--against", at / "base.parquet"),
        *("--junit", at / "out" / "gate.xml", "--summary", at / "out" / "gate.md"),
    ]


def _explain(*more: str) -> Callable[[Path], list[str | Path]]:
    def write(at: Path) -> list[str | Path]:
        given = [at / one[1:] if one.startswith("@") else one for one in more]
        image = at / "scene.png"
        return [
            *("explain", image, "--methods", "random", "--out", at / "out" / "one.png", *given),
        ]

    return write


def _train(at: Path) -> list[str | Path]:
    words = ("finetune", "classifier", "--backbone", "resnet_scenes")
    return [*words, *TRAIN, "--out", at / "out" / "trained"]


def _guided(at: Path) -> list[str | Path]:
    return [
        *("finetune", "guided", "--model", "abn-scenes", "--maps", at / "maps"),
        *("--epochs", "1", "--out", at / "out" / "guided"),
    ]


def _score(at: Path) -> list[str | Path]:
    return [
        *("score", at / "maps.npz", "--name", "mine", "--model", "resnet-scenes"),
        *("--subset", "scenes-val", "--limit", "2", "--calibration", "0"),
        *("--metrics", "pointing_game", "--out", at / "out" / "score"),
    ]


CASES = (
    Spoilt("board", _board, "run", WRITTEN),
    Spoilt("board", _board, "run/run.json", FILE),
    Spoilt("board", _board, "run/health.json", FILE),
    Spoilt("board", _board, "run/records", FOLDER),
    Spoilt("board", _board, "run/records/*.parquet", FILE),
    Spoilt("board", _board, "run/gallery/*.npz", FILE),
    Spoilt("board", _board, "run/gallery", FOLDER),
    Spoilt("board", _board, "run/tables", WRITTEN),
    Spoilt("board", _board, "run/board.md", OUTPUT),
    Spoilt("board", _board, "run/items.parquet", FILE),
    Spoilt("board", _board, "run/health/grid.csv", FILE),
    Spoilt("publish", _publish, "out", WRITTEN),
    Spoilt("publish", _publish, "run/health/verdicts.csv", FILE),
    Spoilt("run", _run, "run", WRITTEN),
    Spoilt("run", _run, "run/run.json", FILE),
    Spoilt("run", _run, "run/records", WRITTEN),
    Spoilt("run", _run, "run/skipped.csv", FILE),
    Spoilt("run", _run_folder, "images", FOLDER),
    Spoilt("run", _run_folder, "images/annotations.csv", FILE),
    Spoilt("run", _run_folder, "images/manifest.toml", FILE),
    Spoilt("run", _run_folder, "images/a.png", FILE),
    Spoilt("run", _run_folder, "out", WRITTEN),
    Spoilt("merge", lambda at: ["merge", at / "run", "--out", at / "out" / "m"], "out", WRITTEN),
    Spoilt(
        "merge", lambda at: ["merge", at / "run", "--out", at / "out" / "m"], "run/run.json", FILE
    ),
    Spoilt(
        "baseline",
        lambda at: ["baseline", at / "run", "--out", at / "out" / "b.parquet"],
        "out/b.parquet",
        OUTPUT,
    ),
    Spoilt(
        "baseline",
        lambda at: ["baseline", at / "run", "--out", at / "out" / "b.parquet"],
        "out",
        WRITTEN,
    ),
    Spoilt("health", lambda at: ["health", at / "run", "--stored"], "run/health", WRITTEN),
    Spoilt("health", lambda at: ["health", at / "run", "--stored"], "run/health.json", OUTPUT),
    Spoilt("check", _check, "base.parquet", FILE),
    Spoilt("check", _check, "run/records", FOLDER),
    Spoilt("check", _check, "out", WRITTEN),
    Spoilt("check", _check, "out/gate.xml", OUTPUT),
    Spoilt("check", _check, "out/gate.md", (*OUTPUT, forbid)),
    Spoilt("explain", _explain(), "scene.png", FILE),
    Spoilt("explain", _explain(), "out", WRITTEN),
    Spoilt("explain", _explain(), "out/one.png", (put_pipe, put_full_device)),
    Spoilt("explain", _explain("--plugin", "@mine.py"), "mine.py", FILE),
    Spoilt("explain", _explain("--model", "@card.json"), "card.json", FILE),
    Spoilt("explain", _explain("--model", "@card.json"), "resnet-scenes.safetensors", FILE),
    Spoilt(
        "explain",
        _explain("--model", "resnet-scenes", "--weights", "@resnet-scenes.safetensors"),
        "resnet-scenes.safetensors",
        FILE,
    ),
    Spoilt("train", _train, "out", WRITTEN),
    Spoilt("train", _train, "out/trained/checkpoint.pt", FILE),
    Spoilt("guided", _guided, "maps", FOLDER),
    Spoilt("guided", _guided, "maps/*.png", FILE),
    Spoilt("score", _score, "maps.npz", FILE),
    Spoilt("list", lambda at: ["list", "models", at / "card.json"], "card.json", FILE),
    Spoilt("list", lambda at: ["list", "subsets", at / "images"], "images/manifest.toml", FILE),
)
"""Everything that is spoilt, one at a time."""

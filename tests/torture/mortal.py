"""Commands that die in the middle, and what has to be the same after they ran again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bench.records.store import KEY, Records
from tests.support.command_line import Done, cambench
from tests.torture.file_operations import orders

KEYWORD = "cambench"
"""Where a picture of an edited map carries its facts."""

PASSING = {"sha256", "run", "created", "commands", "machine", "forwards"}
"""Keys of run.json that say when, how often and where a run was made, and not what it gave."""

OWN = {".lock"}
"""Hidden files that stay in a folder."""


@dataclass(frozen=True)
class Command:
    """A command line and the folder that it writes.

    Attributes:
        words: The command line.
        out: What it writes: a folder, or the folder of a file.
    """

    words: tuple[str, ...]
    out: Path

    def start(self, at: int = 0, size: int = 0) -> tuple[Done, list[str]]:
        """Run the command, which dies before operation `at`, or when a file is beyond `size`.

        Returns:
            How it ended, and the file operations that it came to.
        """
        log = self.out.parent / f"{self.out.name}.operations"
        given = orders(log, [self.out], at, size)
        done = cambench(*self.words, **given)
        return done, log.read_text(encoding="utf-8").splitlines()


def read_folder(folder: Path) -> dict[str, Any]:
    """Return what a folder holds: rows by key, pictures by name, other files by their bytes."""
    held: dict[str, Any] = {}
    if (folder / "records").is_dir() and (folder / "run.json").is_file():
        held["rows"] = read_rows(folder)
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not file.is_file() or file.parent.name == "records":
            continue
        if file.suffix == ".json":  # its seal covers what may differ
            facts = json.loads(file.read_text(encoding="utf-8").replace(str(folder), "OUT"))
            held[name] = (
                {key: value for key, value in facts.items() if key not in PASSING}
                if isinstance(facts, dict)
                else facts
            )
        elif file.suffix == ".npz":  # the number of a part says how often a run was begun
            place = f"{file.parent.relative_to(folder)}/{file.stem.rpartition('-')[0]}"
            with np.load(file, allow_pickle=False) as arrays:
                held.setdefault(place, {}).update({k: digest(arrays[k].tobytes()) for k in arrays})
        elif file.name == "history.csv":
            held[name] = pd.read_csv(file).drop(columns="seconds").to_csv()
        elif file.name == "checkpoint.pt":  # the seconds of each epoch; what it gives is compared
            held[name] = "a checkpoint"
        elif file.suffix == ".png" and file.parent == folder:  # an edited map says when it was made
            with Image.open(file) as image:
                facts = json.loads(image.info[KEYWORD])
            held[name] = [digest(read_pixels(file)), {**facts, "when": ""}]
        elif file.suffix == ".parquet":
            held[name] = Rows(pd.read_parquet(file))
        elif file.name not in OWN:
            held[name] = digest(file.read_bytes().replace(str(folder).encode(), b"OUT"))
    return held


class Rows:
    """Rows in the order of their keys, which are compared value by value."""

    def __init__(self, frame: pd.DataFrame) -> None:
        order = [name for name in KEY if name in frame]
        self.frame = frame.sort_values(order, ignore_index=True).drop(
            columns=["run"], errors="ignore"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.frame.astype(str).equals(other.frame.astype(str))

    def __repr__(self) -> str:
        return f"{len(self.frame)} rows"

    __hash__ = None


def read_rows(folder: Path) -> Rows:
    """Return all rows of all parts, so that a row that is there twice is seen."""
    parts = [pd.read_parquet(part) for part in sorted((folder / "records").glob("*.parquet"))]
    frame = pd.concat(parts, ignore_index=True)
    assert len(frame) == len(Records.load(folder).frame), "a row is doubled"
    return Rows(frame)


def read_pixels(file: Path) -> bytes:
    """Return the pixels of a picture."""
    with Image.open(file) as picture:
        return picture.tobytes()


def digest(content: bytes) -> str:
    """Return a short digest of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def check_same(folder: Path, expected: dict[str, Any]) -> None:
    """Check that a folder holds what another one held, and nothing that a dead process left."""
    found = read_folder(folder)
    more, less = sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys())
    assert not more, f"left over: {more}"
    assert not less, f"lost: {less}"
    different = [name for name in expected if found[name] != expected[name]]
    for name in different:
        if isinstance(found[name], str):
            print(name, found[name], expected[name], sep="\n")
        if isinstance(found[name], dict):
            keys = found[name].keys() | expected[name].keys()
            print(name, [k for k in keys if found[name].get(k) != expected[name].get(k)])
    assert not different, f"different: {different}"


def check_finished(done: Done, *codes: int) -> None:
    """Check that a command ended well."""
    assert done.returncode in (codes or (0,)), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr

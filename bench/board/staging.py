"""A board is published beside its place and then moved there, so that nobody reads half of one.

A publication that was stopped leaves the place as it was, or, for the moment in which an earlier
board is replaced, without run.json: such a folder is read by nothing, and published into again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.board.gallery import FOLDER, is_gallery_part
from bench.board.light_board import OVERALL_TABLE, PICTURES
from bench.board.own_files import is_own, read_list
from bench.errors import BenchError
from bench.file_errors import advise, find_file_error
from bench.folder_owner import own_file, own_folder
from bench.leftovers import name_temporary
from bench.records.mean_curves import CURVES_FILE
from bench.records.store import check_own

MARK = ".publishing"
"""The file that says that a board is being replaced, or was when its process ended."""

HALF = {
    *("records.parquet", CURVES_FILE, "board.md", "health.json", OVERALL_TABLE, *PICTURES.values()),
    *("tables", "plots", "gallery", "health"),
}
"""What an earlier cambench left of a publication that was stopped, beside run.json."""


@contextmanager
def own_board(target: Path) -> Iterator[None]:
    """Own the folder that a board is published into, whether it is there already or not.

    Raises: BenchError where somebody else writes there, or it holds other files.
    """
    with ExitStack() as held:
        held.enter_context(own_file(target, "publication"))
        if target.is_dir() and any(target.iterdir()):
            if not is_half(target):
                check_own(target)
            held.enter_context(own_folder(target, "publication"))
        elif target.exists() and not target.is_dir():
            raise BenchError(f"{target} is a file; give a new folder to --publish.")
        yield


def is_half(target: Path) -> bool:
    """Return whether a folder holds what a stopped publication left there."""
    names = {path.name for path in target.iterdir() if not path.name.startswith(".")}
    return (target / MARK).exists() or names <= HALF


@contextmanager
def stage_board(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`; when the block succeeds its content takes the place of
    the board in `target`, else it is removed.

    Raises: BenchError where the file system refuses.
    """
    place = target.resolve()
    stage = name_temporary(place)
    try:
        stage.mkdir(parents=True)
        yield stage
        _move_in(stage, place)
    except BenchError as error:  # the reader knows the place, and not what lies beside it
        raise BenchError(str(error).replace(str(stage), str(target))) from None
    except OSError as error:
        found = find_file_error(error)
        reason, number = (found.reason, found.number) if found else (str(error), -1)
        raise BenchError(
            f"The board cannot be published to {target} ({reason}); {advise(number, '--publish')}."
        ) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move_in(stage: Path, target: Path) -> None:
    """Move a board into place: as a whole where nothing is there, else file by file, run.json
    last.
    """
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        stage.rename(target)
        return
    (target / MARK).touch()
    (target / "run.json").unlink(missing_ok=True)
    files = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
    for old in find_earlier(target):
        if old.relative_to(target) not in files:
            old.unlink()
    for file in sorted(files, key=lambda one: one == Path("run.json")):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        (stage / file).replace(target / file)
    (target / MARK).unlink()


def find_earlier(target: Path) -> list[Path]:
    """Return the files of an earlier board that a new one replaces: none that a person put there
    or changed.
    """
    listed = [
        folder / name
        for folder in (target / "tables", target / "plots", target / "health")
        for name, digest in (read_list(folder) or {}).items()
        if is_own(folder / name, digest)
    ]
    curves = [target / CURVES_FILE] if (target / CURVES_FILE).is_file() else []
    return (
        listed
        + curves
        + [part for part in (target / FOLDER).glob("*.npz") if is_gallery_part(part)]
    )

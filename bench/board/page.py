"""A board on disk: written beside a run, or published with its records so that it rebuilds without
images.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.board.aggregate import Board, check, leaderboard
from bench.board.gallery import FOLDER, Gallery, load_gallery, save_gallery_part, small
from bench.board.plots import read_grid, write_plots
from bench.board.tables import write_page, write_tables
from bench.errors import BenchError
from bench.files import file_name, replaced_file, write_json
from bench.pipeline.records import COMMITTED_LIMIT, HEALTH, KEY, Records, check_own, write_parquet

PRIVATE = ("cwd", "host", "hostname", "user", "username", "home")
"""Keys of run.json that describe a machine and not a result."""

PATH = re.compile(
    r"(?<![\w:/.}\])~-])(?:file://)?(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"/\\,;:]+[/\\])+([^\s'\"/\\,;:]*)"
)
"""An absolute path of two parts or more inside a text; not the tail of a URL or of a relative
path.
"""


def write_board(board: Board, folder: Path, run: Path) -> None:
    """Write `board.md`, `tables/` and `plots/` into `folder`; tables and plots of an earlier board
    go.

    run: the folder whose `gallery/` and `health/grid.csv` are drawn.
    """
    gallery = load_gallery(run, sorted(board.provenance["models"]))
    tables = write_tables(board, folder / "tables")
    pictures = write_plots(board, folder / "plots", gallery, read_grid(run))
    write_page(board, folder, pictures)
    clean(folder / "tables", tables)
    clean(folder / "plots", pictures)


def clean(folder: Path, keep: list[Path]) -> None:
    """Remove files of an earlier board: of our kinds, and not written this time."""
    for path in folder.glob("*"):
        if path.suffix in (".csv", ".json", ".md", ".tex", ".png") and path not in keep:
            path.unlink()


def publish_board(run: str | Path, folder: str | Path) -> Board:
    """Publish a run: its current records in one file, run.json without private paths, tables, plots
    and gallery.

    The gallery goes along, reduced to what is drawn, where every subset's pictures may be shown.
    `Records.load(folder)` then gives the same board. Raises BenchError where the records are over
    `COMMITTED_LIMIT`.
    """
    source, target = Path(run), Path(folder)
    records = Records.load(source)
    check(records)  # refuse before anything is written
    check_own(target)
    gallery = (
        load_gallery(source, sorted(records.provenance["models"]))
        if free(records.provenance)
        else {}
    )
    write_records(records, target)
    write_json(
        target / "run.json", public({k: v for k, v in records.provenance.items() if k != "health"})
    )
    publish_health(source, target, records)
    write_gallery(small(gallery), target / FOLDER)
    board = leaderboard(Records.load(target))
    board.save(target)
    return board


def publish_health(source: Path, target: Path, records: Records) -> None:
    """Copy a run's health report, where it has one: verdicts, page, tables and plots, not the parts
    behind them.
    """
    if "health" not in records.provenance or source.resolve() == target.resolve():
        return
    write_json(target / HEALTH, public(records.provenance["health"]))
    for file in sorted((source / "health").glob("*.*")):
        with replaced_file(target / "health" / file.name) as temporary:
            temporary.write_bytes(
                public(file.read_text()).encode() if file.suffix == ".md" else file.read_bytes()
            )


def free(provenance: dict[str, Any]) -> bool:
    """Tell whether the pictures of every subset may be shown."""
    return all(facts.get("pictures", False) for facts in provenance["subsets"].values())


def write_records(records: Records, folder: Path) -> None:
    """Write all rows to `folder/records.parquet`, in the order of their keys, unless that is too
    large.

    Curves, which are only drawn, are rounded to 2^-16: that takes a fifth of the bytes off. Every
    value is kept whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frame = records.frame.sort_values(KEY, kind="stable", ignore_index=True)
    curves = [
        name for name, facts in records.provenance["metrics"].items() if facts["reduce"] == "curve"
    ]
    frame["vector"] = frame["vector"].where(
        ~frame["metric"].isin(curves), frame["vector"].map(rounded)
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".publish-") as scratch:
        file = Path(scratch) / "records.parquet"
        write_parquet(file, frame)
        size = file.stat().st_size
        if size > COMMITTED_LIMIT:
            raise BenchError(
                f"The records take {size / 2**20:.1f} MiB, and a board may carry "
                f"{COMMITTED_LIMIT / 2**20:.0f}; "
                "publish a run with fewer images or without curves."
            )
        file.replace(folder / "records.parquet")


def rounded(curve: Any) -> Any:
    """Return a curve rounded to multiples of 2^-16, as float32; None stays None.

    >>> rounded(np.array([0.1, 1.0])).tolist()
    [0.100006103515625, 1.0]
    """
    return (
        None
        if curve is None
        else (np.round(np.asarray(curve, np.float64) * 2**16) / 2**16).astype(np.float32)
    )


def write_gallery(gallery: Gallery, folder: Path) -> None:
    """Write one part per model, in place of all that was there."""
    for old in folder.glob("*.npz"):
        old.unlink()
    for model, pictures in gallery.items():
        save_gallery_part(
            folder / f"{file_name(model)}-0.npz",
            {item: picture.image for item, picture in pictures.items()},
            {item: picture.maps for item, picture in pictures.items()},
            {item: picture.title for item, picture in pictures.items()},
        )


def public(value: Any) -> Any:
    """Return a copy of run.json's content without what belongs to one machine: `/a/b/c` becomes
    `PATH/c`.

    >>> public({"command": "cambench run --out /tmp/x/run --data-root ../data", "user": "me"})
    {'command': 'cambench run --out PATH/run --data-root ../data'}
    """
    if isinstance(value, dict):
        return {key: public(entry) for key, entry in value.items() if key not in PRIVATE}
    if isinstance(value, list | tuple):
        return [public(entry) for entry in value]
    if isinstance(value, str):
        return PATH.sub(lambda found: f"PATH/{found.group(1)}", value)
    return json.loads(json.dumps(value, default=str))

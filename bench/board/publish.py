"""A published board: a run's records, tables, plots and gallery, from which the board is
rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.board.board import Board, leaderboard
from bench.board.board_page import write_board
from bench.board.gallery import FOLDER, Gallery, load_gallery, reduce_gallery, save_gallery_part
from bench.board.light_vectors import lighten_records
from bench.board.partial_runs import note_partial, refuse_partial
from bench.board.record_checks import check_records
from bench.board.staging import own_board, stage_board
from bench.errors import BenchError, suggestions
from bench.files import public, replaced_file
from bench.inner_places import name_part, refuse_links
from bench.json_state import write_sealed_json
from bench.records.mean_curves import MEAN_CURVES, has_image_curves, write_mean_curves
from bench.records.run_facts import HEALTH, write_run_json
from bench.records.store import COMMITTED_LIMIT, KEY, Records, write_parquet


def publish_board(
    run: str | Path,
    folder: str | Path,
    *,
    partial: bool = False,
    leave_out: Sequence[str] = (),
    image_curves: bool = False,
) -> Board:
    """Publish a run: its current records in one file, run.json without private paths, tables, plots
    and gallery. `Records.load(folder)` then gives the same board.

    The gallery is reduced to what is drawn. It has pixels where every subset's pictures may be
    shown, else grey frames. A published board can be published again, into its own folder too.

    Args:
        run: The run's folder, or that of a published board.
        folder: Where the board is written.
        partial: Take half a run as it is; run.json then says so.
        leave_out: Metrics whose records stay in the run; run.json says so.
        image_curves: Keep the curves of every image, not only each method's mean curve and the
            curves of the images in the gallery.

    Raises:
        BenchError: The records are over `COMMITTED_LIMIT`, planned results are absent, or the
            curves of every image are asked for and are not there.
    """
    source, target = Path(run), Path(folder)
    records = note_partial(Records.load(source))
    if image_curves and not has_image_curves(records.provenance):
        raise BenchError(
            f"The board {source} keeps no curves of single images, except those of its gallery; "
            "publish the run that it was made of with --image-curves."
        )
    check_records(records)  # refuse before anything is written
    if not partial:
        refuse_partial(records, source, "publish it")
    records = drop_metrics(records, leave_out)
    for part in (FOLDER, "health"):
        refuse_links(target, part)
    with own_board(target), stage_board(target) as stage:
        return write_published(records, source, stage, image_curves=image_curves)


def drop_metrics(records: Records, names: Sequence[str]) -> Records:
    """Return records without those of some metrics.

    Raises:
        BenchError: The records have no such metric, or no other.
    """
    if not names:
        return records
    owners = {value: facts["metric"] for value, facts in records.provenance["metrics"].items()}
    for name in names:
        if name not in owners.values():
            raise BenchError(
                f"The run has no metric {name!r} to leave out.{suggestions(name, owners.values())}"
            )
    kept = {value for value, owner in owners.items() if owner not in names}
    if not kept:
        raise BenchError("Every metric of the run is left out; keep one.")
    sentence = f"Metrics that were left out of the published records: {', '.join(sorted(names))}."
    provenance = {
        **records.provenance,
        "metrics": {v: facts for v, facts in records.provenance["metrics"].items() if v in kept},
        "notes": [*records.provenance.get("notes", ()), sentence],
    }
    return Records(records.frame[records.frame["metric"].isin(kept)], provenance)


def write_published(
    records: Records, source: Path, target: Path, *, image_curves: bool = False
) -> Board:
    """Write a published board into an empty folder, and return it."""
    gallery = reduce_gallery(
        load_gallery(source, sorted(records.provenance["models"])),
        pixels=may_show_pictures(records.provenance),
    )
    shown = {model: list(pictures) for model, pictures in gallery.items()}
    records = lighten_records(records, shown, image_curves=image_curves)
    write_records(records, target)
    if MEAN_CURVES in records.provenance:
        write_mean_curves(target, records.provenance[MEAN_CURVES])
    kept = {key: facts for key, facts in records.provenance.items() if key != MEAN_CURVES}
    write_run_json(target, public(kept))
    publish_health(source, target, records)
    publish_gallery(gallery, target / FOLDER)
    board = leaderboard(Records.load(target))
    write_board(board, target, target)
    return board


def publish_health(source: Path, target: Path, records: Records) -> None:
    """Copy a run's health report, where it has one: verdicts, page, tables and plots, not the parts
    behind them.
    """
    if "health" not in records.provenance:
        return
    write_sealed_json(target / HEALTH, public(records.provenance["health"]))
    for file in sorted((source / "health").glob("*.*")):
        if file.is_symlink() or not file.is_file() or file.name.startswith("."):
            continue  # what a link leads to is not the run's
        with replaced_file(target / "health" / file.name) as temporary:
            temporary.write_bytes(
                public(file.read_text(encoding="utf-8")).encode()
                if file.suffix == ".md"
                else file.read_bytes()
            )


def may_show_pictures(provenance: dict[str, Any]) -> bool:
    """Tell whether the pictures of every subset may be shown."""
    return all(facts.get("pictures", False) for facts in provenance["subsets"].values())


def write_records(records: Records, folder: Path) -> None:
    """Write all rows to `folder/records.parquet`, in the order of their keys, unless that is too
    large.
    """
    frame = records.frame.sort_values(KEY, kind="stable", ignore_index=True)
    file = folder / "records.parquet"
    write_parquet(file, frame, dense=True)
    size = file.stat().st_size
    if size > COMMITTED_LIMIT:
        raise BenchError(
            f"The records take {size / 2**20:.1f} MiB, and a board may carry "
            f"{COMMITTED_LIMIT / 2**20:.0f}; publish a run with fewer images, or without "
            "--image-curves."
        )


def publish_gallery(gallery: Gallery, folder: Path) -> None:
    """Write one part per model."""
    for model, pictures in gallery.items():
        save_gallery_part(
            folder / f"{name_part(model)}-0.npz",
            {item: picture.image for item, picture in pictures.items()},
            {item: picture.maps for item, picture in pictures.items()},
            {item: picture.title for item, picture in pictures.items()},
            {item: picture.boxes for item, picture in pictures.items()},
        )

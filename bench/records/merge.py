"""Several run folders become one: the shards of a plan, or runs of other models or methods under
the same protocol.

What is merged must be comparable: the same protocol, and under one name the same images, weights,
method and metric. Parts are copied as they are; a row that two folders hold is kept once where both
say the same, and refused otherwise.
"""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import BenchError
from bench.file_contents import list_files
from bench.files import replaced_file
from bench.records.current_rows import ITEM_KEY, keep_current
from bench.records.equal_maps import equal_methods
from bench.records.failed_parts import FAILED, join_failures
from bench.records.gallery_parts import merge_gallery
from bench.records.item_table import ItemTable, read_items
from bench.records.left_out import Skipped, declare_left_out, read_skipped, write_skipped
from bench.records.mean_curves import has_image_curves
from bench.records.planned_work import MERGED, PARTIAL
from bench.records.precision_verdict import find_clash
from bench.records.provenance import merge_provenance
from bench.records.run_facts import read_provenance
from bench.records.sister_ids import find_sister_ids
from bench.records.store import (
    KEY,
    SCHEMA,
    Records,
    Store,
    empty_frame,
    free_name,
    read_part,
    write_parquet,
)

IDENTITIES = (
    ("subsets", "manifest_id", "images"),
    ("models", "weights_id", "weights of the model"),
    ("methods", "id", "method"),
    ("metrics", "id", "metric"),
)
"""What must be the same under one name: (place in run.json, its key, what a reader calls it)."""

MEASURED = ("seconds", "peak_memory")
"""Values that differ between two runs of the same; of these the first run's are kept."""

ABOUT_THE_RUN = ("run", "code", "item_id")
"""Columns that say who computed a row and not what it is; contents are compared by themselves."""


@dataclass(frozen=True)
class _MergedRun:
    """A file of records, and the rows of it that are current in its folder."""

    file: Path
    frame: pd.DataFrame
    whole: bool


def merge_runs(folders: Sequence[str | Path], out: str | Path) -> Records:
    """Merge run folders into `out` and return its records; what does not fit together is one
    sentence.

    out: a new folder, or one that holds a merge already, which then grows: shards that are finished
    later are added.
    """
    target = Path(out)
    sources = list(dict.fromkeys(Path(folder) for folder in folders))
    if not sources:
        raise BenchError(
            "merge was given no runs; name the folders that `cambench run --out` wrote."
        )
    if target.resolve() in {source.resolve() for source in sources}:
        raise BenchError(f"The folder {target} is one of the merged runs; choose another --out.")
    store = Store(target)
    found = [_provenance(source) for source in sources]
    with store.lock():
        if store.provenance():
            sources, found = [target, *sources], [store.provenance(), *found]
        provenance = _merge_provenances(sources, found)
        parts = [list(_parts(source, facts)) for source, facts in zip(sources, found, strict=True)]
        fresh = _keep_new_rows(sources, parts)
        if not any(len(rows) for group in fresh for rows in group):
            raise BenchError(
                f"{sources[0]} holds no records yet; let `cambench run` finish at least one task."
            )
        skipped = _merge_skipped(sources, parts)
        store.write_items(_merge_items(sources))
        write_skipped(target, skipped)
        declare_left_out(provenance, skipped)
        store.write_provenance(provenance)
        for source, group, kept in zip(sources, parts, fresh, strict=True):
            if source == target:
                continue
            merge_gallery(source, target)
            for part, rows in zip(group, kept, strict=True):
                _write(target, part, rows)
        records = store.records(provenance)
        records.provenance["equal"] = equal_methods(records.frame)
        store.write_provenance(records.provenance)
    return records


def _provenance(folder: Path) -> dict[str, Any]:
    if not (folder / "run.json").is_file():
        raise BenchError(
            f"There is no run at {folder}; give the folder that `cambench run --out` wrote."
        )
    provenance = read_provenance(folder)
    if not has_image_curves(provenance):
        raise BenchError(
            f"The board {folder} cannot be merged: it keeps mean curves in place of those of every "
            "image; merge the run that it was published from."
        )
    return provenance


def _merge_provenances(sources: Sequence[Path], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the run.json of all; two that cannot stand in one table are refused."""
    for number, facts in enumerate(found):
        for earlier in range(number):
            difference = _difference(found[earlier], facts)
            if difference:
                raise BenchError(
                    f"{sources[earlier]} and {sources[number]} cannot be merged: they differ in "
                    f"the {difference}; run one of them again under the other's, or merge them "
                    "apart."
                )
    provenance = functools.reduce(merge_provenance, [copy.deepcopy(facts) for facts in found])
    provenance.pop(
        "forwards", None
    )  # one run's ledger; a merge that grows would count a shard twice
    provenance.pop(PARTIAL, None)  # of a board that was published; what is whole is found anew
    provenance[MERGED] = True
    failures = join_failures([*found])
    if failures:
        provenance[FAILED] = failures
    return provenance


def _difference(one: dict[str, Any], two: dict[str, Any]) -> str:
    """Return what keeps two runs apart, or "": "protocol (a, b)", "method grad_cam (grad_cam@1,
    grad_cam@2)".
    """
    if one["protocol"]["id"] != two["protocol"]["id"]:
        return f"protocol ({one['protocol']['id']}, {two['protocol']['id']})"
    for place, key, word in IDENTITIES:
        for name in one[place].keys() & two[place].keys():
            first, second = one[place][name][key], two[place][name][key]
            if first != second:
                return f"{word} {name} ({first}, {second})"
    first, second = find_sister_ids(one), find_sister_ids(two)
    for name in sorted(first.keys() & second.keys()):
        if first[name] != second[name]:
            return f"sister of {name} ({first[name]}, {second[name]})"
    precision = find_clash(one, two)
    return f"precision of {precision}" if precision else ""


def _parts(folder: Path, provenance: dict[str, Any]) -> Iterable[_MergedRun]:
    """Yield the parts of a run folder (or the one file of a committed board)."""
    items = read_items(folder)
    for file in list_files(folder / "records", ".parquet") or sorted(
        folder.glob("records.parquet")
    ):
        frame = read_part(file)
        rows = keep_current(frame, provenance, items)
        yield _MergedRun(file, rows, len(rows) == len(frame))


def _keep_new_rows(
    sources: Sequence[Path], parts: Sequence[Sequence[_MergedRun]]
) -> list[list[pd.DataFrame]]:
    """Return the rows of each part that no earlier part has; two that contradict each other are
    refused.
    """
    flat = [part.frame.assign(_source=i) for i, group in enumerate(parts) for part in group]
    rows = pd.concat(flat or [empty_frame().assign(_source=0)], ignore_index=True)
    repeated = rows.duplicated(KEY)
    _check_contents(sources, rows)
    _check_agree(sources, rows[rows.duplicated(KEY, keep=False)])
    kept: list[list[pd.DataFrame]] = []
    at = 0
    for group in parts:
        kept.append([])
        for part in group:
            own = ~repeated.iloc[at : at + len(part.frame)].to_numpy()
            kept[-1].append(part.frame[own].reset_index(drop=True))
            at += len(part.frame)
    return kept


def _check_contents(sources: Sequence[Path], rows: pd.DataFrame) -> None:
    """Refuse rows of an item that held something else in another run."""
    named = rows.loc[rows["item_id"].notna(), [*ITEM_KEY, "item_id", "_source"]]
    contents = named.drop_duplicates([*ITEM_KEY, "item_id"])
    clash = contents[contents.duplicated(ITEM_KEY, keep=False)].sort_values(ITEM_KEY, kind="stable")
    if len(clash):
        one, two = clash.iloc[0], clash.iloc[1]
        count = len(clash.drop_duplicates(ITEM_KEY))
        raise BenchError(
            f"{sources[int(one['_source'])]} and {sources[int(two['_source'])]} were made of "
            f"different images under the same names ({count} of {one['subset']}, such as "
            f"{one['item']}); run the older one again, which computes only these."
        )


def _merge_items(sources: Sequence[Path]) -> ItemTable:
    """Return what the merged folder knows of its items: of one that a run had no more, what another
    had.
    """
    merged: ItemTable = {}
    for source in sources:
        for key, known in read_items(source).items():
            if key not in merged or not merged[key].identity:
                merged[key] = known
    return merged


def _merge_skipped(sources: Sequence[Path], parts: Sequence[Sequence[_MergedRun]]) -> Skipped:
    """Return the images that no run could read."""
    skipped: Skipped = {}
    for source in sources:
        skipped |= read_skipped(source)
    read: set[tuple[str, ...]] = set()
    for part in (part for group in parts for part in group):
        read.update(part.frame[ITEM_KEY].drop_duplicates().itertuples(index=False, name=None))
    return {key: reason for key, reason in skipped.items() if key not in read}


def _check_agree(sources: Sequence[Path], rows: pd.DataFrame) -> None:
    """Refuse rows of the same key that say different things (NaN says the same as NaN)."""
    rows = rows[~rows["metric"].isin(MEASURED)]
    rows = rows.assign(
        vector=rows["vector"].map(lambda vector: b"" if vector is None else vector.tobytes())
    )
    said = [column for column in SCHEMA.names if column not in ABOUT_THE_RUN]
    distinct = rows.drop_duplicates(said)
    clash = distinct[distinct.duplicated(KEY, keep=False)].sort_values(KEY, kind="stable")
    if len(clash):
        one, two = clash.iloc[0], clash.iloc[1]
        first, second = sources[int(one["_source"])], sources[int(two["_source"])]
        raise BenchError(
            f"{first} and {second} contradict each other on {one['metric']} of {one['method']} on "
            f"{one['model']}, item {one['item']} ({one['value']:.9g}, {two['value']:.9g}); keep "
            "the run that you trust."
        )


def _write(target: Path, part: _MergedRun, rows: pd.DataFrame) -> None:
    """Put a part's rows into the merged folder: the file itself where all of its rows are
    wanted.
    """
    if not len(rows):
        return
    stem, _, number = part.file.stem.rpartition("-")
    path = free_name(
        target / "records", stem if stem and number.isdigit() else part.file.stem, ".parquet"
    )
    if part.whole and len(rows) == len(part.frame):
        with replaced_file(path) as temporary:
            shutil.copyfile(part.file, temporary)
    else:
        write_parquet(path, rows)

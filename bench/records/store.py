"""Records: one row per (item, model, method, value), with ids of everything that produced it.

Rows live in parquet parts inside a run folder, written to a temporary name and moved into place;
`run.json` beside them says what is current. Only `bench.run` writes records; only
`bench.board` aggregates them.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from bench.errors import BenchError
from bench.file_contents import list_files
from bench.folder_owner import own_folder
from bench.protocol import get_protocol
from bench.records.current_rows import select_current
from bench.records.equal_maps import equal_methods
from bench.records.forward_log import ForwardLog
from bench.records.item_table import ItemTable, read_items, write_items
from bench.records.mean_curves import read_mean_curves
from bench.records.packed_vectors import COUNTS, VECTOR, pack_vectors, unpack_vectors
from bench.records.record_columns import COMMITTED_LIMIT as COMMITTED_LIMIT
from bench.records.record_columns import COUNTED
from bench.records.record_columns import DEFAULT_CALIBRATION as DEFAULT_CALIBRATION
from bench.records.record_columns import KEY as KEY
from bench.records.record_columns import MIN_CALIBRATION as MIN_CALIBRATION
from bench.records.record_columns import REMEDY as REMEDY
from bench.records.record_columns import SCHEMA as SCHEMA
from bench.records.run_facts import HEALTH as HEALTH
from bench.records.run_facts import read_health, read_provenance, write_run_json
from bench.sealed_parquet import check_columns, read_sealed_table, write_sealed_table


@dataclass
class Records:
    """Per-image values, with what produced them.

    Attributes:
        frame: One row per item, model, method and value, with the columns of `SCHEMA`. `value` is
            NaN where a map could not be scored.
        provenance: The content of run.json: commands, packages, machine, protocol, and the facts of
            each subset, model, method and metric.

    Example:
        >>> records
        Records(... rows: 1 subsets, 1 models, ... methods, ... metrics)
    """

    frame: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        facts = (f"{self.frame[column].nunique()} {column}s" for column in COUNTED)
        return f"Records({len(self)} rows: {', '.join(facts)})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: how many rows there are of what, and the first ones."""
        shown = self.frame.drop(columns=["vector"], errors="ignore").head()
        return f"<p>{html.escape(repr(self))}</p>{shown.to_html(escape=True)}"

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def load(cls, path: str | Path) -> Records:
        """Read the current rows of a run folder or of a published board.

        Args:
            path: The folder.

        Returns:
            The records.

        Raises:
            BenchError: There is no run, it holds no records yet, or a file is damaged.

        Example:
            >>> bench.Records.load("runs/mine")  # doctest: +SKIP
        """
        folder = Path(path)
        if not folder.exists():
            raise BenchError(
                f"There is no run at {path}; give the folder that `cambench run --out` wrote."
            )
        if not (folder / "run.json").is_file():
            raise BenchError(
                f"{path} holds no run.json, so it is not a run folder; give the folder of a run."
            )
        provenance = read_provenance(folder)
        files = list_files(folder / "records", ".parquet") or sorted(folder.glob("records.parquet"))
        if not files:
            raise BenchError(
                f"The run at {path} holds no records yet; let `cambench run` finish at least one "
                "task."
            )
        records = _join_parts(files, provenance, folder)
        records.provenance["equal"] = equal_methods(records.frame)
        return records


def _join_parts(files: Sequence[Path], provenance: dict[str, Any], folder: Path) -> Records:
    """Return the current rows of a folder's parts."""
    frame = pd.concat([read_part(file) for file in files], ignore_index=True)
    rows, replaced = select_current(frame, provenance, read_items(folder))
    facts = {key: value for key, value in provenance.items() if key != REPLACED}
    log = ForwardLog(folder)
    if log.parts:
        facts["forwards"] = log.total()
    if replaced:
        facts[REPLACED] = replaced
    return Records(rows, {**facts, **read_health(folder), **read_mean_curves(folder, facts)})


REPLACED = "replaced_items"
"""Key of run.json: items that have records of earlier content, which do not count."""


def check_protocol(folder: Path, protocol: str) -> None:
    """Refuse a run of another protocol than the one named, in one sentence."""
    wanted = get_protocol(protocol).id
    found = str(Store(folder).provenance().get("protocol", {}).get("id", wanted))
    if hash_of(found) != hash_of(wanted):
        raise BenchError(
            f"The run at {folder} is of protocol {found}, not {wanted}; a protocol needs a run "
            f"folder of its own, so run it with --protocol {protocol} and another --out."
        )


def hash_of(identity: str) -> str:
    """Return the part of an id that says what it is of, without the name before the @."""
    return identity.rpartition("@")[2]


def read_part(file: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read one parquet part (some of its columns); item_id is None where it has no such column."""
    frame: pd.DataFrame = read_table(file, columns).to_pandas()
    if "item_id" not in frame and (columns is None or "item_id" in columns):
        frame["item_id"] = None
    return frame


def read_table(file: Path, columns: list[str] | None = None) -> Any:
    """Read one parquet part (some of its columns) as an Arrow table.

    Raises:
        DamagedFileError: its bytes are not those that were written.
        BenchError: it cannot be opened, or is no file of records.
    """
    asked = columns and [*columns, *([COUNTS] if VECTOR in columns else [])]
    table = unpack_vectors(read_sealed_table(file, "The records file", REMEDY, asked))
    where, remedy = f"The records file {file}", "move it out of the folder"
    check_columns(table, SCHEMA, where, remedy)
    needed = [name for name in columns or SCHEMA.names if name != "item_id"]
    if missing := [name for name in needed if name not in table.column_names]:
        raise BenchError(f"{where} has no column {missing[0]}; {remedy}.")
    return table


def write_parquet(path: Path, frame: pd.DataFrame, *, dense: bool = False) -> None:
    """Write records atomically, in the schema's order and types; dense: slowly, in fewer bytes.

    zstd with byte-stream-split vectors: the same bytes for the same rows, and about half the size
    of plain encoding. Where no row names its item's content, the column is left out.
    """
    schema = SCHEMA
    if "item_id" not in frame or frame["item_id"].isna().all():
        schema = SCHEMA.remove(SCHEMA.get_field_index("item_id"))
    table = pa.Table.from_pandas(
        frame[schema.names], schema=schema, preserve_index=False
    ).replace_schema_metadata()
    table = pack_vectors(table) if dense else table
    write_sealed_table(path, table, **choose_encoding(table.column_names, dense=dense))


def choose_encoding(names: Sequence[str], *, dense: bool = False) -> dict[str, Any]:
    """Return how a table of records with these columns is packed: options of pyarrow's writers.

    dense: at zstd's level 19 vectors take fewer bytes in one stream, and counts in two.
    """
    dictionary = [name for name in names if name not in ("value", VECTOR, COUNTS)]
    if dense:
        split = {"column_encoding": {f"{COUNTS}.list.element": "BYTE_STREAM_SPLIT"}}
        options = {"compression": "zstd", "compression_level": 19, "use_dictionary": dictionary}
        return options | (split if COUNTS in names else {})
    return {
        "compression": "zstd",
        "compression_level": 9,
        "use_dictionary": dictionary,
        "column_encoding": {"vector.list.element": "BYTE_STREAM_SPLIT"},
    }


def empty_frame() -> pd.DataFrame:
    """Return a frame of no records with the schema's columns."""
    frame: pd.DataFrame = SCHEMA.empty_table().to_pandas()
    return frame


class DoneKey(NamedTuple):
    """What records of one item and one model have in common; item_id is "" where they name none."""

    subset: str
    part: str
    item: str
    model: str
    weights_id: str
    manifest_id: str
    item_id: str = ""


Done = dict[DoneKey, set[tuple[str, str]]]
"""{item and model: {(method id, metric id)}}."""


class Store:
    """The records of a run: a folder with one parquet part per finished task, or memory.

    A part's name holds the task and a number, so that a later run adds parts and never rewrites
    one.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.forwards = ForwardLog(folder)
        self._memory: list[tuple[str, pd.DataFrame]] = []
        self._numbers: dict[str, int] | None = None  # the last of each task's parts

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the folder; a second process is refused (see `own_run`)."""
        if self.folder is None:
            yield
            return
        with own_run(self.folder):
            yield

    @property
    def parts(self) -> list[Path]:
        """Return the parts on disk."""
        return [] if self.folder is None else list_files(self.folder / "records", ".parquet")

    def provenance(self) -> dict[str, Any]:
        """Return the content of run.json, or {} where there is none yet."""
        if self.folder is None or not (self.folder / "run.json").is_file():
            return {}
        return read_provenance(self.folder)

    def write_provenance(self, provenance: dict[str, Any]) -> None:
        """Write run.json."""
        if self.folder is not None:
            write_run_json(self.folder, provenance)

    def read_done(self) -> Done:
        """Return what is on disk."""
        columns = [*DoneKey._fields, "method_id", "metric_id"]
        found: Done = {}
        cells: dict[
            tuple[str, str], tuple[str, str]
        ] = {}  # one of each: millions of items share them
        for part in self.parts:
            table = read_table(part, columns).to_pydict()
            table.setdefault("item_id", [None] * len(table["item"]))
            for *key, method, metric in set(zip(*(table[name] for name in columns), strict=True)):
                cell = cells.setdefault((method, metric), (method, metric))
                item = DoneKey._make("" if part is None else part for part in key)
                found.setdefault(item, set()).add(cell)
        return found

    def read_items(self) -> ItemTable:
        """Return what the folder knows of its items."""
        return {} if self.folder is None else read_items(self.folder)

    def write_items(self, items: ItemTable) -> None:
        """Write what is known of the items."""
        if self.folder is not None:
            write_items(self.folder, items)

    def add(
        self, name: str, frame: pd.DataFrame, forwards: Mapping[str, int] | None = None
    ) -> None:
        """Keep a finished task's rows, and before them the ledger of what they have cost."""
        file = self._free(self.folder / "records", name) if self.folder and len(frame) else None
        self.forwards.note(name if file is None else file.stem, forwards)
        if self.folder is None:
            self._memory.append((name, frame))
        elif file is not None:
            write_parquet(file, frame)

    def _free(self, folder: Path, name: str) -> Path:
        """Return NAME-<n>.parquet after the last there is; the folder grows with every task, so it
        is read once.
        """
        if self._numbers is None:
            self._numbers = last_numbers(folder, ".parquet")
        known = name.casefold()
        self._numbers[known] = self._numbers.get(known, -1) + 1
        return folder / f"{name}-{self._numbers[known]}.parquet"

    def records(self, provenance: dict[str, Any], order: Sequence[str] = ()) -> Records:
        """Return the current records; those in memory in this order of tasks, whatever order they
        were finished in.
        """
        if self.folder is not None and self.parts:
            return _join_parts(self.parts, provenance, self.folder)
        place = {name: number for number, name in enumerate(order)}
        kept = [
            f
            for _, f in sorted(self._memory, key=lambda one: place.get(one[0], len(place)))
            if len(f)
        ]
        return Records(pd.concat(kept, ignore_index=True) if kept else empty_frame(), provenance)


@contextmanager
def own_run(folder: Path) -> Iterator[None]:
    """Own a run folder for a block (see `own_folder`); somebody's own folder stays untouched.

    Raises: BenchError where it holds other files, has another owner, or cannot be written to.
    """
    check_own(folder)
    with own_folder(folder, "run"):
        yield


def check_own(folder: Path) -> None:
    """Refuse a folder with somebody's files in it: a run folder is written and cleaned as a
    whole.
    """
    strangers = (
        [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
    )
    if strangers and not (folder / "run.json").is_file():
        raise BenchError(
            f"The folder {folder} holds other files ({sorted(strangers)[0]}); choose a new or "
            "empty one."
        )


def free_name(folder: Path, name: str, suffix: str) -> Path:
    """Return the path NAME-<n>SUFFIX after the last one there is: a file that was deleted frees no
    number.
    """
    number = last_numbers(folder, suffix).get(name.casefold(), -1) + 1
    return folder / f"{name}-{number}{suffix}"


def last_numbers(folder: Path, suffix: str) -> dict[str, int]:
    """Return {name: largest n} of the files NAME-<n>SUFFIX in a folder; names without capitals,
    since some systems take A and a as one file.
    """
    found: dict[str, int] = {}
    for name, _, number in (path.stem.rpartition("-") for path in list_files(folder, suffix)):
        if number.isdecimal():
            known = name.casefold()
            found[known] = max(int(number), found.get(known, -1))
    return found

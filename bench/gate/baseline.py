"""What the gate keeps of a run: one value per (subset, model, method, value, item), and what
produced it.

A baseline is one parquet file with its provenance in the file's metadata; a run folder and a
committed board hold the same and more, and serve as well. Derived values (box accuracy at the
threshold that the calibration part chose) are those of the board, `bench.board.measures`.
"""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from bench.board.box_thresholds import read_box_ious
from bench.board.cubes import Measure
from bench.board.derived_names import settle_rank
from bench.board.measures import CORRECT, list_measures
from bench.board.older_versions import (
    find_older_methods,
    find_older_values,
    mark_older,
    mark_older_rows,
)
from bench.board.partial_runs import note_partial
from bench.board.record_checks import check_records
from bench.board.summaries import is_ranked
from bench.errors import BenchError, suggestions
from bench.files import public
from bench.gate import baseline_taus
from bench.gate.baseline_schema import BaselineFacts
from bench.gate.baseline_taus import Taus
from bench.identity import digest
from bench.json_state import parse_object
from bench.metrics import find_owner
from bench.records.planned_work import PARTIAL
from bench.records.run_schema import check_shape
from bench.records.store import Records
from bench.registry import split_list
from bench.sealed_parquet import check_columns, read_sealed_table, write_sealed_table

FORMAT = 1
"""Raised when the file's layout changes."""

METADATA = b"cambench-baseline"
"""Key of the provenance in the parquet schema's metadata."""

REMEDY = "restore it from a copy, or make it again with `cambench baseline`"
"""What to do about a damaged baseline."""

RANDOM = "random"
"""The control that a margin is measured from."""

COLUMNS = ["subset", "model", "method", "metric", "item", "image", "value"]
SCHEMA = pa.schema([*((name, pa.string()) for name in COLUMNS[:-1]), ("value", pa.float64())])
KEPT = (
    *("run", "created", "commands", "code", "packages", "machine"),
    *("plan", "protocol", "precision", "subsets", "not_applicable", PARTIAL),
)
"""Keys of run.json that go into a baseline as they are."""


@dataclass(frozen=True)
class Baseline:
    """Values to be judged, or to judge by.

    frame: columns `COLUMNS`; value is float64, NaN = could not be scored.  facts: those of run.json
    in `KEPT`, models {name: facts}, methods {name: facts}, values {name: id, metric, better,
    ranked, title, family, calibrated}, calibration {model: {subset: digest of the items that chose
    box thresholds}}, thresholds [those taus], items {subset: {scored item: its content}}.
    """

    frame: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, dict[str, Any]]:
        """Return the facts of each value, by its name."""
        found: dict[str, dict[str, Any]] = self.facts["values"]
        return found

    def choose(self, values: str = "ranked", models: str = "*", methods: str = "*") -> Baseline:
        """Return the part that lists of names, wildcards and -NAME choose; random stays, since
        margins need it.
        """
        known = {name: settle_rank(name, facts) for name, facts in self.values.items()}
        names = select(values, known, "value")
        kept_models = select(models, {m: {} for m in self.frame["model"].unique()}, "model")
        kept_methods = {
            *select(methods, {m: {} for m in self.frame["method"].unique()}, "method"),
            RANDOM,
        }
        frame = self.frame
        frame = frame[frame["metric"].isin(names) & frame["model"].isin(kept_models)]
        frame = frame[frame["method"].isin(kept_methods)].reset_index(drop=True)
        return Baseline(
            frame, {**self.facts, "values": {name: self.values[name] for name in names}}
        )

    def rename_models(self, names: dict[str, str]) -> Baseline:
        """Return the same with models renamed, {name: new name}; another model of the new name
        goes.
        """
        for name in names:
            if name not in self.facts["models"]:
                known = self.facts["models"]
                raise BenchError(
                    f"The run has no model {name!r} to judge as another.{suggestions(name, known)}"
                )
        replaced = set(names.values()) - set(names)
        frame = self.frame[~self.frame["model"].isin(replaced)]
        frame = frame.assign(model=frame["model"].replace(names)).reset_index(drop=True)
        facts = dict(self.facts)
        for kind in {"models", "not_applicable", "calibration", "precision"} & facts.keys():
            facts[kind] = {
                names.get(m, m): found for m, found in self.facts[kind].items() if m not in replaced
            }
        return Baseline(frame, facts)


def select(patterns: str, known: dict[str, dict[str, Any]], kind: str) -> list[str]:
    """Return names for a list of names, "all", "ranked", wildcards and -PATTERN, which takes away.

    >>> select("all,-inser*", {"deletion": {}, "insertion": {}}, "value")
    ['deletion']
    """
    chosen: list[str] = []
    for item in (i.strip() for i in split_list(patterns)):
        pattern = item.removeprefix("-")
        if pattern in ("ranked", "all"):
            found = [
                name for name, facts in known.items() if pattern == "all" or facts.get("ranked")
            ]
        else:
            found = [
                name for name in known if name == pattern or fnmatch.fnmatchcase(name, pattern)
            ]
        if not found and item and pattern != "ranked":
            raise BenchError(
                f"The baseline has no {kind} {pattern!r}.{suggestions(pattern, known)}"
            )
        chosen = (
            [n for n in chosen if n not in found]
            if item[:1] == "-"
            else [*dict.fromkeys([*chosen, *found])]
        )
    if not chosen:
        raise BenchError(
            f"No {kind} of the baseline is chosen by {patterns!r}.{suggestions(patterns, known)}"
        )
    return chosen


def load_baseline(path: str | Path) -> Baseline:
    """Read a baseline file, a run folder or a committed board."""
    file = Path(path)
    if file.is_dir():
        return from_records(Records.load(file))
    if not file.is_file():
        raise BenchError(
            f"There is no baseline at {path}; give a file of `cambench baseline`, or a board's "
            "folder."
        )
    table = read_sealed_table(file, "The baseline", REMEDY)
    content = (table.schema.metadata or {}).get(METADATA)
    if content is None:
        raise BenchError(
            f"{path} is a parquet file but no baseline; make one with `cambench baseline RUN --out "
            "FILE`."
        )
    where = f"The baseline {path}"
    facts = parse_object(content, where, REMEDY)
    if facts.get("format") != FORMAT:
        raise BenchError(
            f"The baseline {path} is of format {facts.get('format')!r}, and this cambench reads "
            f"{FORMAT}; make it again."
        )
    check_shape(BaselineFacts, facts, where, REMEDY)
    check_columns(table, SCHEMA, where, REMEDY)
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise BenchError(f"{where} has no column {missing[0]}; {REMEDY}.")
    frame = table.to_pandas()[COLUMNS]
    for column in ("subset", "model", "method", "metric"):
        known = facts["values" if column == "metric" else f"{column}s"]
        if strange := sorted(set(map(str, frame[column])) - known.keys()):
            raise BenchError(f"{where} does not describe the {column} {strange[0]}; {REMEDY}.")
    return Baseline(*_mark_versions(frame, facts))


def _mark_versions(
    frame: pd.DataFrame, facts: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return a baseline's rows and facts with older methods and metrics renamed
    (`bench.board.older_versions`).
    """
    frame, marked = mark_older_rows(frame, {**facts, "metrics": facts["values"]})
    new = find_older_methods(facts["methods"])
    boxes = _find_older_boxes(facts)
    taus = [
        {
            **one,
            "method": new.get(one["method"], one["method"]),
            "value": boxes.get(one["value"], one["value"]),
        }
        for one in facts["thresholds"]
    ]
    values = marked.pop("metrics")
    return frame, {**marked, "values": values, "thresholds": taus}


def _find_older_boxes(facts: dict[str, Any]) -> dict[str, str]:
    """Return {name: shown name} of older values that thresholds were chosen for, which no board
    shows.
    """
    made = {one["metric"]: one for one in facts["values"].values()}
    owners = {name: find_owner(name) for name in {one["value"] for one in facts["thresholds"]}}
    known = {
        name: made[owner.name]
        for name, owner in owners.items()
        if owner is not None and owner.name in made
    }
    return find_older_values(known)


def save_baseline(baseline: Baseline, path: str | Path) -> None:
    """Write a baseline file: the same bytes for the same baseline, without paths of this
    machine.
    """
    frame = baseline.frame.sort_values(COLUMNS[:-1], kind="stable", ignore_index=True)
    content = json.dumps(public({**baseline.facts, "format": FORMAT}), sort_keys=True, default=str)
    table = pa.Table.from_pandas(frame[COLUMNS], schema=SCHEMA, preserve_index=False)
    write_sealed_table(
        Path(path),
        table.replace_schema_metadata({METADATA: content.encode()}),
        compression="zstd",
        compression_level=9,
        use_dictionary=COLUMNS[:-1],
    )


def load_run(
    path: str | Path, baseline: Baseline, stands_for: dict[str, str] | None = None
) -> Baseline:
    """Read a run to be judged: box thresholds are the baseline's, unless its own are better
    (`thresholds`).

    stands_for: {model of the run: model of the baseline} where the names differ.
    """
    if not Path(path).is_dir():
        return load_baseline(path)
    new_names = {old: new for new, old in (stands_for or {}).items()}
    return from_records(
        Records.load(path), baseline_taus.from_facts(baseline.facts["thresholds"], new_names)
    )


def from_records(records: Records, taus: Taus | None = None) -> Baseline:
    """Reduce records to the values that the gate can judge: means over items with a better
    direction, costs left out.

    A pooled precision is no mean over items; its per-image version (`pixel_ap`) is judged instead.
    taus: box thresholds to keep where the run's own are not better.
    """
    check_records(records)
    records = mark_older(note_partial(records))
    provenance = records.provenance
    boxes = baseline_taus.find_box_values(records)
    calibrated = {provenance["metrics"][name]["id"] for name in boxes}
    used = baseline_taus.merge_taus(records, taus or {})
    frames, values = [], {}
    for subset, rows in records.frame.groupby("subset", sort=True):
        for measure in filter(is_judged, list_measures(rows, provenance)):
            values[measure.name] = {
                **read_value_facts(measure),
                "calibrated": measure.facts["id"] in calibrated,
            }
            paired = baseline_taus.apply_baseline_taus(
                measure, used, str(subset), boxes, read_box_ious(provenance)
            )
            frames.append(paired.rows.assign(subset=subset, metric=measure.name)[COLUMNS])
    if not frames:
        raise BenchError(
            "The run has no value to judge (a mean over images that is better low or high); add a "
            "metric."
        )
    facts = {"not_applicable": {}, **{key: provenance[key] for key in KEPT if key in provenance}}
    known = {kind: provenance[kind] for kind in ("models", "methods")}
    contents = list_contents(records)
    made = {
        "values": values,
        "calibration": digest_calibrations(records),
        **({"items": contents} if contents else {}),
        "thresholds": baseline_taus.to_facts(used),
    }
    return Baseline(pd.concat(frames, ignore_index=True), {**facts, **known, **made})


def read_value_facts(measure: Measure) -> dict[str, Any]:
    """Return what the gate must know of a value; those on right predictions only (`@correct`) are
    not ranked twice.
    """
    known = {
        key: measure.facts.get(key)
        for key in ("id", "metric", "version", "better", "title", "family")
    }
    ranked = is_ranked(measure) and not measure.name.endswith(CORRECT)
    return {**known, "ranked": ranked, "peaked": measure.peaked}


def is_judged(measure: Measure) -> bool:
    """Tell whether a measure is a mean over items with a direction, and says what a map is and not
    what it costs.
    """
    facts = measure.facts
    return bool(
        facts["reduce"] == "mean" and facts["better"] != "none" and facts["family"] != "cost"
    )


def list_contents(records: Records) -> dict[str, dict[str, str]]:
    """Return {subset: {scored item: its content}} of the records that name it."""
    rows = records.frame[(records.frame["part"] == "eval") & records.frame["item_id"].notna()]
    rows = rows.drop_duplicates(["subset", "item"])
    found: dict[str, dict[str, str]] = {}
    for subset, item, content in rows[["subset", "item", "item_id"]].itertuples(index=False):
        found.setdefault(str(subset), {})[str(item)] = str(content)
    return found


def digest_calibrations(records: Records) -> dict[str, dict[str, str]]:
    """Return {model: {subset: digest of the items that chose thresholds}}."""
    rows = records.frame[records.frame["part"] == "calibration"]
    found: dict[str, dict[str, str]] = {}
    for (subset, model), items in rows.groupby(["subset", "model"], sort=True)["item"]:
        found.setdefault(str(model), {})[str(subset)] = digest(sorted(set(items)))
    return found

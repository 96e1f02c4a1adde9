"""The recomputed side of a claim: numbers with intervals from the records of a committed board."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from bench.board.claim_keys import QueryKeys
from bench.board.cubes import Measure, build_cube, sample
from bench.board.measures import list_measures
from bench.board.older_versions import mark_older
from bench.board.statistics import RESAMPLES, Sampled
from bench.board.tuned import TOP1
from bench.errors import BenchError, suggestions
from bench.identity import plain_name
from bench.records.store import Records

SEED = 0
RECORDS = "records.parquet"


@dataclass(frozen=True)
class Recomputed:
    """What records say of a query.

    value: the number of the query's method.  against: the number it is compared with.
    difference: value - against, with its interval [low, high].  n: items that both scored.
    method: the method as boards call it, `abs_cam (v1)` where the records are of an older version.
    """

    method: str
    value: float
    against: float
    difference: float
    low: float
    high: float
    n: int


def recompute(query: QueryKeys, folder: Path, claimed: float | None, where: str) -> Recomputed:
    """Answer a query from the records of a board.

    Args:
        query: What is compared.
        folder: The folder of the boards.
        claimed: The claim's own number, which a query without `against` is compared with.
        where: Names the claim in errors.

    Returns:
        Both numbers and their difference, with a paired 95 % bootstrap interval over images.

    Raises:
        BenchError: the board, or a name of the query, is not there.
    """
    records = _open_board(folder / query.board, where)
    own = _select(records, query.model, query.method, query.metric, where)
    if not (query.against_method or query.against_model):
        number = query.against if query.against is not None else claimed
        assert number is not None, "a query without a reference is refused when it is read"
        return _compare(own, None, float(number))
    other = _select(
        records,
        query.against_model or query.model,
        query.against_method or query.method,
        query.metric,
        where,
    )
    return _compare(*_share_items(own, other, where), 0.0)


def _open_board(folder: Path, where: str) -> Records:
    if not (folder / RECORDS).is_file():
        raise BenchError(
            f"{where} reads the board {folder.name}, and {folder.parent} has no such board with "
            f"{RECORDS}; correct the query, or make the board."
        )
    return load_board(folder.resolve())


@lru_cache(maxsize=4)
def load_board(folder: Path) -> Records:
    """Return the records of a committed board, older versions marked in their names."""
    return mark_older(Records.load(folder))


def _select(records: Records, model: str, method: str, metric: str, where: str) -> Measure:
    """Return the rows of one method and model in one value."""
    frame = records.frame
    _check_name("model", model, frame["model"].unique(), where)
    frame = frame[frame["model"] == model]
    plain = frame["method"].map({name: plain_name(name) for name in frame["method"].unique()})
    _check_name("method", method, plain.unique(), where)
    # The newest version, where a board holds two.
    found = sorted(
        set(frame.loc[plain == method, "method"]), key=lambda name: (name != method, name)
    )
    frame = frame[frame["method"] == found[0]]
    if metric == TOP1:
        return _measure_accuracy(frame)
    known = []
    for measure in list_measures(frame, records.provenance):
        if plain_name(measure.name) == metric and measure.reduce != "curve":
            return measure
        known.append(plain_name(measure.name))
    _check_name("value", metric, known, where)
    raise BenchError(f"{where} asks for {metric}, which is a curve and no number.")


def _measure_accuracy(frame: pd.DataFrame) -> Measure:
    """Return whether each scored item's prediction is its label, 1 or 0."""
    rows = frame[frame["part"] == "eval"].drop_duplicates("item")
    facts = {"family": "accuracy", "title": "Top-1", "better": "higher", "reduce": "mean"}
    return Measure(TOP1, facts, rows.assign(value=rows["correct"].astype(float)))


def _check_name(word: str, name: str, known: Iterable[str], where: str) -> None:
    names = sorted(set(map(str, known)))
    if name not in names:
        raise BenchError(
            f"{where} asks for the {word} {name!r}, which its board does not have."
            f"{suggestions(name, names)}"
        )


def _share_items(own: Measure, other: Measure, where: str) -> tuple[Measure, Measure]:
    """Return both measures on the items that both have, so that their resamples are the same."""
    shared = set(own.rows["item"]) & set(other.rows["item"])
    if not shared:
        raise BenchError(f"{where} compares two methods that share no item on the board.")
    first, second = (
        dataclasses.replace(one, rows=one.rows[one.rows["item"].isin(shared)])
        for one in (own, other)
    )
    return first, second


def _compare(own: Measure, other: Measure | None, number: float) -> Recomputed:
    """Return the numbers of one or two measures and the interval of their difference."""
    mine, n = _sample(own)
    theirs, m = (None, n) if other is None else _sample(other)
    against = number if theirs is None else float(theirs.point[0])
    replicates = mine.replicates - (number if theirs is None else theirs.replicates)
    difference = Sampled(mine.point - against, replicates)
    low, high = difference.interval()
    return Recomputed(
        str(own.rows["method"].iloc[0]),
        float(mine.point[0]),
        against,
        float(difference.point[0]),
        float(low[0]),
        float(high[0]),
        min(n, m),
    )


def _sample(measure: Measure) -> tuple[Sampled, int]:
    """Return a measure's number with its replicates, and how many items were scored."""
    cube = build_cube(measure, measure.models)
    return sample(measure, cube, RESAMPLES, SEED), int(np.count_nonzero(cube.scored))

"""Fine-tuned models beside their originals: paired differences on the same images.

A model is compared with the parent that its card names, if that stands on the board too. Each
method is compared with itself. The tuned model's plain map is also compared with the original's map
after a search for a threshold (`tft(METHOD)`): activation fine-tuning aims to save that search.

Each difference is tuned - original on the items that both scored, with its bootstrap interval over
images. Means also have Wilcoxon's signed-rank test, with Holm's correction over the rows of a
value. Faithfulness explains each model's own prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.board.comparison import Places
from bench.board.cubes import Cube, Measure, build_cube, sample
from bench.board.measures import CORRECT
from bench.board.scores import FAMILIES, Scores
from bench.board.significance import holm, wilcoxon
from bench.board.statistics import Floats, Sampled, sample_mean
from bench.identity import plain_name

COLUMNS = [
    *("subset", "model", "parent", "method", "against", "metric", "better", "ranked", "n"),
    *("before", "after", "difference", "low", "high", "p", "p_holm"),
]
TOP1 = "top1"
"""Accuracy on the board's own images, a row of its own without a method."""

SHOWN = ("tft_gain", "api", "apd", "ir", "dr")
"""Values that are not ranked and that fine-tuning is judged by; shown for readers beside the ranked
ones.
"""


@dataclass(frozen=True)
class Pair:
    """A fine-tuned model and its original."""

    subset: str
    model: str
    parent: str


def find_pairs(board: Scores) -> list[Pair]:
    """Return the fine-tuned models whose originals were scored on the same subset."""
    facts = board.provenance["models"]
    found = []
    for subset, rows in board.records.frame.groupby("subset", sort=True):
        models = set(rows["model"])
        parents = {m: str(facts[m].get("parent") or "") for m in sorted(models)}
        found += [
            Pair(str(subset), model, parent)
            for model, parent in parents.items()
            if parent in models
        ]
    return found


def compare_tuned(board: Scores) -> pd.DataFrame:
    """Return every difference between a fine-tuned model and its original, one row per method and
    value.
    """
    tables = [table for pair in find_pairs(board) for table in _list_tables(board, pair)]
    return (
        pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)
    )


def _list_tables(board: Scores, pair: Pair) -> Iterator[pd.DataFrame]:
    facts = {"subset": pair.subset, "model": pair.model, "parent": pair.parent}
    yield _compare_accuracy(board, pair).assign(**facts)
    wanted = [
        m
        for m in board.measures[pair.subset]
        if m.reduce != "curve" and {pair.model, pair.parent} <= {*m.models}
    ]
    wanted.sort(key=lambda m: (not m.facts["ranked"], FAMILIES.get(m.facts["family"], 9), m.name))
    for measure in wanted:
        table = _compare_values(board, measure, pair)
        if len(table):
            yield table.assign(**facts)


def _compare_values(board: Scores, measure: Measure, pair: Pair) -> pd.DataFrame:
    """Return the rows of one measure."""
    cells = build_cube(measure, [pair.parent, pair.model])
    own, other = _match_methods(cells)
    if not len(cells.items) or not len(own):
        return pd.DataFrame(columns=COLUMNS)
    before, after = (
        sample(measure, _select_model(cells, row), board.resamples, board.seed) for row in (0, 1)
    )
    gap = Sampled(
        after.point[own] - before.point[other],
        after.replicates[:, own] - before.replicates[:, other],
    )
    low, high = gap.interval()
    names = np.array(cells.methods, dtype=object)
    p = _test_differences(measure, cells, own, other)
    facts = {
        "metric": measure.name,
        "better": measure.facts["better"],
        "ranked": bool(measure.facts["ranked"]) and measure.facts["better"] != "none",
        "n": cells.scored[:, own].sum(0),
    }
    numbers = {
        "before": before.point[other],
        "after": after.point[own],
        "difference": gap.point,
        "low": low,
        "high": high,
    }
    adjusted = p if np.isnan(p).all() else holm(p)
    return pd.DataFrame(
        {
            "method": names[own],
            "against": names[other],
            **facts,
            **numbers,
            "p": p,
            "p_holm": adjusted,
        }
    )


def _test_differences(measure: Measure, cells: Cube, own: Places, other: Places) -> Floats:
    """Return Wilcoxon's p of each compared pair of methods; NaN where the number is no mean."""
    if measure.reduce != "mean":
        return np.full(len(own), np.nan)
    values, both = cells.scalars(), cells.scored[:, own]
    gaps = values[1][:, own] - values[0][:, other]
    return np.array([wilcoxon(gaps[rows, n], cells.images[rows]) for n, rows in enumerate(both.T)])


def _match_methods(cells: Cube) -> tuple[Places, Places]:
    """Return (tuned, original) numbers of the methods to compare: each with itself, then with its
    own search.
    """
    place = {name: n for n, name in enumerate(cells.methods)}
    pairs = [(n, n) for n in place.values()]
    pairs += [(n, place[f"tft({name})"]) for name, n in place.items() if f"tft({name})" in place]
    kept = [
        (a, b)
        for a, b in pairs
        if cells.scored[:, a].any() and (cells.scored[:, a] == cells.scored[:, b]).all()
    ]
    own, other = np.array(kept, dtype=np.int64).reshape(-1, 2).T
    return own, other


def _select_model(cells: Cube, row: int) -> Cube:
    """Return one model of a cube of two, on the cells that both scored."""
    return Cube(
        cells.methods, cells.items, cells.images, cells.values[[row]], cells.present, cells.scored
    )


def _compare_accuracy(board: Scores, pair: Pair) -> pd.DataFrame:
    """Return the row of top-1 on the scored images, in [0,1]."""
    rows = board.records.frame
    rows = rows[
        (rows["subset"] == pair.subset)
        & (rows["part"] == "eval")
        & rows["model"].isin([pair.model, pair.parent])
    ]
    right = rows.drop_duplicates(["model", "item"]).pivot_table(
        index=["item", "image"], columns="model", values="correct", aggfunc="first"
    )
    right = right.dropna().astype(float)
    both = right[[pair.parent, pair.model]].to_numpy()
    images = right.index.get_level_values("image").to_numpy(dtype=object)
    gap = both[:, 1] - both[:, 0]
    drawn = sample_mean(gap[:, None], images, board.resamples, board.seed)
    low, high = drawn.interval()
    before, after = both.mean(0)
    row: dict[str, Any] = {
        "method": "",
        "against": "",
        "metric": TOP1,
        "better": "higher",
        "ranked": False,
        "n": len(right),
    }
    row |= {
        "before": before,
        "after": after,
        "difference": drawn.point[0],
        "low": low[0],
        "high": high[0],
    }
    return pd.DataFrame([row | {"p": wilcoxon(gap, images), "p_holm": np.nan}])


def list_shown_values(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (name, better direction) of what readers see of one pair: ranked values, and those of
    `SHOWN`.
    """
    rows = table[
        (table["ranked"] & ~table["metric"].str.endswith(CORRECT))
        | table["metric"].map(plain_name).isin(SHOWN)
    ]
    return list(
        rows.drop_duplicates("metric")[["metric", "better"]].itertuples(index=False, name=None)
    )

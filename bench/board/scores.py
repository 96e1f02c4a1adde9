"""Scores: one number per method, the only place where per-image values are reduced."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from bench.board.comparison import Comparison
from bench.board.cubes import Measure
from bench.board.measures import CORRECT
from bench.board.method_differences import describe_difference
from bench.board.statistics import RESAMPLES
from bench.board.summaries import list_originals as list_originals
from bench.board.text import OVERALL, interval, short_fidelity
from bench.errors import BenchError, suggestions
from bench.records.store import Records

FAMILIES = {"faithfulness": 0, "localization": 1, "threshold": 2}
"""Which families of values come first in a table."""

COLUMNS = [
    *(
        "subset",
        "model",
        "method",
        "metric",
        "n",
        "expected",
        "n_nan",
        "coverage",
        "mean",
        "median",
        "low",
        "high",
    ),
    *(
        "rank",
        "rank_best",
        "rank_worst",
        "share",
        "better",
        "ranked",
        "peaked",
        "reduce",
        "family",
        "fidelity",
        "control",
        "equal_to",
        "coupled",
        "title",
    ),
]
"""The columns of `Board.frame`."""


@dataclass
class Scores:
    """Numbers per subset, model, method and value, with what a reader must know beside them.

    `bench.board.board.Board` says what its fields are. In `frame`, [rank_best, rank_worst] are the
    ranks that the images allow, and share is the share of the gap from the random control to the
    oracle.
    """

    frame: pd.DataFrame
    records: Records
    measures: dict[str, list[Measure]] = field(repr=False)
    comparisons: dict[tuple[str, str, str], Comparison] = field(default_factory=dict, repr=False)
    flags: list[str] = field(default_factory=list)
    resamples: int = RESAMPLES
    seed: int = 0
    _selected: dict[tuple[tuple[str, str], ...], pd.DataFrame] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the content of run.json."""
        return self.records.provenance

    @cached_property
    def scopes(self) -> list[tuple[str, str]]:
        """Return the (subset, model) of each table, the overall one of a subset first."""
        seen = self.frame[["subset", "model"]].drop_duplicates().itertuples(index=False, name=None)
        return sorted(seen, key=lambda scope: (scope[0], scope[1] != OVERALL, scope[1]))

    def table(
        self, metric: str, subset: str | None = None, model: str | None = None
    ) -> pd.DataFrame:
        """Return the rows of one value, best first.

        Args:
            metric: Name of the value, such as "deletion".
            subset: Only this subset; None takes all.
            model: Only this model; None takes all.

        Returns:
            A frame with the columns of `board.frame`.

        Raises:
            BenchError: A name is not on the board.

        Example:
            >>> float(board.table("deletion")["rank"].iloc[0])
            1.0
        """
        return self.select(metric=metric, subset=subset, model=model).reset_index(drop=True)

    def select(self, **wanted: str | None) -> pd.DataFrame:
        """Return the rows with these entries, ordered by subset, model, value and rank.

        Args:
            wanted: Columns and the entry that they must have; None leaves a column free.

        Returns:
            A frame with the columns of `board.frame`.

        Raises:
            BenchError: An entry is not on the board.

        Example:
            >>> set(board.select(metric="deletion", model="net-a")["metric"])
            {'deletion'}
        """
        key = tuple(
            sorted((column, value) for column, value in wanted.items() if value is not None)
        )
        if key not in self._selected:  # every table and plot of a scope asks for the same
            self._selected[key] = self._narrow(dict(key))
        return self._selected[key].copy()

    def _narrow(self, wanted: dict[str, str]) -> pd.DataFrame:
        frame = self.frame
        for column, value in wanted.items():
            frame = frame[frame[column] == value]
            if frame.empty and value not in (known := set(self.frame[column])):
                raise BenchError(f"No {column} {value!r} on this board.{suggestions(value, known)}")
        return frame.sort_values(["subset", "model", "metric", "rank", "method"], kind="stable")

    def list_ranked(
        self, subset: str, model: str, *, correct: bool = False
    ) -> list[tuple[str, str]]:
        """Return the ranked values of a table, faithfulness first.

        Args:
            subset: Name of the subset.
            model: Name of the model, or "overall".
            correct: List values on items whose prediction is the label, in place of those on all
                items.

        Returns:
            Pairs (value, better direction).

        Raises:
            BenchError: There is no such table.

        Example:
            >>> board.list_ranked("toy", "net-a")[0]
            ('deletion', 'lower')
        """
        rows = self.select(subset=subset, model=model).drop_duplicates("metric")
        rows = rows[rows["ranked"] & (rows["metric"].str.endswith(CORRECT) == correct)]
        rows = rows.sort_values(["family", "metric"], key=order_families, kind="stable")
        return list(rows[["metric", "better"]].itertuples(index=False, name=None))

    def order(self, subset: str, model: str) -> list[str]:
        """Return the methods of a table, best first by its first ranked value.

        Args:
            subset: Name of the subset.
            model: Name of the model, or "overall".

        Returns:
            Names of methods.

        Raises:
            BenchError: There is no such table.

        Example:
            >>> len(board.order("toy", "net-a")) > 1
            True
        """
        rows = self.select(subset=subset, model=model)
        first = next((metric for metric, _ in self.list_ranked(subset, model)), "")
        rank = {
            row["method"]: row["rank"]
            for row in list_rows(rows[rows["metric"] == first])
            if row["rank"] > 0
        }
        return sorted(set(rows["method"]), key=lambda method: (rank.get(method, math.inf), method))

    def methods(self, subset: str, model: str) -> dict[str, dict[str, Any]]:
        """Return the facts of a table's methods, in the order of `order`.

        Args:
            subset: Name of the subset.
            model: Name of the model, or "overall".

        Returns:
            {method: {"method", "fidelity", "control", "equal_to"}}.

        Raises:
            BenchError: There is no such table.

        Example:
            >>> sorted(next(iter(board.methods("toy", "net-a").values())))
            ['control', 'equal_to', 'fidelity', 'method']
        """
        columns = ["method", "fidelity", "control", "equal_to"]
        rows = list_rows(self.select(subset=subset, model=model)[columns].drop_duplicates("method"))
        facts = {row["method"]: row for row in rows}
        return {method: facts[method] for method in self.order(subset, model)}

    def wide(self, subset: str, model: str, *, correct: bool = False) -> pd.DataFrame:
        """Return methods x ranked values as text, "mean [low, high]".

        Args:
            subset: Name of the subset.
            model: Name of the model, or "overall".
            correct: Show values on items whose prediction is the label.

        Returns:
            A frame, one row per method, with its fidelity and the method of an equal map.

        Raises:
            BenchError: There is no such table.

        Example:
            >>> "deletion" in board.wide("toy", "net-a").columns
            True
        """
        rows = self.select(subset=subset, model=model)
        methods = self.methods(subset, model)
        facts = [(short_fidelity(row["fidelity"]), row["equal_to"]) for row in methods.values()]
        table = pd.DataFrame(
            facts, index=pd.Index(methods, name="method"), columns=["fidelity", "equal_to"]
        )
        for metric, _ in self.list_ranked(subset, model, correct=correct):
            cells = {
                row["method"]: write_cell(row) for row in list_rows(rows[rows["metric"] == metric])
            }
            table[metric] = [cells.get(method, "n/a") for method in table.index]
        return table

    def compare(self, mine: str, reference: str) -> list[str]:
        """Return how two methods differ, one sentence per subset, model and ranked value.

        The difference is mine - reference on the images that both scored, with a bootstrap
        interval.

        Args:
            mine: Name of a method.
            reference: Name of another method.

        Returns:
            Sentences with the difference, and whether mine is better, worse or not separable.

        Raises:
            BenchError: A method is not on the board.

        Example:
            >>> first, second = board.order("toy", "net-a")[:2]
            >>> len(board.compare(first, second)) == len(board.list_ranked("toy", "net-a"))
            True
        """
        for name in (mine, reference):
            self.select(method=name)
        several = len(self.scopes) > 1
        lines = []
        for subset, found in self.measures.items():
            ranked = [m for m in found if m.facts["ranked"] and not m.name.endswith(CORRECT)]
            ranked.sort(key=lambda m: (FAMILIES.get(m.facts["family"], 9), m.name))
            for model in sorted({model for m in ranked for model in m.models}):
                where = f" ({subset}, {model})" if several else ""
                lines += [
                    f"{line}{where}"
                    for m in ranked
                    for line in describe_difference(
                        m,
                        model,
                        mine,
                        reference,
                        self.comparisons.get((subset, model, m.name)),
                        self.resamples,
                        self.seed,
                    )
                ]
        return lines


def list_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table's rows as dicts of plain values."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def order_families(column: pd.Series) -> pd.Series:
    """Sort key of a column: families by `FAMILIES`, other columns as they are."""
    return (
        column.map(lambda family: f"{FAMILIES.get(family, 9)}{family}")
        if column.name == "family"
        else column
    )


def write_cell(row: dict[str, Any]) -> str:
    """Write a number with its interval, and its n where that is not complete."""
    text = interval(row["mean"], row["low"], row["high"])
    return text if row["n"] == row["expected"] else f"{text} n={row['n']}/{row['expected']}"

"""A table for a paper: chosen values and methods, with marks against a reference.

board.report(values=["deletion", "insertion"], reference="grad_cam").to_latex()
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.board.comparison import Comparison
from bench.board.result_words import choose_scopes
from bench.board.scores import Scores, list_rows
from bench.board.text import ARROWS, REFERENCE, escape_latex, markdown
from bench.errors import BenchError, suggestions

BETTER, WORSE = "+", "-"
MARKS = f"{BETTER} better, {WORSE} worse than {{reference}} (Holm-corrected, level .05)"


@dataclass(frozen=True)
class ReportCell:
    """A number of a report: mean, ends of its interval, and whether it beats the reference."""

    mean: float
    low: float
    high: float
    mark: str = ""


@dataclass(frozen=True)
class Report:
    """A table of a paper; `board.report(...)` makes one.

    Attributes:
        subset: Subset of the table.
        model: Model of the table, or "overall".
        values: {value: its better direction}, the columns.
        rows: {name of a method as it is printed: {value: its cell}}, best first.
        reference: The printed name of the method that the marks compare with; "" without one.
        n: Number of images.
        protocol: Id of the protocol.
        decimals: Decimals of every number.

    Example:
        >>> board.report(values=["deletion"], decimals=2).decimals
        2
    """

    subset: str
    model: str
    values: Mapping[str, str]
    rows: Mapping[str, Mapping[str, ReportCell]]
    reference: str
    n: int
    protocol: str
    decimals: int = 3

    def to_csv(self) -> str:
        """Return the table as CSV; ends of intervals and marks have columns of their own.

        Returns:
            The text.

        Example:
            >>> report.to_csv().startswith("method,")
            True
        """
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        parts = ("", "_low", "_high", "_mark")
        writer.writerow(["method", *(f"{name}{part}" for name in self.values for part in parts)])
        for method, cells in self.rows.items():
            row = [method]
            for name in self.values:
                cell = cells.get(name)
                numbers = (cell.mean, cell.low, cell.high) if cell else ()
                row += [f"{one:.{self.decimals}f}" for one in numbers] or ["", "", ""]
                row.append(cell.mark if cell else "")
            writer.writerow(row)
        return stream.getvalue()

    def to_markdown(self) -> str:
        """Return the table in Markdown, with its caption below.

        Returns:
            The text.

        Example:
            >>> report.to_markdown().startswith("| method |")
            True
        """
        headers = [f"{markdown(name)} {ARROWS[better]}" for name, better in self.values.items()]
        lines = [f"| method | {' | '.join(headers)} |", "|---|" + "---:|" * len(headers)]
        for method, cells in self.rows.items():
            texts = [self._write(cells.get(name)) for name in self.values]
            lines.append(f"| {markdown(method)} | {' | '.join(texts)} |")
        return "\n".join([*lines, "", markdown(self.caption)]) + "\n"

    def to_latex(self) -> str:
        r"""Return a `table` of LaTeX with `booktabs` rules, a caption and a `\label`.

        Returns:
            The text.

        Example:
            >>> report.to_latex().splitlines()[0] == r"\begin{table}"
            True
        """
        arrows = {"lower": r" $\downarrow$", "higher": r" $\uparrow$", "none": ""}
        headers = [escape_latex(name) + arrows[better] for name, better in self.values.items()]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(self.caption)}}}",
            rf"\label{{tab:{_label(self.subset)}-{_label(self.model)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(headers)}}}",
            r"\toprule",
            " & ".join(["method", *headers]) + r" \\",
            r"\midrule",
        ]
        for method, cells in self.rows.items():
            texts = [self._write(cells.get(name), r"$^{%s}$") for name in self.values]
            lines.append(" & ".join([escape_latex(method), *texts]) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"

    @property
    def caption(self) -> str:
        """Return one short caption: value, subset, model, n, protocol and marks."""
        marks = f" {MARKS.format(reference=self.reference)}." if self.reference else ""
        return (
            f"Mean [95 % interval] on {self.subset}, {self.model}, n = {self.n}, "
            f"{self.protocol}.{marks}"
        )

    def _write(self, cell: ReportCell | None, mark: str = " %s") -> str:
        if cell is None:
            return "n/a"
        numbers = (f"{one:.{self.decimals}f}" for one in (cell.mean, cell.low, cell.high))
        mean, low, high = numbers
        return f"{mean} [{low}, {high}]" + (mark % cell.mark if cell.mark else "")


def make_report(
    board: Scores,
    values: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    reference: str | None = None,
    decimals: int = 3,
    subset: str | None = None,
    model: str | None = None,
) -> Report:
    """Return a table for a paper.

    Args:
        board: The board.
        values: Columns; by default the ranked values.
        methods: Rows; by default all.
        names: {method: name that is printed}.
        reference: The method that the marks compare with, by its name or its printed name; by
            default `grad_cam`, where it is there. "" leaves the marks out.
        decimals: Of every number, 1 to 6.
        subset: Subset of the table; by default the first.
        model: Model of the table; by default the overall one, or the first model.

    Returns:
        The table.

    Raises:
        BenchError: A name is not on the board, or `decimals` is out of range.

    Example:
        >>> len(board.report(values=["deletion"], methods=["random"]).rows)
        1
    """
    if not 1 <= decimals <= 6:
        raise BenchError(f"A report has 1 to 6 decimals, and {decimals} were asked for.")
    subset, model = find_scope(board, subset, model)
    rows = board.select(subset=subset, model=model)
    ranked = [name for name, _ in board.list_ranked(subset, model)]
    columns = _check_names(values, ranked, rows["metric"], "value")
    order = board.order(subset, model)
    shown = _check_names(methods, order, rows["method"], "method")
    printed = names or {}
    chosen = _choose_reference(reference, order, printed)
    cells: dict[str, dict[str, ReportCell]] = {name: {} for name in shown}
    for row in list_rows(rows[rows["metric"].isin(columns) & rows["method"].isin(shown)]):
        if not math.isnan(row["mean"]):
            one = board.comparisons.get((subset, model, row["metric"]))
            cells[row["method"]][row["metric"]] = _make_cell(row, one, chosen)
    better = dict(zip(rows["metric"], rows["better"], strict=True))
    return Report(
        subset,
        model,
        {name: better[name] for name in columns},
        {printed.get(name, name): cells[name] for name in shown},
        printed.get(chosen, chosen),
        int(rows["expected"].max()),
        str(board.provenance["protocol"]["id"]),
        decimals,
    )


def find_scope(board: Scores, subset: str | None, model: str | None) -> tuple[str, str]:
    """Return the first table of a board that fits: the overall ones come first.

    Raises:
        BenchError: None fits.
    """
    for scope in (*choose_scopes(board), *board.scopes):
        if subset in (None, scope[0]) and model in (None, scope[1]):
            return scope
    raise BenchError(f"The board has no table of {subset or 'any subset'}, {model}.")


def _make_cell(row: Mapping[str, Any], one: Comparison | None, reference: str) -> ReportCell:
    mean, low, high = (float(row[key]) for key in ("mean", "low", "high"))
    return ReportCell(mean, low, high, compare_with(one, row["method"], reference))


def compare_with(one: Comparison | None, method: str, reference: str) -> str:
    """Return "+" where a method is told to be better than the reference, "-" where worse, else "".

    The test is the board's: both methods are complete, and Holm's correction is over all pairs.
    """
    if one is None or reference not in one.methods or method not in one.methods:
        return ""
    mine, other = one.methods.index(method), one.methods.index(reference)
    return BETTER if one.wins[mine, other] else WORSE if one.wins[other, mine] else ""


def _choose_reference(
    reference: str | None, methods: Sequence[str], printed: Mapping[str, str]
) -> str:
    if reference is None:
        return REFERENCE if REFERENCE in methods else ""
    known = {printed[name]: name for name in methods if name in printed}
    known |= {name: name for name in ("", *methods)}
    if reference not in known:
        raise BenchError(
            f"The reference {reference!r} is not on the board."
            f"{suggestions(reference, [name for name in known if name])}"
        )
    return known[reference]


def _check_names(
    wanted: Sequence[str] | None, usual: Sequence[str], known: pd.Series, kind: str
) -> list[str]:
    there = set(known)
    for name in wanted or ():
        if name not in there:
            raise BenchError(f"No {kind} {name!r} on this board.{suggestions(name, there)}")
    return list(usual if wanted is None else dict.fromkeys(wanted))


def _label(name: str) -> str:
    """Return a name as a part of a label of LaTeX.

    >>> _label("grid(ilsvrc,2)")
    'grid-ilsvrc-2'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())

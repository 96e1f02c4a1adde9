"""Tables of a board as files: CSV and JSON hold every number, Markdown and LaTeX are for readers.

One file of each kind per (subset, model), plus `board.md`, the first page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from bench.board import text
from bench.board.flags import find_failing
from bench.board.measures import CORRECT
from bench.board.pairs import compare_all_pairs
from bench.board.rank_notes import write_caveats, write_rank_notes
from bench.board.scope_names import name_scopes
from bench.board.scores import Scores
from bench.board.statistics import POOLED_RESAMPLES
from bench.board.tie_groups import find_tie_groups
from bench.board.tuned import TOP1, find_pairs, list_shown_values
from bench.board.value_pages import link_header
from bench.files import replaced_file, write_json
from bench.metrics.peaked import PEAKED_MARK
from bench.models.layer_grid import describe_layer
from bench.work_stages import track

if TYPE_CHECKING:
    from bench.board.board import Board

COLUMNS_PER_TABLE = 8
"""Values side by side in a table for readers; more of them make another table."""

TUNED = "fine-tuned.csv"
"""Every difference between a fine-tuned model and its original."""

DIGITS = 6
"""Decimals in CSV and JSON: more of them would depend on the order in which a machine sums."""

HEALTH_WORDS = (
    f" {text.FAILED}: fails its health check on a model of this table (`cambench health`)."
)


@dataclass(frozen=True)
class TableCell:
    """One number as text: mean, interval ("" where there is none), note (rank or n), whether it is
    the best, mark.
    """

    mean: str
    interval: str = ""
    note: str = ""
    best: bool = False
    mark: str = ""

    @property
    def end(self) -> str:
        """Return what stands behind the numbers."""
        return self.note + self.mark


@dataclass(frozen=True)
class Line:
    """One method of a table."""

    method: str
    fidelity: str
    control: bool
    cells: list[TableCell]


@dataclass(frozen=True)
class Section:
    """A table for readers: some values of one (subset, model), and what must be known of their
    order.
    """

    title: str
    headers: list[str]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)


def build_sections(board: Scores, subset: str, model: str) -> list[Section]:
    """Return the tables of one (subset, model): ranked values, `@correct`, shares of the gap, the
    rest.
    """
    ranked = board.list_ranked(subset, model)
    correct = board.list_ranked(subset, model, correct=True)
    rows = board.select(subset=subset, model=model).drop_duplicates("metric")
    listed = list(rows[["metric", "better"]].itertuples(index=False, name=None))
    rest = [pair for pair in listed if pair not in ranked and pair not in correct]
    shares = [
        (m, "higher")
        for m in rows.loc[rows["family"] == "localization", "metric"]
        if (m, "higher") in ranked
    ]
    return [
        *split_sections(board, subset, model, "Ranked values", ranked, write_number_cell),
        *split_sections(
            board,
            subset,
            model,
            "Ranked values where the prediction is the label",
            correct,
            write_number_cell,
        ),
        *split_sections(
            board,
            subset,
            model,
            "Share of the gap from the random control to the oracle",
            shares,
            write_share_cell,
        ),
        *split_sections(
            board, subset, model, "Reported values, not ranked", rest, write_number_cell
        ),
    ]


def split_sections(
    board: Scores, subset: str, model: str, title: str, metrics: list[tuple[str, str]], write: Any
) -> Iterator[Section]:
    """Yield sections of at most `COLUMNS_PER_TABLE` values."""
    rows = board.select(subset=subset, model=model)
    failed = find_failing(board.provenance, subset, model)
    parts = [metrics[i : i + COLUMNS_PER_TABLE] for i in range(0, len(metrics), COLUMNS_PER_TABLE)]
    for index, part in enumerate(parts, 1):
        tables = [
            rows[rows["metric"] == metric].set_index("method", drop=False) for metric, _ in part
        ]
        best = [find_best_rank(table) for table in tables]
        lines = [
            Line(
                text.method_label(facts),
                text.short_fidelity(facts["fidelity"]),
                facts["control"],
                [
                    write(table.loc[facts["method"]], top)
                    if facts["method"] in table.index
                    else TableCell("n/a")
                    for table, top in zip(tables, best, strict=True)
                ],
            )
            for facts in board.methods(subset, model).values()
        ]
        peaked = {metric for metric, _ in part} & set(rows.loc[rows["peaked"], "metric"])
        headers = [mark_header(metric, better, failed, peaked) for metric, better in part]
        notes = []
        if write is write_number_cell:
            notes = write_rank_notes(board, subset, model, [metric for metric, _ in part])
            # Reported values have no order, so no notes, and need no caveat.
            notes += write_caveats(board.methods(subset, model)) if notes and index == 1 else []
        notes += [text.SHARPENING] if peaked else []
        yield Section(
            f"{title} ({index} of {len(parts)})" if len(parts) > 1 else title, headers, lines, notes
        )


def mark_header(metric: str, better: str, failed: Collection[str], peaked: Collection[str]) -> str:
    """Return a value's header, marked where it fails its health check or sharpening moves it."""
    mark = text.FAILED if metric.removesuffix(CORRECT) in failed else ""
    mark += PEAKED_MARK if metric in peaked else ""
    return f"{text.metric_label(metric, better)}{mark}"


@dataclass(frozen=True)
class Beside:
    """A fine-tuned model beside its original, for readers."""

    subset: str
    model: str
    parent: str
    top1: str
    sections: list[Section]
    simulated: bool


def tabulate_tuned(board: Board) -> list[Beside]:
    """Return the differences to originals as tables for readers, one per fine-tuned model."""
    found = []
    peaked = set(board.frame.loc[board.frame["peaked"], "metric"])
    for key, rows in board.tuned.groupby(["subset", "model"], sort=True):
        subset, model = map(str, key)
        facts, top1 = board.provenance["models"][model], rows[rows["metric"] == TOP1].iloc[0]
        values = list_shown_values(rows)
        parts = [
            values[i : i + COLUMNS_PER_TABLE] for i in range(0, len(values), COLUMNS_PER_TABLE)
        ]
        compared = list(dict.fromkeys(zip(rows["method"], rows["against"], strict=True)))
        order = {name: place for place, name in enumerate(board.methods(subset, model))}
        compared = sorted(
            (pair for pair in compared if pair[0]),
            key=lambda pair: (order[pair[0]], pair[0] != pair[1]),
        )
        lines = [
            [write_difference_line(board, rows, pair, part, peaked) for pair in compared]
            for part in parts
        ]
        headers = [[mark_header(*value, set(), peaked) for value in part] for part in parts]
        notes = [[text.SHARPENING] if peaked & set(dict(part)) else [] for part in parts]
        accuracy = text.interval(
            *(100 * top1[["difference", "low", "high"]].astype(float)), sign=True
        )
        found.append(
            Beside(
                subset,
                model,
                str(rows["parent"].iloc[0]),
                f"{100 * top1['before']:.1f} % before, {100 * top1['after']:.1f} % after, "
                f"{accuracy} points",
                [Section("", *parts) for parts in zip(headers, lines, notes, strict=True)],
                text.is_simulated(facts),
            )
        )
    return found


def write_difference_line(
    board: Scores,
    rows: pd.DataFrame,
    compared: tuple[str, str],
    metrics: list[tuple[str, str]],
    peaked: set[str],
) -> Line:
    """Return a method's differences; bold: better beyond the interval, and no peaked value."""
    method, against = compared
    facts = board.provenance["methods"][method]
    rows = rows[(rows["method"] == method) & (rows["against"] == against)].set_index("metric")
    cells = []
    for metric, better in metrics:
        if metric not in rows.index:
            cells.append(TableCell("n/a"))
            continue
        gap, low, high = (
            rows.loc[[metric], ["difference", "low", "high"]].to_numpy(dtype=float)[0].tolist()
        )
        between = (
            ""
            if math.isnan(low)
            else f"[{text.number(low, sign=True)}, {text.number(high, sign=True)}]"
        )
        cells.append(
            TableCell(
                text.number(gap, sign=True),
                between,
                best=metric not in peaked and (low > 0 if better == "higher" else high < 0),
            )
        )
    label = method if method == against else f"{method} against {against}"
    return Line(
        label,
        text.short_fidelity(facts.get("fidelity", "")),
        bool(facts.get("control", False)),
        cells,
    )


def find_best_rank(table: pd.DataFrame) -> float:
    """Return the smallest rank of a method that is no control; NaN where there is none."""
    return float(table.loc[~table["control"], "rank"].min())


def write_number_cell(row: pd.Series, best: float) -> TableCell:
    """Write a reduced number, its interval, and its rank or else its n."""
    if row["n"] == 0:
        return TableCell("n/a", note=f"n=0/{row['expected']}")
    low, high = row["low"], row["high"]
    note = (
        ""
        if math.isnan(row["rank"])
        else f"({text.rank_range(row['rank'], row['rank_best'], row['rank_worst'])})"
    )
    if row["n"] < row["expected"]:
        note = f"n={row['n']}/{row['expected']}"
    between = "" if math.isnan(low) else f"[{text.number(low)}, {text.number(high)}]"
    best_here = bool(row["rank"] == best) and not row["control"]
    return TableCell(
        text.number(row["mean"]), between, note, best_here, text.COUPLED if row["coupled"] else ""
    )


def write_share_cell(row: pd.Series, best: float) -> TableCell:
    """Write a share of the gap from random to oracle."""
    best_here = bool(row["rank"] == best) and not row["control"]
    return TableCell(text.number(row["share"]), best=best_here)


def write_caption(board: Scores, subset: str, model: str) -> str:
    """Say what a table's numbers are: subset, n, protocol, interval, marks."""
    rows = board.select(subset=subset, model=model)
    coupling = f"{text.COUPLING} " if rows["coupled"].any() else ""
    over = f"model {text.model_label(board.provenance['models'], model)}"
    layer = describe_layer(board.provenance["models"].get(model, {}))
    over += f" ({layer})" if layer else ""
    if model == text.OVERALL:
        models = "original models" if len(find_pairs(board)) else "models"
        over = f"mean over the {models} of the items that all of them share"
    return (
        f"{subset}, {over}; n = {rows['expected'].max()} items unless a cell says otherwise; "
        f"protocol {text.describe_protocol(board.provenance, model)}. Cells: "
        f"{describe_intervals(board)}, then {text.RANKS}. {coupling}Arrows: the better direction. "
        "Bold: best that is no control. Incomplete coverage is shown with its n and unranked. "
        f"{CORRECT}: items whose prediction is the label. F: "
        f"{text.FIDELITY}.{HEALTH_WORDS if find_failing(board.provenance, subset, model) else ''}"
    )


def describe_intervals(board: Scores) -> str:
    """Define the intervals of this board."""
    pooled = min(board.resamples, POOLED_RESAMPLES)
    return text.INTERVAL.format(resamples=board.resamples, pooled=pooled)


def write_tables(board: Board, folder: Path) -> list[Path]:
    """Write CSV, JSON, Markdown and LaTeX of every (subset, model), and its pairs as CSV; return
    the files.
    """
    files = []
    stems = name_scopes(board.scopes)
    for subset, model in track(board.scopes, "Writing tables"):
        stem = folder / stems[subset, model]
        rows = board.select(subset=subset, model=model)
        facts = {"subset": subset, "model": model, "caption": write_caption(board, subset, model)}
        page = {**facts, "sections": build_sections(board, subset, model)}
        paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "json", "md", "tex")]
        write_csv(paths[0], rows)
        write_json(
            paths[1],
            {
                **facts,
                "flags": board.flags,
                "ties": find_tie_groups(board, subset, model),
                "rows": convert_rows(rows),
            },
        )
        write_text(paths[2], render("table.md.j2", **page))
        write_text(paths[3], render("table.tex.j2", **page))
        paths.append(stem.with_name(f"{stem.name}--pairs.csv"))
        write_csv(paths[-1], compare_all_pairs(board, subset, model))
        files += paths
    if len(board.tuned):
        files.append(folder / TUNED)
        write_csv(files[-1], board.tuned)
    return files


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with a fixed number of decimals; missing is empty."""
    write_text(path, table.to_csv(index=False, float_format=f"%.{DIGITS}f", lineterminator="\n"))


def convert_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON values; missing is null, since JSON has no NaN."""
    result: list[dict[str, Any]] = json.loads(
        rows.to_json(orient="records", double_precision=DIGITS)
    )
    return result


def write_text(path: Path, content: str) -> None:
    """Write text atomically, with one newline at the end."""
    with replaced_file(path) as temporary:
        temporary.write_text(content.rstrip("\n") + "\n", encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """Fill in a template of `bench/board/templates`."""
    return load_templates().get_template(template).render(**values)


@lru_cache(maxsize=1)
def load_templates() -> jinja2.Environment:
    """Return the templates; tags are <% %> and << >>, which mean nothing in LaTeX and Markdown."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown and LaTeX; each has its own filter
    )
    made.filters.update(tex=text.escape_latex, md=text.markdown, layer=describe_layer)
    made.filters.update(code=text.code_span, block=text.code_block, header=link_header)
    made.tests.update(simulated=text.is_simulated)
    return made

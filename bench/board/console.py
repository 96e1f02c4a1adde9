"""A board in the terminal: ranked values with arrows, best in bold, controls dim."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from textwrap import shorten
from typing import TextIO, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.board.result_words import choose_scopes, describe_result
from bench.board.sample_calibration import describe_sample
from bench.board.scores import Scores, list_originals
from bench.board.tables import Section, TableCell, build_sections, describe_intervals
from bench.board.text import COUPLING, FIDELITY, OVERALL, RANKS, describe_models
from bench.board.usable_counts import describe_usable_counts
from bench.plain_streams import PlainFile
from bench.plain_text import show_line
from bench.text_console import TextConsole, make_text

MOST_ROWS = 15
"""Methods of the one table that is printed in brief."""
MOST_FLAGS = 2
FLAG_LENGTH = 150


def print_brief(board: Scores, console: Console | None = None) -> None:
    """Print the result in words, the first warnings, and one table of means that fits.

    The table is the overall one, or that of the first network. `print_board` prints all.
    """
    console = console or TextConsole(file=cast(TextIO, PlainFile(sys.stdout)))
    for sentence in describe_result(board):
        console.print(make_text(sentence), style="bold")
    for flag in board.flags[:MOST_FLAGS]:
        short = shorten(flag, FLAG_LENGTH, placeholder=" ...")
        console.print(make_text(f"! {short}"), style="yellow")
    if len(board.flags) > MOST_FLAGS:
        rest = len(board.flags) - MOST_FLAGS
        console.print(make_text(f"! {rest} more notes stand in board.md."), style="yellow")
    scope = next(iter(choose_scopes(board)), board.scopes[0])
    section = next(iter(_list_sections(board, *scope)), None)
    if section is None:
        return
    section = _drop_empty(section)
    left = len(section.lines) - MOST_ROWS
    title = ", ".join(scope)
    console.print(next(narrow(replace(section, lines=section.lines[:MOST_ROWS]), title, console)))
    layers = describe_models(board.provenance, _list_models(board, *scope))
    console.print(make_text("; ".join(layers)), style="dim")
    more = f" {left} more methods stand in board.md." if left > 0 else ""
    console.print(
        make_text(f"Means; bold: best that is no control. Intervals: board.md.{more}"), style="dim"
    )


def _list_models(board: Scores, subset: str, model: str) -> list[str]:
    """Return the models of a table."""
    if model != OVERALL:
        return [model]
    models = [own for one, own in board.scopes if one == subset and own != OVERALL]
    return list_originals(models, board.provenance)


def _drop_empty(section: Section) -> Section:
    """Return a section without the values that no method has."""
    kept = [
        place
        for place in range(len(section.headers))
        if any(line.cells[place].mean != "n/a" for line in section.lines)
    ]
    lines = [replace(line, cells=[line.cells[place] for place in kept]) for line in section.lines]
    return replace(section, headers=[section.headers[place] for place in kept], lines=lines)


def _list_sections(board: Scores, subset: str, model: str) -> list[Section]:
    """Return the sections of a table that are printed: ranked values, or all where none is."""
    everything = build_sections(board, subset, model)
    ranked = [
        s for s in everything if s.title.startswith("Ranked values") and "label" not in s.title
    ]
    return ranked or everything  # a board of values that are only reported shows those


def print_board(board: Scores, console: Console | None = None) -> None:
    """Print the ranked values of every (subset, model), or all where none is ranked; then flags and
    the legend.

    Intervals are shown where the terminal is wide enough for them.
    """
    console = console or TextConsole(file=cast(TextIO, PlainFile(sys.stdout)))
    for sentence in describe_result(board, whole=True):
        console.print(make_text(sentence), style="bold")
    full = True
    for subset, model in board.scopes:
        for section in _list_sections(board, subset, model):
            wide = build(section, f"{subset}, {model}", full=True)
            whole = fits(wide, console)
            full = full and whole
            for table in [wide] if whole else narrow(section, f"{subset}, {model}", console):
                console.print(table)
            for note in section.notes:
                console.print(make_text(note), style="dim")
    for line in describe_models(board.provenance, [model for _, model in board.scopes]):
        console.print(make_text(line), style="dim")
    for subset in sorted(board.provenance["subsets"]):
        usable = describe_usable_counts(board.records, subset)
        if usable:
            console.print(make_text(f"{subset}: {usable}."), style="dim")
        for sentence in describe_sample(board.records, subset):
            console.print(make_text(f"{subset}: {sentence}"), style="dim")
    for flag in board.flags:
        console.print(make_text(f"! {flag}"), style="yellow")
    words = f"{describe_intervals(board)}, then {RANKS}"
    words = words if full else "mean; a wider terminal and the files show intervals and ranks"
    console.print(make_text(f"Cells: {words}. Bold: best that is no control."), style="dim")
    if board.frame["coupled"].any():
        console.print(make_text(COUPLING), style="dim")
    console.print(make_text(FIDELITY), style="dim")


def fits(table: Table, console: Console) -> bool:
    """Tell whether a table can be printed without cutting a cell."""
    return (
        console.measure(table, options=console.options.update(width=10_000)).maximum
        <= console.width
    )


def narrow(section: Section, title: str, console: Console) -> Iterator[Table]:
    """Yield tables of means only, cut into halves until they fit."""
    table = build(section, title, full=False)
    if fits(table, console) or len(section.headers) == 1:
        yield table
        return
    half = math.ceil(len(section.headers) / 2)
    for part in (slice(0, half), slice(half, None)):
        lines = [replace(line, cells=line.cells[part]) for line in section.lines]
        yield from narrow(
            replace(section, headers=section.headers[part], lines=lines), title, console
        )


def build(section: Section, title: str, *, full: bool) -> Table:
    """Lay out one section; `full` shows intervals and ranks, else headers break at their
    underscores to save width.
    """
    table = Table(
        title=make_text(title, "italic"),
        title_justify="left",
        padding=(0, 1),
        box=box.SIMPLE_HEAD,
    )
    table.add_column("method", no_wrap=True)
    table.add_column("F", no_wrap=True)
    for header in section.headers:
        shown = show_line(header)
        table.add_column(
            Text(shown if full else shown.replace("_", "_\n")), justify="right", no_wrap=full
        )
    for line in section.lines:
        cells = [show(cell, full=full) for cell in line.cells]
        names = (make_text(line.method), make_text(line.fidelity))
        table.add_row(*names, *cells, style="dim" if line.control else "")
    return table


def show(cell: TableCell, *, full: bool) -> Text:
    """Write a cell, its mean bold where it is the best."""
    text = Text(cell.mean, style="bold" if cell.best else "", no_wrap=True)
    note = cell.note if full or cell.note.startswith("n=") else ""
    rest = " ".join(part for part in (cell.interval if full else "", note + cell.mark) if part)
    return text.append(f" {rest}", style="not bold") if rest else text

"""`cambench board RUN --columns ...`: a table for a paper, on standard output or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.output import warn
from bench.errors import BenchError, suggestions
from bench.files import replaced_file

if TYPE_CHECKING:
    from bench.board.paper_report import Report

PAPER = "A table for a paper"
"""Heading of these options in `--help`."""


class TableFormat(StrEnum):
    """How a table for a paper is written."""

    LATEX = "latex"
    MARKDOWN = "markdown"
    CSV = "csv"


ENDINGS = {".tex": TableFormat.LATEX, ".md": TableFormat.MARKDOWN, ".csv": TableFormat.CSV}
"""{ending of the file of --out: the format that it stands for}."""


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """What is in the table, and how it is written; None and "" stand for what was not given."""

    columns: Annotated[
        str,
        typer.Option(
            help="Values in the columns: names, comma separated. Default: the ranked values.",
            rich_help_panel=PAPER,
        ),
    ] = ""
    methods: Annotated[
        str,
        typer.Option(
            help="Methods in the rows: names, comma separated. Default: all, best first.",
            rich_help_panel=PAPER,
        ),
    ] = ""
    reference: Annotated[
        str | None,
        typer.Option(
            help="The method that the marks compare with. Default: grad_cam.",
            rich_help_panel=PAPER,
        ),
    ] = None
    names: Annotated[
        Path | None,
        typer.Option(
            help='TOML file of printed names: lines such as grad_cam = "Grad-CAM".',
            rich_help_panel=PAPER,
        ),
    ] = None
    decimals: Annotated[
        int | None,
        typer.Option(help="Decimals of every number, 1 to 6. Default: 3.", rich_help_panel=PAPER),
    ] = None
    format: Annotated[
        TableFormat | None,
        typer.Option(
            help="How it is written. Default: by the ending of --out, else latex.",
            rich_help_panel=PAPER,
        ),
    ] = None
    subset: Annotated[
        str | None,
        typer.Option(help="Which subset. Default: the board's first.", rich_help_panel=PAPER),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help="Which model, or overall. Default: overall where the board has it.",
            rich_help_panel=PAPER,
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(help="A file in place of standard output.", rich_help_panel=PAPER),
    ] = None

    @property
    def given(self) -> bool:
        """Return whether a table for a paper is asked for."""
        return self != PaperOptions()


def print_paper_table(folder: Path, options: PaperOptions) -> None:
    """Print the table of a run's records, or write it to a file; the run's folder stays as it is.

    Raises:
        BenchError: A name is not on the board, or a file cannot be read or written.
    """
    from bench.cli.plans import split_names
    from bench.cli.running import make_board
    from bench.records.planned_work import PARTIAL
    from bench.records.store import Records

    names = read_names(options.names) if options.names else {}
    form = choose_format(options)
    board = make_board(Records.load(folder))
    for sentence in board.provenance.get(PARTIAL, ()):
        warn(sentence)
    warn_of_strangers(names, set(board.frame["method"]), options.names)
    report = board.report(
        values=split_names(options.columns) or None,
        methods=split_names(options.methods) or None,
        names=names,
        reference=options.reference,
        decimals=3 if options.decimals is None else options.decimals,
        subset=options.subset,
        model=options.model,
    )
    write_table(write_as(report, form), options.out)


def write_as(report: Report, form: TableFormat) -> str:
    """Return a table in a format."""
    if form is TableFormat.CSV:
        return report.to_csv()
    return report.to_latex() if form is TableFormat.LATEX else report.to_markdown()


def write_table(text: str, out: Path | None) -> None:
    """Write a table to a file, or to standard output as it is."""
    if out is None:
        typer.echo(text, nl=False)
        return
    with replaced_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def choose_format(options: PaperOptions) -> TableFormat:
    """Return the format that is given, else that of the file's ending, else LaTeX."""
    if options.format is not None:
        return options.format
    if options.out is None:
        return TableFormat.LATEX
    ending = options.out.suffix.lower()
    if ending not in ENDINGS:
        raise BenchError(
            f"--out {options.out} ends in none of {', '.join(ENDINGS)}; add --format latex, "
            "markdown or csv."
        )
    return ENDINGS[ending]


def read_names(file: Path) -> dict[str, str]:
    """Return the printed names of a TOML file, {method: name}.

    Raises:
        BenchError: It cannot be read, or a name is no text.
    """
    from bench.toml_file import read_toml

    content = read_toml(file, "The file of names", "check the path")
    for name, printed in content.items():
        if not isinstance(printed, str):
            raise BenchError(
                f"The file of names {file} gives no text for {name!r}; write lines such as "
                f'"{name}" = "Our method", with quotes on both sides.'
            )
    return content


def warn_of_strangers(names: Mapping[str, str], known: set[str], file: Path | None) -> None:
    """Warn of names that the board does not have: one file may serve several boards."""
    for name in names:
        if name not in known:
            warn(
                f"{file} names {name!r}, which is not on this board, so it renames nothing."
                f"{suggestions(name, known)}"
            )

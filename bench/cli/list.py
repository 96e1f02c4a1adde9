"""`cambench list`: what a run can be made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import LOOK, PluginOption
from bench.cli.output import console, say
from bench.cli.registration import command
from bench.errors import BenchError

EPILOG = """**Examples**

- `cambench list methods` - one method per line, its name first

- `cambench list metrics "localization/*"` - groups, wildcards and lists as `--metrics` takes them

- `cambench list metrics deletion` - everything about one of them

- `cambench list models --check "vit_tiny*,resnet18"` - build them with random weights and see what
  works

- `cambench list models --check --out leaderboards/timm-coverage.csv` - all of timm; hours, goes on
  where it stopped
"""

WIDEST = 48
"""Characters that a column is padded to at most; longer cells are printed whole."""


class Listing(StrEnum):
    """What `cambench list` can list."""

    methods = "methods"
    metrics = "metrics"
    models = "models"
    subsets = "subsets"
    protocols = "protocols"


@command("list", panel=LOOK, epilog=EPILOG)
def list_entries(
    what: Annotated[Listing, typer.Argument(help="What to list.")],
    pattern: Annotated[
        str | None,
        typer.Argument(
            help="Names, groups, wildcards; one name shows everything about it. With --check: "
            "timm names and wildcards [default: all]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Build timm architectures, explain noise, check layer and grid."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --check: CSV to write; its rows are not done again.")
    ] = None,
    limit: Annotated[
        float, typer.Option(help="With --check: most parameters, in millions.", min=0)
    ] = 500,
    plugin: PluginOption = None,
) -> None:
    """List what a run can be made of: one entry per line, its name first."""
    from bench.cli.plans import load_plugins

    load_plugins(plugin)
    if check:
        from bench.cli.check_models import check_models

        if what is not Listing.models:
            raise BenchError(f"--check is for models, not for {what.value}.")
        check_models(pattern or "*", out, limit)
        return
    if out is not None:
        raise BenchError("--out goes with --check only; see `cambench list --help`.")
    show_entries(what, pattern, as_json=as_json)


def show_entries(what: Listing, pattern: str | None, *, as_json: bool) -> None:
    """Print the entries that a pattern selects: as JSON, in full (one), or one per line."""
    from bench.cli.catalogue import CATALOGUES, describe

    catalogue = CATALOGUES[what.value]
    names = catalogue.select(pattern or "all")
    named = pattern is not None and not set(pattern) & set("*?,")
    if as_json:
        typer.echo(
            json.dumps([catalogue.facts(name) for name in names], indent=2, ensure_ascii=False)
        )
    elif named and len(names) == 1:
        for line in describe(catalogue.facts(names[0])):
            say(line)
    else:
        print_rows(catalogue.columns, [catalogue.row(name) for name in names])
        if pattern is None and console.is_terminal:
            for note in catalogue.notes:
                say(note, style="dim")


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one line per row, columns two spaces apart; an empty cell is "-".

    Only a terminal gets a header, so that a pipe holds entries alone.
    """
    if not rows:
        return
    filled = [[cell or "-" for cell in row] for row in rows]
    shown = [list(columns), *filled] if console.is_terminal else filled
    # One long cell would push all later columns away.
    widths = [min(max(map(len, column)), WIDEST) for column in zip(*shown, strict=True)]
    for number, row in enumerate(shown):
        line = "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        say(line, style="bold" if console.is_terminal and number == 0 else None)

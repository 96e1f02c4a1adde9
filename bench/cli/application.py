"""All commands of `cambench`, as one typer application."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.baseline import baseline
from bench.cli.board import board
from bench.cli.cache import cache
from bench.cli.check import check
from bench.cli.claims import claims
from bench.cli.edit import edit
from bench.cli.explain import explain
from bench.cli.finetune import app as finetune_app
from bench.cli.gate_rates import gate_rates
from bench.cli.health import health
from bench.cli.list import list_entries
from bench.cli.merge import merge
from bench.cli.options import TRAIN
from bench.cli.output import say
from bench.cli.plan import plan
from bench.cli.protocols import protocols
from bench.cli.registration import DebugOption
from bench.cli.run import run
from bench.cli.score import score
from bench.cli.zoo import app as zoo_app
from bench.errors import BenchError
from bench.version import __version__

COMMANDS = (
    *(run, plan, score, board, merge),
    *(list_entries, explain),
    *(health, protocols, claims, baseline, check, gate_rates),
    *(edit, cache),
)
"""All commands, in the order of `--help`: what a newcomer needs first."""

app = typer.Typer(
    name="cambench",
    help="The benchmark for image attribution: methods and models in, leaderboards with intervals "
    "out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for one in COMMANDS:
    one.add_to(app)

app.add_typer(finetune_app, name="finetune", rich_help_panel=TRAIN)

app.add_typer(zoo_app, name="zoo", rich_help_panel=TRAIN)


@app.callback(invoke_without_command=True)
def show_version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: DebugOption = False,
) -> None:
    """Entry point for the options that every command has."""
    if version:
        say(f"cambench {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise BenchError("No command is named; cambench --help lists them.")

"""`cambench check`: judge a run by a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import JUDGE, OUTPUT
from bench.cli.output import EndOfCommand, console, say
from bench.cli.registration import command
from bench.errors import BenchError
from bench.text_console import TextConsole

LOG_WIDTH = 160
"""Columns where the output is no terminal."""

JUDGED, RULES = "What is judged", "How it is judged"

EPILOG = """**Examples**

- `cambench check runs/scenes-val --against baseline.parquet --junit gate.xml --summary
  "$GITHUB_STEP_SUMMARY"`

- `cambench check runs/tuned --against leaderboards/scenes --as resnet-mine=resnet-scenes --margin
  0.1`
"""


@dataclass(frozen=True, kw_only=True)
class JudgedOptions:
    """Which cells of the baseline a run is judged on."""

    values: Annotated[
        str,
        typer.Option(
            "--metrics",
            help="Values to judge: names, ranked, all, wildcards; -NAME leaves out.",
            rich_help_panel=JUDGED,
        ),
    ] = "ranked"
    models: Annotated[
        str,
        typer.Option(
            help="The baseline's models to judge: names, wildcards; -NAME leaves out.",
            rich_help_panel=JUDGED,
        ),
    ] = "*"
    methods: Annotated[
        str,
        typer.Option(
            help="The baseline's methods to judge: names, wildcards; -NAME leaves out.",
            rich_help_panel=JUDGED,
        ),
    ] = "*"
    stands_for: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="NEW=OLD",
            help="Judge the run's model NEW as the baseline's OLD (repeatable).",
            rich_help_panel=JUDGED,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """How strictly a run is judged."""

    margin: Annotated[
        float,
        typer.Option(
            help="Share of the baseline's distance from random that may be lost.",
            rich_help_panel=RULES,
        ),
    ] = 0.05
    alpha: Annotated[
        float,
        typer.Option(help="Chance of any false regression, over all cells.", rich_help_panel=RULES),
    ] = 0.01
    miss: Annotated[
        float,
        typer.Option(
            help="Probability of missing a regression exactly at the margin.", rich_help_panel=RULES
        ),
    ] = 0.05
    other_seed: Annotated[
        bool,
        typer.Option(
            "--other-seed",
            help="Let the run have another seed than the baseline.",
            rich_help_panel=RULES,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Where the verdicts go beside the terminal."""

    junit: Annotated[
        Path | None, typer.Option(help="JUnit XML to write.", rich_help_panel=OUTPUT)
    ] = None
    summary: Annotated[
        Path | None,
        typer.Option(help="Markdown file to append a summary to.", rich_help_panel=OUTPUT),
    ] = None
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Show the cells that are the same, too.", rich_help_panel=OUTPUT
        ),
    ] = False


@command(panel=JUDGE, epilog=EPILOG, long=True)
def check(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run to judge.")],
    against: Annotated[
        Path,
        typer.Option(
            help="File of `cambench baseline`, or a committed board's folder.",
            rich_help_panel=JUDGED,
        ),
    ],
    judged: JudgedOptions,
    strictness: RuleOptions,
    reports: ReportOptions,
) -> None:
    """Judge a run by a baseline: exit code 0 fine, 1 regression, 2 could not judge (or bad input).

    Every value of every method is compared on the same images; docs/gate.md says how.
    """
    from bench.gate.baseline import load_baseline, load_run
    from bench.gate.judge import JudgingRules, judge
    from bench.gate.verdict_report import (
        print_verdicts,
        write_junit,
        write_markdown,
        write_outcome,
    )

    rules = JudgingRules(strictness.margin, strictness.alpha, strictness.miss)
    old = load_baseline(against).choose(judged.values, judged.models, judged.methods)
    new_names = read_pairs(judged.stands_for)
    run = load_run(folder, old, new_names).rename_models(new_names)
    verdicts = judge(old, run, rules, other_seed=strictness.other_seed)
    if reports.junit is not None:
        write_junit(verdicts, reports.junit)
    if reports.summary is not None:
        write_markdown(verdicts, reports.summary)
    # A log of CI has no width of its own, and can take long lines.
    wide = console if console.is_terminal else TextConsole(width=max(console.width, LOG_WIDTH))
    wide.quiet = console.quiet
    print_verdicts(verdicts, wide, everything=reports.everything)
    if console.quiet:
        say(write_outcome(verdicts))
    raise EndOfCommand(verdicts.exit_code)


def read_pairs(given: list[str] | None) -> dict[str, str]:
    """Return the NEW=OLD pairs of --as as {new: old}."""
    pairs = [pair.partition("=") for pair in given or []]
    for new, sign, old in pairs:
        if not (new and sign and old):
            raise BenchError(
                f"--as is {new + sign + old!r}; write NEW=OLD, the run's model and the baseline's."
            )
    return {new: old for new, _, old in pairs}

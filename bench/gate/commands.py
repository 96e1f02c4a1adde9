"""`cambench baseline` and `cambench check`: thin calls of the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.errors import BenchError
from bench.terminal import console, errors, say, stoppable

LOG_WIDTH = 160
"""Columns where the output is no terminal."""


def register(app: typer.Typer) -> None:
    """Add the gate's commands to the command line."""
    app.command(
        epilog="**Example**  \n`cambench baseline runs/scenes-val --out baseline.parquet`",
    )(baseline)
    app.command(
        epilog="""**Examples**

- `cambench check runs/scenes-val --against baseline.parquet --junit gate.xml --summary "$GITHUB_STEP_SUMMARY"`

- `cambench check runs/tuned --against leaderboards/scenes --as resnet-mine=resnet-scenes --margin 0.1`
"""
    )(check)
    app.command("gate-rates", hidden=True)(gate_rates)


def baseline(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a committed board.")],
    out: Annotated[Path, typer.Option(help="Baseline file to write (parquet).")],
    values: Annotated[
        str, typer.Option("--metrics", help="Values to keep: names, ranked, all, wildcards; -NAME leaves out.")
    ] = "ranked",
) -> None:
    """Keep a run's values in one small file, for `cambench check` to judge later runs by."""
    from bench.gate.baseline import load_baseline, save_baseline

    made = load_baseline(folder).chosen(values)
    save_baseline(made, out)
    cells = len(made.frame.drop_duplicates(["subset", "model", "method", "metric"]))
    size = out.stat().st_size / 1024
    items = made.frame["item"].nunique()
    say(f"{out}: {cells} cells (subset, model, method, value) on {items} items, {size:.0f} KiB.")


def check(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run to judge.")],
    against: Annotated[Path, typer.Option(help="File of `cambench baseline`, or a committed board's folder.")],
    margin: Annotated[
        float, typer.Option(help="Share of the baseline's distance from random that may be lost.")
    ] = 0.05,
    alpha: Annotated[float, typer.Option(help="Chance of any false regression, over all cells.")] = 0.01,
    miss: Annotated[float, typer.Option(help="Chance that a cell that lost just the margin is called fine.")] = 0.05,
    values: Annotated[
        str, typer.Option("--metrics", help="Values to judge: names, ranked, all, wildcards; -NAME leaves out.")
    ] = "ranked",
    models: Annotated[
        str, typer.Option(help="The baseline's models to judge: names, wildcards; -NAME leaves out.")
    ] = "*",
    methods: Annotated[
        str, typer.Option(help="The baseline's methods to judge: names, wildcards; -NAME leaves out.")
    ] = "*",
    stands_for: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="NEW=OLD", help="Judge the run's model NEW as the baseline's OLD (repeatable)."),
    ] = None,
    other_seed: Annotated[
        bool, typer.Option("--other-seed", help="Let the run have another seed than the baseline.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Markdown file to append a summary to.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show the cells that are the same, too.")] = False,
) -> None:
    """Judge a run by a baseline: exit code 0 fine, 1 regression, 2 could not judge (or bad input).

    Every value of every method is compared on the same images; docs/gate.md says how.
    """
    from bench.gate.baseline import load_baseline, load_run
    from bench.gate.judge import Rules, judge
    from bench.gate.report import print_verdicts, write_junit, write_markdown

    rules = Rules(margin, alpha, miss)
    old = load_baseline(against).chosen(values, models, methods)
    new_names = names(stands_for)
    run = load_run(folder, old, new_names).renamed(new_names)
    verdicts = judge(old, run, rules, other_seed=other_seed)
    if junit is not None:
        write_junit(verdicts, junit)
    if summary is not None:
        write_markdown(verdicts, summary)
    # A log of CI has no width of its own, and can take long lines.
    wide = console if console.is_terminal else Console(width=max(console.width, LOG_WIDTH))
    print_verdicts(verdicts, wide, everything=everything)
    raise typer.Exit(verdicts.exit_code)


def gate_rates(
    out: Annotated[Path, typer.Option(help="Folder for error-rates.md and error-rates.csv.")],
    work: Annotated[Path, typer.Option(help="Folder for the runs; goes on where it stopped.")] = Path(
        "runs/gate-rates"
    ),
    limit: Annotated[int | None, typer.Option(help="Images of each run [default: the tier's].", min=20)] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of each null.", min=1)] = 2000,
) -> None:
    """Measure the gate's error rates: resampled nulls, healthy re-runs, planted defects. About an hour on two cores."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bench.gate.rates import Study, measure, write_rates

    study = Study(work, limit, resamples)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    words = f"Stopped; {work} keeps what is done. Start the same command again to go on."
    with stoppable(words), Progress(*columns, console=errors, refresh_per_second=2) as bar:
        shown = bar.add_task("starting")

        def tick(what: str, done: int, total: int) -> None:
            bar.update(shown, completed=done, total=total, description=what)
            if not errors.is_terminal:
                say(f"{done}/{total} {what}")

        found = measure(study, tick)
    write_rates(found, study, out)
    say(f"Error rates: {out / 'error-rates.md'}")


def names(given: list[str] | None) -> dict[str, str]:
    """Read NEW=OLD pairs."""
    pairs = [pair.partition("=") for pair in given or []]
    for new, sign, old in pairs:
        if not (new and sign and old):
            raise BenchError(f"--as is {new + sign + old!r}; write NEW=OLD, the run's model and the baseline's.")
    return {new: old for new, _, old in pairs}

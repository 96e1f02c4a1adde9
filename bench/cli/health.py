"""`cambench health`: check the metrics themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import JUDGE, DataRootOption, DeviceOption, PluginOption, RunArgument
from bench.cli.output import command_line, say, stoppable
from bench.cli.registration import command
from bench.errors import BenchError
from bench.progress import show_steps

if TYPE_CHECKING:
    from bench.health.findings import Health

EPILOG = """**Examples**

- `cambench health runs/scenes-val` - about ten minutes on the default run

- `cambench health leaderboards/scenes --stored` - from stored records alone, in seconds

- `cambench health runs/mine --limit 50 --methods grad_cam,layer_cam,random --plugin mine.py`
"""


@command(panel=JUDGE, epilog=EPILOG, long=True)
def health(
    folder: RunArgument,
    limit: Annotated[
        int,
        typer.Option(help="Images of the sample for new forwards; 0 for all of the run.", min=0),
    ] = 12,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods of the sample [default: eight quick ones of the run, and random]."
        ),
    ] = None,
    ladder: Annotated[
        int,
        typer.Option(
            help="Images of the degradation ladder, and three times as many for metrics that run "
            "few forwards; 0 leaves it out.",
            min=0,
        ),
    ] = 10,
    stored: Annotated[
        bool, typer.Option("--stored", help="Check stored records only: no image, no model.")
    ] = False,
    data_root: DataRootOption = None,
    device: DeviceOption = "cpu",
    plugin: PluginOption = None,
) -> None:
    """Check the metrics themselves: does each one separate maps that are known to differ?

    The command writes RUN/health.json and RUN/health/. Boards mark the metrics that fail. A second
    start goes on where the first stopped.
    """
    from bench.cli.plans import load_plugins
    from bench.health.report import examine
    from bench.methods import METHODS

    load_plugins(plugin)

    chosen = None if methods is None else METHODS.select(methods)
    what = (
        "stored records only"
        if stored
        else f"{limit or 'all'} images per model, planted nets, other choices and a ladder of "
        f"{ladder} images"
    )
    say(
        f"{folder}: metric health from {what}. The report goes to "
        f"{folder / 'health' / 'health.md'}."
    )
    words = (
        f"Stopped; finished parts are kept in {folder / 'health'}. Start the same command "
        "again to go on."
    )
    with stoppable(words), show_steps() as report:
        found = examine(
            folder,
            limit,
            chosen,
            data_root,
            forwards=not stored,
            command=command_line(),
            device=device,
            say=report,
            ladder=ladder,
            announce=print_work,
        )
    print_gains(found)
    print_failures(found)
    say(f"Report: {folder / 'health' / 'health.md'}; `cambench board {folder}` marks what fails.")


def print_gains(found: Health) -> None:
    """Print what trivial transforms of maps gain, and what it took to find out."""
    from bench.health.transform_gains import describe_gains

    for sentence in describe_gains(found.gains):
        say(sentence)
    if found.gain_forwards:
        say(f"The transformed maps took {found.gain_forwards:,} forwards.")


def print_work(sentence: str) -> None:
    """Print what the degradation ladder is about to run, where it is not done."""
    if sentence:
        say(sentence)


def print_failures(found: Health) -> None:
    """Print what fails, in sentences, and how many metrics pass."""
    for note in dict.fromkeys(found.notes):
        say(f"! {note}", style="yellow")
    judged = [v for v in found.verdicts if v.passes is not None]
    if not judged:
        raise BenchError(
            "No metric of this run could be judged; add oracle, random and center_gaussian to the "
            "run."
        )
    for verdict in found.list_failing():
        kind = "" if verdict.ranked else " (reported, not ranked)"
        say(
            f"fail: {verdict.subset}, {verdict.model}: {verdict.metric}{kind} "
            f"{'; '.join(verdict.reasons[:2])}"
        )
    say(f"{sum(v.passes is True for v in judged)} of {len(judged)} metrics pass, over all models.")

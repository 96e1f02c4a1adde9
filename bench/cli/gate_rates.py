"""`cambench gate-rates`: measure the gate's own error rates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.output import say, stoppable
from bench.cli.registration import command
from bench.folder_owner import own_folder
from bench.progress import show_steps


@command(hidden=True, long=True)
def gate_rates(
    out: Annotated[Path, typer.Option(help="Folder for error-rates.md and error-rates.csv.")],
    work: Annotated[
        Path, typer.Option(help="Folder for the runs; goes on where it stopped.")
    ] = Path("runs/gate-rates"),
    limit: Annotated[
        int | None, typer.Option(help="Images of each run [default: the tier's].", min=20)
    ] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of each null.", min=1)] = 2000,
) -> None:
    """Measure the gate's error rates: resampled nulls, healthy re-runs, planted defects. About an
    hour on two cores.
    """
    from bench.gate.rates import Study, measure
    from bench.gate.rates_page import write_rates

    study = Study(work, limit, resamples)
    words = f"Stopped; {work} keeps what is done. Start the same command again to go on."
    with (
        stoppable(words),
        own_folder(work, "study"),
        own_folder(out, "study"),
        show_steps() as report,
    ):
        found = measure(study, report)
        write_rates(found, study, out)
    say(f"Error rates: {out / 'error-rates.md'}")

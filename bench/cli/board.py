"""`cambench board`: rebuild the board of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import (
    BENCHMARK,
    PartialOption,
    RunArgument,
    VerboseOption,
)
from bench.cli.paper_table import PaperOptions, print_paper_table
from bench.cli.registration import command
from bench.errors import BenchError


@command(panel=BENCHMARK, long=True)
def board(
    folder: RunArgument,
    paper: PaperOptions,
    publish: Annotated[
        Path | None, typer.Option(help="Write a board to commit: one records file, tables, plots.")
    ] = None,
    leave_out: Annotated[
        str,
        typer.Option(help="Metrics whose records stay out of the published board: names."),
    ] = "",
    image_curves: Annotated[
        bool,
        typer.Option(
            "--image-curves",
            help="Publish the curves of every image, not those of the gallery's images alone.",
        ),
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(help="The protocol that the run must be of; any other is an error."),
    ] = None,
    partial: PartialOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Rebuild every table and plot from the records of a run; no images or models are needed.

    With --columns or another option of a table for a paper, print that table alone. The run's
    folder stays as it is:

    - `cambench board runs/mine --columns deletion,insertion --reference mine --names names.toml`
    """
    from bench.cli.running import say_board, show_board
    from bench.records.store import check_protocol

    if protocol is not None:
        check_protocol(folder, protocol)
    names = [name.strip() for name in leave_out.split(",") if name.strip()]
    if (names or image_curves) and publish is None:
        option = "--leave-out" if names else "--image-curves"
        raise BenchError(f"{option} chooses what is published; add --publish FOLDER.")
    if paper.given:
        if publish is not None:
            raise BenchError("--publish writes a board and no table for a paper; use one of them.")
        print_paper_table(folder, paper)
        return
    show_board(
        folder,
        publish,
        partial=partial,
        leave_out=names,
        image_curves=image_curves,
        verbose=verbose,
    )
    say_board(publish or folder)

"""`cambench merge`: make one run of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import BENCHMARK, VerboseOption
from bench.cli.output import say
from bench.cli.registration import command

EPILOG = """**Examples**

- `cambench merge runs/shard-* --out runs/all` - the shards of `cambench run --shard I/N --out
  runs/shard-I`

- `cambench merge runs/resnet runs/vit --out runs/both` - runs of other models under the same
  protocol
"""


@command(panel=BENCHMARK, epilog=EPILOG, long=True)
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the merged run; a merge that is there already grows.")
    ],
    verbose: VerboseOption = False,
) -> None:
    """Merge runs into one, and make its board.

    Merge the shards of one run, or runs of other models, methods or metrics. The runs must agree
    in protocol, images, weights, methods and metrics. A row that several runs hold is kept once.
    """
    from bench.cli.running import say_board, show_board
    from bench.records.left_out import list_missing_shards
    from bench.records.merge import merge_runs

    records = merge_runs(runs, out)
    missing = list_missing_shards(records.provenance)
    if missing:
        say(
            f"Shards are missing: {', '.join(missing)}; merge them into {out} when they are "
            "finished.",
            "yellow",
        )
    show_board(out, verbose=verbose)
    say_board(out)

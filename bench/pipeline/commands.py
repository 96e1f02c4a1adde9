"""`cambench merge`, and the options of `cambench run` that say where it runs."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import BenchError
from bench.terminal import errors, say

if TYPE_CHECKING:
    from bench.pipeline.executors import Executor


class Where(StrEnum):
    """Where the tasks of a run are computed."""

    local = "local"
    ray = "ray"


ExecutorOption = Annotated[Where, typer.Option("--executor", help="Compute in this process, or on a Ray cluster.")]
AddressOption = Annotated[
    str | None, typer.Option(help="With ray: HOST:PORT of the head node, or auto [default: a cluster of this machine].")
]
WorkersOption = Annotated[
    int | None, typer.Option(help="With ray: workers [default: one per GPU or core group of the cluster].", min=1)
]
ThreadsOption = Annotated[
    int | None, typer.Option(help="With ray: cores per worker [default: 1; with a GPU up to 8].", min=1)
]
ShardOption = Annotated[
    str | None, typer.Option(help="I/N: the I-th of N runs that share the tasks; see `cambench merge`.")
]


def chosen_executor(where: Where, address: str | None, workers: int | None, threads: int | None) -> Executor | None:
    """Return the executor that a command line asks for; None is this process."""
    if where is Where.local:
        given = {"--address": address, "--workers": workers, "--threads-per-worker": threads}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise BenchError(f"{unused[0]} is for --executor ray; add that, or leave {unused[0]} out.")
        return None
    from bench.pipeline.executors import RayExecutor

    def note(sentence: str) -> None:
        errors.print(f"! {sentence}", style="yellow", highlight=False, soft_wrap=True, markup=False)

    return RayExecutor(address, workers, threads, note=note)


def add_merge(app: typer.Typer, show_board: Callable[[Path], None]) -> None:
    """Add the command `merge`; show_board(folder) makes the board of a run, which this package knows nothing of."""

    @app.command(
        epilog="""**Examples**

- `cambench merge runs/shard-* --out runs/all` - the shards of `cambench run --shard I/N --out runs/shard-I`

- `cambench merge runs/resnet runs/vit --out runs/both` - runs of other models under the same protocol
"""
    )
    def merge(
        runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
        out: Annotated[Path, typer.Option(help="Folder of the merged run; a merge that is there already grows.")],
    ) -> None:
        """Merge runs into one, and make its board: shards of one run, or runs of other models, methods or metrics.

        They must agree in protocol, images, weights, methods and metrics; rows that are in several are kept once.
        """
        from bench.pipeline.merge import merge_runs, missing_shards

        records = merge_runs(runs, out)
        missing = missing_shards(records.provenance)
        if missing:
            say(f"Shards are missing: {', '.join(missing)}; merge them into {out} when they are finished.", "yellow")
        show_board(out)

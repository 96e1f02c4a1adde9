"""`cambench baseline`: keep a run's values for `cambench check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import JUDGE, PartialOption, RunArgument
from bench.cli.output import say, warn
from bench.cli.registration import command
from bench.folder_owner import own_file


@command(
    panel=JUDGE, epilog="**Example**  \n`cambench baseline runs/scenes-val --out baseline.parquet`"
)
def baseline(
    folder: RunArgument,
    out: Annotated[Path, typer.Option(help="Baseline file to write (parquet).")],
    values: Annotated[
        str,
        typer.Option(
            "--metrics", help="Values to keep: names, ranked, all, wildcards; -NAME leaves out."
        ),
    ] = "ranked",
    partial: PartialOption = False,
) -> None:
    """Keep a run's values in one small file, for `cambench check` to judge later runs by."""
    from bench.board.partial_runs import refuse_sentences
    from bench.gate.baseline import load_baseline, save_baseline
    from bench.records.planned_work import PARTIAL

    with own_file(out, "baseline"):
        made = load_baseline(folder).choose(values)
        said = made.facts.get(PARTIAL, [])
        if not partial:
            refuse_sentences(said, folder, "keep it")
        for sentence in said:
            warn(sentence)
        save_baseline(made, out)
    cells = len(made.frame.drop_duplicates(["subset", "model", "method", "metric"]))
    size = out.stat().st_size / 1024
    items = made.frame["item"].nunique()
    say(f"{out}: {cells} cells (subset, model, method, value) on {items} items, {size:.0f} KiB.")

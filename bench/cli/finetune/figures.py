"""`cambench finetune figures`: the three figures of guided fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli.finetune.options import open_subset
from bench.cli.options import DataRootOption
from bench.cli.output import say
from bench.cli.registration import command
from bench.files import file_name

EPILOG = (
    "**Example**  \n`cambench finetune figures abn-scenes "
    "runs/finetune/abn-scenes-guided/abn-scenes-guided.json --maps maps`"
)


@command(epilog=EPILOG)
def figures(
    parent: Annotated[
        str, typer.Argument(help="Attention Branch Network that the maps were edited on.")
    ],
    tuned: Annotated[str, typer.Argument(help="What `cambench finetune guided` made of it.")],
    maps: Annotated[Path, typer.Option(help="Folder of the edited maps.")],
    subset: Annotated[
        str | None,
        typer.Option(help="Images that the maps are of [default: the subset that they name]."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Images in the figure of maps.", min=1)] = 6,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the figures [default: runs/figures/TUNED]."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Draw what edited maps taught a network: maps side by side, channel bars, what changed.

    figures.md beside the three figures says in words what each one shows.
    """
    from bench.finetune.attention_maps import load_maps
    from bench.finetune.guided_figures import compare_guided, describe_figures, write_figures

    edited = load_maps(maps)
    images = open_subset(subset or str(edited[0].facts["subset"]), data_root)
    found = compare_guided(bench.load_model(parent), bench.load_model(tuned), edited, images)
    for text in describe_figures(found, rows).values():
        say(text)
    folder = out or Path("runs") / "figures" / file_name(found.tuned, "-")
    say(f"Figures: {', '.join(str(path) for path in write_figures(found, folder, rows))}")

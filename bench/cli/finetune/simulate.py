"""`cambench finetune simulate`: attention maps where no person draws any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli.finetune.options import open_subset
from bench.cli.options import DataRootOption, DeviceOption
from bench.cli.output import say, stoppable
from bench.cli.registration import command
from bench.errors import BenchError
from bench.progress import show_images

EPILOG = (
    "**Example**  \n`cambench finetune simulate --model abn-scenes --subset scenes-train "
    "--out maps/simulated`"
)


@command(epilog=EPILOG, long=True)
def simulate(
    model: Annotated[
        str, typer.Option(help="Model with an attention branch: bundled name or card file.")
    ],
    subset: Annotated[
        str,
        typer.Option(help="Images with boxes or masks; NAME[start:stop] is a part of a subset."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the simulated maps; simulated ones there are replaced.")
    ],
    share: Annotated[
        float, typer.Option(help="Share of the images right in class that get a simulated map.")
    ] = 0.1,
    soft: Annotated[
        float | None,
        typer.Option(help="Soft edge, standard deviation in pixels [default: 1/24 of the side]."),
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="boxes or masks [default: masks where there are any].")
    ] = None,
    misplaced: Annotated[
        bool,
        typer.Option(
            "--misplaced",
            help="Only images wrong in place: less than half of the map on the object.",
        ),
    ] = False,
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
) -> None:
    """Write simulated attention maps, from boxes or masks with soft edges, where no person draws
    any.

    Guided fine-tuning reads them as it reads maps drawn with `cambench edit`; each one is marked
    as simulated.
    """
    from bench.finetune.simulate import KINDS, simulate_maps

    if truth is not None and truth not in KINDS:
        raise BenchError(
            f"Maps cannot be simulated from {truth!r}; choose one of {', '.join(KINDS)}."
        )
    loaded = bench.load_model(model).to(device)
    images = open_subset(subset, data_root)
    words = "Stopped; some simulated maps may be written."
    with stoppable(words), show_images(f"{images.name}, {loaded.name}") as report:
        done = simulate_maps(loaded, images, out, share, soft, truth, misplaced, report)
    say(str(done))

"""`cambench finetune channels`: which classes' channels make an attention map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli.options import DataRootOption
from bench.cli.output import say
from bench.cli.registration import command
from bench.errors import BenchError
from bench.files import file_name

EPILOG = (
    "**Example**  \n`cambench finetune channels abn-scenes abn-scenes-guided --subset "
    "scenes-val --limit 200`"
)


@command(epilog=EPILOG)
def channels(
    before: Annotated[str, typer.Argument(help="Attention branch network before fine-tuning.")],
    after: Annotated[str, typer.Argument(help="The same after it.")],
    subset: Annotated[
        str | None, typer.Option(help="Images on which the strongest channels are taken away.")
    ] = None,
    top: Annotated[str, typer.Option(help="How many of them, comma separated.")] = "1,3,5",
    limit: Annotated[int, typer.Option(help="Images of --subset; 0 for all.", min=0)] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for chart and tables [default: runs/channels/AFTER]."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Show which classes' channels make the attention map, before and after fine-tuning."""
    from bench.cli.plans import choose_pasted
    from bench.finetune.channels import compare_channels, write_channels

    counts = [part.strip() for part in top.split(",") if part.strip()]
    if not all(part.isdigit() for part in counts):
        raise BenchError(f"--top is {top!r}; give whole numbers, such as 1,3,5.")
    images = (
        None
        if subset is None
        else bench.load_subset(subset, limit=limit or None, data_root=data_root)
    )
    first = bench.load_model(before)
    if images is not None:  # pastes that the first network chooses: the same for both
        images = choose_pasted(images, [first])
    found = compare_channels(first, bench.load_model(after), images, [int(n) for n in counts])
    say(str(found))
    folder = out or Path("runs") / "channels" / file_name(found.after, "-")
    for row in found.ablation.to_dict("records"):
        say(
            f"{row['model']} without its {row['removed']} strongest: top-1 {row['top1']:.1f} %, "
            f"energy inside the truth {row['energy']:.3f}, map changed by {row['change']:.3f}"
        )
    say(f"Chart and tables: {', '.join(str(path) for path in write_channels(found, folder))}")

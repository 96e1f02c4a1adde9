"""`cambench finetune guided`: teach an Attention Branch Network where to look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli.finetune.options import (
    DATA,
    RECIPE,
    DecayOption,
    EpochsOption,
    RateOption,
    StepOption,
    TrainingOptions,
    open_subset,
    say_card,
    show_training,
)
from bench.cli.output import say, warn
from bench.cli.registration import command

EPILOG = (
    "**Example**  \n`cambench finetune guided --model abn-scenes --maps maps/abn-scenes "
    "--scope all`"
)


@dataclass(frozen=True, kw_only=True)
class GuidedOptions(TrainingOptions):
    """The options of guided fine-tuning."""

    validation: Annotated[
        str | None,
        typer.Option(
            help="Held-out images to measure on [default: those without a map].",
            rich_help_panel=DATA,
        ),
    ] = None
    epochs: EpochsOption = 20
    batch_size: StepOption = 16
    lr: RateOption = 3e-3
    weight_decay: DecayOption = 0.0
    scope: Annotated[
        str,
        typer.Option(
            help="What learns: all of the attention branch; final, its last convolution alone "
            "(the paper's); map_head, that and its batch norm.",
            rich_help_panel=RECIPE,
        ),
    ] = "all"
    objective: Annotated[
        str,
        typer.Option(
            help="mse of the maps, or mitsuhara: both heads' losses and maps.",
            rich_help_panel=RECIPE,
        ),
    ] = "mse"
    gamma: Annotated[
        float,
        typer.Option(
            help="Weight of the maps' distance in mitsuhara.",
            min=0,
            max=1e6,
            rich_help_panel=RECIPE,
        ),
    ] = 1.0
    norms: Annotated[
        str,
        typer.Option(
            help="Batch norms that learn use batch or running statistics.", rich_help_panel=RECIPE
        ),
    ] = "batch"


@command(epilog=EPILOG, long=True)
def guided(
    model: Annotated[
        str,
        typer.Option(
            help="Attention Branch Network that the maps were edited on.", rich_help_panel=RECIPE
        ),
    ],
    maps: Annotated[
        Path,
        typer.Option(
            help="Folder of edited maps (`cambench edit`, `cambench finetune simulate`).",
            rich_help_panel=DATA,
        ),
    ],
    options: GuidedOptions,
    subset: Annotated[
        str | None,
        typer.Option(
            help="Images that the maps are of [default: the subset that they name].",
            rich_help_panel=DATA,
        ),
    ] = None,
) -> None:
    """Teach an Attention Branch Network where to look, by edited attention maps."""
    from bench.finetune.attention_maps import load_maps
    from bench.finetune.guided_attention import Guidance, describe_final, train_guided

    parent, edited = bench.load_model(model).to(options.device), load_maps(maps)
    name = options.name or f"{parent.name}-guided"
    images = open_subset(subset or str(edited[0].facts["subset"]), options.data_root)
    guidance = Guidance(
        options.scope,  # type: ignore[arg-type]
        options.objective,  # type: ignore[arg-type]
        options.gamma,
        norms=options.norms,  # type: ignore[arg-type]
    )
    if note := describe_final(parent, guidance):
        warn(note)
    with show_training(options.choose_folder(name)) as progress:
        done = train_guided(parent, edited, options.make_training(images, name, progress), guidance)
    for line in done.lines():
        say(line)
    say_card(done.card)

"""`cambench finetune sa`: train SA-CAM's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

import bench
from bench.cli.finetune.options import (
    RECIPE,
    DecayOption,
    EpochsOption,
    ModelOption,
    PatienceOption,
    RateOption,
    SubsetOption,
    TrainingOptions,
    open_subset,
    say_card,
    show_training,
)
from bench.cli.registration import command

EPILOG = (
    "**Example**  \n`cambench finetune sa --model resnet-scenes --subset scenes-train --epochs 2`"
)


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(TrainingOptions):
    """The options of SA-CAM's attention."""

    epochs: EpochsOption = 10
    lr: RateOption = 1e-3
    weight_decay: DecayOption = 0.0
    patience: PatienceOption = 3
    strength: Annotated[
        float,
        typer.Option(
            "--lambda", help="How much the attention adds.", min=0, max=1e6, rich_help_panel=RECIPE
        ),
    ] = 1.0
    width: Annotated[
        int | None,
        typer.Option(
            help="Channels of queries and keys [default: K/8].",
            min=1,
            max=100_000,
            rich_help_panel=RECIPE,
        ),
    ] = None


@command(epilog=EPILOG, long=True)
def sa(model: ModelOption, subset: SubsetOption, options: AttentionOptions) -> None:
    """Train the queries and keys of SA-CAM's attention; the classifier stays as it is."""
    from bench.finetune.sa_training import train_self_attention

    parent = bench.load_model(model).to(options.device)
    name = options.name or f"{parent.name}-sa"
    with show_training(options.choose_folder(name)) as progress:
        card = train_self_attention(
            parent,
            options.make_training(open_subset(subset, options.data_root), name, progress),
            strength=options.strength,
            width=options.width,
        )
    say_card(card)

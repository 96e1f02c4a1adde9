"""`cambench finetune abn`: train an Attention Branch Network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from bench.cli.finetune.options import (
    RECIPE,
    DecayOption,
    EpochsOption,
    RateOption,
    ShiftOption,
    SmoothingOption,
    SubsetOption,
    TrainingOptions,
    open_subset,
    say_card,
    show_training,
)
from bench.cli.registration import command
from bench.files import file_name

EPILOG = (
    "**Example**  \n`cambench finetune abn --backbone resnet-scenes --subset scenes-train "
    "--validation scenes-val --epochs 12`"
)


@dataclass(frozen=True, kw_only=True)
class BranchOptions(TrainingOptions):
    """The options of an Attention Branch Network."""

    epochs: EpochsOption = 30
    lr: RateOption = 2e-3
    weight_decay: DecayOption = 0.05
    map_kernel: Annotated[
        int,
        typer.Option(
            help="Side of the convolution that makes the map: 3 or 1.", rich_help_panel=RECIPE
        ),
    ] = 3
    shift: ShiftOption = 0.0
    label_smoothing: SmoothingOption = 0.02


@command(epilog=EPILOG, long=True)
def abn(
    backbone: Annotated[
        str,
        typer.Option(
            help="Trained model to start from, or bundled architecture or timm name (random "
            "weights).",
            rich_help_panel=RECIPE,
        ),
    ],
    subset: SubsetOption,
    options: BranchOptions,
) -> None:
    """Train an Attention Branch Network, whose attention map weights what its last stage sees."""
    from bench.finetune.abn_training import train_abn
    from bench.finetune.augment import Augmentation

    name = options.name or f"abn-{file_name(backbone, '-')}"
    with show_training(options.choose_folder(name)) as progress:
        card = train_abn(
            backbone,
            options.make_training(open_subset(subset, options.data_root), name, progress),
            map_kernel=options.map_kernel,  # type: ignore[arg-type]
            augmentation=Augmentation(shift=options.shift),
            label_smoothing=options.label_smoothing,
            device=options.device,
        )
    say_card(card)

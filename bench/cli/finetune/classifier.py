"""`cambench finetune classifier`: train a plain classifier."""

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
    "**Example**  \n`cambench finetune classifier --backbone resnet_small --subset "
    "tiny-imagenet-20-train "
    "--validation tiny-imagenet-20 --data-root DATA --epochs 30`"
)


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(TrainingOptions):
    """The options of a training from scratch."""

    epochs: EpochsOption = 30
    lr: RateOption = 2e-3
    weight_decay: DecayOption = 0.05
    shift: ShiftOption = 0.0
    label_smoothing: SmoothingOption = 0.02


@command(epilog=EPILOG, long=True)
def classifier(
    backbone: Annotated[
        str,
        typer.Option(
            help="Bundled architecture, timm name (random weights) or card file.",
            rich_help_panel=RECIPE,
        ),
    ],
    subset: SubsetOption,
    options: ClassifierOptions,
) -> None:
    """Train a plain classifier: the original that the other recipes start from."""
    from bench.finetune.augment import Augmentation
    from bench.finetune.classifier import train_classifier

    name = options.name or f"{backbone}-{file_name(subset, '-')}"
    with show_training(options.choose_folder(name)) as progress:
        card = train_classifier(
            backbone,
            options.make_training(open_subset(subset, options.data_root), name, progress),
            augmentation=Augmentation(shift=options.shift),
            label_smoothing=options.label_smoothing,
            device=options.device,
        )
    say_card(card)

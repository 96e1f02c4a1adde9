"""`cambench finetune masked`: train a sister network on masked images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from bench.cli.finetune.options import (
    DATA,
    RECIPE,
    DecayOption,
    EpochsOption,
    ModelOption,
    RateOption,
    SubsetOption,
    TrainingOptions,
    open_subset,
    say_card,
    show_training,
)
from bench.cli.model_arguments import ModelArgsOption, NumClassesOption, read_arguments
from bench.cli.output import say
from bench.cli.registration import command
from bench.files import file_name

EPILOG = """**Examples**

- `cambench finetune masked --model resnet-scenes --subset scenes-train --validation scenes-val`

- `cambench run --models resnet-scenes --metrics masked --sister
  runs/finetune/resnet-scenes-masked/resnet-scenes-masked.json`
"""


@dataclass(frozen=True, kw_only=True)
class SisterOptions(TrainingOptions):
    """The options of a sister's training."""

    epochs: EpochsOption = 4
    lr: RateOption = 1e-3
    weight_decay: DecayOption = 0.0
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of the model: a file, or 'pretrained'.", rich_help_panel=RECIPE),
    ] = None
    num_classes: NumClassesOption = None
    model_args: ModelArgsOption = None
    limit: Annotated[
        int, typer.Option(help="Training images; 0 for all.", min=0, rich_help_panel=DATA)
    ] = 0


@command(epilog=EPILOG, long=True)
def masked(model: ModelOption, subset: SubsetOption, options: SisterOptions) -> None:
    """Train a sister: a copy of a network that answers on masked images as it did on whole ones.

    The metrics of group masked run the sister, so that a network is asked about images that it has
    seen the like of.
    """
    from bench.finetune.masked_training import train_masked
    from bench.models import load_model

    arguments = read_arguments(options.num_classes, options.model_args)
    parent = load_model(model, weights=options.weights, **arguments).to(options.device)
    name = options.name or f"{file_name(parent.name, '-')}-masked"
    images = open_subset(subset, options.data_root)
    images = images.limit(options.limit) if options.limit else images
    with show_training(options.choose_folder(name)) as progress:
        card = train_masked(parent, options.make_training(images, name, progress))
    say_card(card)
    say(f"Its parent {parent.name} finds it with `cambench run --metrics masked --sister {card}`.")

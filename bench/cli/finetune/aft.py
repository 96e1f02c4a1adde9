"""`cambench finetune aft`: activation fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.finetune.options import (
    DATA,
    RECIPE,
    TRAINING,
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
from bench.cli.output import say, warn
from bench.cli.registration import command
from bench.files import file_name

if TYPE_CHECKING:
    from bench.finetune.aft import AftRecipe

EPILOG = """**Examples**

- `cambench finetune aft --model resnet-scenes --subset scenes-train --validation scenes-val`

- `cambench finetune aft --model mobilenetv2_100 --weights FILE --subset "ilsvrc-sample-1k[:500]"`

- `cambench finetune aft --model resnet-scenes --subset scenes-train --control shuffled` - what
  masks of others do
"""


@dataclass(frozen=True, kw_only=True)
class TunerOptions(TrainingOptions):
    """The options of activation fine-tuning."""

    epochs: EpochsOption = 6
    lr: RateOption = 5e-3
    weight_decay: DecayOption = 0.05
    method: Annotated[
        str, typer.Option(help="Method whose maps TFT cuts.", rich_help_panel=RECIPE)
    ] = "grad_cam"
    scope: Annotated[
        str,
        typer.Option(
            help="tuner: the network is frozen; full: it is trained too, slowly.",
            rich_help_panel=RECIPE,
        ),
    ] = "tuner"
    weight: Annotated[
        float,
        typer.Option(
            "--lambda", help="Weight of the mask term.", min=0, max=1e6, rich_help_panel=RECIPE
        ),
    ] = 3.0
    select: Annotated[
        str, typer.Option(help="How t* is chosen: official, logodds, auto.", rich_help_panel=RECIPE)
    ] = "auto"
    control: Annotated[
        str,
        typer.Option(
            help="In the masks' place: none, lambda0, random, shuffled, fixed (t = 5).",
            rich_help_panel=RECIPE,
        ),
    ] = "none"
    mu: Annotated[
        float,
        typer.Option(
            help="Weight of the divergence from the original's predictions.",
            min=0,
            max=1e6,
            rich_help_panel=RECIPE,
        ),
    ] = 0.0
    target: Annotated[
        str,
        typer.Option(
            help="What the mask term compares: activations, rescaled, channel_mean.",
            rich_help_panel=RECIPE,
        ),
    ] = "rescaled"
    extra_masked: Annotated[
        bool,
        typer.Option(
            "--extra-masked", help="Masked images are further examples.", rich_help_panel=RECIPE
        ),
    ] = False
    reduction: Annotated[
        int,
        typer.Option(
            help="Channels per channel inside the tuner.",
            min=1,
            max=100_000,
            rich_help_panel=RECIPE,
        ),
    ] = 8
    backbone_rate: Annotated[
        float,
        typer.Option(
            help="Of --lr, for the network under full.", min=0, max=1000, rich_help_panel=TRAINING
        ),
    ] = 0.03
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of the model: a file, or 'pretrained'.", rich_help_panel=RECIPE),
    ] = None
    num_classes: NumClassesOption = None
    model_args: ModelArgsOption = None
    limit: Annotated[
        int, typer.Option(help="Training images; 0 for all.", min=0, rich_help_panel=DATA)
    ] = 0

    def make_recipe(self) -> AftRecipe:
        """Return the recipe of these options."""
        from bench.finetune.aft import AftRecipe

        return AftRecipe(
            method=self.method,
            scope=self.scope,
            weight=self.weight,
            select=self.select,
            control=self.control,
            mu=self.mu,
            target=self.target,
            extra_masked=self.extra_masked,
            backbone_rate=self.backbone_rate,
            reduction=self.reduction,
        )


@command(epilog=EPILOG, long=True)
def aft(model: ModelOption, subset: SubsetOption, options: TunerOptions) -> None:
    """Activation fine-tuning: a tuner learns the activations that a search for a threshold (TFT)
    would leave.

    The masks are made once by the original model, on the images that it classifies correctly, and
    kept on disk.
    """
    from bench.finetune.aft import train_aft
    from bench.models import load_model

    arguments = read_arguments(options.num_classes, options.model_args)
    chosen = load_model(model, weights=options.weights, **arguments).to(options.device)
    name = options.name or f"{file_name(chosen.name, '-')}-aft"
    images = open_subset(subset, options.data_root)
    images = images.limit(options.limit) if options.limit else images
    recipe = options.make_recipe()
    with show_training(options.choose_folder(name)) as progress:
        card = train_aft(
            chosen,
            options.make_training(images, name, progress),
            recipe,
            progress=lambda done, total: progress.step(done, total, "TFT masks"),
            warn=warn,
        )
    say_masks(card)
    say_card(card)


def say_masks(card: Path) -> None:
    """Print how many images a mask guides, and on how many of them it cuts nothing."""
    from bench.models.card_keys import read_card

    facts = next(iter(read_card(card).values())).get("masks")
    if facts:
        say(describe_masks(facts))


def describe_masks(facts: Mapping[str, Any]) -> str:
    """Return what a card says of the masks, for a reader who knows no symbols.

    >>> print(describe_masks({"images": 540, "correct": 300, "with_mask": 264, "select": "official",
    ...                       "share_t0_official": 0.25}))  # doctest: +NORMALIZE_WHITESPACE
    A mask guided 264 of the 540 training images: the original is right on 300 of them, and its map
    is not empty on 264. On 25.0 % of these, no threshold was better than none (rule: official), so
    the mask keeps the whole map.
    """
    uncut = facts[f"share_t0_{facts['select']}"]
    return (
        f"A mask guided {facts['with_mask']} of the {facts['images']} training images: the "
        f"original is right on {facts['correct']} of them, and its map is not empty on "
        f"{facts['with_mask']}. On {100 * uncut:.1f} % of these, no threshold was better than none "
        f"(rule: {facts['select']}), so the mask keeps the whole map."
    )

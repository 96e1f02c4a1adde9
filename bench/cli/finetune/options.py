"""The options that the recipes share, and what every recipe does before and after its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bench
from bench.cli.output import command_line, say, stoppable
from bench.errors import BenchError
from bench.files import file_name
from bench.folder_owner import own_folder
from bench.progress import TrainingProgress

if TYPE_CHECKING:
    from bench.data import Subset
    from bench.finetune.loop import Settings
    from bench.finetune.training import Training

DATA, TRAINING, RECIPE, RESULT = "What is trained on", "How it is trained", "The recipe", "Output"
"""Headings of the options in `--help`."""

ModelOption = Annotated[
    str,
    typer.Option(
        help="Model to start from: bundled name, timm name or card file.", rich_help_panel=RECIPE
    ),
]
SubsetOption = Annotated[
    str,
    typer.Option(
        help="Training images; NAME[start:stop] is a part of a subset.", rich_help_panel=DATA
    ),
]
ValidationOption = Annotated[
    str | None,
    typer.Option(
        help="Held-out images that choose the best epoch [default: a tenth of --subset].",
        rich_help_panel=DATA,
    ),
]
EpochsOption = Annotated[
    int,
    typer.Option(
        help="Passes over the training images.", min=1, max=1_000_000, rich_help_panel=TRAINING
    ),
]
StepOption = Annotated[
    int, typer.Option(help="Images per step.", min=1, max=1_000_000, rich_help_panel=TRAINING)
]
RateOption = Annotated[
    float, typer.Option(help="Learning rate of AdamW.", min=0, max=1000, rich_help_panel=TRAINING)
]
DecayOption = Annotated[
    float, typer.Option(help="Weight decay of AdamW.", min=0, max=1000, rich_help_panel=TRAINING)
]
PatienceOption = Annotated[
    int,
    typer.Option(
        help="Stop after so many epochs without a better score; 0: never.",
        min=0,
        rich_help_panel=TRAINING,
    ),
]
ShiftOption = Annotated[
    float,
    typer.Option(
        help="Pictures move by up to this share of their side.",
        min=0,
        max=0.5,
        rich_help_panel=TRAINING,
    ),
]
SmoothingOption = Annotated[
    float,
    typer.Option(
        help="Share of the label spread over all classes.",
        min=0,
        max=0.99,
        rich_help_panel=TRAINING,
    ),
]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What every recipe takes; each one says the defaults that differ."""

    validation: ValidationOption = None
    data_root: Annotated[
        Path | None,
        typer.Option(help="Where named subsets find their files.", rich_help_panel=DATA),
    ] = None
    epochs: EpochsOption
    batch_size: StepOption = 64
    lr: RateOption
    weight_decay: DecayOption
    patience: PatienceOption = 0
    seed: Annotated[
        int,
        typer.Option(help="Seed of every draw.", min=0, max=2**63 - 1, rich_help_panel=TRAINING),
    ] = 0
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, mps.", rich_help_panel=TRAINING)
    ] = "cpu"
    precision: Annotated[
        str,
        typer.Option(
            help="Of the forward pass: auto, float32, bfloat16.", rich_help_panel=TRAINING
        ),
    ] = "auto"
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for weights, card and checkpoint; goes on where it stopped.",
            rich_help_panel=RESULT,
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(help="Name of the trained model on boards.", rich_help_panel=RESULT),
    ] = None

    def make_settings(self) -> Settings:
        """Return the settings of the training loop."""
        from bench.finetune.loop import PRECISIONS, Settings

        if self.precision not in PRECISIONS:
            raise BenchError(
                f"Unknown precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}."
            )
        return Settings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            patience=self.patience,
            seed=self.seed,
            precision=self.precision,  # type: ignore[arg-type]
        )

    def choose_folder(self, name: str) -> Path:
        """Return where a model of this name is trained."""
        return self.out or Path("runs") / "finetune" / file_name(name, "-")

    def open_validation(self) -> Subset | None:
        """Return the validation subset, where one is named."""
        return None if self.validation is None else open_subset(self.validation, self.data_root)

    def make_training(self, subset: Subset, name: str, progress: TrainingProgress) -> Training:
        """Return what every recipe takes: images, settings and files."""
        from bench.finetune.training import Training

        return Training(
            subset,
            self.choose_folder(name),
            name,
            validation=self.open_validation(),
            settings=self.make_settings(),
            command=command_line(),
            report=progress.epoch,
            tick=progress.step,
        )


def open_subset(name: str, data_root: Path | None) -> Subset:
    """Return a subset by name, path or part."""

    return bench.load_subset(name, data_root=data_root)


@contextmanager
def show_training(folder: Path) -> Iterator[TrainingProgress]:
    """Own a training's folder and show its progress; Ctrl-C says that the same command goes on."""

    words = f"Stopped; {folder} keeps its finished epochs. Start the same command again to go on."
    with (
        stoppable(words),
        own_folder(folder, "training"),
        TrainingProgress(say) as progress,
    ):
        yield progress


def say_card(card: Path) -> None:
    """Print what the training changed on held-out images, where the model is, how to use it."""
    from bench.models.card_keys import read_card

    changes = next(iter(read_card(card).values())).get("held_out")
    if changes:
        say(describe_changes(changes))
    say(f"Trained: {card} (give it to --models or load_model)")


HELD_OUT_WORDS = {
    "top1": ("top-1", "%", 1),
    "attention_top1": ("top-1 of the attention branch", "%", 1),
    "top1_half_masked": ("top-1 with half of each image masked", "%", 1),
    "agreement": ("agreement with the parent", "%", 1),
    "held_out_accuracy": ("top-1 with the attention", "%", 100),
    "held_out_loss": ("loss", "", 1),
    "held_out_ce": ("cross-entropy", "", 1),
    "held_out_mask": ("distance from the masks", "", 1),
    "held_out_kl": ("divergence from the original", "", 1),
}
"""What numbers of held-out images are called, their unit, and the factor that gives it."""


def describe_changes(changes: Mapping[str, Sequence[float]]) -> str:
    """Return what a training changed on held-out images.

    >>> describe_changes({"top1": [96.5, 95.25], "held_out_ce": [0.75, 0.31]})
    'Held-out images, before -> after: top-1 96.5 -> 95.2 %, cross-entropy 0.750 -> 0.310.'
    """
    parts, order = [], list(HELD_OUT_WORDS)  # a card's keys are sorted by letters
    known = sorted(changes, key=lambda key: order.index(key) if key in order else len(order))
    for key in known:
        old, new = changes[key]
        name, unit, factor = HELD_OUT_WORDS.get(key, (key.replace("_", " "), "", 1))
        form = ".1f" if unit else ".3f"
        parts.append(f"{name} {factor * old:{form}} -> {factor * new:{form}}{unit and ' ' + unit}")
    return f"Held-out images, before -> after: {', '.join(parts)}."

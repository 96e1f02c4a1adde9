"""`cambench zoo`: train the bundled models anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.finetune.options import say_card, show_training
from bench.cli.registration import command
from bench.folder_owner import own_file

app = typer.Typer(help="Train the bundled models anew.", no_args_is_help=True)


@command(long=True)
def train(
    name: Annotated[str, typer.Argument(help="Bundled model to train, or 'all'.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for weights and card [default: the package's own].")
    ] = None,
) -> None:
    """Train a bundled model on the generated scenes by its recipe; writes weights and card."""
    from bench.finetune.bundled import BUNDLED, train_bundled
    from bench.models.zoo import WEIGHTS_FOLDER

    for one in BUNDLED if name == "all" else [name]:
        folder = out or WEIGHTS_FOLDER
        with own_file(folder / one, "training"), show_training(Path("runs/zoo")) as progress:
            card = train_bundled(one, folder, report=progress.epoch, tick=progress.step)
        say_card(card)


train.add_to(app)

"""`cambench finetune`: train classifiers, and fine-tune them for attribution."""

from __future__ import annotations

import typer

from bench.cli.finetune.abn import abn
from bench.cli.finetune.aft import aft
from bench.cli.finetune.channels import channels
from bench.cli.finetune.classifier import classifier
from bench.cli.finetune.figures import figures
from bench.cli.finetune.guided import guided
from bench.cli.finetune.masked import masked
from bench.cli.finetune.sa import sa
from bench.cli.finetune.simulate import simulate

app = typer.Typer(
    help="Train classifiers, and fine-tune them for attribution.", no_args_is_help=True
)
for one in (classifier, sa, aft, masked, abn, guided, figures, channels, simulate):
    one.add_to(app)

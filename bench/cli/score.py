"""`cambench score`: score maps that were made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bench
from bench.cli.options import (
    BENCHMARK,
    OUTPUT,
    WHAT,
    LimitOption,
    ScoringOptions,
    SubsetOption,
    VerboseOption,
)
from bench.cli.output import say, warn
from bench.cli.registration import command
from bench.errors import BenchError
from bench.files import file_name
from bench.progress import show_images

if TYPE_CHECKING:
    from bench.run.external_maps import ExternalMethod
    from bench.run.plan import Plan

EPILOG = """**Examples**

- `cambench score theirs.npz --model resnet-scenes --subset scenes-val` - {item id: [h,w]}, or ids
  [N] and maps [N,h,w]

- `cambench score maps/ --model resnet-scenes --subset scenes-val --limit 200 --target label` - a
  folder of ID.npy

- `cambench score a.npz --model M --subset S --out runs/both` and the same with `b.npz`: both on
  one board
"""


class Target(StrEnum):
    """Which class given maps explain."""

    predicted = "predicted"
    label = "label"


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ScoringOptions):
    """What scoring given maps is made of."""

    models: Annotated[
        str,
        typer.Option(
            "--model",
            help="Name, timm name or card file: the model that the maps explain.",
            rich_help_panel=WHAT,
        ),
    ]
    subset: SubsetOption
    methods: Annotated[
        str,
        typer.Option(
            help="Scored beside the maps: names, groups, wildcards; '' for none.",
            rich_help_panel=WHAT,
        ),
    ] = "control/*,grad_cam"
    limit: LimitOption = 0
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder [default: runs/NAME--SUBSET]; goes on where it stopped.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    target: Annotated[
        Target, typer.Option(help="The class that the maps explain.", rich_help_panel=WHAT)
    ] = Target.predicted
    name: Annotated[
        str | None,
        typer.Option(
            help="What boards call the maps [default: the file's name].", rich_help_panel=OUTPUT
        ),
    ] = None


@command(panel=BENCHMARK, epilog=EPILOG, long=True)
def score(
    maps: Annotated[
        Path, typer.Argument(help="An .npz, a folder of ID.npy files, or one .npy [N,h,w].")
    ],
    options: ScoreOptions,
    verbose: VerboseOption = False,
) -> None:
    """Score maps that were made elsewhere, beside the controls and under one protocol.

    Maps of another size than the frame are resized bilinearly. Maps that do not cover all items
    get no rank. Metrics that need the method itself (cost, robustness) are n/a.
    """
    from bench.cli.plans import load_plugins, make_part
    from bench.cli.running import execute_plan, say_board, say_comparison, write_and_print
    from bench.run.external_maps import describe_targets

    load_plugins(options.plugin)
    given = read_maps(maps, options)
    plan = make_part(options, [given])
    if len(plan.models) != 1:
        raise BenchError(
            f"--model {options.models} stands for {len(plan.models)} models; maps explain one."
        )
    announce_maps(given, plan)
    folder = options.out or Path("runs") / file_name(f"{given.name}--{plan.subset.name}", "-")
    records = execute_plan(plan, folder, seen=None if verbose else set())
    board = write_and_print(records, folder, verbose=verbose)
    say(describe_targets(records.frame, given))
    say_comparison(board, given.name)
    say_board(folder)


def read_maps(maps: Path, options: ScoreOptions) -> ExternalMethod:
    """Return the maps of a file or folder as a method."""
    from bench.cli.plans import open_scored

    subset = open_scored(options)
    with show_images(f"maps in {maps}") as report:
        return bench.load_maps(maps, subset, options.target.value, options.name, report)


def announce_maps(given: ExternalMethod, plan: Plan) -> None:
    """Print what was read, and what about it was not as expected."""
    height, width = plan.geometry.shape
    resized = (
        ""
        if set(given.sizes) == {(height, width)}
        else f", resized bilinearly to the {height}x{width} frame"
    )
    say(f"{given.name}: {sum(given.sizes.values())} maps of {given.said_sizes}{resized}.")
    for note in (*given.notes, *given.gaps(plan.subset, plan.calibration)):
        warn(note)
